package sinks

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/topics"
)

// TestAPartitionThatWasFetchedTwiceIsRead: from two brokers, or by two polls, the first perhaps with nothing in it.
func TestAPartitionThatWasFetchedTwiceIsRead(t *testing.T) {
	table := topics.New(topics.Options{Partitions: 1})
	place := Place{Topic: table.InventoryEvents.Name}
	m := &membership{
		Sink: &Sink{inputs: map[string]Input{place.Topic: From(table.InventoryEvents, func(e *inventoryv1.InventoryEvent) (any, error) { return e, nil })}},
		at:   map[Place]int64{place: 5},
	}
	fetch := func(offsets ...int64) kgo.Fetch {
		p := kgo.FetchPartition{}
		for _, at := range offsets {
			r := table.InventoryEvents.Record(&inventoryv1.InventoryEvent{Sku: "a", Version: at}, topics.Fresh("/test", ""))
			r.Offset = at
			p.Records = append(p.Records, r)
		}
		return kgo.Fetch{Topics: []kgo.FetchTopic{{Topic: place.Topic, Partitions: []kgo.FetchPartition{p}}}}
	}
	for name, fetches := range map[string]kgo.Fetches{
		"once":                          {fetch(4, 5, 6, 8)},
		"twice":                         {fetch(5, 6), fetch(8)},
		"first without records":         {fetch(), fetch(5, 6, 8)},
		"then without records":          {fetch(5, 6, 8), fetch()},
		"twice, with the same in both":  {fetch(5, 6), fetch(6, 8)},
		"first without, then in pieces": {fetch(), fetch(5), fetch(6, 8)},
	} {
		batch, err := m.read(t.Context(), fetches)
		if err != nil || len(batch) != 1 {
			t.Errorf("%s: %d stretches, %v", name, len(batch), err)
			continue
		}
		var read []int64
		for _, r := range batch[0].Records {
			read = append(read, r.Offset)
		}
		if s := batch[0]; s.First != 5 || s.End != 9 || !slices.Equal(slices.Compact(read), []int64{5, 6, 8}) {
			t.Errorf("%s: from %d to %d, records %v", name, s.First, s.End, read)
		}
	}
}

func TestTurnsGrowWithWhatTheyWrite(t *testing.T) {
	s := &Sink{Config: Config{Pace: 20 * time.Millisecond, MaxRecords: 100}}
	for _, c := range []struct {
		records    int
		took, want time.Duration
	}{
		{1, time.Millisecond, 20 * time.Millisecond},
		{99, 10 * time.Millisecond, 40 * time.Millisecond},
		{99, time.Second, 200 * time.Millisecond},
		{100, time.Second, 0}, // it is behind
	} {
		if got := s.length(c.records, c.took); got != c.want {
			t.Errorf("a turn that wrote %d records in %v lasts %v, want %v", c.records, c.took, got, c.want)
		}
	}
}
