package e2e

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/topics"
)

// hangingAfter is longer than any transaction may last.
const hangingAfter = 15 * time.Second

// abortHanging does what an operator does with kafka-transactions.sh (docs/operations.md): a lone broker 4.3.1 that was
// killed while it was ending a transaction may take it for ended without having written the marker. The transaction
// then stays open in the log, and readers wait for ever. The test's log says when it had to.
func (w *world) abortHanging(ctx context.Context, seen map[kadm.DescribedProducer]time.Time) {
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
	open.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset < 0 {
			return
		}
		p.LastSequence, p.LastTimestamp = 0, 0 // what else may change while it is the same transaction
		if seen[p].IsZero() {
			seen[p] = time.Now()
		}
		if time.Since(seen[p]) < hangingAfter {
			return
		}
		var at kadm.TopicsSet
		at.Add(p.Topic, p.Partition)
		_, err := adm.WriteTxnMarkers(ctx, kadm.TxnMarkers{ProducerID: p.ProducerID, ProducerEpoch: p.ProducerEpoch, CoordinatorEpoch: p.CoordinatorEpoch, Topics: at})
		w.t.Logf("Kafka had lost the end of a transaction in %s/%d: aborted (%v)", p.Topic, p.Partition, err)
	})
}
