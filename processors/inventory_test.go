package processors_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/topics"
)

func (c *cluster) receive(sku string, n int64) *kgo.Record {
	return c.InventoryCommands.Record(&inventoryv1.InventoryCommand{
		Sku: sku, RequestId: uuid.Must(uuid.NewV7()).String(), ActorId: "seller",
		Command: &inventoryv1.InventoryCommand_Receive{Receive: &inventoryv1.ReceiveStock{Quantity: n}},
	}, topics.Fresh("/api", ""))
}

func (c *cluster) ask(sku, order string, n int64, step inventoryv1.ReservationStep) *kgo.Record {
	return c.Reservations.Record(&inventoryv1.Reservation{Sku: sku, OrderId: order, Line: 1, Quantity: n, Step: step},
		topics.Fresh("/processors/order", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
}

const (
	reserve = inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE
	release = inventoryv1.ReservationStep_RESERVATION_STEP_RELEASE
	ship    = inventoryv1.ReservationStep_RESERVATION_STEP_SHIP
)

func decode[M proto.Message](t *testing.T, topic topics.Of[M], r *kgo.Record) M {
	t.Helper()
	if err := topic.Check(r); err != nil {
		t.Fatalf("%s: %v", place(r), err)
	}
	m, err := topic.Decode(r.Key, r.Value)
	if err != nil {
		t.Fatalf("%s: %v", place(r), err)
	}
	return m
}

// TestInventoryDecidesEachCommandOnce: commands and reservations in, one event each and one answer for each RESERVE out,
// over a stop and a start.
func TestInventoryDecidesEachCommandOnce(t *testing.T) {
	c := newCluster(t)
	dir := t.TempDir()
	stop := c.start(t, topics.InventoryGroup, dir)
	delivery := c.receive("LAMP", 2)
	c.produce(t, delivery, delivery) // the client's retry
	c.processed(t, topics.InventoryGroup)

	ann, ben, cem := uuid.NewString(), uuid.NewString(), uuid.NewString()
	c.produce(t, c.ask("LAMP", ann, 1, reserve), c.ask("LAMP", ben, 1, reserve))
	c.processed(t, topics.InventoryGroup)
	stop()
	late := c.ask("LAMP", cem, 1, reserve)
	c.produce(t, late)
	c.start(t, topics.InventoryGroup, dir)
	c.produce(t, c.ask("LAMP", ann, 1, release), c.ask("LAMP", cem, 1, reserve), c.ask("LAMP", ben, 1, ship))
	c.processed(t, topics.InventoryGroup)

	who := map[string]string{decode(t, c.InventoryCommands, delivery).RequestId: "seller", ann: "ann", ben: "ben", cem: "cem"}
	var told []string
	for i, r := range c.read(t, c.InventoryEvents.Topic, 8) {
		e := decode(t, c.InventoryEvents, r)
		if e.Version != int64(i+1) {
			t.Errorf("event %d has version %d", i+1, e.Version)
		}
		told = append(told, fmt.Sprintf("%s%s: %s %d %s %d/%d", who[e.RequestId], who[e.OrderId],
			strings.TrimPrefix(e.Change.String(), "INVENTORY_CHANGE_"), e.Quantity, strings.TrimPrefix(e.Reason.String(), "INVENTORY_REASON_"), e.Reserved, e.OnHand))
	}
	want := []string{
		"seller: RECEIVED 2 UNSPECIFIED 0/2",
		"seller: COMMAND_REPEATED 2 UNSPECIFIED 0/2",
		"ann: RESERVED 1 UNSPECIFIED 1/2",
		"ben: RESERVED 1 UNSPECIFIED 2/2",
		"cem: RESERVE_REFUSED 1 OUT_OF_STOCK 2/2",
		"ann: RELEASED 1 UNSPECIFIED 1/2",
		"cem: RESERVED 1 UNSPECIFIED 2/2",
		"ben: SHIPPED 1 UNSPECIFIED 1/1",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	c.checkAnswers(t, map[string][]string{ann: {"held 1, 1 left"}, ben: {"held 1, 0 left"}, cem: {"OUT_OF_STOCK, 0 left", "held 1, 0 left"}})
}

func (c *cluster) checkAnswers(t *testing.T, want map[string][]string) {
	t.Helper()
	n := 0
	for _, answers := range want {
		n += len(answers)
	}
	got := map[string][]string{}
	for _, r := range c.read(t, c.InventoryAnswers.Topic, n) {
		a := decode(t, c.InventoryAnswers, r)
		said := fmt.Sprintf("held %d, %d left", a.Quantity, a.Available)
		if a.Refused != 0 {
			said = fmt.Sprintf("%s, %d left", strings.TrimPrefix(a.Refused.String(), "INVENTORY_REASON_"), a.Available)
		}
		got[a.OrderId] = append(got[a.OrderId], said)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestInventoryNamesTheCause: the outcome's headers say which record it answers, when, in which trace; its ID can be
// computed again from that.
func TestInventoryNamesTheCause(t *testing.T) {
	c := newCluster(t)
	c.start(t, topics.InventoryGroup, "")
	cause := c.ask("LAMP", uuid.NewString(), 1, reserve)
	c.produce(t, cause)
	event, answer := c.read(t, c.InventoryEvents.Topic, 1)[0], c.read(t, c.InventoryAnswers.Topic, 1)[0]
	logged := c.read(t, c.Reservations.Topic, 1)[0] // with the time at which the log took it
	for i, r := range []*kgo.Record{event, answer} {
		want := topics.By("/processors/inventory", topics.CauseOf(logged), "LAMP", i)
		for header, value := range map[string]string{
			topics.HeaderID: want.ID, topics.HeaderSource: want.Source, topics.HeaderTraceParent: want.TraceParent,
			topics.HeaderTime: want.Time.UTC().Format("2006-01-02T15:04:05.999999999Z07:00"), topics.HeaderCauseID: topics.Header(logged, topics.HeaderID),
		} {
			if got := topics.Header(r, header); got != value || got == "" {
				t.Errorf("%s of %s is %q, expected %q", header, r.Topic, got, value)
			}
		}
		if causePlace(r) != place(logged) {
			t.Errorf("cause of %s: %s, expected %s", r.Topic, causePlace(r), place(logged))
		}
	}
}

// poison is what must not be decided, and why.
func (c *cluster) poison(good func() *kgo.Record) map[string]struct {
	record *kgo.Record
	reason topics.Reason
} {
	type letter = struct {
		record *kgo.Record
		reason topics.Reason
	}
	with := func(reason topics.Reason, spoil func(*kgo.Record)) letter {
		r := good()
		r.Partition = topics.Partition(r.Key, partitions)
		spoil(r)
		return letter{r, reason}
	}
	return map[string]letter{
		"random bytes":    with(topics.DecodeFailed, func(r *kgo.Record) { r.Value = []byte("\xff\xfe\x00 no message") }),
		"nonsense":        with(topics.WrongKey, func(r *kgo.Record) { r.Value = []byte{0x0a, 1, 'x', 0x18, 7} }),
		"empty message":   with(topics.Invalid, func(r *kgo.Record) { r.Value = append([]byte{0x0a, byte(len(r.Key))}, r.Key...) }),
		"no value":        with(topics.Empty, func(r *kgo.Record) { r.Value = nil }),
		"empty value":     with(topics.Empty, func(r *kgo.Record) { r.Value = []byte{} }),
		"wrong partition": with(topics.WrongPartition, func(r *kgo.Record) { r.Partition = (r.Partition + 1) % partitions }),
		"no headers":      with(topics.MissingHeaders, func(r *kgo.Record) { r.Headers = nil }),
		"900 KB key": with(topics.KeyTooLong, func(r *kgo.Record) {
			r.Key = bytes.Repeat([]byte("k"), 900<<10)
			r.Partition = topics.Partition(r.Key, partitions)
		}),
	}
}

// TestInventoryDeadLettersPoison, each with its reason and its bytes, goes on with what comes after, and has no lag.
func TestInventoryDeadLettersPoison(t *testing.T) {
	c := newCluster(t)
	c.start(t, topics.InventoryGroup, t.TempDir())
	c.checkPoison(t)
	if n := c.deadLetters(t, topics.Impossible); n < 1 { // more if its transaction was repeated
		t.Errorf("the impossible command was not counted")
	}
}

func (c *cluster) checkPoison(t *testing.T) {
	t.Helper()
	c.produce(t, c.receive("LAMP", 5))
	c.processed(t, topics.InventoryGroup)
	reasons := map[string]topics.Reason{}
	sent := map[string]*kgo.Record{}
	post := func(r *kgo.Record, reason topics.Reason) {
		c.produceThere(t, r)
		reasons[place(r)], sent[place(r)] = reason, r
	}
	for _, p := range c.poison(func() *kgo.Record { return c.receive("LAMP", 1) }) {
		post(p.record, p.reason)
	}
	for _, p := range c.poison(func() *kgo.Record { return c.ask("LAMP", uuid.NewString(), 1, reserve) }) {
		post(p.record, p.reason)
	}
	tooMuch := c.ask("LAMP", uuid.NewString(), 1, release)
	tooMuch.Partition = topics.Partition(tooMuch.Key, partitions)
	post(tooMuch, topics.Impossible)
	c.produce(t, c.ask("LAMP", uuid.NewString(), 5, reserve))
	c.processed(t, topics.InventoryGroup)

	for _, r := range c.read(t, c.DeadLetters(topics.InventoryGroup), len(reasons)) {
		from := topics.Header(r, topics.HeaderDLQTopic) + "/" + topics.Header(r, topics.HeaderDLQPartition) + "/" + topics.Header(r, topics.HeaderDLQOffset)
		if got := topics.Reason(topics.Header(r, topics.HeaderDLQReason)); got != reasons[from] {
			t.Errorf("%s: %s (%s), expected %s", from, got, topics.Header(r, topics.HeaderDLQMessage), reasons[from])
		}
		if was := sent[from]; was != nil && (!bytes.Equal(was.Key, r.Key) || !bytes.Equal(was.Value, r.Value)) {
			t.Errorf("%s: key or value is not the original", from)
		}
		delete(reasons, from)
	}
	if len(reasons) > 0 {
		t.Errorf("no dead letter for %v", reasons)
	}
	last := decode(t, c.InventoryEvents, c.read(t, c.InventoryEvents.Topic, 2)[1])
	if last.Reserved != 5 || last.OnHand != 5 || last.Version != 2 {
		t.Errorf("after the poison: %v", last)
	}
}

// TestInventoryRunsOnGokaAsShipped: the benchmark compares with it, and the check of exactly-once must fail on it. Undisturbed,
// it decides the same.
func TestInventoryRunsOnGokaAsShipped(t *testing.T) {
	c := newCluster(t)
	config := goka.DefaultConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	goka.ReplaceGlobalConfig(config)
	p, err := goka.NewProcessor(c.brokers, processors.InventoryGraph(c.Table),
		goka.WithStorageBuilder(storage.DefaultBuilder(t.TempDir())), goka.WithNilHandling(goka.NilProcess))
	if err != nil {
		t.Fatal(err)
	}
	running(t, func(ctx context.Context) error { return p.Run(ctx) })
	within(t, "recovered", p.Recovered)
	c.checkPoison(t)
}
