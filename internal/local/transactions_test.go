package local_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
)

const (
	endedTopics     = 30 // so many that a broker that starts takes a while to lead them all
	endedPartitions = 12
	endedWriters    = 8
)

// TestAKilledBrokerEndsItsTransactions kills a lone broker while transactions are being ended. What was decided must be
// written once it is back: readers of committed records wait at a transaction without an end for ever. Kafka 4.3.1 fails here.
func TestAKilledBrokerEndsItsTransactions(t *testing.T) {
	s := localtest.Stack(t, local.Options{Postgres: local.PostgresOptions{Off: true}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var all kadm.TopicsSet
	names := make([]string, endedTopics)
	for i := range names {
		names[i] = fmt.Sprint("ended-", i)
		for p := range int32(endedPartitions) {
			all.Add(names[i], p)
		}
	}
	made, err := adm.CreateTopics(ctx, endedPartitions, 1, nil, names...)
	if err != nil || made.Error() != nil {
		t.Fatal(err, made.Error())
	}
	for range 3 {
		writing, stop := context.WithCancel(ctx)
		var writers sync.WaitGroup
		committed := make(chan string, endedWriters)
		for w := range endedWriters {
			writers.Go(func() { commitOn(writing, s.Kafka(), writer(w), names[:3], committed) })
		}
		for range endedWriters {
			<-committed
		}
		if err := s.Broker(0).Kill9(); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := s.Broker(0).Start(ctx); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
		for w := range endedWriters {
			abortOpen(t, ctx, s.Kafka(), writer(w))
		}
		open := -1
		for end := time.Now().Add(20 * time.Second); open != 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d transactions stay open that nobody will end", open)
			}
			open = openTransactions(ctx, adm, all)
		}
	}
}

func writer(n int) string { return fmt.Sprint("writer-", n) }

// commitOn commits transactions over all partitions of the topics, until ctx ends or Kafka is gone.
func commitOn(ctx context.Context, brokers []string, id string, topics []string, first chan<- string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		panic(err) // our options
	}
	defer cl.Close()
	for n := 0; ctx.Err() == nil && cl.BeginTransaction() == nil; n++ {
		for _, topic := range topics {
			for p := range int32(endedPartitions) {
				cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: p, Value: []byte(id)}, nil)
			}
		}
		if cl.Flush(ctx) != nil || cl.EndTransaction(ctx, kgo.TryCommit) != nil {
			return
		}
		if n == 2 {
			first <- id
		}
	}
}

// abortOpen does what a writer does that comes back: whatever it had not decided ends with that.
func abortOpen(t *testing.T, ctx context.Context, brokers []string, id string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(id))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, _, err := cl.ProducerID(ctx); err != nil {
		t.Fatal(err)
	}
}

// openTransactions counts the partitions' open transactions; -1 when the broker does not answer.
func openTransactions(ctx context.Context, adm *kadm.Client, all kadm.TopicsSet) (open int) {
	described, err := adm.DescribeProducers(ctx, all)
	if err != nil {
		return -1
	}
	described.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset >= 0 {
			open++
		}
	})
	return open
}
