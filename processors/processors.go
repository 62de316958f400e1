// Package processors holds one Goka shell per group: what the group reads, keeps and writes, the door through which
// a record comes in, and a short callback around the rule that decides. A shell decides nothing; the rules are in
// processors/inventory and processors/order, and know nothing of Kafka.
//
// The same graph runs in two ways. New puts it on processors/transact, exactly once. InventoryGraph and OrderGraph
// give it bare, for Goka as shipped: that is what the benchmark compares with, and what the check of exactly-once
// must fail on.
//
// Every record is taken to its end. What the door refuses (see topics.Topic.Check and Of.Decode), and what the rule
// calls impossible, goes to the group's dead letters with its reason, its bytes and its headers, and changes nothing.
package processors

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/topics"
)

// shell is what the callbacks of one group share.
type shell struct {
	topics  *topics.Table
	group   string                              // without the prefix
	source  string                              // ce_source of what it writes
	refused func(*kgo.Record, topics.Rejection) // told of every dead letter
}

func newShell(t *topics.Table, group string) shell {
	return shell{topics: t, group: group, source: "/processors/" + group, refused: func(*kgo.Record, topics.Rejection) {}}
}

// input reads a topic. The body gets each record that may be decided; it returns a topics.Rejection, before it has
// sent or kept anything, for one that may not. Any other error stops the processor.
func input[M proto.Message](s shell, from topics.Of[M], body func(*incoming, M) error) goka.Edge {
	return goka.Input(goka.Stream(from.Name), raw{}, func(ctx goka.Context, value any) {
		in := s.receive(ctx, value)
		err := from.Check(in.record)
		if err == nil {
			var m M
			if m, err = from.Decode(in.record.Key, in.record.Value); err == nil {
				err = body(in, m)
			}
		}
		if err != nil {
			in.refuse(err)
		}
	})
}

// output is a topic that the group writes.
func output(t topics.Topic) goka.Edge { return goka.Output(goka.Stream(t.Name), raw{}) }

// raw hands bytes through, so that no record can fail in Goka, which would stop the whole processor, and a dead
// letter keeps the bytes that came. They are decoded at the door.
type raw struct{}

func (raw) Encode(value any) ([]byte, error) { return value.([]byte), nil }
func (raw) Decode(data []byte) (any, error)  { return data, nil }

// kept is the codec of a group's table. Bytes that it cannot read were not written by us, and are no record's fault:
// they stop the processor.
type kept[M proto.Message] struct{}

func (kept[M]) Encode(value any) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(value.(M))
}

func (kept[M]) Decode(data []byte) (any, error) {
	var none M
	m := none.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	return m, nil
}

// incoming is the record at hand, and what it leads to.
type incoming struct {
	shell
	ctx    goka.Context
	record *kgo.Record
	cause  topics.Cause
	sent   int // records sent so far: the index of the next one
}

func (s shell) receive(ctx goka.Context, value any) *incoming {
	bytes, _ := value.([]byte) // nil for a record without a value
	r := &kgo.Record{
		Topic: string(ctx.Topic()), Partition: ctx.Partition(), Offset: ctx.Offset(), Timestamp: ctx.Timestamp(),
		Key: []byte(ctx.Key()), Value: bytes, Headers: headersOf(ctx.Headers()),
	}
	return &incoming{shell: s, ctx: ctx, record: r, cause: topics.CauseOf(r)}
}

func headersOf(h goka.Headers) []kgo.RecordHeader {
	headers := make([]kgo.RecordHeader, 0, len(h))
	for k, v := range h {
		headers = append(headers, kgo.RecordHeader{Key: k, Value: v})
	}
	slices.SortFunc(headers, func(a, b kgo.RecordHeader) int { return strings.Compare(a.Key, b.Key) })
	return headers
}

// send emits a message that the record at hand has caused.
func send[M proto.Message](in *incoming, to topics.Of[M], m M) {
	stamp := topics.By(in.source, in.cause, in.ctx.Key(), in.sent)
	in.sent++
	in.emit(to.Record(m, stamp))
}

func (in *incoming) emit(r *kgo.Record) {
	headers := make(goka.Headers, len(r.Headers))
	for _, h := range r.Headers {
		headers[h.Key] = h.Value
	}
	in.ctx.Emit(goka.Stream(r.Topic), string(r.Key), r.Value, goka.WithCtxEmitHeaders(headers))
}

// refuse ends a record that cannot be taken: as a dead letter if that is its own fault.
func (in *incoming) refuse(err error) {
	var why topics.Rejection
	if !errors.As(err, &why) {
		in.ctx.Fail(fmt.Errorf("%s/%d/%d: %w", in.record.Topic, in.record.Partition, in.record.Offset, err))
	}
	in.emit(in.topics.DeadLetter(in.group, in.record, why))
	in.refused(in.record, why)
}
