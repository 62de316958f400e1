package workertest

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/topics"
)

// A Reader follows a topic from its beginning, read-committed.
type Reader struct {
	All   []*kgo.Record // so far
	belt  *Belt
	cl    *kgo.Client
	topic string
}

// Reader begins one, which ends with the test.
func (b *Belt) Reader(topic string) *Reader {
	b.T.Helper()
	return &Reader{belt: b, cl: b.consumer(topic), topic: topic}
}

func (b *Belt) consumer(topic string, more ...kgo.Opt) *kgo.Client {
	b.T.Helper()
	return b.client(append(more, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))...)
}

// Until reads until enough says so.
func (r *Reader) Until(enough func() bool) {
	r.belt.T.Helper()
	ctx, cancel := context.WithTimeout(r.belt.Ctx, Patience)
	defer cancel()
	for !enough() {
		fetches := r.cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			r.belt.T.Fatalf("%s has %d records, and no more came: %v", r.topic, len(r.All), err)
		}
		r.All = append(r.All, fetches.Records()...)
	}
}

// AtLeast reads until there are n records, and returns all it has.
func (r *Reader) AtLeast(n int) []*kgo.Record {
	r.belt.T.Helper()
	r.Until(func() bool { return len(r.All) >= n })
	return r.All
}

// All is what a topic holds for a read-committed reader.
func (b *Belt) All(topic string) []*kgo.Record {
	b.T.Helper()
	left := map[int32]int64{}
	b.stable(topic).Each(func(end kadm.ListedOffset) {
		if end.Offset > 0 {
			left[end.Partition] = end.Offset
		}
	})
	cl := b.consumer(topic, kgo.KeepControlRecords())
	defer cl.Close() // many of these are asked for in one test
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := cl.PollFetches(b.Ctx)
		if err := fetches.Err(); err != nil {
			b.T.Fatal(err)
		}
		for _, r := range fetches.Records() {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return all
}

// stable waits until no transaction is open in a topic (a zombie's ends after its time-out), and returns its ends.
func (b *Belt) stable(topic string) kadm.ListedOffsets {
	b.T.Helper()
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		committed, err := b.Adm.ListCommittedOffsets(b.Ctx, topic)
		if err != nil {
			b.T.Fatal(err)
		}
		ends, err := b.Adm.ListEndOffsets(b.Ctx, topic)
		if err != nil {
			b.T.Fatal(err)
		}
		open := false
		ends.Each(func(e kadm.ListedOffset) {
			c, _ := committed.Lookup(topic, e.Partition)
			open = open || c.Offset != e.Offset
		})
		if !open {
			return ends
		}
	}
	b.T.Fatalf("%s has an open transaction", topic)
	return nil
}

// Settled waits until the group has nothing left to do in these topics.
func (b *Belt) Settled(names ...string) {
	b.T.Helper()
	var lag int64
	if !b.comes(func() bool { lag = b.lag(names); return lag == 0 }) {
		b.T.Fatalf("the lag is still %d", lag)
	}
}

// Until waits for something that no topic shows.
func (b *Belt) Until(holds func() bool) {
	b.T.Helper()
	if !b.comes(holds) {
		b.T.Fatal("what the test waits for does not come")
	}
}

// comes looks again and again, and gives up in the end.
func (b *Belt) comes(holds func() bool) bool {
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

func (b *Belt) lag(names []string) (lag int64) {
	b.T.Helper()
	ends, err := b.Adm.ListEndOffsets(b.Ctx, names...)
	if err != nil {
		b.T.Fatal(err)
	}
	at, err := b.Adm.FetchOffsets(b.Ctx, b.Table.Group(b.subject.Group))
	if err != nil {
		b.T.Fatal(err)
	}
	ends.Each(func(end kadm.ListedOffset) {
		o, _ := at.Lookup(end.Topic, end.Partition)
		lag += end.Offset - o.At
	})
	return lag
}

// Decoded is the message of a record that must be one of the topic's.
func Decoded[M proto.Message](b *Belt, topic topics.Of[M], r *kgo.Record) M {
	b.T.Helper()
	if err := topic.Check(r); err != nil {
		b.T.Fatal(err)
	}
	m, err := topic.Decode(r.Key, r.Value)
	if err != nil {
		b.T.Fatal(err)
	}
	return m
}
