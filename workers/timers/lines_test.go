package timers

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A world is logs, a worker's lines on them, and a dumb account of what went off.
type world struct {
	*rapid.T
	lines lines
	logs  map[place][]*kgo.Record // offset by index
	read  map[place]int
	fired map[*kgo.Record]int
	at    map[place]int64 // committed
	now   time.Time
}

var delays = map[string]time.Duration{"poll": 2 * time.Second, "payment": 15 * time.Minute}

func (w *world) set(p place, control bool) {
	r := &kgo.Record{Topic: p.topic, Partition: p.partition, Offset: int64(len(w.logs[p])), Timestamp: w.now, Key: []byte("k")}
	if control {
		r.Key = nil // in this world, that is what a marker is
	}
	w.logs[p] = append(w.logs[p], r)
}

func (w *world) fetch(p place, n int) {
	for ; n > 0 && w.read[p] < len(w.logs[p]); n-- {
		r := w.logs[p][w.read[p]]
		w.read[p]++
		if r.Key == nil {
			w.lines.pass(r, w.now)
			continue
		}
		w.lines.put(waiting{record: r, timer: &orderv1.OrderTimer{}, due: r.Timestamp.Add(delays[p.topic])})
	}
}

func (w *world) fire(commits bool, most int) {
	b := w.lines.due(w.now, most)
	if len(b.records) > most {
		w.Fatalf("%d records in a batch of %d", len(b.records), most)
	}
	if !commits {
		for p, at := range w.at { // as the client does after an abort: read again from what it takes for committed
			w.read[p] = min(w.read[p], int(at))
		}
		return
	}
	for _, r := range b.records {
		if r.due.After(w.now) {
			w.Fatalf("a timer due at %v went off at %v", r.due, w.now)
		}
		w.fired[r.record]++
	}
	for p, next := range b.offsets {
		if next.Offset <= w.at[p] {
			w.Fatalf("%v is committed back from %d to %d", p, w.at[p], next.Offset)
		}
		w.at[p] = next.Offset
	}
	w.lines.gone(b)
}

// rebalance takes a partition away and gives it back, from what is committed.
func (w *world) rebalance(p place) {
	w.lines.drop(map[string][]int32{p.topic: {p.partition}})
	w.read[p] = int(w.at[p])
}

// In any order of events, every record goes off once, not early, and what is committed is exactly what has gone off.
func TestLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, lines: lines{}, logs: map[place][]*kgo.Record{}, read: map[place]int{}, fired: map[*kgo.Record]int{}, at: map[place]int64{}, now: start}
		places := []place{{"poll", 0}, {"poll", 1}, {"payment", 0}}
		for _, p := range places {
			w.at[p] = 0
		}
		one := func() place { return rapid.SampledFrom(places).Draw(t, "place") }
		t.Repeat(map[string]func(*rapid.T){
			"set":       func(*rapid.T) { w.set(one(), false) },
			"marker":    func(*rapid.T) { w.set(one(), true) },
			"fetch":     func(t *rapid.T) { w.fetch(one(), rapid.IntRange(1, 5).Draw(t, "n")) },
			"fire":      func(t *rapid.T) { w.fire(true, rapid.IntRange(1, 4).Draw(t, "most")) },
			"abort":     func(*rapid.T) { w.fire(false, batch) },
			"rebalance": func(*rapid.T) { w.rebalance(one()) },
			"wait": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "wait")))
			},
			"": func(*rapid.T) { w.committedIsGone() },
		})
		w.finish(places)
	})
}

func (w *world) committedIsGone() {
	for p, log := range w.logs {
		for _, r := range log {
			gone := r.Offset < w.at[p]
			if r.Key != nil && gone != (w.fired[r] == 1) {
				w.Fatalf("%v@%d: committed up to %d, went off %d times", p, r.Offset, w.at[p], w.fired[r])
			}
		}
	}
}

// finish lets all time pass: nothing is left, not even a marker.
func (w *world) finish(places []place) {
	w.now = w.now.Add(time.Hour)
	for _, p := range places {
		w.fetch(p, len(w.logs[p]))
	}
	w.now = w.now.Add(idle)
	w.fire(true, batch)
	w.committedIsGone()
	for p, log := range w.logs {
		if w.at[p] != int64(len(log)) {
			w.Fatalf("%v: committed up to %d of %d", p, w.at[p], len(log))
		}
	}
	if at := w.lines.wake(w.now.Add(time.Minute)); !at.Equal(w.now.Add(time.Minute)) {
		w.Fatalf("nothing waits, and it wakes at %v", at)
	}
}

// The worker wakes for the earliest head, whatever its partition.
func TestWake(t *testing.T) {
	ls := lines{}
	ls.put(waiting{record: &kgo.Record{Topic: "payment"}, timer: &orderv1.OrderTimer{}, due: start.Add(time.Hour)})
	ls.put(waiting{record: &kgo.Record{Topic: "poll"}, timer: &orderv1.OrderTimer{}, due: start.Add(time.Second)})
	if at := ls.wake(start.Add(time.Minute)); !at.Equal(start.Add(time.Second)) {
		t.Errorf("it wakes at %v", at)
	}
	if at := ls.wake(start.Add(time.Millisecond)); !at.Equal(start.Add(time.Millisecond)) {
		t.Errorf("it wakes at %v, later than asked", at)
	}
}

// A line that is long enough is not read further until half of it has gone, by count and by bytes.
func TestSteer(t *testing.T) {
	for what, c := range map[string]struct{ records, bytes int }{"many": {ahead, 1}, "large": {4, aheadBytes / 4}} {
		ls := lines{}
		for i := range c.records {
			ls.put(waiting{record: &kgo.Record{Topic: "poll", Offset: int64(i), Value: make([]byte, c.bytes)}, timer: &orderv1.OrderTimer{}})
		}
		if stop, _ := ls.steer(); len(stop["poll"]) != 1 {
			t.Errorf("%s: reads on", what)
		}
		if stop, resume := ls.steer(); len(stop)+len(resume) != 0 {
			t.Errorf("%s: stops twice, or reads on too early", what)
		}
		ls.gone(ls.due(start, c.records/2))
		if _, resume := ls.steer(); len(resume) != 0 {
			t.Errorf("%s: reads on with half of it", what)
		}
		ls.gone(ls.due(start, 1))
		if _, resume := ls.steer(); len(resume["poll"]) != 1 {
			t.Errorf("%s: does not read on", what)
		}
	}
}

// A partition that another instance had meanwhile goes on where that one came to.
func TestALineThatComesBackHasLostItsBeginning(t *testing.T) {
	w := &Worker{lines: lines{}}
	p := place{"poll", 1}
	for i := range int64(10) {
		w.lines.put(waiting{record: &kgo.Record{Topic: p.topic, Partition: p.partition, Offset: i}, timer: &orderv1.OrderTimer{}, due: start})
	}
	if gone := w.lines.except(map[string]map[int32]kgo.EpochOffset{"poll": {0: {}}, "retry": {1: {}}}); len(gone) != 1 || len(gone["poll"]) != 1 {
		t.Errorf("of partitions that are not ours there are %v", gone)
	}
	if _, err := w.arrive(t.Context(), map[string]map[int32]kgo.Offset{"poll": {1: kgo.NewOffset().At(7), 2: kgo.NewOffset().At(3)}}); err != nil {
		t.Fatal(err)
	}
	b := w.lines.due(start, batch)
	if len(b.records) != 3 || b.records[0].record.Offset != 7 {
		t.Errorf("%d timers go off, want those from 7 to 9", len(b.records))
	}
}
