package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/topics"
)

func stockFeed(t *testing.T) *feed[*inventoryv1.InventoryEvent] {
	t.Helper()
	return newFeed(topics.New(topics.Options{Partitions: 1}).InventoryEvents, func(r *kgo.Record, err error) { t.Errorf("offset %d: %v", r.Offset, err) })
}

// stocked is the event of a SKU at a version, at an offset of the only partition.
func stocked(f *feed[*inventoryv1.InventoryEvent], sku string, version, offset int64) *kgo.Record {
	r := f.topic.Record(&inventoryv1.InventoryEvent{Sku: sku, Version: version}, topics.By("/test", topics.Cause{ID: fmt.Sprintf("cause-%d", offset)}, sku, 0))
	r.Offset = offset
	return r
}

// TestAStreamThatNeverCatchesUpEnds: a new event is there whenever one was sent.
func TestAStreamThatNeverCatchesUpEnds(t *testing.T) {
	f := stockFeed(t)
	w := f.watch("A")
	defer w.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	offset, beats := int64(0), 0
	next := func() {
		offset++
		f.take(0, []*kgo.Record{stocked(f, "A", offset, offset)})
	}
	next()
	live := streams{stopping: make(chan struct{}), heartbeat: 5 * time.Millisecond, age: 50 * time.Millisecond}
	err := follow(ctx, live, w, func() error { beats++; return nil }, func(seen[*inventoryv1.InventoryEvent]) (bool, error) {
		next()
		return false, ctx.Err() // a stream without an end fails, and does not hang
	})
	if err != nil || beats == 0 {
		t.Errorf("it ended with %v after %d beats", err, beats)
	}
}

// TestASlowWatcherMissesNoSKU: however far it falls behind, the newest state of each SKU is there, and no more than
// watchQueueMax events are kept.
func TestASlowWatcherMissesNoSKU(t *testing.T) {
	f := stockFeed(t)
	skus := make([]string, 100)
	for i := range skus {
		skus[i] = fmt.Sprintf("SKU-%d", i)
	}
	w := f.watch(skus...)
	defer w.stop()
	newest, offset := map[string]int64{}, int64(0)
	see := func(sku string) {
		newest[sku]++
		f.take(0, []*kgo.Record{stocked(f, sku, newest[sku], offset)})
		offset++
	}
	for _, sku := range skus {
		see(sku)
	}
	for range 10_000 {
		see("SKU-7")
	}
	if len(w.queue) > watchQueueMax {
		t.Fatalf("%d events are kept", len(w.queue))
	}
	got := map[string]int64{}
	for {
		s, ok := w.poll()
		if !ok {
			break
		}
		if s.event.GetVersion() <= got[s.event.GetSku()] {
			t.Fatalf("%s went from version %d to %d", s.event.GetSku(), got[s.event.GetSku()], s.event.GetVersion())
		}
		got[s.event.GetSku()] = s.event.GetVersion()
	}
	for sku, version := range newest {
		if got[sku] != version {
			t.Errorf("%s ended at version %d, not %d", sku, got[sku], version)
		}
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	r := newRecent()
	at := time.Now()
	for i := range recentKeysMax + 10 {
		r.put(fmt.Sprint(i), state{value: []byte{1}, time: at})
	}
	if _, ok := r.get("0"); ok || r.order.Len() != recentKeysMax || r.bytes != recentKeysMax || len(r.byKey) != recentKeysMax {
		t.Fatalf("%d keys with %d bytes, the oldest is there: %t", r.order.Len(), r.bytes, ok)
	}
	for i := range 64 {
		r.put(fmt.Sprint("large", i), state{value: make([]byte, 1<<20)})
	}
	r.put("large63", state{value: []byte{1}})
	if s, ok := r.get("large63"); r.bytes > recentBytesMax || !ok || len(s.value) != 1 {
		t.Fatalf("%d bytes, the newest is there: %t", r.bytes, ok)
	}
}

// TestPassCountsMarkers: the tail has passed an end that only a marker fills, and says where the record before it ended.
func TestPassCountsMarkers(t *testing.T) {
	f := stockFeed(t)
	f.begin(0, 10)
	f.take(0, []*kgo.Record{stocked(f, "A", 1, 10)})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.pass(gone, 0, 12); !errors.Is(err, context.Canceled) || len(f.barriers) != 0 {
		t.Fatalf("a caller that has gone: %v, %d barriers", err, len(f.barriers))
	}
	f.take(0, []*kgo.Record{{Offset: 11, Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{Control: true})}})
	data, err := f.pass(t.Context(), 0, 12)
	if err != nil || data != 11 {
		t.Fatalf("the last record ends at %d, %v; want 11", data, err)
	}
}
