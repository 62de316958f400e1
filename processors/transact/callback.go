package transact

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// callbackContext is the goka.Context of a callback. It writes straight into the open transaction and its table, without
// goka's promises. One serves all records of a claim, one after the other: it must not outlive the callback.
type callbackContext struct {
	engine *engine
	claim  *claim
	goka   goka.Context // of the batch

	record  *kgo.Record
	key     string
	headers goka.Headers // made when asked for
	cause   *cause
	now     time.Time
	slab    []kgo.Record // for emits: one allocation for many
	stopped error        // why the callback was stopped, even if it recovered
}

const slabRecords = 64

// cause travels with an emit, to know on failure which inputs it came from, and with a table's write, to know which table.
type cause struct {
	context.Context
	batch []*kgo.Record
	table *table
}

// stop is what the context panics with.
type stop struct{ err error }

func (c *callbackContext) stop(err error) {
	c.stopped = err
	panic(stop{err})
}

// startBatch and startRecord make the context that of what comes next.
func (c *callbackContext) startBatch(gctx goka.Context, batch []*kgo.Record) {
	c.goka, c.now = gctx, time.Now()
	c.cause = &cause{Context: context.Background(), batch: batch, table: c.claim.table}
}

func (c *callbackContext) startRecord(r *kgo.Record) {
	c.record, c.key, c.headers, c.stopped = r, string(r.Key), nil, nil
}

func (c *callbackContext) Topic() goka.Stream       { return goka.Stream(c.record.Topic) }
func (c *callbackContext) Key() string              { return c.key }
func (c *callbackContext) Partition() int32         { return c.record.Partition }
func (c *callbackContext) Offset() int64            { return c.record.Offset }
func (c *callbackContext) Group() goka.Group        { return goka.Group(c.engine.plan.group) }
func (c *callbackContext) Timestamp() time.Time     { return c.record.Timestamp }
func (c *callbackContext) Context() context.Context { return c.goka.Context() }

func (c *callbackContext) Headers() goka.Headers {
	if c.headers == nil {
		c.headers = make(goka.Headers, len(c.record.Headers))
		for _, h := range c.record.Headers {
			c.headers[h.Key] = h.Value
		}
	}
	return c.headers
}

// Value is the table's value of the record's key: what this transaction wrote, else what is committed. One that cannot be
// read is not the record's fault: it stops the instance, or else all later records of the key would be dead letters.
func (c *callbackContext) Value() any {
	t := c.table()
	data, err := t.value(c.key)
	if err != nil {
		c.stop(err)
	}
	if data == nil {
		return nil
	}
	v, err := c.engine.plan.values.Decode(c.engine.plan.lend(data))
	if err != nil {
		c.stop(fmt.Errorf("%w: decode value of %q: %w", ErrStore, c.key, err))
	}
	return v
}

// lend protects a cached value from goka's Bytes codec, which hands out what it is given.
func (p *plan) lend(data []byte) []byte {
	if _, aliases := p.values.(*codec.Bytes); aliases {
		return append([]byte{}, data...)
	}
	return data
}

func (c *callbackContext) SetValue(value any, options ...goka.ContextOption) {
	c.table()
	if value == nil {
		c.Fail(errors.New("set a nil value"))
	}
	data, err := c.engine.plan.values.Encode(value)
	if err != nil {
		c.Fail(fmt.Errorf("encode value of %q: %w", c.key, err))
	}
	c.change(data, options)
}

func (c *callbackContext) Delete(options ...goka.ContextOption) {
	c.table()
	c.change(nil, options)
}

// change writes the changelog first: a value that is too large must not reach the table.
func (c *callbackContext) change(data []byte, options []goka.ContextOption) {
	r := c.newRecord(c.engine.plan.table, c.key, data, headersOf(options))
	r.Partition = c.record.Partition
	c.engine.produce(r, c.engine.changed)
	c.claim.table.put(c.key, data)
}

func (c *callbackContext) table() *table {
	if c.claim.table == nil {
		c.Fail(errors.New("a stateless group has no table"))
	}
	return c.claim.table
}

func (c *callbackContext) Emit(topic goka.Stream, key string, value any, options ...goka.ContextOption) {
	c.emit(topic, key, value, headersOf(options))
}

func (c *callbackContext) emit(topic goka.Stream, key string, value any, headers []kgo.RecordHeader) {
	out, ok := c.engine.plan.codecs[string(topic)]
	if !ok {
		c.stop(fmt.Errorf("%w: topic %q is not an output of the group", ErrUnsupported, topic))
	}
	var data []byte
	if value != nil {
		var err error
		if data, err = out.Encode(value); err != nil {
			c.Fail(fmt.Errorf("encode for %s: %w", topic, err))
		}
	}
	c.engine.produce(c.newRecord(string(topic), key, data, headers), c.engine.emitted)
}

func (c *callbackContext) newRecord(topic, key string, value []byte, headers []kgo.RecordHeader) *kgo.Record {
	if len(c.slab) == 0 {
		c.slab = make([]kgo.Record, slabRecords)
	}
	r := &c.slab[0]
	c.slab = c.slab[1:]
	r.Topic, r.Value, r.Headers, r.Timestamp, r.Context = topic, value, headers, c.now, c.cause
	if key == c.key {
		r.Key = c.record.Key
	} else {
		r.Key = []byte(key)
	}
	if size, limit := wireSize(r), c.engine.limits.of(topic); size > int(limit) {
		c.stop(fmt.Errorf("%w: %d bytes for %s, which takes %d", kerr.MessageTooLarge, size, topic, limit))
	}
	return r
}

// wireSize is at least what a record takes in a batch of its own.
func wireSize(r *kgo.Record) int {
	const batch, record, header = 61, 35, 10
	n := batch + record + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += header + len(h.Key) + len(h.Value)
	}
	return n
}

// Fail stops the callback: the record has failed, and is tried again, then dead-lettered.
func (c *callbackContext) Fail(err error) { c.stop(&CallbackError{Cause: err}) }

func (c *callbackContext) Join(topic goka.Table) any {
	c.stop(fmt.Errorf("%w: ctx.Join(%s)", ErrUnsupported, topic))
	return nil
}

func (c *callbackContext) Lookup(topic goka.Table, _ string) any {
	c.stop(fmt.Errorf("%w: ctx.Lookup(%s)", ErrUnsupported, topic))
	return nil
}

func (c *callbackContext) Loopback(string, any, ...goka.ContextOption) {
	c.stop(fmt.Errorf("%w: ctx.Loopback", ErrUnsupported))
}

// DeferCommit would let an emit come after its transaction's end.
func (c *callbackContext) DeferCommit() func(error) {
	c.stop(fmt.Errorf("%w: ctx.DeferCommit", ErrUnsupported))
	return nil
}

// RecordContext is a goka.Context that has the input as it was read and takes headers in order: this package's, or that
// of somebody who replays a callback.
type RecordContext interface {
	goka.Context
	EmitWithHeaders(topic goka.Stream, key string, value any, headers []kgo.RecordHeader)
	Record() *kgo.Record
}

func (c *callbackContext) EmitWithHeaders(topic goka.Stream, key string, value any, headers []kgo.RecordHeader) {
	c.emit(topic, key, value, headers)
}

func (c *callbackContext) Record() *kgo.Record { return c.record }

// Emit is ctx.Emit with headers in the order given, and without goka's map for each emit.
func Emit(ctx goka.Context, topic goka.Stream, key string, value any, headers ...kgo.RecordHeader) {
	if c, ok := ctx.(RecordContext); ok {
		c.EmitWithHeaders(topic, key, value, headers)
		return
	}
	byKey := goka.Headers{}
	for _, h := range headers {
		byKey[h.Key] = h.Value
	}
	ctx.Emit(topic, key, value, goka.WithCtxEmitHeaders(byKey))
}

// Record is the input record as it was read, with its headers in order. Nil when ctx is no RecordContext (in goka's
// tester, say). It must not be changed.
func Record(ctx goka.Context) *kgo.Record {
	if c, ok := ctx.(RecordContext); ok {
		return c.Record()
	}
	return nil
}

// failure is why a transaction must not be committed, and which records may be to blame: none if it is not their fault.
type failure struct {
	err     error
	records []*kgo.Record
}

func recovered(r *kgo.Record, p any) *failure {
	if s, ok := p.(stop); ok {
		return stopFailure(r, s.err)
	}
	return &failure{
		err:     &CallbackError{Cause: fmt.Errorf("panic: %v", p), Stack: string(debug.Stack())},
		records: []*kgo.Record{r},
	}
}

func stopFailure(r *kgo.Record, err error) *failure {
	if isTerminal(err) {
		return &failure{err: err}
	}
	return &failure{err: err, records: []*kgo.Record{r}}
}
