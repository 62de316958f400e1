package transact

import (
	"github.com/twmb/franz-go/pkg/kgo"
)

// suspects are the records that have failed a transaction by their own fault. Each is tried alone from then on, in a
// transaction of its own, so that it cannot fail others, and finally dead-lettered.
type suspects map[topicPartition]map[int64]*suspicion

type suspicion struct {
	failures int
	reason   error
}

func (s suspects) blame(r *kgo.Record, reason error) *suspicion {
	tp := topicPartition{r.Topic, r.Partition}
	if s[tp] == nil {
		s[tp] = map[int64]*suspicion{}
	}
	if s[tp][r.Offset] == nil {
		s[tp][r.Offset] = &suspicion{}
	}
	found := s[tp][r.Offset]
	found.failures++
	found.reason = reason
	return found
}

func (s suspects) of(r *kgo.Record) *suspicion {
	return s[topicPartition{r.Topic, r.Partition}][r.Offset]
}

// passed forgets those below an offset: they are done, here or elsewhere.
func (s suspects) passed(tp topicPartition, offset int64) {
	for o := range s[tp] {
		if o < offset {
			delete(s[tp], o)
		}
	}
	if len(s[tp]) == 0 {
		delete(s, tp)
	}
}

// portion is what may be handed out of what was fetched.
type portion struct {
	alone *kgo.Record // a suspect, to be tried by itself
	hand  [][]*kgo.Record
	held  map[topicPartition]*kgo.Record // the first record of each partition that has to wait
}

// portion cuts what was fetched before each suspect. A suspect at the head of a partition is taken alone, if nothing is
// handed out yet.
func (s suspects) portion(fetched [][]*kgo.Record, nothingOpen bool) portion {
	p := portion{held: map[topicPartition]*kgo.Record{}}
	if nothingOpen {
		p.alone = s.head(fetched)
	}
	for _, records := range fetched {
		n := s.before(records)
		switch {
		case p.alone != nil && records[0] == p.alone:
			n = 1
		case p.alone != nil:
			n = 0
		case n > 0:
			p.hand = append(p.hand, records[:n])
		}
		if n < len(records) {
			first := records[n]
			p.held[topicPartition{first.Topic, first.Partition}] = first
		}
	}
	return p
}

func (s suspects) head(fetched [][]*kgo.Record) *kgo.Record {
	for _, records := range fetched {
		s.passed(topicPartition{records[0].Topic, records[0].Partition}, records[0].Offset)
		if s.of(records[0]) != nil {
			return records[0]
		}
	}
	return nil
}

// before counts the records before the first suspect.
func (s suspects) before(records []*kgo.Record) int {
	of := s[topicPartition{records[0].Topic, records[0].Partition}]
	for n, r := range records {
		if of[r.Offset] != nil {
			return n
		}
	}
	return len(records)
}
