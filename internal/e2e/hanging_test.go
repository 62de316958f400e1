package e2e

import (
	"context"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/topics"
)

// abortHanging does what an operator does with kafka-transactions.sh (docs/operations.md): a lone broker 4.3.1 that was
// killed while it was ending a transaction may take it for ended without having written the marker. The transaction
// then stays open in the log, and readers wait for ever. It says so in the log of the test when it had to.
func (w *world) abortHanging(ctx context.Context) {
	adm, err := topics.NewAdmin(w.kafka)
	if err != nil {
		w.t.Fatal(err)
	}
	defer adm.Close()
	var all kadm.TopicsSet
	for _, t := range w.table.All() {
		for p := range t.Partitions {
			all.Add(t.Name, p)
		}
	}
	open, err := adm.DescribeProducers(ctx, all)
	if err != nil {
		return // asked again with the next look
	}
	known, err := adm.ListTransactions(ctx, nil, []string{"Ongoing", "PrepareCommit", "PrepareAbort"})
	if err != nil {
		return
	}
	alive := map[int64]bool{}
	known.Each(func(t kadm.ListedTransaction) { alive[t.ProducerID] = true })
	open.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset < 0 || alive[p.ProducerID] {
			return
		}
		var at kadm.TopicsSet
		at.Add(p.Topic, p.Partition)
		_, err := adm.WriteTxnMarkers(ctx, kadm.TxnMarkers{ProducerID: p.ProducerID, ProducerEpoch: p.ProducerEpoch, CoordinatorEpoch: p.CoordinatorEpoch, Topics: at})
		w.t.Logf("Kafka had lost the end of a transaction in %s/%d: aborted (%v)", p.Topic, p.Partition, err)
	})
}
