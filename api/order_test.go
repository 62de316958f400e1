package api_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
	"github.com/millrace/millrace/topics"
)

func line(sku string, n int64) *orderv1.PlaceOrderLine {
	return &orderv1.PlaceOrderLine{Sku: sku, Quantity: n}
}

// within is a request with a deadline that only the server keeps, so that a busy machine does not cut its answer off.
func within[M any](d time.Duration, m *M) *connect.Request[M] {
	req := connect.NewRequest(m)
	req.Header().Set("Connect-Timeout-Ms", strconv.FormatInt(d.Milliseconds(), 10))
	return req
}

func buy(lines ...*orderv1.PlaceOrderLine) *orderv1.PlaceOrderRequest {
	return &orderv1.PlaceOrderRequest{RequestId: uuid.NewString(), PaymentMethod: "pm_card_visa", Lines: lines}
}

// TestOneOrderOnKafka is the same on a real log.
func TestOneOrderOnKafka(t *testing.T) {
	d := openRealShop(t).open(api.Limits{}).ready()
	oneOrder(t, d, d.as("ada", auth.Customer))
}

// TestOneOrder walks one order through every call, in each protocol.
func TestOneOrder(t *testing.T) {
	d := openShop(t).open(api.Limits{}).ready()
	for name, options := range map[string][]connect.ClientOption{
		"connect":  nil,
		"json":     {connect.WithProtoJSON()},
		"grpc":     {connect.WithGRPC()},
		"grpc-web": {connect.WithGRPCWeb()},
		"get":      {connect.WithHTTPGet()},
	} {
		t.Run(name, func(t *testing.T) { oneOrder(t, d, d.as("ada", auth.Customer, options...)) })
	}
}

func oneOrder(t *testing.T, d *door, ada client) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := buy(line("CUP-BLUE", 2), line("CUP-RED", 1), line("CUP-BLUE", 3))
	ask.ExpectedTotal = &typev1.Money{MinorUnits: 5*1250 + 300, CurrencyCode: "USD"}
	ask.Contact = &orderv1.Contact{Email: "ada@example.com"}
	req := connect.NewRequest(ask)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req.Header().Set("Traceparent", trace)
	placed, err := ada.PlaceOrder(ctx, req)
	must(t, err)
	o := placed.Msg.GetOrder()
	if o.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_RESERVING || o.GetTotal().GetMinorUnits() != 6550 || len(o.GetLines()) != 2 || o.GetLines()[0].GetQuantity() != 5 || placed.Msg.GetReplayed() {
		t.Fatalf("placed as %v", placed.Msg)
	}

	r := d.played.last()
	table := d.table.OrderCommands
	if r.Topic != table.Name || string(r.Key) != o.GetId() || r.Partition != topics.Partition(r.Key, d.table.Partitions) {
		t.Errorf("the command is on %s/%d under %q", r.Topic, r.Partition, r.Key)
	}
	must(t, table.Check(r))
	if got := topics.Header(r, topics.HeaderTraceParent); got != trace {
		t.Errorf("traceparent %q", got)
	}
	c, err := table.Decode(r.Key, r.Value)
	must(t, err)
	l := c.GetPlace().GetLines()[0]
	if c.GetActorId() != "ada" || c.GetUserId() != "ada" || len(c.GetFingerprint()) != 32 || c.GetRequestId() != ask.GetRequestId() ||
		l.GetUnitPriceMinor() != 1250 || l.GetTitle() != "A blue cup" || l.GetSellerId() != "sue" || l.GetProductId() != "P1" {
		t.Errorf("the command is %v", c)
	}

	d.played.move(o.GetId(), orderv1.OrderStatus_ORDER_STATUS_PAID)
	got, err := ada.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: o.GetId(), MinVersion: 2}))
	must(t, err)
	if got.Msg.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_PAID || got.Header().Get("Cache-Control") != "private, no-store" {
		t.Errorf("read as %v, headers %v", got.Msg, got.Header())
	}
	_, err = ada.CancelOrder(ctx, connect.NewRequest(&orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: o.GetId()}))
	if r := refusalOf(err); r.code != connect.CodeFailedPrecondition || r.reason != "STATE_CONFLICT" || r.metadata["status"] != "PAID" {
		t.Errorf("cancelled a paid order: %v %+v", err, r)
	}
	listed, err := ada.ListOrders(ctx, connect.NewRequest(&orderv1.ListOrdersRequest{PageSize: 1}))
	must(t, err)
	if len(listed.Msg.GetOrders()) != 1 || listed.Msg.GetOrders()[0].GetId() != o.GetId() {
		t.Errorf("listed %v", listed.Msg)
	}
	stream, err := ada.WatchOrder(ctx, connect.NewRequest(&orderv1.WatchOrderRequest{OrderId: o.GetId()}))
	must(t, err)
	if !stream.Receive() || stream.Msg().GetOrder().GetVersion() < 2 || stream.Receive() || stream.Err() != nil {
		t.Errorf("watched %v, %v", stream.Msg(), stream.Err())
	}
}

// TestRepeats is the promise of request_id: one order for ever, the stored answer, whatever has changed since.
func TestRepeats(t *testing.T) {
	s := openShop(t)
	one, two := s.open(api.Limits{}).ready(), s.open(api.Limits{}).ready()
	ada := one.as("ada", auth.Customer)
	elsewhere := two.as("ada", auth.Customer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := func(t *testing.T, c client, ask *orderv1.PlaceOrderRequest, want *orderv1.Order) {
		t.Helper()
		res, err := c.PlaceOrder(ctx, connect.NewRequest(ask))
		if err != nil {
			t.Fatalf("%v %+v", err, refusalOf(err))
		}
		if res.Msg.GetOrder().GetId() != want.GetId() || !res.Msg.GetReplayed() || res.Header().Get("Idempotent-Replayed") != "true" {
			t.Fatalf("answered %v", res.Msg)
		}
	}
	mismatch := func(t *testing.T, c client, ask *orderv1.PlaceOrderRequest) {
		t.Helper()
		_, err := c.PlaceOrder(ctx, connect.NewRequest(ask))
		if r := refusalOf(err); r.code != connect.CodeAlreadyExists || r.reason != "IDEMPOTENCY_MISMATCH" || r.fields[0] != "request_id" {
			t.Fatalf("answered %v %+v", err, r)
		}
	}
	other := func(ask *orderv1.PlaceOrderRequest) *orderv1.PlaceOrderRequest {
		changed := buy(line("CUP-RED", 9))
		changed.RequestId = ask.GetRequestId()
		return changed
	}
	place := func(t *testing.T) (*orderv1.PlaceOrderRequest, *orderv1.Order) {
		t.Helper()
		ask := buy(line("CUP-BLUE", 1))
		ask.ExpectedTotal = &typev1.Money{MinorUnits: 1250, CurrencyCode: "USD"}
		res, err := ada.PlaceOrder(ctx, connect.NewRequest(ask))
		must(t, err)
		return ask, res.Msg.GetOrder()
	}

	t.Run("after success", func(t *testing.T) {
		ask, order := place(t)
		again(t, ada, ask, order)
		again(t, elsewhere, ask, order)
		mismatch(t, ada, other(ask))
	})
	t.Run("after the price changed", func(t *testing.T) {
		ask, order := place(t)
		s.exec(`UPDATE offers SET price_minor = 1300 WHERE sku = 'CUP-BLUE'`)
		defer s.exec(`UPDATE offers SET price_minor = 1250 WHERE sku = 'CUP-BLUE'`)
		again(t, ada, ask, order)
	})
	t.Run("after the SKU has gone", func(t *testing.T) {
		ask, order := place(t)
		s.exec(`UPDATE offers SET active = false WHERE sku = 'CUP-BLUE'`)
		defer s.exec(`UPDATE offers SET active = true WHERE sku = 'CUP-BLUE'`)
		again(t, elsewhere, ask, order)
	})
	t.Run("before the sink has it", func(t *testing.T) {
		s.played.closed.Lock()
		defer s.played.closed.Unlock()
		ask, order := place(t)
		again(t, elsewhere, ask, order)
		mismatch(t, ada, other(ask))
		s.exec(`UPDATE offers SET price_minor = 1300 WHERE sku = 'CUP-BLUE'`)
		defer s.exec(`UPDATE offers SET price_minor = 1250 WHERE sku = 'CUP-BLUE'`)
		again(t, elsewhere, ask, order) // by a RepeatPlace: Postgres has never heard of it
		if c := s.played.commands(order.GetId()); c[len(c)-1].GetRepeatPlace() == nil {
			t.Fatalf("the last command is %v", c[len(c)-1])
		}
		mismatch(t, ada, other(ask))
	})
	t.Run("after it has left the processor", func(t *testing.T) {
		ask, order := place(t)
		s.played.move(order.GetId(), orderv1.OrderStatus_ORDER_STATUS_PAID)
		s.played.mu.Lock()
		delete(s.played.orders, order.GetId())
		s.played.mu.Unlock()
		again(t, ada, ask, order)
		mismatch(t, elsewhere, other(ask))
		_, err := ada.CancelOrder(ctx, connect.NewRequest(&orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: order.GetId()}))
		if r := refusalOf(err); r.reason != "STATE_CONFLICT" {
			t.Fatalf("cancelled: %v", err)
		}
	})
	t.Run("from two instances at once", func(t *testing.T) {
		ask := buy(line("CUP-BLUE", 1), line("CUP-RED", 2))
		type answer struct {
			res *connect.Response[orderv1.PlaceOrderResponse]
			err error
		}
		const each = 8
		answers := make(chan answer, 2*each)
		for range each {
			for _, c := range []client{ada, elsewhere} {
				go func() {
					res, err := c.PlaceOrder(ctx, connect.NewRequest(ask))
					answers <- answer{res, err}
				}()
			}
		}
		ids, firsts := map[string]bool{}, 0
		for range 2 * each {
			a := <-answers
			must(t, a.err)
			ids[a.res.Msg.GetOrder().GetId()] = true
			if !a.res.Msg.GetReplayed() {
				firsts++
			}
		}
		if len(ids) != 1 || firsts != 1 {
			t.Fatalf("%d orders, %d of them new", len(ids), firsts)
		}
	})
	t.Run("other content at once", func(t *testing.T) {
		ask := buy(line("CUP-BLUE", 1))
		errs := make(chan error, 2)
		s.played.asleep(func() { // so that both are in the log before the first is decided
			for _, a := range []*orderv1.PlaceOrderRequest{ask, other(ask)} {
				go func() {
					_, err := ada.PlaceOrder(ctx, connect.NewRequest(a))
					errs <- err
				}()
			}
			waiting(t, one, 2)
		})
		a, b := refusalOf(<-errs), refusalOf(<-errs)
		if a.reason+b.reason != "IDEMPOTENCY_MISMATCH" {
			t.Fatalf("answered %+v and %+v; want one order and one mismatch", a, b)
		}
	})
	t.Run("a cancel", func(t *testing.T) {
		_, order := place(t)
		cancel := &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: order.GetId()}
		for _, replayed := range []bool{false, true} {
			res, err := ada.CancelOrder(ctx, connect.NewRequest(cancel))
			must(t, err)
			if res.Msg.GetReplayed() != replayed || res.Msg.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_CANCELLING {
				t.Fatalf("answered %v", res.Msg)
			}
		}
		late := &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: order.GetId()}
		for range 2 {
			_, err := ada.CancelOrder(ctx, connect.NewRequest(late))
			if r := refusalOf(err); r.reason != "STATE_CONFLICT" {
				t.Fatalf("answered %v", err)
			}
		}
	})
	t.Run("a spelling of the UUID", func(t *testing.T) {
		ask, order := place(t)
		id := uuid.MustParse(ask.GetRequestId()).String()
		ask.RequestId = upper(id)
		again(t, ada, ask, order)
	})
}

func TestWaitForStatus(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ada := d.as("ada", auth.Customer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := buy(line("CUP-BLUE", 1))
	ask.WaitForStatus = orderv1.OrderStatus_ORDER_STATUS_PAID
	type answer struct {
		res *connect.Response[orderv1.PlaceOrderResponse]
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		res, err := ada.PlaceOrder(ctx, connect.NewRequest(ask))
		answered <- answer{res, err}
	}()
	var id string
	eventually(t, "the order is placed", func() bool {
		s.played.mu.Lock()
		defer s.played.mu.Unlock()
		for id = range s.played.orders {
		}
		return id != ""
	})
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING)
	select {
	case a := <-answered:
		t.Fatalf("answered too early: %v %v", a.res, a.err)
	default:
	}
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_CANCELLING)
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_REJECTED)
	a := <-answered
	must(t, a.err)
	if a.res.Msg.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_REJECTED {
		t.Fatalf("answered %v", a.res.Msg)
	}

	ask = buy(line("CUP-BLUE", 1))
	ask.WaitForStatus = orderv1.OrderStatus_ORDER_STATUS_PAID
	res, err := ada.PlaceOrder(t.Context(), within(time.Second, ask))
	must(t, err)
	if res.Msg.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_RESERVING {
		t.Fatalf("answered %v", res.Msg)
	}
}

// TestNoOutcomeInTime: the command is in the log; the caller is told so, and a repeat gets the outcome.
func TestNoOutcomeInTime(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ada := d.as("ada", auth.Customer)
	ask := buy(line("CUP-BLUE", 1))
	var r refusal
	s.played.asleep(func() {
		_, err := ada.PlaceOrder(t.Context(), within(time.Second, ask))
		r = refusalOf(err)
		waiting(t, d, 0) // nothing is left behind for a call that has gone
	})
	if r.code != connect.CodeDeadlineExceeded || r.reason != "OUTCOME_PENDING" || r.metadata["order_id"] == "" {
		t.Fatalf("answered %+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := ada.PlaceOrder(ctx, connect.NewRequest(ask))
	must(t, err)
	if res.Msg.GetOrder().GetId() != r.metadata["order_id"] || !res.Msg.GetReplayed() {
		t.Fatalf("answered %v", res.Msg)
	}
}

// TestAReadWaitsForTheSink: an order that the log has is never NOT_FOUND, although neither Postgres nor this API's tail
// knows it.
func TestAReadWaitsForTheSink(t *testing.T) {
	t.Parallel()
	t.Run("broker in process", func(t *testing.T) { readWaitsForTheSink(t, openShop(t)) })
	t.Run("Kafka", func(t *testing.T) { readWaitsForTheSink(t, openRealShop(t)) })
}

func readWaitsForTheSink(t *testing.T, s *shop) {
	one := s.open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	missing := func(c client) refusal {
		_, err := c.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: uuid.NewString()}))
		return refusalOf(err)
	}
	ada := one.as("ada", auth.Customer)
	if r := missing(ada); r.code != connect.CodeNotFound || r.reason != "NOT_FOUND" || r.fields[0] != "order_id" {
		t.Fatalf("in an empty log: %+v", r)
	}
	for range 12 { // several in each of the three partitions
		_, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
		must(t, err)
	}
	s.played.settle()
	if r := missing(ada); r.reason != "NOT_FOUND" {
		t.Fatalf("when the sink is level with the log, markers apart: %+v", r)
	}
	s.exec(`UPDATE sink_offsets SET next_offset = next_offset - 1`)
	began := time.Now()
	if r := missing(ada); r.code != connect.CodeUnavailable || r.reason != "READ_BEHIND" || time.Since(began) > patience/2 {
		t.Fatalf("when the sink is behind: %+v after %v", r, time.Since(began))
	}
	found := make(chan refusal, 1)
	go func() { found <- missing(ada) }()
	s.exec(`UPDATE sink_offsets SET next_offset = next_offset + 1`)
	if r := <-found; r.reason != "NOT_FOUND" {
		t.Fatalf("when the sink comes level meanwhile: %+v", r)
	}
}

// TestReadYourWrite: what was just answered is read, although Postgres does not have it yet.
func TestReadYourWrite(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	s.played.closed.Lock()
	defer s.played.closed.Unlock()
	ada := d.as("ada", auth.Customer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	placed, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
	must(t, err)
	id := placed.Msg.GetOrder().GetId()
	got := make(chan *connect.Response[orderv1.GetOrderResponse], 1)
	go func() {
		defer close(got)
		if res, err := ada.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: id, MinVersion: 2})); err == nil {
			got <- res
		}
	}()
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_PAID)
	if res := <-got; res == nil || res.Msg.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_PAID {
		t.Fatalf("read %v", res)
	}
	_, err = ada.GetOrder(t.Context(), within(time.Second, &orderv1.GetOrderRequest{OrderId: id, MinVersion: 99}))
	if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "VERSION_NOT_REACHED" || r.metadata["version"] != "2" {
		t.Fatalf("a version that never comes: %v %+v", err, r)
	}
}

// TestReadsWhatTheTailMissed: the tail begins near the end of the log, and Postgres gets there later.
func TestReadsWhatTheTailMissed(t *testing.T) {
	t.Parallel()
	d := openShop(t).open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ada, sue := d.as("ada", auth.Customer), d.as("sue", auth.Seller)
	placed, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
	must(t, err)
	_, err = sue.Receive(ctx, connect.NewRequest(&inventoryv1.ReceiveRequest{RequestId: uuid.Must(uuid.NewV7()).String(), Sku: "CUP-BLUE", Quantity: 5}))
	must(t, err)
	d.played.settle()
	time.AfterFunc(storeLag, func() {
		d.exec(`UPDATE orders SET version = 7`)
		d.exec(`UPDATE stock SET version = 7`)
	})
	order, err := ada.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: placed.Msg.GetOrder().GetId(), MinVersion: 7}))
	if err != nil || order.Msg.GetOrder().GetVersion() != 7 {
		t.Errorf("order: %v, %v", order, err)
	}
	stock, err := sue.GetStock(ctx, connect.NewRequest(&inventoryv1.GetStockRequest{Sku: "CUP-BLUE", MinVersion: 7}))
	if err != nil || stock.Msg.GetStock().GetVersion() != 7 {
		t.Errorf("stock: %v, %v", stock, err)
	}
}

// storeLag is how much later Postgres has what the tail missed.
const storeLag = 300 * time.Millisecond

// TestNothingIsNewWhilePostgresIsRebuilt: an order that the processor has forgotten must not be placed again because
// Postgres does not know it yet.
func TestNothingIsNewWhilePostgresIsRebuilt(t *testing.T) {
	t.Parallel()
	const forget = 2 * time.Second
	s := openShopWith(t, topics.Options{Partitions: 3, Delays: topics.Delays{Forget: forget}})
	d := s.open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ada := d.as("ada", auth.Customer)
	ask := buy(line("CUP-BLUE", 1))
	first, err := ada.PlaceOrder(ctx, connect.NewRequest(ask))
	must(t, err)
	id := first.Msg.GetOrder().GetId()
	s.played.settle()
	s.played.forget(id)
	rebuild := func() { s.exec(`UPDATE sink_offsets SET next_offset = 0`) }
	time.Sleep(forget)
	rebuild()
	s.exec(`DELETE FROM payments; DELETE FROM order_lines; DELETE FROM orders`)
	_, err = ada.PlaceOrder(ctx, connect.NewRequest(ask))
	if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "READ_BEHIND" {
		t.Fatalf("a repeat while the sink begins again: %v", err)
	}
	if n := len(s.played.commands(id)); n != 1 {
		t.Fatalf("the log has %d commands of the order, not 1", n)
	}
	s.played.sinkPlace(topics.Partition([]byte(id), s.table.Partitions), 1_000)
	if _, err = ada.PlaceOrder(ctx, connect.NewRequest(ask)); err != nil {
		t.Fatalf("when the sink is level with the log: %v", err)
	}
}

func TestListPages(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ada, bob, op := d.as("ada", auth.Customer), d.as("bob", auth.Customer), d.as("olga", auth.Operator)
	want := map[string]bool{}
	for range 5 {
		res, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
		must(t, err)
		want[res.Msg.GetOrder().GetId()] = true
		_, err = bob.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-RED", 1))))
		must(t, err)
	}
	s.played.settle()
	s.exec(`UPDATE orders SET place_time = date_trunc('hour', place_time)`) // equal times, so that the ID decides
	pages := func(c client, req *orderv1.ListOrdersRequest) (n int, ids map[string]bool) {
		ids = map[string]bool{}
		for {
			res, err := c.ListOrders(ctx, connect.NewRequest(req))
			must(t, err)
			n++
			for _, o := range res.Msg.GetOrders() {
				if ids[o.GetId()] {
					t.Fatalf("%s is listed twice", o.GetId())
				}
				ids[o.GetId()] = true
			}
			if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
				return n, ids
			}
		}
	}
	n, ids := pages(ada, &orderv1.ListOrdersRequest{PageSize: 2})
	for id := range want {
		if n != 3 || len(ids) != 5 || !ids[id] {
			t.Fatalf("%d pages with %v", n, ids)
		}
	}
	if _, ids := pages(op, &orderv1.ListOrdersRequest{PageSize: 3, UserId: "-"}); len(ids) != 10 {
		t.Fatalf("an operator sees %d orders", len(ids))
	}
	if _, ids := pages(op, &orderv1.ListOrdersRequest{UserId: "bob", Status: orderv1.OrderStatus_ORDER_STATUS_PAID}); len(ids) != 0 {
		t.Fatalf("%d of bob's orders are paid", len(ids))
	}
}

// TestDeclineCodesAreForOperators: whichever call tells of a declined payment, from the log or from Postgres.
func TestDeclineCodesAreForOperators(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := buy(line("CUP-BLUE", 1))
	ask.UserId = "ada"
	ada := d.as("ada", auth.Customer)
	placed, err := ada.PlaceOrder(ctx, connect.NewRequest(ask))
	must(t, err)
	id := placed.Msg.GetOrder().GetId()
	s.played.decline(id, "stolen_card")
	for hears, who := range map[string]client{"card_declined": ada, "stolen_card": d.as("root", auth.Operator)} {
		heard := whatIsToldOf(ctx, s, who, id, ask)
		for call, o := range heard {
			if code := o.GetPayment().GetDeclineCode(); code != hears {
				t.Errorf("%s tells %q, want %q", call, code, hears)
			}
		}
	}
}

// whatIsToldOf an order, by each call that tells of one.
func whatIsToldOf(ctx context.Context, s *shop, who client, id string, ask *orderv1.PlaceOrderRequest) map[string]*orderv1.Order {
	got, err := who.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: id, MinVersion: 2}))
	must(s.t, err)
	list, err := who.ListOrders(ctx, connect.NewRequest(&orderv1.ListOrdersRequest{UserId: "ada"}))
	must(s.t, err)
	again, err := who.PlaceOrder(ctx, connect.NewRequest(ask))
	must(s.t, err)
	stream, err := who.WatchOrder(ctx, connect.NewRequest(&orderv1.WatchOrderRequest{OrderId: id}))
	must(s.t, err)
	stream.Receive()
	first := stream.Msg().GetOrder()
	s.played.decline(id, "stolen_card")
	for stream.Receive() && stream.Msg().GetOrder() == nil {
	}
	change := stream.Msg().GetOrder()
	must(s.t, stream.Close())
	cancelled, err := who.CancelOrder(ctx, connect.NewRequest(&orderv1.CancelOrderRequest{OrderId: id, RequestId: uuid.NewString()}))
	must(s.t, err)
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_RESERVING) // so that the next can cancel, too
	return map[string]*orderv1.Order{
		"get": got.Msg.GetOrder(), "list": list.Msg.GetOrders()[0], "place": again.Msg.GetOrder(),
		"watch": first, "watch on": change, "cancel": cancelled.Msg.GetOrder(),
	}
}
