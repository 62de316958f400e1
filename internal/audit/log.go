// Package audit reads the log and tells the truth: whether every input was decided exactly once (Prove), whether the
// money at the gateway is what the orders say (Money), and whether Postgres is the fold of the log (Reconcile). It
// writes nothing. Proofs take a reader that sees what any reader sees: committed records only.
package audit

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// Log is what topics held when they were read: by topic, then partition, in offset order.
type Log map[string]map[int32][]*kgo.Record

// Read reads the topics whole, up to where they ended when it began. It keeps everything in memory: for tests and for
// a bounded past, not for a year of orders.
func Read(ctx context.Context, brokers []string, tops ...topics.Topic) (Log, error) {
	names := namesOf(tops)
	ends, starts, err := bounds(ctx, brokers, names)
	if err != nil {
		return nil, err
	}
	log, left := Log{}, map[string]map[int32]int64{}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if log[o.Topic] == nil {
			log[o.Topic], left[o.Topic], from[o.Topic] = map[int32][]*kgo.Record{}, map[int32]int64{}, map[int32]kgo.Offset{}
		}
		start, _ := starts.Lookup(o.Topic, o.Partition)
		if start.Offset < o.Offset {
			left[o.Topic][o.Partition], from[o.Topic][o.Partition] = o.Offset, kgo.NewOffset().At(start.Offset)
		}
	})
	return log, log.fill(ctx, brokers, from, left)
}

func bounds(ctx context.Context, brokers, names []string) (ends, starts kadm.ListedOffsets, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if ends, err = adm.ListCommittedOffsets(ctx, names...); err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("audit: end offsets: %w", err)
	}
	if starts, err = adm.ListStartOffsets(ctx, names...); err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("audit: start offsets: %w", err)
	}
	return ends, starts, nil
}

// fill consumes until every partition in left has been read to its end. Control records are kept while reading: the
// last offset of a transactional partition is a marker, and nothing else would show that the end was reached.
func (l Log) fill(ctx context.Context, brokers []string, from map[string]map[int32]kgo.Offset, left map[string]map[int32]int64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	open := 0
	for _, ps := range left {
		open += len(ps)
	}
	for open > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return fmt.Errorf("audit: read the log: %w", err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			end, reading := left[r.Topic][r.Partition]
			if !reading {
				return
			}
			if !r.Attrs.IsControl() && r.Offset < end {
				l[r.Topic][r.Partition] = append(l[r.Topic][r.Partition], r)
			}
			if r.Offset >= end-1 {
				delete(left[r.Topic], r.Partition)
				open--
			}
		})
	}
	return nil
}

func namesOf(tops []topics.Topic) []string {
	names := make([]string, len(tops))
	for i, t := range tops {
		names[i] = t.Name
	}
	return names
}

// Undecided is an error while any of the topics holds a transaction that is neither committed nor aborted: what is read
// now would not be all.
func Undecided(ctx context.Context, brokers []string, tops ...topics.Topic) error {
	adm, err := topics.NewAdmin(brokers)
	if err != nil {
		return err
	}
	defer adm.Close()
	names := namesOf(tops)
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err != nil {
		return fmt.Errorf("audit: end offsets: %w", err)
	}
	stable, err := adm.ListCommittedOffsets(ctx, names...)
	if err != nil {
		return fmt.Errorf("audit: stable offsets: %w", err)
	}
	var open error
	ends.Each(func(o kadm.ListedOffset) {
		if s, _ := stable.Lookup(o.Topic, o.Partition); s.Offset < o.Offset {
			open = fmt.Errorf("audit: %s/%d is decided up to %d of %d", o.Topic, o.Partition, s.Offset, o.Offset)
		}
	})
	return errors.Join(ends.Error(), stable.Error(), open)
}

// Lag is how many records a group has not committed yet. On a topic that is written in transactions Kafka's own figure is
// another one: it counts markers too, and those after the last record are committed later than it, or, by a group that
// does not pass them, never.
func Lag(ctx context.Context, brokers []string, group string, tops ...topics.Topic) (int, error) {
	names := namesOf(tops)
	ends, _, err := bounds(ctx, brokers, names)
	if err != nil {
		return 0, err
	}
	committed, err := committedOffsets(ctx, brokers, group)
	if err != nil {
		return 0, err
	}
	log, left := Log{}, map[string]map[int32]int64{}
	from := map[string]map[int32]kgo.Offset{}
	for _, name := range names {
		log[name], left[name], from[name] = map[int32][]*kgo.Record{}, map[int32]int64{}, map[int32]kgo.Offset{}
	}
	ends.Each(func(o kadm.ListedOffset) {
		at, ok := committed.Lookup(o.Topic, o.Partition)
		if !ok {
			err = fmt.Errorf("audit: group %s has no offset of %s/%d", group, o.Topic, o.Partition)
		}
		if at.At < o.Offset {
			left[o.Topic][o.Partition], from[o.Topic][o.Partition] = o.Offset, kgo.NewOffset().At(at.At)
		}
	})
	if err == nil {
		err = log.fill(ctx, brokers, from, left)
	}
	lag := 0
	for _, t := range tops {
		lag += len(log.All(t))
	}
	return lag, err
}

func committedOffsets(ctx context.Context, brokers []string, group string) (kadm.OffsetResponses, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	offsets, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
	if err != nil {
		return nil, fmt.Errorf("audit: offsets of %s: %w", group, err)
	}
	return offsets, offsets.Error()
}

// All is every record of a topic, partition by partition.
func (l Log) All(t topics.Topic) []*kgo.Record {
	var all []*kgo.Record
	for _, p := range l.partitions(t) {
		all = append(all, l[t.Name][p]...)
	}
	return all
}

func (l Log) partitions(t topics.Topic) []int32 {
	ps := make([]int32, 0, len(l[t.Name]))
	for p := range l[t.Name] {
		ps = append(ps, p)
	}
	sort.Slice(ps, func(i, j int) bool { return ps[i] < ps[j] })
	return ps
}

// Last is the newest record of every key.
func (l Log) Last(t topics.Topic) map[string]*kgo.Record {
	last := map[string]*kgo.Record{}
	for _, r := range l.All(t) {
		last[string(r.Key)] = r
	}
	return last
}

// refused is where records stood that some reader dead-lettered: somebody else's, who wrote where only one may.
func (l Log) refused() map[place]bool {
	all := map[place]bool{}
	for _, partitions := range l {
		for _, records := range partitions {
			for _, r := range records {
				if topics.Header(r, topics.HeaderDLQTopic) == "" {
					continue
				}
				if was, ok := deadLetterOf(r); ok {
					all[was] = true
				}
			}
		}
	}
	return all
}

// place names a record by where it is.
type place struct {
	topic     string
	partition int32
	offset    int64
}

func (p place) String() string { return fmt.Sprintf("%s/%d/%d", p.topic, p.partition, p.offset) }

func placeOf(r *kgo.Record) place { return place{r.Topic, r.Partition, r.Offset} }

// causeOf is the place of the record that caused this one, by its headers; of a dead letter, the record it was.
func causeOf(r *kgo.Record) (place, bool) {
	var c place
	var have int
	for _, h := range r.Headers {
		switch h.Key {
		case topics.HeaderDLQTopic, topics.HeaderDLQPartition, topics.HeaderDLQOffset:
			return deadLetterOf(r)
		case topics.HeaderCauseTopic:
			c.topic = string(h.Value)
			have++
		case topics.HeaderCausePartition:
			if _, err := fmt.Sscan(string(h.Value), &c.partition); err == nil {
				have++
			}
		case topics.HeaderCauseOffset:
			if _, err := fmt.Sscan(string(h.Value), &c.offset); err == nil {
				have++
			}
		}
	}
	return c, have == 3
}

func deadLetterOf(r *kgo.Record) (place, bool) {
	c := place{topic: topics.Header(r, topics.HeaderDLQTopic)}
	_, err := fmt.Sscan(topics.Header(r, topics.HeaderDLQPartition)+" "+topics.Header(r, topics.HeaderDLQOffset), &c.partition, &c.offset)
	return c, err == nil
}
