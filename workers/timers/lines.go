package timers

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

// A place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// A waiting record, and what is to be done with it.
type waiting struct {
	record    *kgo.Record
	timer     *orderv1.OrderTimer // nil: it is rejected
	rejection topics.Rejection
	due       time.Time       // zero: as soon as it is the head
	next      kgo.EpochOffset // to commit when it is gone: past it, and past the commit markers behind it
}

// A line is what has been read of one partition and is not committed yet.
type line struct {
	waiting []waiting
	bytes   int
	tail    int64           // the offset after the last record that was put; older ones come twice after an abort
	passed  kgo.EpochOffset // markers in front of nothing: may be committed
	since   time.Time       // when passed moved; zero: nothing to commit
	paused  bool
}

// lines are the lines of all partitions that this instance owns. They hold no clock and do no work.
type lines map[place]*line

// put adds a record that is not a timer's marker.
func (ls lines) put(w waiting) {
	l := ls.of(w.record)
	if w.record.Offset < l.tail {
		return
	}
	w.next = after(w.record)
	l.tail = w.next.Offset
	l.bytes += size(w.record)
	l.waiting = append(l.waiting, w)
}

// pass notes a commit marker, which only moves offsets.
func (ls lines) pass(r *kgo.Record, now time.Time) {
	l := ls.of(r)
	if r.Offset < l.tail {
		return
	}
	l.tail = r.Offset + 1
	if n := len(l.waiting); n > 0 {
		l.waiting[n-1].next = after(r)
		return
	}
	l.passed, l.since = after(r), now
}

func (ls lines) of(r *kgo.Record) *line {
	p := place{r.Topic, r.Partition}
	if ls[p] == nil {
		ls[p] = &line{}
	}
	return ls[p]
}

func after(r *kgo.Record) kgo.EpochOffset {
	return kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1}
}

func size(r *kgo.Record) int { return len(r.Key) + len(r.Value) }

// A batch is what goes into one transaction.
type batchOf struct {
	records []waiting
	offsets map[place]kgo.EpochOffset
}

func (b batchOf) empty() bool { return len(b.offsets) == 0 }

// due is what may go now, at most so many records, each line in its order.
func (ls lines) due(now time.Time, most int) batchOf {
	b := batchOf{offsets: map[place]kgo.EpochOffset{}}
	for p, l := range ls {
		for _, w := range l.waiting {
			if len(b.records) == most || w.due.After(now) {
				break
			}
			b.records = append(b.records, w)
			b.offsets[p] = w.next
		}
		if len(l.waiting) == 0 && !l.since.IsZero() && !l.since.Add(idle).After(now) {
			b.offsets[p] = l.passed
		}
	}
	return b
}

// gone takes out what is committed, by a batch or by another instance.
func (ls lines) gone(b batchOf) {
	for p, next := range b.offsets {
		l := ls[p]
		if l == nil {
			continue
		}
		n := 0
		for n < len(l.waiting) && l.waiting[n].record.Offset < next.Offset {
			l.bytes -= size(l.waiting[n].record)
			l.waiting[n] = waiting{}
			n++
		}
		l.waiting = l.waiting[n:]
		if l.passed.Offset <= next.Offset {
			l.since = time.Time{}
		}
	}
}

// wake is when something will be due next, but not after the latest.
func (ls lines) wake(latest time.Time) time.Time {
	for _, l := range ls {
		at := l.since.Add(idle)
		switch {
		case len(l.waiting) > 0:
			at = l.waiting[0].due
		case l.since.IsZero():
			continue
		}
		if at.Before(latest) {
			latest = at
		}
	}
	return latest
}

// steer says which partitions to stop reading, because enough waits, and which to read again.
func (ls lines) steer() (stop, resume map[string][]int32) {
	stop, resume = map[string][]int32{}, map[string][]int32{}
	for p, l := range ls {
		n := len(l.waiting)
		switch {
		case !l.paused && (n >= ahead || l.bytes >= aheadBytes):
			l.paused = true
			stop[p.topic] = append(stop[p.topic], p.partition)
		case l.paused && n < ahead/2 && l.bytes < aheadBytes/2:
			l.paused = false
			resume[p.topic] = append(resume[p.topic], p.partition)
		}
	}
	return stop, resume
}

// except are the partitions that are not among these.
func (ls lines) except(ours map[string]map[int32]kgo.EpochOffset) map[string][]int32 {
	others := map[string][]int32{}
	for p := range ls {
		if _, own := ours[p.topic][p.partition]; !own {
			others[p.topic] = append(others[p.topic], p.partition)
		}
	}
	return others
}

// drop forgets partitions that are another's now.
func (ls lines) drop(gone map[string][]int32) {
	for topic, partitions := range gone {
		for _, n := range partitions {
			delete(ls, place{topic, n})
		}
	}
}
