package processors

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/topics"
)

type rest = goka.Context // what no callback of ours calls; a field of the name Context would hide a method

// deskContext is a callback's context without Kafka: one record in, its table's value kept as bytes, emits dropped.
type deskContext struct {
	rest
	record *kgo.Record
	state  []byte
	bytes  int
}

func (c *deskContext) Record() *kgo.Record { return c.record }
func (c *deskContext) Key() string         { return string(c.record.Key) }

func (c *deskContext) Value() any {
	v, _ := stockTable{}.Decode(c.state)
	return v
}

func (c *deskContext) SetValue(v any, _ ...goka.ContextOption) { c.state, _ = stockTable{}.Encode(v) }

func (c *deskContext) EmitWithHeaders(_ goka.Stream, _ string, value any, _ []kgo.RecordHeader) {
	c.bytes += len(value.([]byte))
}

// BenchmarkReserve is what one reservation costs between Goka and Kafka: the door, the table's codec, the rule, and the
// two records that it leads to.
func BenchmarkReserve(b *testing.B) {
	t := topics.New(topics.Options{})
	s := newShell(t, topics.InventoryGroup)
	inventoryGroup(s)
	r := t.Reservations.Record(&inventoryv1.Reservation{Sku: "SKU-00042", OrderId: uuid.NewString(), Line: 1, Quantity: 1, Step: 1}, topics.Fresh("/x", ""))
	r.Topic, r.Timestamp, r.Partition = t.Reservations.Name, time.Now(), topics.Partition(r.Key, t.Partitions)
	full := &inventoryv1.InventoryState{OnHand: 1 << 39, Version: 1, StockVersion: 1, Commands: []*inventoryv1.RememberedCommand{{RequestId: make([]byte, 16), Fingerprint: 1}}}
	state, err := kept[*inventoryv1.InventoryState]{}.Encode(full)
	if err != nil {
		b.Fatal(err)
	}
	c := &deskContext{record: r, state: state}
	b.ReportAllocs()
	for b.Loop() {
		r.Offset++
		s.inputs[r.Topic](c, r.Value)
	}
	if c.bytes == 0 {
		b.Fatal("nothing was emitted")
	}
}
