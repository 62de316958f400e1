// Package sinks is the ways out of the log. One loop fetches, writes and commits; each store, in a folder of its own,
// knows how to take a batch and to forget duplicates; sinktest holds every store to the same promises.
//
// The promise: what a store holds is the fold of the records below its positions, whatever was killed when. A position
// is kept by the store, changed in the same transaction as the data, and is where the loop goes on; the offsets that
// the loop commits to Kafka are for people who look at lag.
package sinks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/topics"
)

// Store takes batches. Its methods are called by one goroutine at a time.
type Store interface {
	// Group is the consumer group, without the prefix: one of topics' constants.
	Group() string
	// Inputs are the topics that it takes.
	Inputs() []Input
	// Follow keeps the ID of each topic, the first time, and returns ErrOtherLog when it has kept another one.
	Follow(ctx context.Context, ids map[string]string) error
	// Positions are where each partition goes on. One that is absent from the answer was never set up, which is fatal.
	Positions(context.Context, []Place) (map[Place]int64, error)
	// Write takes the batch and moves its stretches' positions from First to End, all or nothing. It returns ErrMoved
	// when a position is not First, Refused when these records can never be written, and any other error when
	// the same batch may be tried again.
	Write(context.Context, Batch) error
}

// ErrMoved says that the store is not where we left it: somebody else has written since (we are, or have been, a
// zombie), or its server crashed and lost its last commits.
var ErrMoved = errors.New("the store is not where we left it: another instance wrote to it, or it lost its last commits")

// Refused says that a store can never take a batch: some record in it is at fault.
type Refused struct{ Err error }

func (r Refused) Error() string { return "refused: " + r.Err.Error() }
func (r Refused) Unwrap() error { return r.Err }

// Place is one partition of one topic.
type Place struct {
	Topic     string
	Partition int32
}

func (p Place) String() string { return fmt.Sprintf("%s[%d]", p.Topic, p.Partition) }

// Record is one record, decoded.
type Record struct {
	Offset int64
	ID     string    // ce_id: the same on every redelivery
	Time   time.Time // when the log took it
	Value  any       // what Input.Decode made of it

	source *kgo.Record // for its dead letter
}

// Stretch is an unbroken part of one partition. Between its records lie offsets without any (transaction markers,
// what was aborted), so only First and End say what it covers.
type Stretch struct {
	Place
	First   int64    // the first offset it covers: the position before it
	End     int64    // the first offset after it: the position that writing it leads to
	Records []Record // by offset
}

// Batch is what is written at once: at most one stretch of each partition.
type Batch []Stretch

// Records says how many there are.
func (b Batch) Records() int {
	n := 0
	for _, s := range b {
		n += len(s.Records)
	}
	return n
}

// split cuts a batch of two records or more in two. Both halves cover all of its offsets together.
func (b Batch) split() (left, right Batch) {
	room := b.Records() / 2
	for _, s := range b {
		switch n := len(s.Records); {
		case n <= room:
			left = append(left, s)
			room -= n
		case room == 0:
			right = append(right, s)
		default:
			cut := s.Records[room].Offset
			left = append(left, Stretch{s.Place, s.First, cut, s.Records[:room]})
			right = append(right, Stretch{s.Place, cut, s.End, s.Records[room:]})
			room = 0
		}
	}
	return left, right
}

// emptied covers the same offsets without the records.
func (b Batch) emptied() Batch {
	e := make(Batch, len(b))
	for i, s := range b {
		e[i] = Stretch{s.Place, s.First, s.End, nil}
	}
	return e
}

// Input is a topic and how its records are read. Decode returns a topics.Rejection for a record that is at fault, and
// nil for one that the store has no use for.
type Input struct {
	Topic  topics.Topic
	Decode func(key, value []byte) (any, error)
}

// From is an input whose values are read by `read` once they are decoded.
func From[M proto.Message](of topics.Of[M], read func(M) (any, error)) Input {
	return Input{of.Topic, func(key, value []byte) (any, error) {
		m, err := of.Decode(key, value)
		if err != nil {
			return nil, err
		}
		return read(m)
	}}
}

// decode is the door: what is wrong with a record is found here, or by the store itself.
func (in Input) decode(r *kgo.Record) (Record, error) {
	rec := Record{Offset: r.Offset, ID: topics.Header(r, topics.HeaderID), Time: r.Timestamp, source: r}
	if err := in.Topic.Check(r); err != nil {
		return rec, err
	}
	v, err := in.Decode(r.Key, r.Value)
	rec.Value = v
	return rec, err
}
