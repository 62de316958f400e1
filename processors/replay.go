package processors

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// Replay decides records again, one at a time, with the very callbacks that decided them, and without Kafka. It is how
// internal/audit proves that the log is what one serial reader would have made of it.
type Replay struct {
	shell *shell
	table goka.Codec
}

// NewReplay is for topics.OrderGroup or topics.InventoryGroup.
func NewReplay(t *topics.Table, group string) (*Replay, error) {
	s := newShell(t, group)
	graph, err := s.graph()
	if err != nil {
		return nil, err
	}
	return &Replay{shell: s, table: graph.GroupTable().Codec()}, nil
}

// Decide is what a record led to: the state of its key after it, and what was written. A nil state is none.
func (r *Replay) Decide(state []byte, in *kgo.Record) (after []byte, out []*kgo.Record, err error) {
	callback, ok := r.shell.inputs[in.Topic]
	if !ok {
		return nil, nil, fmt.Errorf("%s is no input of %s", in.Topic, r.shell.group)
	}
	c := &replayContext{record: in, group: r.shell.topics.Group(r.shell.group), table: r.table, state: state}
	defer func() {
		if p := recover(); p != nil { // what fails a record in the processor is an answer to who asks
			err = fmt.Errorf("%v", p)
		}
	}()
	var value any
	if in.Value != nil {
		value = in.Value
	}
	callback(c, value)
	return c.state, c.out, nil
}

// Inputs, Outputs, Events and Table are the group's topics; MayBeSilent are the inputs that may lead to nothing.
func (r *Replay) Inputs() []topics.Topic {
	return r.those(func(t topics.Topic) bool { return slices.Contains(t.Readers, r.shell.group) })
}

// Outputs are all topics that the group writes, its dead letters too, its table not.
func (r *Replay) Outputs() []topics.Topic {
	return r.those(func(t topics.Topic) bool { return t.Writer == r.shell.group && !t.Compacted })
}

// Events is the topic with one record for each input that changed or answered something.
func (r *Replay) Events() topics.Topic {
	if r.shell.group == topics.InventoryGroup {
		return r.shell.topics.InventoryEvents.Topic
	}
	return r.shell.topics.OrderEvents.Topic
}

// Table is the group's own.
func (r *Replay) Table() topics.Topic {
	if r.shell.group == topics.InventoryGroup {
		return r.shell.topics.InventoryTable
	}
	return r.shell.topics.OrderTable
}

// MayBeSilent are timers that were cancelled, and answers of the gateway that came twice.
func (r *Replay) MayBeSilent() []topics.Topic {
	if r.shell.group == topics.InventoryGroup {
		return nil
	}
	return []topics.Topic{r.shell.topics.OrderTimeouts.Topic, r.shell.topics.PaymentResults.Topic}
}

func (r *Replay) those(wanted func(topics.Topic) bool) []topics.Topic {
	var all []topics.Topic
	for _, t := range r.shell.topics.All() {
		if wanted(t) {
			all = append(all, t)
		}
	}
	return all
}

// replayContext is the context of one record that is decided again. What a callback of ours never calls panics.
type replayContext struct {
	untouched
	record *kgo.Record
	group  string
	table  goka.Codec
	state  []byte
	out    []*kgo.Record
}

// untouched is the rest of goka's context: nil.
type untouched interface {
	Headers() goka.Headers
	Join(goka.Table) any
	Lookup(goka.Table, string) any
	Emit(goka.Stream, string, any, ...goka.ContextOption)
	Loopback(string, any, ...goka.ContextOption)
	DeferCommit() func(error)
}

func (c *replayContext) Record() *kgo.Record      { return c.record }
func (c *replayContext) Topic() goka.Stream       { return goka.Stream(c.record.Topic) }
func (c *replayContext) Key() string              { return string(c.record.Key) }
func (c *replayContext) Partition() int32         { return c.record.Partition }
func (c *replayContext) Offset() int64            { return c.record.Offset }
func (c *replayContext) Group() goka.Group        { return goka.Group(c.group) }
func (c *replayContext) Timestamp() time.Time     { return c.record.Timestamp }
func (c *replayContext) Context() context.Context { return context.Background() }
func (c *replayContext) Fail(err error)           { panic(err) }
func (c *replayContext) Delete(...goka.ContextOption) {
	c.state = nil
}

func (c *replayContext) Value() any {
	if c.state == nil {
		return nil
	}
	v, err := c.table.Decode(c.state)
	if err != nil {
		panic(err)
	}
	return v
}

func (c *replayContext) SetValue(value any, _ ...goka.ContextOption) {
	b, err := c.table.Encode(value)
	if err != nil {
		panic(err)
	}
	c.state = b
}

func (c *replayContext) EmitWithHeaders(topic goka.Stream, key string, value any, headers []kgo.RecordHeader) {
	b, _ := value.([]byte) // nil for a record without a value
	c.out = append(c.out, &kgo.Record{Topic: string(topic), Key: []byte(key), Value: b, Headers: headers})
}
