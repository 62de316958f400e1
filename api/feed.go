package api

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/topics"
)

const (
	// recentKeysMax and recentBytesMax bound what a feed remembers of the newest states.
	recentKeysMax  = 50_000
	recentBytesMax = 32 << 20
	// watchQueueMax bounds what a slow watcher leaves behind; it is more than the keys of one watch, so that the
	// newest state of each always fits.
	watchQueueMax = 128
)

// seen is one event, and when the log took it.
type seen[M proto.Message] struct {
	event M
	time  time.Time
}

// feed is what the tail of one event topic knows: who waits for which outcome, who watches which aggregate, and the
// newest states. It does no I/O; the tail hands it the records.
type feed[M proto.Message] struct {
	topic      topics.Of[M]
	unreadable func(*kgo.Record, error)

	mu       sync.Mutex
	waiters  map[string]chan seen[M]           // by the ce_id of the command
	watchers map[string]map[*watch[M]]struct{} // by key
	recent   recent
	places   map[int32]place
	barriers []barrier
}

// place is how far the tail has come in one partition.
type place struct {
	next int64 // after everything, transaction markers too
	data int64 // after the last record that is no marker
}

type barrier struct {
	partition int32
	end       int64
	passed    chan int64
}

func newFeed[M proto.Message](topic topics.Of[M], unreadable func(*kgo.Record, error)) *feed[M] {
	return &feed[M]{
		topic: topic, unreadable: unreadable,
		waiters: map[string]chan seen[M]{}, watchers: map[string]map[*watch[M]]struct{}{},
		recent: newRecent(), places: map[int32]place{},
	}
}

// begin says where the tail begins in a partition; nobody is waiting yet.
func (f *feed[M]) begin(partition int32, offset int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.places[partition] = place{next: offset, data: offset}
}

// take hands on the records of one partition, in their order.
func (f *feed[M]) take(partition int32, records []*kgo.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.places[partition]
	for _, r := range records {
		at.next = r.Offset + 1
		if r.Attrs.IsControl() {
			continue
		}
		at.data = r.Offset + 1
		f.show(r)
	}
	f.places[partition] = at
	f.barriers = slices.DeleteFunc(f.barriers, func(b barrier) bool {
		passed := b.partition == partition && at.next >= b.end
		if passed {
			b.passed <- at.data
		}
		return passed
	})
}

// show remembers a record and gives it to whoever asked for it. Only then is it decoded.
func (f *feed[M]) show(r *kgo.Record) {
	key := string(r.Key)
	f.recent.put(key, state{value: slices.Clone(r.Value), time: r.Timestamp})
	cause := topics.Header(r, topics.HeaderCauseID)
	waiter, watchers := f.waiters[cause], f.watchers[key]
	if waiter == nil && len(watchers) == 0 {
		return
	}
	event, err := f.topic.Decode(r.Key, r.Value)
	if err != nil {
		f.unreadable(r, err)
		return
	}
	s := seen[M]{event: event, time: r.Timestamp}
	if waiter != nil {
		delete(f.waiters, cause)
		waiter <- s
	}
	for w := range watchers {
		w.push(key, s)
	}
}

// await registers for the outcome of the command with this ce_id. Do it before the command is published.
func (f *feed[M]) await(commandID string) (outcome <-chan seen[M], stop func()) {
	c := make(chan seen[M], 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters[commandID] = c
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiters, commandID)
	}
}

// watch follows the aggregates with these keys, beginning with the newest state that the feed remembers of each.
func (f *feed[M]) watch(keys ...string) *watch[M] {
	w := &watch[M]{wake: make(chan struct{}, 1)}
	w.stop = func() { f.unwatch(w, keys) }
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		if f.watchers[key] == nil {
			f.watchers[key] = map[*watch[M]]struct{}{}
		}
		f.watchers[key][w] = struct{}{}
		if s, ok := f.newest(key); ok {
			w.push(key, s)
		}
	}
	return w
}

func (f *feed[M]) unwatch(w *watch[M], keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		delete(f.watchers[key], w)
		if len(f.watchers[key]) == 0 {
			delete(f.watchers, key)
		}
	}
}

func (f *feed[M]) newest(key string) (seen[M], bool) {
	s, ok := f.recent.get(key)
	if !ok {
		return seen[M]{}, false
	}
	event, err := f.topic.Decode([]byte(key), s.value)
	return seen[M]{event: event, time: s.time}, err == nil
}

// pass waits until the tail has come to the end, and says where the last record before that place ends: markers of
// transactions follow it, which no consumer sees.
func (f *feed[M]) pass(ctx context.Context, partition int32, end int64) (int64, error) {
	f.mu.Lock()
	at := f.places[partition]
	if at.next >= end {
		f.mu.Unlock()
		return at.data, nil
	}
	b := barrier{partition: partition, end: end, passed: make(chan int64, 1)}
	f.barriers = append(f.barriers, b)
	f.mu.Unlock()
	select {
	case data := <-b.passed:
		return data, nil
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.barriers = slices.DeleteFunc(f.barriers, func(o barrier) bool { return o.passed == b.passed })
		return 0, ctx.Err()
	}
}

// reached says whether the tail has come to these offsets, by partition.
func (f *feed[M]) reached(ends map[int32]int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for partition, end := range ends {
		if f.places[partition].next < end {
			return false
		}
	}
	return true
}

func (f *feed[M]) counts() (waiters, watched int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiters), len(f.watchers)
}

// watch is a bounded queue of events, between the tail, which never waits, and one reader.
type watch[M proto.Message] struct {
	stop func()
	wake chan struct{}

	mu    sync.Mutex
	queue []queued[M]
}

type queued[M proto.Message] struct {
	key string
	seen[M]
}

// push drops, when the queue is full, the oldest event that a later one of the same aggregate supersedes: every
// event carries the whole state.
func (w *watch[M]) push(key string, s seen[M]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, queued[M]{key: key, seen: s})
	if len(w.queue) > watchQueueMax {
		w.queue = slices.Delete(w.queue, w.superseded(), w.superseded()+1)
	}
	w.again()
}

func (w *watch[M]) superseded() int {
	last := make(map[string]int, len(w.queue))
	for i, q := range w.queue {
		last[q.key] = i
	}
	for i, q := range w.queue {
		if last[q.key] > i {
			return i
		}
	}
	panic("api: a watch has more keys than its queue is long")
}

// next is the oldest event that was not read, as soon as there is one.
func (w *watch[M]) next(ctx context.Context) (seen[M], error) {
	for {
		if s, ok := w.poll(); ok {
			return s, nil
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return seen[M]{}, ctx.Err()
		}
	}
}

// again wakes the reader.
func (w *watch[M]) again() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// poll is next without waiting.
func (w *watch[M]) poll() (seen[M], bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return seen[M]{}, false
	}
	s := w.queue[0].seen
	w.queue = w.queue[1:]
	return s, true
}

// recent keeps the newest state of the aggregates that changed last.
type recent struct {
	byKey map[string]*list.Element
	order *list.List // of *remembered, the newest in front
	bytes int
}

type state struct {
	value []byte
	time  time.Time
}

type remembered struct {
	key string
	state
}

func newRecent() recent { return recent{byKey: map[string]*list.Element{}, order: list.New()} }

func (r *recent) get(key string) (state, bool) {
	if e, ok := r.byKey[key]; ok {
		return e.Value.(*remembered).state, true
	}
	return state{}, false
}

func (r *recent) put(key string, s state) {
	if e, ok := r.byKey[key]; ok {
		old := e.Value.(*remembered)
		r.bytes += len(s.value) - len(old.value)
		old.state = s
		r.order.MoveToFront(e)
	} else {
		r.byKey[key] = r.order.PushFront(&remembered{key: key, state: s})
		r.bytes += len(s.value)
	}
	for r.order.Len() > recentKeysMax || r.bytes > recentBytesMax {
		last := r.order.Back()
		old := r.order.Remove(last).(*remembered)
		delete(r.byKey, old.key)
		r.bytes -= len(old.value)
	}
}
