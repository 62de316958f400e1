package processors_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/audit"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/topics"
)

// way is one order's: what everybody else does when they hear of something, and what its events must then be.
type way struct {
	skus []string
	// on says what follows what was heard. Heard is "reserve SKU", "release SKU", "ship SKU", a gateway step ("CREATE"),
	// "timer DELAY", or an event's change. What follows, with commas between: "SKU yes", "SKU no", a gateway outcome (to the
	// open step), "due DELAY" (its newest timer), "cancel", "place" (again, the same), "place other" (other content).
	on    map[string]string
	wants []string // the events: "change STATUS"
	stock string   // what was asked of the SKUs, in the order of each SKU
}

var ways = map[string]way{
	"sold": {
		skus: []string{"TEA", "CUP"},
		on:   map[string]string{"reserve TEA": "TEA yes", "reserve CUP": "CUP yes", "CREATE": "CREATED", "CONFIRM": "SUCCEEDED"},
		wants: []string{
			"placed RESERVING", "line_held RESERVING", "line_held PAYMENT_PENDING", "payment_advanced PAYMENT_PENDING", "payment_advanced PAID",
		},
		stock: "reserve TEA, ship TEA; reserve CUP, ship CUP",
	},
	"sold after polling and retrying": {
		skus: []string{"TEA"},
		on: map[string]string{
			"reserve TEA": "TEA yes", "CREATE": "CREATED", "CONFIRM": "PENDING", "timer POLL": "due POLL", "POLL": "UNAVAILABLE, SUCCEEDED", "timer RETRY": "due RETRY",
		},
		wants: []string{
			"placed RESERVING", "line_held PAYMENT_PENDING", "payment_advanced PAYMENT_PENDING", "payment_advanced PAYMENT_PENDING", "retry_due PAYMENT_PENDING",
			"payment_advanced PAYMENT_PENDING", "retry_due PAYMENT_PENDING", "payment_advanced PAID",
		},
		stock: "reserve TEA, ship TEA",
	},
	"out of stock": {
		skus:  []string{"TEA", "GONE"},
		on:    map[string]string{"reserve GONE": "GONE no", "line_refused": "TEA yes"},
		wants: []string{"placed RESERVING", "line_refused CANCELLING", "line_held REJECTED"},
		stock: "reserve TEA, release TEA; reserve GONE",
	},
	"declined": {
		skus:  []string{"TEA"},
		on:    map[string]string{"reserve TEA": "TEA yes", "CREATE": "CREATED", "CONFIRM": "DECLINED"},
		wants: []string{"placed RESERVING", "line_held PAYMENT_PENDING", "payment_advanced PAYMENT_PENDING", "payment_advanced PAYMENT_FAILED"},
		stock: "reserve TEA, release TEA",
	},
	"cancelled while asked": {
		skus:  []string{"TEA"},
		on:    map[string]string{"placed": "cancel", "cancel_accepted": "TEA yes"},
		wants: []string{"placed RESERVING", "cancel_accepted CANCELLING", "line_held CANCELLED"},
		stock: "reserve TEA, release TEA",
	},
	"cancelled while charged": {
		skus: []string{"TEA"},
		on:   map[string]string{"reserve TEA": "TEA yes", "CREATE": "CREATED", "CONFIRM": "cancel", "cancel_accepted": "SUCCEEDED", "REFUND": "REFUNDED"},
		wants: []string{
			"placed RESERVING", "line_held PAYMENT_PENDING", "payment_advanced PAYMENT_PENDING", "cancel_accepted CANCELLING", "payment_advanced CANCELLING", "payment_advanced CANCELLED",
		},
		stock: "reserve TEA, release TEA",
	},
	"too late to pay": {
		skus: []string{"TEA"},
		on:   map[string]string{"reserve TEA": "TEA yes", "CREATE": "CREATED", "CONFIRM": "due PAYMENT", "deadline_passed": "PENDING", "CANCEL": "CANCELED"},
		wants: []string{
			"placed RESERVING", "line_held PAYMENT_PENDING", "payment_advanced PAYMENT_PENDING", "deadline_passed CANCELLING", "payment_advanced CANCELLING", "payment_advanced PAYMENT_FAILED",
		},
		stock: "reserve TEA, release TEA",
	},
	"repeated": {
		skus: []string{"TEA"},
		on:   map[string]string{"reserve TEA": "TEA no", "line_refused": "place", "command_repeated": "place other", "command_refused": "cancel"},
		wants: []string{
			"placed RESERVING", "line_refused REJECTED", "command_repeated REJECTED", "command_refused REJECTED", "command_refused REJECTED",
		},
		stock: "reserve TEA",
	},
	"never placed": {on: map[string]string{}, wants: []string{"command_refused UNSPECIFIED"}},
}

// town plays the SKUs, the gateway, the clock and the clients of many orders, on the log.
type town struct {
	*cluster
	orders map[string]*resident
	seen   map[string]bool // ce_id of everything that the processor wrote
}

type resident struct {
	way
	name, id, request string
	events            []*orderv1.OrderEvent
	stock             map[string][]string
	step              *paymentv1.PaymentRequest // open
	timers            map[string]*orderv1.OrderTimer
	heard             map[string]int
}

func newTown(c *cluster, each int) *town {
	tn := &town{cluster: c, orders: map[string]*resident{}, seen: map[string]bool{}}
	for name, w := range ways {
		for range each {
			r := &resident{way: w, name: name, id: uuid.NewString(), request: uuid.NewString()}
			r.stock, r.timers, r.heard = map[string][]string{}, map[string]*orderv1.OrderTimer{}, map[string]int{}
			tn.orders[r.id] = r
		}
	}
	return tn
}

// TestOrdersGoTheirWays: many orders at once, each with everybody else played by the test, over two restarts of the
// processor. Each has the events of its way, no more and no less, whole and in their order.
func TestOrdersGoTheirWays(t *testing.T) {
	c := newCluster(t)
	tn := newTown(c, 5)
	dir := t.TempDir()
	stop := c.start(t, topics.OrderGroup, dir)
	for _, r := range tn.orders {
		if len(r.skus) == 0 {
			c.produce(t, c.cancelOf(r))
			continue
		}
		c.produce(t, c.placeOf(r, 1))
	}
	restarts := 0
	tn.live(t, func(events int) {
		if events == 60 || events == 120 {
			stop()
			stop = c.start(t, topics.OrderGroup, dir)
			restarts++
		}
	})
	if restarts != 2 {
		t.Errorf("%d restarts", restarts)
	}
	c.processed(t, topics.OrderGroup)
	events := 0
	for _, r := range tn.orders {
		r.check(t)
		events += len(r.wants)
	}
	c.read(t, c.OrderEvents.Topic, events)
	c.checkProof(t, topics.OrderGroup)
}

// live listens to the processor and answers, until every order has the events that it should have.
func (tn *town) live(t *testing.T, count func(events int)) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(tn.brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeTopics(tn.OrderEvents.Name, tn.Reservations.Name, tn.PaymentRequests.Name, tn.PaymentDelays.Name, tn.PollDelays.Name, tn.RetryDelays.Name, tn.ForgetDelays.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events := 0
	for missing := tn.missing(); missing > 0; missing = tn.missing() {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%d events are missing: %v", missing, err)
		}
		for _, r := range fetches.Records() {
			if id := topics.Header(r, topics.HeaderID); tn.seen[id] {
				t.Errorf("%s: the ID %s came before", place(r), id)
			} else {
				tn.seen[id] = true
			}
			tn.hear(t, r)
			if r.Topic == tn.OrderEvents.Name {
				events++
				count(events)
			}
		}
	}
}

func (tn *town) missing() (events int) {
	for _, r := range tn.orders {
		events += max(0, len(r.wants)-len(r.events))
	}
	return events
}

// hear tells the order's way what was heard, and does what follows.
func (tn *town) hear(t *testing.T, record *kgo.Record) {
	t.Helper()
	var r *resident
	var heard string
	switch record.Topic {
	case tn.OrderEvents.Name:
		e := decode(t, tn.OrderEvents, record)
		r = tn.orders[e.OrderId]
		r.events = append(r.events, e)
		heard = changeOf(e)
	case tn.Reservations.Name:
		m := decode(t, tn.Reservations, record)
		r = tn.orders[m.OrderId]
		heard = strings.ToLower(strings.TrimPrefix(m.Step.String(), "RESERVATION_STEP_")) + " " + m.Sku
		r.stock[m.Sku] = append(r.stock[m.Sku], heard)
	case tn.PaymentRequests.Name:
		m := decode(t, tn.PaymentRequests, record)
		r = tn.orders[m.OrderId]
		r.step = m
		heard = strings.TrimPrefix(m.Step.String(), "PAYMENT_STEP_")
		if r.lacking(m) {
			t.Errorf("%s: the payment worker would not take %v", r.name, m)
		}
	default:
		m := decode(t, tn.PaymentDelays, record) // all delays carry the same message
		r = tn.orders[m.OrderId]
		delay := strings.TrimPrefix(m.Delay.String(), "ORDER_DELAY_")
		if record.Topic != tn.Delayed(m.Delay).Name {
			t.Errorf("%s: a timer %s", record.Topic, delay)
		}
		r.timers[delay] = m
		heard = "timer " + delay
	}
	tn.follow(t, r, heard)
}

// lacking says whether a request is without something that its step needs (see workers/payment).
func (r *resident) lacking(m *paymentv1.PaymentRequest) bool {
	switch m.Step {
	case paymentv1.PaymentStep_PAYMENT_STEP_CREATE:
		return m.AmountMinor != r.total() || m.CurrencyCode != "EUR" || m.PaymentMethod != "pm_card_visa" || m.UserId != "ann" || m.Email != "ann@example.com"
	case paymentv1.PaymentStep_PAYMENT_STEP_REFUND:
		return m.IntentId != "pi_"+r.id || m.AmountMinor != r.total() || m.RefundNumber != 1
	}
	return m.IntentId != "pi_"+r.id
}

func (r *resident) total() int64 { return 700 * int64(len(r.skus)) }

func changeOf(e *orderv1.OrderEvent) string {
	r := e.ProtoReflect()
	return string(r.WhichOneof(r.Descriptor().Oneofs().ByName("change")).Name())
}

// follow does the n-th of what follows the n-th time, and the last one from then on. A command is given once.
func (tn *town) follow(t *testing.T, r *resident, heard string) {
	t.Helper()
	what, known := r.on[heard]
	if !known {
		return
	}
	words := strings.Split(what, ", ")
	n := min(r.heard[heard], len(words)-1)
	r.heard[heard]++
	who, says, _ := strings.Cut(words[n], " ")
	switch {
	case who == "cancel" && r.heard[heard] == 1:
		tn.produce(t, tn.cancelOf(r))
	case who == "place" && says == "other":
		if r.heard[heard] == 1 {
			tn.produce(t, tn.placeOf(r, 2))
		}
	case who == "place":
		tn.produce(t, tn.placeOf(r, 1))
	case who == "due":
		tn.produce(t, tn.OrderTimeouts.Record(r.timers[says], topics.Fresh("/workers/timers", "")))
	case slices.Contains(r.skus, who):
		tn.produce(t, tn.answerOf(r, who, says == "yes"))
	case who != "cancel":
		result := tn.resultOf(r, who)
		tn.produce(t, result, result) // the worker may say it twice: the second time is ignored
	}
}

func (c *cluster) placeOf(r *resident, content byte) *kgo.Record {
	p := &orderv1.PlaceOrder{CurrencyCode: "EUR", PaymentMethod: "pm_card_visa", Contact: &orderv1.Contact{Email: "ann@example.com"}}
	for _, sku := range r.skus {
		p.Lines = append(p.Lines, &orderv1.PlacedLine{Sku: sku, ProductId: "p-" + sku, SellerId: "s", Title: sku, Quantity: 2, UnitPriceMinor: 350})
	}
	return c.clientOf(r, r.request, content, &orderv1.OrderCommand{Command: &orderv1.OrderCommand_Place{Place: p}})
}

func (c *cluster) cancelOf(r *resident) *kgo.Record {
	return c.clientOf(r, uuid.NewString(), 1, &orderv1.OrderCommand{Command: &orderv1.OrderCommand_Cancel{Cancel: &orderv1.CancelOrder{}}})
}

func (c *cluster) clientOf(r *resident, request string, content byte, m *orderv1.OrderCommand) *kgo.Record {
	m.OrderId, m.RequestId, m.UserId, m.ActorId = r.id, request, "ann", "ann"
	m.Fingerprint = bytes.Repeat([]byte{content}, 32)
	return c.OrderCommands.Record(m, topics.Fresh("/api", ""))
}

func (c *cluster) answerOf(r *resident, sku string, yes bool) *kgo.Record {
	a := &inventoryv1.InventoryAnswer{OrderId: r.id, Sku: sku, Line: int32(slices.Index(r.skus, sku) + 1), Quantity: 2}
	if !yes {
		a.Refused = inventoryv1.InventoryReason_INVENTORY_REASON_OUT_OF_STOCK
	}
	return c.InventoryAnswers.Record(a, topics.Fresh("/processors/inventory", ""))
}

func (c *cluster) resultOf(r *resident, outcome string) *kgo.Record {
	m := &paymentv1.PaymentResult{
		OrderId: r.id, Step: r.step.Step, StepNumber: r.step.StepNumber, IntentId: "pi_" + r.id, CurrencyCode: "EUR", AmountMinor: r.total(),
		Outcome: paymentv1.PaymentOutcome(paymentv1.PaymentOutcome_value["PAYMENT_OUTCOME_"+outcome]),
	}
	return c.PaymentResults.Record(m, topics.Fresh("/workers/payment", ""))
}

func (r *resident) check(t *testing.T) {
	t.Helper()
	var told []string
	for i, e := range r.events {
		told = append(told, changeOf(e)+" "+strings.TrimPrefix(e.GetOrder().GetStatus().String(), "ORDER_STATUS_"))
		want := int64(i + 1)
		if len(r.skus) == 0 {
			want = 0
		}
		if e.Version != want || e.GetOrder().GetVersion() != want {
			t.Errorf("%s: event %d has version %d, its order %d", r.name, i+1, e.Version, e.GetOrder().GetVersion())
		}
	}
	if diff := cmp.Diff(r.wants, told); diff != "" {
		t.Errorf("%s: %s", r.name, diff)
	}
	var stock []string
	for _, sku := range r.skus {
		stock = append(stock, strings.Join(r.stock[sku], ", "))
	}
	if got := strings.Join(stock, "; "); got != r.way.stock {
		t.Errorf("%s: asked of the stock: %s, expected %s", r.name, got, r.way.stock)
	}
	r.checkMoney(t)
}

func (r *resident) checkMoney(t *testing.T) {
	t.Helper()
	if len(r.skus) == 0 {
		return
	}
	o := r.events[len(r.events)-1].GetOrder()
	want := map[orderv1.OrderStatus]int64{orderv1.OrderStatus_ORDER_STATUS_PAID: r.total()}[o.GetStatus()]
	if kept := o.GetPayment().GetCharged().GetMinorUnits() - o.GetPayment().GetRefunded().GetMinorUnits(); kept != want {
		t.Errorf("%s: %d kept, expected %d", r.name, kept, want)
	}
	if diff := cmp.Diff(fmt.Sprint(&typev1.Money{MinorUnits: r.total(), CurrencyCode: "EUR"}), fmt.Sprint(o.GetTotal())); diff != "" {
		t.Errorf("%s: total: %s", r.name, diff)
	}
}

// checkProof decides the whole log again and compares. Nothing may be dead-lettered.
func (c *cluster) checkProof(t *testing.T, group string) {
	t.Helper()
	r, err := processors.NewReplay(c.Table, group)
	if err != nil {
		t.Fatal(err)
	}
	g := audit.Group{
		Name: group, Inputs: r.Inputs(), Events: r.Events(), Outputs: r.Outputs(), Table: r.Table(), MayBeSilent: r.MayBeSilent(), Decide: r.Decide,
	}
	log, err := audit.Read(t.Context(), c.brokers, slices.Concat(g.Inputs, g.Outputs, []topics.Topic{g.Table})...)
	if err != nil {
		t.Fatal(err)
	}
	if proof := audit.Prove(log, g); !proof.OK() || proof.DeadLetters > 0 || proof.Silent == 0 {
		t.Error(proof.String())
	}
}

// TestOrderIsForgotten: a final order leaves the table when its time is up, and is then like one that never was.
func TestOrderIsForgotten(t *testing.T) {
	c := newCluster(t)
	c.start(t, topics.OrderGroup, t.TempDir())
	r := &resident{way: ways["sold"], id: uuid.NewString(), request: uuid.NewString()}
	c.produce(t, c.placeOf(r, 1), c.cancelOf(r), c.cancelOf(r))
	c.read(t, c.OrderEvents.Topic, 3) // the SKUs may answer now: topics have no common order
	c.produce(t, c.answerOf(r, "TEA", true), c.answerOf(r, "CUP", false))
	forget := decode(t, c.ForgetDelays, c.read(t, c.ForgetDelays.Topic, 1)[0])
	c.produce(t, c.OrderTimeouts.Record(forget, topics.Fresh("/workers/timers", "")))
	c.processed(t, topics.OrderGroup)
	c.produce(t, c.cancelOf(r), c.resultOf(&resident{id: r.id, step: &paymentv1.PaymentRequest{Step: paymentv1.PaymentStep_PAYMENT_STEP_POLL, StepNumber: 1}}, "PENDING"))
	c.processed(t, topics.OrderGroup)

	events := c.read(t, c.OrderEvents.Topic, 6)
	last := decode(t, c.OrderEvents, events[5])
	if last.Version != 0 || last.GetOrder() != nil || last.GetCommandRefused().GetReason() != orderv1.OrderReason_ORDER_REASON_NOT_FOUND {
		t.Errorf("a cancel of a forgotten order: %v", last)
	}
	letter := c.read(t, c.DeadLetters(topics.OrderGroup), 1)[0]
	if got := topics.Header(letter, topics.HeaderDLQReason); got != string(topics.UnknownOrder) {
		t.Errorf("a result for a forgotten order: %s", got)
	}
	log, err := audit.Read(t.Context(), c.brokers, c.OrderTable)
	if err != nil {
		t.Fatal(err)
	}
	if kept := log.Last(c.OrderTable)[r.id]; kept == nil || kept.Value != nil {
		t.Error("no tombstone in the table")
	}
}

// TestOrderNamesTheCause: the records of one decision say which record caused them, and their IDs can be computed again.
func TestOrderNamesTheCause(t *testing.T) {
	c := newCluster(t)
	c.start(t, topics.OrderGroup, "")
	r := &resident{way: ways["sold"], id: uuid.NewString(), request: uuid.NewString()}
	c.produce(t, c.placeOf(r, 1))
	written := slices.Concat(c.read(t, c.OrderEvents.Topic, 1), c.inOrder(t, r.skus), c.read(t, c.PaymentDelays.Topic, 1))
	logged := c.read(t, c.OrderCommands.Topic, 1)[0]
	for i, record := range written {
		want := topics.By("/processors/order", topics.CauseOf(logged), r.id, i)
		if got := topics.Header(record, topics.HeaderID); got != want.ID {
			t.Errorf("%s has the ID %s, expected %s", record.Topic, got, want.ID)
		}
		if causePlace(record) != place(logged) {
			t.Errorf("%s has the cause %s, expected %s", record.Topic, causePlace(record), place(logged))
		}
	}
	event := decode(t, c.OrderEvents, written[0])
	if at := event.GetOrder().GetPlaceTime().AsTime(); !at.Equal(logged.Timestamp) || !at.Equal(event.GetOrder().GetUpdateTime().AsTime()) {
		t.Errorf("placed at %v, the log took it at %v", at, logged.Timestamp)
	}
	if event.ActorId != "ann" || event.RequestId != r.request || !bytes.Equal(event.PlaceFingerprint, bytes.Repeat([]byte{1}, 32)) {
		t.Errorf("asked by %q as %q with %x", event.ActorId, event.RequestId, event.PlaceFingerprint)
	}
}

// inOrder reads one reservation for each SKU.
func (c *cluster) inOrder(t *testing.T, skus []string) []*kgo.Record {
	t.Helper()
	records := c.read(t, c.Reservations.Topic, len(skus))
	slices.SortFunc(records, func(a, b *kgo.Record) int {
		return slices.Index(skus, string(a.Key)) - slices.Index(skus, string(b.Key))
	})
	return records
}

// TestOrderDeadLettersPoison, in what comes from clients and from the gateway, each with its reason and its bytes; it
// goes on with what comes after, and has no lag.
func TestOrderDeadLettersPoison(t *testing.T) {
	c := newCluster(t)
	c.start(t, topics.OrderGroup, t.TempDir())
	r := &resident{way: ways["sold"], id: uuid.NewString(), request: uuid.NewString(), step: &paymentv1.PaymentRequest{Step: paymentv1.PaymentStep_PAYMENT_STEP_CREATE, StepNumber: 1}}
	c.produce(t, c.placeOf(r, 1))
	c.processed(t, topics.OrderGroup) // topics have no common order
	sent := map[string]*kgo.Record{}
	reasons := map[string]topics.Reason{}
	post := func(record *kgo.Record, reason topics.Reason) {
		c.produceThere(t, record)
		sent[place(record)], reasons[place(record)] = record, reason
	}
	for _, good := range []func() *kgo.Record{
		func() *kgo.Record { return c.placeOf(r, 1) },
		func() *kgo.Record { return c.resultOf(r, "CREATED") },
		func() *kgo.Record { return c.answerOf(r, "TEA", true) },
		func() *kgo.Record {
			return c.OrderTimeouts.Record(&orderv1.OrderTimer{OrderId: r.id, Delay: orderv1.OrderDelay_ORDER_DELAY_PAYMENT, Generation: 1}, topics.Fresh("/workers/timers", ""))
		},
	} {
		for _, p := range c.poison(good) {
			post(p.record, p.reason)
		}
	}
	stranger := &resident{way: r.way, id: uuid.NewString(), step: r.step}
	for _, p := range []struct {
		record *kgo.Record
		reason topics.Reason
	}{
		{c.resultOf(r, "CREATED"), topics.Impossible},                                              // nothing was asked of the gateway
		{c.resultOf(stranger, "CREATED"), topics.UnknownOrder},                                     // nobody placed it
		{c.answerOf(stranger, "TEA", true), topics.UnknownOrder},                                   // the same
		{c.placeOf(&resident{id: uuid.NewString(), request: uuid.NewString()}, 1), topics.Invalid}, // no lines
	} {
		p.record.Partition = topics.Partition(p.record.Key, partitions)
		post(p.record, p.reason)
	}
	c.processed(t, topics.OrderGroup)
	c.produce(t, c.answerOf(r, "TEA", true), c.answerOf(r, "CUP", true))
	c.processed(t, topics.OrderGroup)
	c.checkLetters(t, topics.OrderGroup, sent, reasons)
	last := decode(t, c.OrderEvents, c.read(t, c.OrderEvents.Topic, 3)[2])
	if last.Version != 3 || last.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING {
		t.Errorf("after the poison: %v", last)
	}
}

func (c *cluster) checkLetters(t *testing.T, group string, sent map[string]*kgo.Record, reasons map[string]topics.Reason) {
	t.Helper()
	for _, r := range c.read(t, c.DeadLetters(group), len(reasons)) {
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
}
