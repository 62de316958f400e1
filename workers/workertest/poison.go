package workertest

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// Poison writes what no worker takes and these invalid records, each between two good ones, and a good one astray. It
// returns how many good ones are to be taken, and how many dead letters there must be for each reason.
func (b *Belt) Poison(good func() *kgo.Record, invalid ...*kgo.Record) (taken int, letters map[topics.Reason]int) {
	b.T.Helper()
	change := func(f func(*kgo.Record)) *kgo.Record {
		r := good()
		f(r)
		return r
	}
	poison := map[*kgo.Record]topics.Reason{
		change(func(r *kgo.Record) { r.Value = []byte("\xff\x00 random bytes") }):    topics.DecodeFailed,
		change(func(r *kgo.Record) { r.Value = nil }):                                topics.Empty,
		change(func(r *kgo.Record) { r.Headers = nil }):                              topics.MissingHeaders,
		change(func(r *kgo.Record) { r.Key = []byte("somebody else") }):              topics.WrongKey,
		change(func(r *kgo.Record) { r.Key = []byte(strings.Repeat("k", 900_000)) }): topics.KeyTooLong,
	}
	for _, r := range invalid {
		poison[r] = topics.Invalid
	}
	letters = map[topics.Reason]int{topics.WrongPartition: 1}
	for r, reason := range poison {
		b.Write(good(), r, good())
		taken += 2
		letters[reason]++
	}
	b.astray(good())
	return taken, letters
}

// astray writes a record to a partition that is not its key's.
func (b *Belt) astray(r *kgo.Record) {
	b.T.Helper()
	r.Partition = (topics.Partition(r.Key, Partitions) + 1) % Partitions
	if err := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner())).ProduceSync(b.Ctx, r).FirstErr(); err != nil {
		b.T.Fatal(err)
	}
}

// Buried checks that the group's dead letters are these, and uses the counts up.
func (b *Belt) Buried(letters map[topics.Reason]int) {
	b.T.Helper()
	for _, r := range b.All(b.Table.DeadLetters(b.subject.Group).Name) {
		letters[topics.Reason(topics.Header(r, topics.HeaderDLQReason))]--
	}
	for reason, left := range letters {
		if left != 0 {
			b.T.Errorf("%s: %d dead letters too few", reason, left)
		}
	}
}
