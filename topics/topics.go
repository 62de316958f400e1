// Package topics is the belts between the rooms: one typed table that says, for every topic, its name, its key, its
// message, who writes it and who reads it. Call sites never type a topic name and never choose a key.
//
// The shapes of the messages are in schemas/proto; what decides about them is in processors; the table is created
// by Apply and compared with the cluster by Check.
package topics

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
)

// Consumer groups, without the prefix. Order and Inventory are Goka groups and have a table.
const (
	OrderGroup        = "order"
	InventoryGroup    = "inventory"
	PaymentGroup      = "payment"
	TimersGroup       = "timers"
	PostgresSinkGroup = "sink-postgres"
)

const (
	// DefaultPartitions is generous, because growing a keyed topic would split its state.
	DefaultPartitions = 12
	// MaxRecordBytes is the largest record that any topic takes.
	MaxRecordBytes = 1 << 20
	// MaxDeadLetterBytes leaves room for a record of MaxRecordBytes and the reason it was refused.
	MaxDeadLetterBytes = 2 * MaxRecordBytes
	// MaxKeyBytes is the longest key that a consumer accepts; ours are UUIDs and SKUs of at most 64 bytes.
	MaxKeyBytes = 128
	// Forever keeps records until somebody deletes them.
	Forever = time.Duration(-1)

	day = 24 * time.Hour
)

// Topic is one row of the table.
type Topic struct {
	Name       string
	KeyedBy    string        // what the key is, for people
	Message    proto.Message // an empty value of what the topic carries; nil for dead letters
	Partitions int32
	Retention  time.Duration // Forever, or how long
	Compacted  bool
	MaxBytes   int
	Writer     string
	Readers    []string      // the groups that read it, without the prefix; their first offsets are committed by Apply
	Delay      time.Duration // for order.delays: when a record is due, counted from its append
}

// Of is a topic that carries messages of one type.
type Of[M proto.Message] struct {
	Topic
	key func(M) string
}

// Options name and size a table.
type Options struct {
	// Prefix is put before every topic, group and transactional ID, so that several systems can share a cluster.
	Prefix string
	// Partitions of every topic; 0 means DefaultPartitions.
	Partitions int32
	// Delays of the order's timers; zero fields take the defaults.
	Delays Delays
}

// Delays are how long the order's timers wait. They belong to the topics: a record is due at its append time plus
// its topic's delay, so changing one changes when records already waiting are due.
type Delays struct {
	Payment time.Duration // deadline of a reservation and of a payment, and of each further word of the gateway; 15 minutes
	Poll    time.Duration // until the gateway is asked again; 2 seconds
	Retry   time.Duration // until a step that could not reach the gateway is tried again; 5 seconds
	Forget  time.Duration // until a final order leaves the table; 30 days
}

// Table is every topic of one system.
type Table struct {
	Options

	OrderCommands     Of[*orderv1.OrderCommand]
	OrderEvents       Of[*orderv1.OrderEvent]
	PaymentDelays     Of[*orderv1.OrderTimer]
	PollDelays        Of[*orderv1.OrderTimer]
	RetryDelays       Of[*orderv1.OrderTimer]
	ForgetDelays      Of[*orderv1.OrderTimer]
	OrderTimeouts     Of[*orderv1.OrderTimer]
	InventoryCommands Of[*inventoryv1.InventoryCommand]
	Reservations      Of[*inventoryv1.Reservation]
	InventoryAnswers  Of[*inventoryv1.InventoryAnswer]
	InventoryEvents   Of[*inventoryv1.InventoryEvent]
	PaymentRequests   Of[*paymentv1.PaymentRequest]
	PaymentResults    Of[*paymentv1.PaymentResult]
	// The Goka groups' tables.
	OrderTable     Topic
	InventoryTable Topic
}

// New names and sizes the table.
func New(o Options) *Table {
	o = o.withDefaults()
	t := &Table{Options: o}
	t.OrderCommands = row(o, "order.commands.v1", (*orderv1.OrderCommand).GetOrderId, "order ID", 30*day, "api", OrderGroup)
	t.OrderEvents = row(o, "order.events.v1", (*orderv1.OrderEvent).GetOrderId, "order ID", Forever, OrderGroup, PostgresSinkGroup)
	t.PaymentDelays = delay(o, "payment", o.Delays.Payment, 30*day)
	t.PollDelays = delay(o, "poll", o.Delays.Poll, 30*day)
	t.RetryDelays = delay(o, "retry", o.Delays.Retry, 30*day)
	t.ForgetDelays = delay(o, "forget", o.Delays.Forget, 90*day)
	t.OrderTimeouts = row(o, "order.timeouts.v1", (*orderv1.OrderTimer).GetOrderId, "order ID", 30*day, TimersGroup, OrderGroup)
	t.InventoryCommands = row(o, "inventory.commands.v1", (*inventoryv1.InventoryCommand).GetSku, "SKU", 30*day, "api", InventoryGroup)
	t.Reservations = row(o, "inventory.reservations.v1", (*inventoryv1.Reservation).GetSku, "SKU", 30*day, OrderGroup, InventoryGroup)
	t.InventoryAnswers = row(o, "inventory.answers.v1", (*inventoryv1.InventoryAnswer).GetOrderId, "order ID", 30*day, InventoryGroup, OrderGroup)
	t.InventoryEvents = row(o, "inventory.events.v1", (*inventoryv1.InventoryEvent).GetSku, "SKU", Forever, InventoryGroup, PostgresSinkGroup)
	t.PaymentRequests = row(o, "payment.requests.v1", (*paymentv1.PaymentRequest).GetOrderId, "order ID", 30*day, OrderGroup, PaymentGroup)
	t.PaymentResults = row(o, "payment.results.v1", (*paymentv1.PaymentResult).GetOrderId, "order ID", Forever, PaymentGroup, OrderGroup, PostgresSinkGroup)
	t.OrderTable = groupTable(o, OrderGroup, "order ID", &orderv1.OrderState{})
	t.InventoryTable = groupTable(o, InventoryGroup, "SKU", &inventoryv1.InventoryState{})
	return t
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.Partitions == 0 {
		o.Partitions = DefaultPartitions
	}
	set(&o.Delays.Payment, 15*time.Minute)
	set(&o.Delays.Poll, 2*time.Second)
	set(&o.Delays.Retry, 5*time.Second)
	set(&o.Delays.Forget, 30*day)
	return o
}

func row[M proto.Message](o Options, name string, key func(M) string, keyedBy string, keep time.Duration, writer string, readers ...string) Of[M] {
	var m M
	return Of[M]{
		Topic: Topic{
			Name: o.Prefix + name, KeyedBy: keyedBy, Message: m.ProtoReflect().Type().Zero().Interface(), Partitions: o.Partitions,
			Retention: keep, MaxBytes: MaxRecordBytes, Writer: writer, Readers: readers,
		},
		key: key,
	}
}

func delay(o Options, kind string, wait, keep time.Duration) Of[*orderv1.OrderTimer] {
	t := row(o, "order.delays."+kind+".v1", (*orderv1.OrderTimer).GetOrderId, "order ID", keep, OrderGroup, TimersGroup)
	t.Delay = wait
	return t
}

// groupTable is named by Goka: the group and "-table".
func groupTable(o Options, group, keyedBy string, state proto.Message) Topic {
	return Topic{
		Name: o.Prefix + group + "-table", KeyedBy: keyedBy, Message: state, Partitions: o.Partitions,
		Retention: Forever, Compacted: true, MaxBytes: MaxRecordBytes, Writer: group,
	}
}

// Group is a consumer group's full name.
func (t *Table) Group(name string) string { return t.Prefix + name }

// DeadLetters is the topic of what a group could not take.
func (t *Table) DeadLetters(group string) Topic {
	return Topic{
		Name: t.Prefix + group + ".dlq.v1", KeyedBy: "the original key", Partitions: t.Partitions,
		Retention: 90 * day, MaxBytes: MaxDeadLetterBytes, Writer: group,
	}
}

// All is every topic, tables and dead letters included, in the order of the table.
func (t *Table) All() []Topic {
	all := []Topic{
		t.OrderCommands.Topic, t.OrderEvents.Topic, t.PaymentDelays.Topic, t.PollDelays.Topic, t.RetryDelays.Topic,
		t.ForgetDelays.Topic, t.OrderTimeouts.Topic, t.InventoryCommands.Topic, t.Reservations.Topic,
		t.InventoryAnswers.Topic, t.InventoryEvents.Topic, t.PaymentRequests.Topic, t.PaymentResults.Topic,
		t.OrderTable, t.InventoryTable,
	}
	for _, g := range []string{OrderGroup, InventoryGroup, PaymentGroup, TimersGroup, PostgresSinkGroup} {
		all = append(all, t.DeadLetters(g))
	}
	return all
}

// Delayed is the topic of a delay; it panics on one that has none, which is our bug.
func (t *Table) Delayed(d orderv1.OrderDelay) Of[*orderv1.OrderTimer] {
	switch d {
	case orderv1.OrderDelay_ORDER_DELAY_PAYMENT:
		return t.PaymentDelays
	case orderv1.OrderDelay_ORDER_DELAY_POLL:
		return t.PollDelays
	case orderv1.OrderDelay_ORDER_DELAY_RETRY:
		return t.RetryDelays
	case orderv1.OrderDelay_ORDER_DELAY_FORGET:
		return t.ForgetDelays
	}
	panic(fmt.Sprintf("topics: no delay topic for %v", d))
}

// Key is the message's key.
func (t Of[M]) Key(m M) string { return t.key(m) }

// Record is the message as a record of this topic, to be produced by a client that has Partitioner.
func (t Of[M]) Record(m M, s Stamp) *kgo.Record {
	key := t.key(m)
	return &kgo.Record{Topic: t.Name, Key: []byte(key), Value: t.Encode(m), Headers: t.Headers(key, s)}
}

// Encode is the message's bytes: deterministic for one build, so that a replay writes the same.
func (t Of[M]) Encode(m M) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // only invalid UTF-8, which the door refuses
		panic(fmt.Sprintf("topics: %s: %v", t.Name, err))
	}
	return b
}

// Decode is the record's message, or a Rejection that says why it is none.
func (t Of[M]) Decode(key, value []byte) (M, error) {
	var none M
	if len(value) == 0 {
		return none, Rejection{Reason: Empty, Detail: "the record has no value"}
	}
	m := none.ProtoReflect().Type().New().Interface().(M)
	if err := proto.Unmarshal(value, m); err != nil {
		return none, Rejection{Reason: DecodeFailed, Detail: err.Error()}
	}
	if want := t.key(m); want != string(key) {
		return none, Rejection{Reason: WrongKey, Detail: fmt.Sprintf("the key is %q, the message's %s is %q", clip(string(key)), t.KeyedBy, clip(want))}
	}
	return m, nil
}

// Type is the full name of the message that the topic carries, as in the header ce_type.
func (t Topic) Type() string {
	if t.Message == nil {
		return ""
	}
	return string(t.Message.ProtoReflect().Descriptor().FullName())
}
