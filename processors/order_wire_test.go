package processors

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/processors/order"
	"github.com/millrace/millrace/topics"
)

// TestOrderTableLosesNothing: an order that was kept is the order that is read, and is kept as the same bytes.
func TestOrderTableLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state := drawOrder(t)
		written, err := orderTable{}.Encode(state)
		if err != nil {
			t.Fatal(err)
		}
		read, err := orderTable{}.Decode(written)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(state, read); diff != "" {
			t.Fatal(diff)
		}
		if again, _ := (orderTable{}).Encode(read); string(again) != string(written) {
			t.Fatalf("written as\n%x\nand then as\n%x", written, again)
		}
	})
}

// TestRequestSaysWhenCreateWasFirst, whatever it asks: the payment worker goes by it.
func TestRequestSaysWhenCreateWasFirst(t *testing.T) {
	m := paymentRequest(order.State{FirstCreateMS: 42}, order.Request{Step: order.StepCancel, Number: 7})
	if m.FirstCreateUnixMs != 42 {
		t.Errorf("%v", m)
	}
}

func drawOrder(t *rapid.T) order.State {
	text, number := rapid.StringN(0, 20, 80), rapid.Int64()
	small := func(name string, most int) int { return rapid.IntRange(0, most).Draw(t, name) }
	at := func(name string) int64 { return rapid.Int64Range(0, 4e12).Draw(t, name) }
	s := order.State{
		ID: uuid.NewString(), UserID: text.Draw(t, "user"), Status: order.Status(small("status", 10)), Currency: "EUR",
		TotalMinor: number.Draw(t, "total"), Contact: order.Contact{Email: text.Draw(t, "email"), Phone: text.Draw(t, "phone")},
		Payment: order.Payment{
			IntentID: text.Draw(t, "intent"), Status: order.PaymentStatus(small("payment", 8)), Method: text.Draw(t, "method"),
			DeclineCode: text.Draw(t, "code"), ChargedMinor: number.Draw(t, "charged"), RefundedMinor: number.Draw(t, "refunded"),
		},
		Reason: order.Reason(small("reason", 11)), EndsAs: order.Status(small("ends as", 10)), PlacedAtMS: at("placed"), UpdatedAtMS: at("updated"),
		Version: number.Draw(t, "version"), Steps: rapid.Int32().Draw(t, "steps"), OpenStep: order.Step(small("open", 5)), Refunds: rapid.Int32().Draw(t, "refunds"),
		Asks: rapid.Int32().Draw(t, "asks"), FirstCreateMS: at("create"),
	}
	for i := range small("lines", 4) {
		s.Lines = append(s.Lines, order.Line{
			Number: int32(i + 1), SKU: text.Draw(t, "sku"), ProductID: text.Draw(t, "product"), SellerID: text.Draw(t, "seller"), Title: text.Draw(t, "title"),
			Quantity: number.Draw(t, "quantity"), UnitPriceMinor: number.Draw(t, "price"), AmountMinor: number.Draw(t, "amount"),
			Status: order.LineStatus(small("line", 6)), Reason: order.Reason(small("why", 11)), Available: number.Draw(t, "available"),
		})
	}
	for range small("commands", 4) {
		a := order.Answered{RequestID: text.Draw(t, "request"), Refused: order.Reason(small("refused", 11))}
		copy(a.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "print"))
		s.Commands = append(s.Commands, a)
	}
	for delay := order.DelayHold; delay <= order.DelayForget; delay++ {
		s.Waits[delay] = order.Wait{Generation: int32(small("generation", 9)), Running: rapid.Bool().Draw(t, "running")}
	}
	return s
}

// TestOrderRuleAndSchemaNumberAlike, because the one is converted into the other by number.
func TestOrderRuleAndSchemaNumberAlike(t *testing.T) {
	for _, e := range []struct {
		values protoreflect.EnumValueDescriptors
		prefix string
		name   func(int) fmt.Stringer
	}{
		{orderv1.OrderStatus(0).Descriptor().Values(), "ORDER_STATUS_", func(n int) fmt.Stringer { return order.Status(n) }},
		{orderv1.LineStatus(0).Descriptor().Values(), "LINE_STATUS_", func(n int) fmt.Stringer { return order.LineStatus(n) }},
		{orderv1.OrderReason(0).Descriptor().Values(), "ORDER_REASON_", func(n int) fmt.Stringer { return order.Reason(n) }},
		{orderv1.PaymentStatus(0).Descriptor().Values(), "PAYMENT_STATUS_", func(n int) fmt.Stringer { return order.PaymentStatus(n) }},
		{orderv1.OrderDelay(0).Descriptor().Values(), "ORDER_DELAY_", func(n int) fmt.Stringer { return order.Delay(n) }},
		{paymentv1.PaymentStep(0).Descriptor().Values(), "PAYMENT_STEP_", func(n int) fmt.Stringer { return order.Step(n) }},
		{paymentv1.PaymentOutcome(0).Descriptor().Values(), "PAYMENT_OUTCOME_", func(n int) fmt.Stringer { return order.Outcome(n) }},
	} {
		for i := 1; i < e.values.Len(); i++ {
			v := e.values.Get(i)
			if got := e.prefix + e.name(int(v.Number())).String(); got != string(v.Name()) {
				t.Errorf("%s is %s in the rule", v.Name(), got)
			}
		}
		if got := e.name(e.values.Len()).String(); !strings.HasPrefix(got, "UNKNOWN") {
			t.Errorf("the rule has %s, which no schema has", got)
		}
	}
}

// TestClientsCommandsRoundTrip: what a command says on the wire is what the rule is asked.
func TestClientsCommandsRoundTrip(t *testing.T) {
	row := topics.New(topics.Options{}).OrderCommands
	rapid.Check(t, func(t *rapid.T) {
		m, want := drawClientsCommand(t)
		read, err := row.Decode([]byte(m.OrderId), row.Encode(m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, read, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
		got, err := clientsCommand(read)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%v: %v\n%s", m, err, diff)
		}
	})
}

func drawClientsCommand(t *rapid.T) (*orderv1.OrderCommand, order.Input) {
	name := rapid.StringMatching(`[A-Za-z0-9._@+-]{1,60}`)
	sku := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,63}`)
	c := order.Command{RequestID: uuid.NewString(), ActorID: name.Draw(t, "actor")}
	copy(c.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "print"))
	m := &orderv1.OrderCommand{
		OrderId: uuid.NewString(), RequestId: c.RequestID, ActorId: c.ActorID, UserId: name.Draw(t, "user"), Fingerprint: c.Fingerprint[:],
	}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		m.Command = &orderv1.OrderCommand_Cancel{Cancel: &orderv1.CancelOrder{}}
		return m, order.Cancel{Command: c}
	case 1:
		m.Command = &orderv1.OrderCommand_RepeatPlace{RepeatPlace: &orderv1.RepeatPlace{}}
		return m, order.RepeatPlace{Command: c}
	}
	p := order.Place{
		Command: c, OrderID: m.OrderId, UserID: m.UserId, Currency: "USD", Method: name.Draw(t, "method"),
		Contact: order.Contact{Email: name.Draw(t, "email"), Phone: name.Draw(t, "phone")},
	}
	w := &orderv1.PlaceOrder{CurrencyCode: p.Currency, PaymentMethod: p.Method, Contact: &orderv1.Contact{Email: p.Contact.Email, Phone: p.Contact.Phone}}
	for range rapid.IntRange(1, 5).Draw(t, "lines") {
		l := order.PlacedLine{
			SKU: sku.Draw(t, "sku"), ProductID: name.Draw(t, "product"), SellerID: name.Draw(t, "seller"), Title: name.Draw(t, "title"),
			Quantity: rapid.Int64().Draw(t, "quantity"), UnitPriceMinor: rapid.Int64().Draw(t, "price"),
		}
		p.Lines = append(p.Lines, l)
		w.Lines = append(w.Lines, &orderv1.PlacedLine{
			Sku: l.SKU, ProductId: l.ProductID, SellerId: l.SellerID, Title: l.Title, Quantity: l.Quantity, UnitPriceMinor: l.UnitPriceMinor,
		})
	}
	m.Command = &orderv1.OrderCommand_Place{Place: w}
	return m, p
}

// TestAnswersRoundTrip: so is what SKUs, the gateway and the clock say.
func TestAnswersRoundTrip(t *testing.T) {
	table := topics.New(topics.Options{})
	rapid.Check(t, func(t *rapid.T) {
		id := uuid.NewString()
		refused := rapid.SampledFrom([]order.Reason{0, order.OutOfStock, order.UnknownSKU}).Draw(t, "refused")
		a := &inventoryv1.InventoryAnswer{
			OrderId: id, Sku: "TEA", Line: rapid.Int32Range(1, 100).Draw(t, "line"), Quantity: rapid.Int64Range(1, 10000).Draw(t, "quantity"),
			Refused: inventoryv1.InventoryReason(refused), Available: rapid.Int64Range(0, 1<<40).Draw(t, "available"),
		}
		sameInput(t, table.InventoryAnswers, a, lineAnswer, order.LineAnswer{Line: a.Line, SKU: "TEA", Quantity: a.Quantity, Refused: refused, Available: a.Available})
		r := &paymentv1.PaymentResult{
			OrderId: id, Step: paymentv1.PaymentStep(rapid.IntRange(1, 5).Draw(t, "step")), StepNumber: rapid.Int32Range(1, 1<<30).Draw(t, "number"),
			Outcome: paymentv1.PaymentOutcome(rapid.IntRange(1, 8).Draw(t, "outcome")), IntentId: rapid.StringMatching("[a-z_0-9]{0,40}").Draw(t, "intent"),
			DeclineCode: "card_declined", AmountMinor: rapid.Int64Range(0, 1<<62).Draw(t, "amount"), CurrencyCode: "EUR",
		}
		sameInput(t, table.PaymentResults, r, paymentResult, order.PaymentResult{
			Number: r.StepNumber, Step: order.Step(r.Step), Outcome: order.Outcome(r.Outcome), IntentID: r.IntentId, DeclineCode: "card_declined",
			AmountMinor: r.AmountMinor, Currency: "EUR",
		})
		d := &orderv1.OrderTimer{OrderId: id, Delay: orderv1.OrderDelay(rapid.IntRange(2, 5).Draw(t, "delay")), Generation: rapid.Int32Range(1, 1<<30).Draw(t, "generation")}
		sameInput(t, table.OrderTimeouts, d, timeout, order.Timeout{Delay: order.Delay(d.Delay), Generation: d.Generation})
	})
}

func sameInput[M interface {
	protoreflect.ProtoMessage
	GetOrderId() string
}](t *rapid.T, row topics.Of[M], m M, door func(M) (order.Input, error), want order.Input) {
	read, err := row.Decode([]byte(m.GetOrderId()), row.Encode(m))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := door(read); err != nil || got != want {
		t.Fatalf("%v is %#v, %v, expected %#v", m, got, err, want)
	}
}

// TestTheOrdersDoorLetsInNothingMalformed: whatever is in a message, it is refused with a reason, or the rule answers it.
func TestTheOrdersDoorLetsInNothingMalformed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := func(name string) string {
			return rapid.SampledFrom([]string{"", "x", "\x00", strings.Repeat("x", 2000), uuid.NewString(), strings.ToUpper(uuid.NewString())}).Draw(t, name)
		}
		n := func(name string) int64 { return rapid.OneOf(rapid.Int64Range(-2, 12), rapid.Int64()).Draw(t, name) }
		m := &orderv1.OrderCommand{
			OrderId: word("order"), RequestId: word("request"), UserId: word("user"), ActorId: word("actor"),
			Fingerprint: make([]byte, rapid.SampledFrom([]int{0, 31, 32, 32, 33}).Draw(t, "print")),
		}
		place := &orderv1.PlaceOrder{CurrencyCode: rapid.SampledFrom([]string{"", "eur", "EUR", "EURO"}).Draw(t, "currency"), PaymentMethod: word("method")}
		for range rapid.IntRange(0, 2).Draw(t, "lines") {
			place.Lines = append(place.Lines, &orderv1.PlacedLine{Sku: word("sku"), Title: word("title"), Quantity: n("quantity"), UnitPriceMinor: n("price")})
		}
		if rapid.Bool().Draw(t, "place") {
			m.Command = &orderv1.OrderCommand_Place{Place: place}
		}
		mustEnd(t, order.State{}, m, clientsCommand)
		var asked order.State
		asked, _, _ = order.Decide(asked, order.Place{OrderID: "o1", Lines: []order.PlacedLine{{SKU: "x", Quantity: 1, UnitPriceMinor: 1}}}, noon.UnixMilli())
		mustEnd(t, asked, &inventoryv1.InventoryAnswer{Sku: word("sku"), Line: int32(n("line")), Quantity: n("quantity"), Refused: inventoryv1.InventoryReason(n("refused")), Available: n("available")}, lineAnswer)
		mustEnd(t, asked, &paymentv1.PaymentResult{Step: paymentv1.PaymentStep(n("step")), StepNumber: int32(n("number")), Outcome: paymentv1.PaymentOutcome(n("outcome")), IntentId: word("intent"), AmountMinor: n("amount")}, paymentResult)
		mustEnd(t, asked, &orderv1.OrderTimer{Delay: orderv1.OrderDelay(n("delay")), Generation: int32(n("generation"))}, timeout)
	})
}

// mustEnd takes a message to its end as decideOrder does: a rejection with a reason in words, or an answer that can be
// written and kept.
func mustEnd[M any](t *rapid.T, s order.State, m M, door func(M) (order.Input, error)) {
	in, err := door(m)
	if err == nil {
		var d order.Decision
		if s, d, err = order.Decide(s, in, noon.UnixMilli()); err == nil {
			if !d.Ignored() {
				_ = topics.New(topics.Options{}).OrderEvents.Encode(orderEvent(s.ID, s, d.Event))
			}
			_, _ = orderTable{}.Encode(s)
			return
		}
		err = rejected(err)
	}
	if why, ok := errors.AsType[topics.Rejection](err); !ok || why.Reason == "" || strings.TrimSpace(why.Detail) == "" {
		t.Fatalf("%v: %v", m, err)
	}
}

// TestLargestOrderFits: 100 lines with the longest texts, and all the commands that an order remembers, are far below
// what a topic takes.
func TestLargestOrderFits(t *testing.T) {
	m := &orderv1.OrderCommand{
		OrderId: uuid.NewString(), UserId: strings.Repeat("u", maxNameBytes), ActorId: strings.Repeat("a", maxNameBytes), Fingerprint: make([]byte, 32),
	}
	p := &orderv1.PlaceOrder{
		CurrencyCode: "EUR", PaymentMethod: strings.Repeat("m", maxMethodBytes),
		Contact: &orderv1.Contact{Email: strings.Repeat("e", maxContactBytes), Phone: strings.Repeat("1", maxContactBytes)},
	}
	for i := range order.MaxLines {
		p.Lines = append(p.Lines, &orderv1.PlacedLine{
			Sku: fmt.Sprintf("%0*d", maxSKUBytes, i), ProductId: strings.Repeat("p", maxNameBytes), SellerId: strings.Repeat("s", maxNameBytes),
			Title: strings.Repeat("t", maxTitleBytes), Quantity: order.MaxQuantity, UnitPriceMinor: 1 << 40,
		})
	}
	var s order.State
	var d order.Decision
	for i := range order.MaxCommands {
		m.RequestId = uuid.NewString()
		m.Command = &orderv1.OrderCommand_Place{Place: p}
		in, err := clientsCommand(m)
		if err != nil {
			t.Fatal(err)
		}
		if s, d, err = order.Decide(s, in, noon.UnixMilli()); err != nil {
			t.Fatal(i, err)
		}
	}
	event := topics.New(topics.Options{}).OrderEvents.Encode(orderEvent(s.ID, s, d.Event))
	kept, _ := orderTable{}.Encode(s)
	if most := max(len(event), len(kept)); most > topics.MaxRecordBytes/2 {
		t.Errorf("%d bytes", most)
	}
}

// TestOrdersDoorRefuses each fault alone, in a message that is good otherwise.
func TestOrdersDoorRefuses(t *testing.T) {
	place := func(spoil func(*orderv1.OrderCommand, *orderv1.PlaceOrder)) error {
		p := &orderv1.PlaceOrder{CurrencyCode: "EUR", PaymentMethod: "pm_card_visa", Lines: []*orderv1.PlacedLine{{Sku: "TEA", Quantity: 1, UnitPriceMinor: 350}}}
		m := &orderv1.OrderCommand{OrderId: uuid.NewString(), RequestId: uuid.NewString(), UserId: "ann", ActorId: "ann", Fingerprint: make([]byte, 32)}
		m.Command = &orderv1.OrderCommand_Place{Place: p}
		spoil(m, p)
		_, err := clientsCommand(m)
		return err
	}
	if err := place(func(*orderv1.OrderCommand, *orderv1.PlaceOrder) {}); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*orderv1.OrderCommand, *orderv1.PlaceOrder){
		"order ID in capitals": func(m *orderv1.OrderCommand, _ *orderv1.PlaceOrder) {
			m.OrderId = "9F0DDBA4-8B0C-4E5B-8C6E-3F6C0B6F1A2B"
		},
		"request ID of no UUID":   func(m *orderv1.OrderCommand, _ *orderv1.PlaceOrder) { m.RequestId = "again" },
		"nobody's":                func(m *orderv1.OrderCommand, _ *orderv1.PlaceOrder) { m.UserId = "" },
		"nobody asks":             func(m *orderv1.OrderCommand, _ *orderv1.PlaceOrder) { m.ActorId = "" },
		"short fingerprint":       func(m *orderv1.OrderCommand, _ *orderv1.PlaceOrder) { m.Fingerprint = make([]byte, 31) },
		"no command":              func(m *orderv1.OrderCommand, _ *orderv1.PlaceOrder) { m.Command = nil },
		"currency in small":       func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) { p.CurrencyCode = "eur" },
		"no currency":             func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) { p.CurrencyCode = "" },
		"no payment method":       func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) { p.PaymentMethod = "" },
		"no SKU":                  func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) { p.Lines[0].Sku = "" },
		"no SKU's SKU":            func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) { p.Lines[0].Sku = "TEA 1" },
		"NUL, which no store has": func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) { p.Lines[0].Title = "te\x00a" },
		"a long title": func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) {
			p.Lines[0].Title = strings.Repeat("t", maxTitleBytes+1)
		},
		"a long address": func(_ *orderv1.OrderCommand, p *orderv1.PlaceOrder) {
			p.Contact = &orderv1.Contact{Email: strings.Repeat("e", maxContactBytes+1)}
		},
	} {
		if why, ok := errors.AsType[topics.Rejection](place(spoil)); !ok || why.Reason != topics.Invalid {
			t.Errorf("%s: %v", name, why)
		}
	}
}

// TestOrdersDoorRefusesAnswers, each with one fault.
func TestOrdersDoorRefusesAnswers(t *testing.T) {
	for name, door := range map[string]func() (order.Input, error){
		"line 0":  func() (order.Input, error) { return lineAnswer(&inventoryv1.InventoryAnswer{Sku: "TEA", Quantity: 1}) },
		"nothing": func() (order.Input, error) { return lineAnswer(&inventoryv1.InventoryAnswer{Sku: "TEA", Line: 1}) },
		"no SKU":  func() (order.Input, error) { return lineAnswer(&inventoryv1.InventoryAnswer{Line: 1, Quantity: 1}) },
		"less than 0": func() (order.Input, error) {
			return lineAnswer(&inventoryv1.InventoryAnswer{Sku: "TEA", Line: 1, Quantity: 1, Available: -1})
		},
		"a seller's reason": func() (order.Input, error) {
			return lineAnswer(&inventoryv1.InventoryAnswer{Sku: "TEA", Line: 1, Quantity: 1, Refused: inventoryv1.InventoryReason_INVENTORY_REASON_STALE_VERSION})
		},
		"step number 0": func() (order.Input, error) { return paymentResult(&paymentv1.PaymentResult{Step: 1, Outcome: 1}) },
		"no step":       func() (order.Input, error) { return paymentResult(&paymentv1.PaymentResult{StepNumber: 1, Outcome: 1}) },
		"no outcome":    func() (order.Input, error) { return paymentResult(&paymentv1.PaymentResult{StepNumber: 1, Step: 1}) },
		"step 6": func() (order.Input, error) {
			return paymentResult(&paymentv1.PaymentResult{StepNumber: 1, Step: 6, Outcome: 1})
		},
		"outcome 9": func() (order.Input, error) {
			return paymentResult(&paymentv1.PaymentResult{StepNumber: 1, Step: 1, Outcome: 9})
		},
		"minus money": func() (order.Input, error) {
			return paymentResult(&paymentv1.PaymentResult{StepNumber: 1, Step: 1, Outcome: 1, AmountMinor: -1})
		},
		"a long name": func() (order.Input, error) {
			return paymentResult(&paymentv1.PaymentResult{StepNumber: 1, Step: 1, Outcome: 1, IntentId: strings.Repeat("p", maxGatewayBytes+1)})
		},
		"no delay":     func() (order.Input, error) { return timeout(&orderv1.OrderTimer{Generation: 1}) },
		"delay HOLD":   func() (order.Input, error) { return timeout(&orderv1.OrderTimer{Delay: 1, Generation: 1}) },
		"delay 6":      func() (order.Input, error) { return timeout(&orderv1.OrderTimer{Delay: 6, Generation: 1}) },
		"generation 0": func() (order.Input, error) { return timeout(&orderv1.OrderTimer{Delay: 2}) },
	} {
		in, err := door()
		if why, ok := errors.AsType[topics.Rejection](err); !ok || why.Reason != topics.Invalid {
			t.Errorf("%s: %#v, %v", name, in, err)
		}
	}
}
