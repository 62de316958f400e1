package api

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/topics"
)

// recall knows how far the sink must have come for Postgres to have every order that the order processor may have
// forgotten. A processor that has forgotten an order would place it again, so a request that Postgres does not know
// counts as new only when the sink has come that far: it has not while Postgres is being rebuilt from the log.
type recall struct {
	admin  *kadm.Client
	topic  topics.Topic
	forget time.Duration // how long the processor remembers a final order

	known atomic.Pointer[floors]
}

// floors are the first event of each partition that was younger than half of forget.
type floors struct {
	at map[int32]int64
	// when they were asked for, by the clock on the wall: a machine that slept must know that they are old
	asked time.Time
}

// run keeps the floors young: they move by half of forget, and are asked for twice in that time.
func (r *recall) run(ctx context.Context) {
	for {
		pause := r.forget / 4
		asked := time.Now().Round(0)
		at, err := r.ask(ctx, asked.Add(-r.forget/2))
		if err == nil {
			r.known.Store(&floors{at, asked})
		} else {
			pause = askAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// up says whether the floors are known, and young enough: older ones may lie below what was forgotten since.
func (r *recall) up() bool {
	f := r.known.Load()
	return f != nil && time.Now().Round(0).Sub(f.asked) < r.forget/2
}

// floor is the offset that the sink must have reached in an order's partition.
func (r *recall) floor(orderID string) (partition int32, offset int64, err error) {
	partition = topics.Partition([]byte(orderID), r.topic.Partitions)
	if !r.up() {
		return 0, 0, fmt.Errorf("events of %s by time are not known yet", r.topic.Name)
	}
	return partition, r.known.Load().at[partition], nil
}

// ask finds the first event since a time. Where there is none, it is where the committed log ends.
func (r *recall) ask(ctx context.Context, since time.Time) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	young, err := r.admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), r.topic.Name)
	if err == nil {
		err = young.Error()
	}
	if err != nil {
		return nil, err
	}
	ends, err := r.admin.ListCommittedOffsets(ctx, r.topic.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	at := map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if first, ok := young.Lookup(end.Topic, end.Partition); ok {
			at[end.Partition] = min(first.Offset, end.Offset)
		}
	})
	if len(at) != int(r.topic.Partitions) {
		return nil, fmt.Errorf("%d partitions of %s answer, not %d", len(at), r.topic.Name, r.topic.Partitions)
	}
	return at, nil
}
