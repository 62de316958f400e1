package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

const (
	// warmRecords is how far before the end of each partition the tail begins: enough to have seen a record that is
	// no marker, and to know what has just happened.
	warmRecords = 200
	// askAgain is how long to wait before a broker that does not answer is asked again.
	askAgain = 250 * time.Millisecond
	askWait  = 5 * time.Second
)

// tail reads every partition of the event topics from near their ends, committed records only, in no group: each
// instance of the API sees everything. It gives the feeds what it reads.
type tail struct {
	brokers   []string
	log       *slog.Logger
	admin     *kadm.Client
	orders    *feed[*orderv1.OrderEvent]
	inventory *feed[*inventoryv1.InventoryEvent]
	ends      map[string]map[int32]int64 // where the topics ended when the tail began
	began     atomic.Bool
	caughtUp  atomic.Bool
}

// up says whether the tail has once come to the end of both topics.
func (t *tail) up() bool {
	if t.caughtUp.Load() {
		return true
	}
	if !t.began.Load() || !t.orders.reached(t.ends[t.orders.topic.Name]) || !t.inventory.reached(t.ends[t.inventory.topic.Name]) {
		return false
	}
	t.caughtUp.Store(true)
	return true
}

// run reads until ctx ends. Brokers that are away are waited for.
func (t *tail) run(ctx context.Context) error {
	from := t.begin(ctx)
	if from == nil {
		return nil
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(t.brokers...),
		kgo.ConsumePartitions(from),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // so that the position passes the markers that end a partition
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
	)
	if err != nil {
		return fmt.Errorf("api: tail: %w", err)
	}
	defer client.Close()
	t.began.Store(true)
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		t.read(fetches)
		if err := lost(fetches); err != nil {
			return err
		}
	}
	return nil
}

// lost is an error by which the client has given a partition up: it would report it for ever, and see nothing any more. What
// is known here is of a log that is gone, so the API has to begin again.
func lost(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		var said *kerr.Error
		if e.Topic != "" && errors.As(e.Err, &said) && (!said.Retriable || said == kerr.UnknownTopicID) {
			return fmt.Errorf("api: tail: %s/%d is not the log it was, begin again: %w", e.Topic, e.Partition, e.Err)
		}
	}
	return nil
}

func (t *tail) read(fetches kgo.Fetches) {
	fetches.EachError(func(topic string, partition int32, err error) {
		if !errors.Is(err, context.Canceled) {
			t.log.Warn("reading events", "topic", topic, "partition", partition, "error", err)
		}
	})
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		switch p.Topic {
		case t.orders.topic.Name:
			t.orders.take(p.Partition, p.Records)
		case t.inventory.topic.Name:
			t.inventory.take(p.Partition, p.Records)
		}
	})
}

// begin asks where the topics start and end, until it is answered, and tells the feeds where the tail begins. It
// returns nothing when ctx ends first.
func (t *tail) begin(ctx context.Context) map[string]map[int32]kgo.Offset {
	for {
		starts, ends, err := t.bounds(ctx)
		if err == nil {
			return t.place(starts, ends)
		}
		if ctx.Err() != nil {
			return nil
		}
		t.log.Warn("waiting for Kafka and its topics", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

func (t *tail) bounds(ctx context.Context) (starts, ends kadm.ListedOffsets, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	names := []string{t.orders.topic.Name, t.inventory.topic.Name}
	if starts, err = t.admin.ListStartOffsets(ctx, names...); err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, nil, err
	}
	if ends, err = t.admin.ListCommittedOffsets(ctx, names...); err == nil {
		err = ends.Error()
	}
	return starts, ends, err
}

func (t *tail) place(starts, ends kadm.ListedOffsets) map[string]map[int32]kgo.Offset {
	from := map[string]map[int32]kgo.Offset{}
	t.ends = map[string]map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if from[end.Topic] == nil {
			from[end.Topic], t.ends[end.Topic] = map[int32]kgo.Offset{}, map[int32]int64{}
		}
		start, _ := starts.Lookup(end.Topic, end.Partition)
		at := max(start.Offset, end.Offset-warmRecords)
		from[end.Topic][end.Partition] = kgo.NewOffset().At(at)
		t.ends[end.Topic][end.Partition] = end.Offset
		if end.Topic == t.orders.topic.Name {
			t.orders.begin(end.Partition, at)
		} else {
			t.inventory.begin(end.Partition, at)
		}
	})
	return from
}

// passOrders waits until the tail has seen everything that was in an order's partition when it is called. It returns
// the partition and where its last record ends.
func (t *tail) passOrders(ctx context.Context, orderID string) (partition int32, end int64, err error) {
	partition = topics.Partition([]byte(orderID), t.orders.topic.Partitions)
	listed, err := t.admin.ListCommittedOffsets(ctx, t.orders.topic.Name)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return 0, 0, err
	}
	now, ok := listed.Lookup(t.orders.topic.Name, partition)
	if !ok {
		return 0, 0, fmt.Errorf("partition %d of %s is not there", partition, t.orders.topic.Name)
	}
	end, err = t.orders.pass(ctx, partition, now.Offset)
	return partition, end, err
}

// waiting and watched are for the metrics.
func (t *tail) waiting() float64 {
	orders, _ := t.orders.counts()
	stock, _ := t.inventory.counts()
	return float64(orders + stock)
}

func (t *tail) watched() float64 {
	_, orders := t.orders.counts()
	_, stock := t.inventory.counts()
	return float64(orders + stock)
}
