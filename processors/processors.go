// Package processors holds one Goka shell per group: what the group reads, keeps and writes, the door through which
// a record comes in, and a short callback around the rule that decides. A shell decides nothing; the rules are in
// processors/inventory and processors/order, and know nothing of Kafka.
//
// The same graph runs in two ways. New puts it on processors/transact, exactly once. InventoryGraph and OrderGraph
// give it bare, for Goka as shipped (which needs goka.WithNilHandling(goka.NilProcess), or it drops records without a
// value unseen): that is what the benchmark compares with, and what the check of exactly-once must fail on.
//
// Every record is taken to its end. What the door refuses (see topics.Topic.Check and Of.Decode), and what the rule
// calls impossible, goes to the group's dead letters with its reason, its bytes and its headers, and changes nothing.
package processors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lovoo/goka"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/processors/transact"
	"github.com/millrace/millrace/topics"
)

// Config is one instance of one group.
type Config struct {
	Brokers []string
	Topics  *topics.Table
	Group   string // topics.OrderGroup or topics.InventoryGroup
	// DataDir holds a folder for each group and ordinal, with the local copy of its table. Empty: in memory, read back
	// from Kafka at each start.
	DataDir string
	// Ordinal tells the instances of a group apart, and stays the same over restarts.
	Ordinal int
	// CommitInterval is the longest that a transaction stays open; 0 takes transact's default.
	CommitInterval time.Duration
	// SessionTimeout is how long an instance may be silent before its partitions go to others; 0 takes transact's default.
	SessionTimeout time.Duration
	Log            *slog.Logger
	Metrics        prometheus.Registerer
}

// Processor is one instance of a group, exactly once.
type Processor struct {
	instance *transact.Instance
	graph    *goka.GroupGraph
	release  func()
}

// New checks the configuration and takes the instance's data folder, which Run gives back.
func New(cfg Config) (*Processor, error) {
	s := newShell(cfg.Topics, cfg.Group)
	graph, err := s.graph()
	if err != nil {
		return nil, err
	}
	count, release, err := countRefusals(cfg.Metrics, cfg.Group, cfg.Ordinal)
	if err != nil {
		return nil, err
	}
	s.refused = func(r *kgo.Record, why topics.Rejection) {
		count(why.Reason)
		cfg.Log.Warn("dead letter", "group", cfg.Group, "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
			"reason", string(why.Reason), "detail", why.Detail)
	}
	instance, err := transact.New(transact.Config{
		Brokers: cfg.Brokers, Dir: cfg.folder(), Ordinal: cfg.Ordinal, CommitInterval: cfg.CommitInterval, SessionTimeout: cfg.SessionTimeout,
		Partitioner: topics.Partitioner(), DeadLetter: s.cannotSucceed, Registerer: cfg.Metrics, Logger: cfg.Log,
	})
	if err != nil {
		release()
		return nil, err
	}
	return &Processor{instance: instance, graph: graph, release: release}, nil
}

// Run processes until ctx ends, which is no error: what was begun is committed first. It runs once.
func (p *Processor) Run(ctx context.Context) error {
	defer p.release()
	return errors.Join(p.instance.Run(ctx, p.graph), p.instance.Close())
}

// Ready says that the table is read back and records are being processed.
func (p *Processor) Ready() bool { return p.instance.Ready() }

func (c Config) folder() string {
	if c.DataDir == "" {
		return ""
	}
	return filepath.Join(c.DataDir, fmt.Sprintf("%s-%d", c.Group, c.Ordinal))
}

// countRefusals counts dead letters by reason. IMPOSSIBLE is the one to be alarmed by: one of our processors has a bug.
func countRefusals(m prometheus.Registerer, group string, ordinal int) (count func(topics.Reason), release func(), err error) {
	letters := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "millrace_processor_dead_letters_total", Help: "Records that a group could not take, by reason; again if their transaction was repeated.",
		ConstLabels: prometheus.Labels{"group": group, "ordinal": strconv.Itoa(ordinal)},
	}, []string{"reason"})
	if m == nil {
		m = prometheus.NewRegistry()
	}
	if err := m.Register(letters); err != nil {
		return nil, nil, err
	}
	return func(r topics.Reason) { letters.WithLabelValues(string(r)).Inc() }, func() { m.Unregister(letters) }, nil
}

// shell is what the callbacks of one group share.
type shell struct {
	topics  *topics.Table
	group   string                              // without the prefix
	source  string                              // ce_source of what it writes
	refused func(*kgo.Record, topics.Rejection) // told of every dead letter
	inputs  map[string]goka.ProcessCallback     // by topic, once the graph is made: for Replay
}

func newShell(t *topics.Table, group string) *shell {
	return &shell{topics: t, group: group, source: "/processors/" + group, refused: func(*kgo.Record, topics.Rejection) {}, inputs: map[string]goka.ProcessCallback{}}
}

func (s *shell) graph() (*goka.GroupGraph, error) {
	switch s.group {
	case topics.InventoryGroup:
		return inventoryGroup(s), nil
	case topics.OrderGroup:
		return orderGroup(s), nil
	}
	return nil, fmt.Errorf("%q is no group with a processor", s.group)
}

// cannotSucceed is the dead letter of a record that a callback fails on each time: an emit too large, or a bug of ours.
func (s *shell) cannotSucceed(r *kgo.Record, reason error) *kgo.Record {
	why := topics.Rejection{Reason: topics.CannotSucceed, Detail: reason.Error()}
	s.refused(r, why)
	return s.topics.DeadLetter(s.group, r, why)
}

// input reads a topic. The body gets each record that may be decided; it returns a topics.Rejection, before it has
// sent or kept anything, for one that may not. Any other error fails the record: it is tried again, and dead-lettered
// as topics.CannotSucceed after its attempts.
func input[M proto.Message](s *shell, from topics.Of[M], body func(*incoming, M) error) goka.Edge {
	s.inputs[from.Name] = func(ctx goka.Context, value any) {
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
	}
	return goka.Input(goka.Stream(from.Name), raw{}, s.inputs[from.Name])
}

// output is a topic that the group writes.
func output(t topics.Topic) goka.Edge { return goka.Output(goka.Stream(t.Name), raw{}) }

// raw hands bytes through, so that no record can fail in Goka, which would stop the whole processor, and a dead
// letter keeps the bytes that came. They are decoded at the door.
type raw struct{}

func (raw) Encode(value any) ([]byte, error) { return value.([]byte), nil }
func (raw) Decode(data []byte) (any, error)  { return data, nil }

// kept is the codec of a group's table. Bytes that it cannot read were not written by us, and are no record's fault:
// they stop the processor (transact.ErrStore).
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
	*shell
	ctx    goka.Context
	record *kgo.Record
	cause  topics.Cause
	sent   int // records sent so far: the index of the next one
}

func (s *shell) receive(ctx goka.Context, value any) *incoming {
	r := transact.Record(ctx)
	if r == nil {
		r = recordOf(ctx, value)
	}
	return &incoming{shell: s, ctx: ctx, record: r, cause: topics.CauseOf(r)}
}

// recordOf is what Goka as shipped tells of a record.
func recordOf(ctx goka.Context, value any) *kgo.Record {
	bytes, _ := value.([]byte) // nil for a record without a value
	return &kgo.Record{
		Topic: string(ctx.Topic()), Partition: ctx.Partition(), Offset: ctx.Offset(), Timestamp: ctx.Timestamp(),
		Key: []byte(ctx.Key()), Value: bytes, Headers: headersOf(ctx.Headers()),
	}
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
	key := to.Key(m)
	transact.Emit(in.ctx, goka.Stream(to.Name), key, to.Encode(m), to.Headers(key, stamp)...)
}

// refuse ends a record that cannot be taken: as a dead letter if that is its own fault.
func (in *incoming) refuse(err error) {
	var why topics.Rejection
	if !errors.As(err, &why) {
		in.ctx.Fail(fmt.Errorf("%s/%d/%d: %w", in.record.Topic, in.record.Partition, in.record.Offset, err))
	}
	letter := in.topics.DeadLetter(in.group, in.record, why)
	transact.Emit(in.ctx, goka.Stream(letter.Topic), string(letter.Key), letter.Value, letter.Headers...)
	in.refused(in.record, why)
}

// invalid is a message that can be read and makes no sense.
func invalid(detail string) topics.Rejection {
	return topics.Rejection{Reason: topics.Invalid, Detail: detail}
}
