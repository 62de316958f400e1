package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

const (
	paid      = orderv1.OrderStatus_ORDER_STATUS_PAID
	rejected  = orderv1.OrderStatus_ORDER_STATUS_REJECTED
	cancelled = orderv1.OrderStatus_ORDER_STATUS_CANCELLED
	failed    = orderv1.OrderStatus_ORDER_STATUS_PAYMENT_FAILED
)

// TestOneOrderAllTheWay is the walk of docs/ARCHITECTURE.md: over the API into the log, through stock and payment,
// into Postgres.
func TestOneOrderAllTheWay(t *testing.T) {
	w := newWorld(t, options{})
	w.catalogue("BOOK", "LAMP")
	w.receive("BOOK", 5)
	w.receive("LAMP", 3)
	ada := w.as("ada")

	res, err := ada.orders.PlaceOrder(within(30*time.Second), connect.NewRequest(&orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), PaymentMethod: "pm_card_visa", WaitForStatus: paid,
		Lines: []*orderv1.PlaceOrderLine{{Sku: "BOOK", Quantity: 2}, {Sku: "LAMP", Quantity: 1}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	o := res.Msg.GetOrder()
	if o.GetStatus() != paid || o.GetTotal().GetMinorUnits() != 3000 || o.GetPayment().GetCharged().GetMinorUnits() != 3000 {
		t.Fatalf("the order is %v", o)
	}
	read, err := ada.orders.GetOrder(within(10*time.Second), connect.NewRequest(&orderv1.GetOrderRequest{OrderId: o.GetId(), MinVersion: o.GetVersion()}))
	if err != nil || read.Msg.GetOrder().GetStatus() != paid {
		t.Fatalf("read back: %v, %v", read, err)
	}
	w.prove(w.settle(30 * time.Second))
}

// TestTheShopUnderOneRoof runs what needs no harm to the servers on one system.
func TestTheShopUnderOneRoof(t *testing.T) {
	w := newWorld(t, options{instances: 2, payment: 8 * time.Second})
	t.Run("the last unit goes to one of 200", w.lastUnit)
	t.Run("every way that ends without a sale", w.waysWithoutASale)
	t.Run("cancelled while the stock is asked", w.cancelledWhileAsked)
	t.Run("repeats", w.repeats)
	t.Run("a purchase log", w.purchaseLog)
	t.Run("poison", w.poison)
	l := w.settle(60 * time.Second)
	w.prove(l)
}

func (w *world) lastUnit(t *testing.T) {
	w.catalogue("ONLY-ONE")
	w.receive("ONLY-ONE", 1)
	const buyers = 200
	got := make([]*orderv1.Order, buyers)
	var all sync.WaitGroup
	for i := range buyers {
		all.Go(func() {
			c := w.through(i%len(w.apis), fmt.Sprint("buyer-", i))
			res, err := c.orders.PlaceOrder(within(60*time.Second), connect.NewRequest(order("ONLY-ONE", "pm_card_visa")))
			if err != nil {
				t.Errorf("buyer %d: %v", i, err)
				return
			}
			got[i] = res.Msg.GetOrder()
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	count := map[orderv1.OrderStatus]int{}
	for _, o := range got {
		count[o.GetStatus()]++
		if o.GetStatus() == rejected && o.GetLines()[0].GetReason() != orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK {
			t.Errorf("rejected because of %v", o.GetLines()[0].GetReason())
		}
	}
	if count[paid] != 1 || count[rejected] != buyers-1 {
		t.Fatalf("of %d buyers: %v", buyers, count)
	}
}

// waysWithoutASale are the ends of an order other than PAID: each final, with the money and the stock right, which the
// proof at the end looks at.
func (w *world) waysWithoutASale(t *testing.T) {
	w.catalogue("VASE")
	w.receive("VASE", 100)
	for _, c := range []struct {
		name, card string
		cancel     bool
		want       orderv1.OrderStatus
		reason     orderv1.OrderReason
	}{
		{"declined", "pm_card_chargeDeclined", false, failed, orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED},
		{"pending, then declined", "pm_sim_pending_declined", false, failed, orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED},
		{"pending, then paid", "pm_sim_pending", false, paid, 0},
		{"slow", "pm_sim_slow", false, paid, 0},
		{"charged, and no answer", "pm_sim_charge_then_timeout", false, paid, 0},
		{"500 now and then", "pm_sim_sporadic_500", false, paid, 0},
		{"no word before the deadline", "pm_sim_pending_forever", false, failed, orderv1.OrderReason_ORDER_REASON_PAYMENT_DEADLINE},
		{"cancelled while paying", "pm_sim_pending_forever", true, cancelled, orderv1.OrderReason_ORDER_REASON_CANCELLED_BY_REQUEST},
		{"cancelled too late: the money comes back", "pm_sim_late_success", true, cancelled, orderv1.OrderReason_ORDER_REASON_CANCELLED_BY_REQUEST},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := w.placeAndFollow(t, c.card, c.cancel)
			if o.GetStatus() != c.want || o.GetReason() != c.reason {
				t.Errorf("ends %v because of %v, want %v because of %v", o.GetStatus(), o.GetReason(), c.want, c.reason)
			}
		})
	}
}

// placeAndFollow places an order, perhaps cancels it when payment is pending, and returns it when it is final.
func (w *world) placeAndFollow(t *testing.T, card string, cancel bool) *orderv1.Order {
	t.Helper()
	c := w.as("ada")
	res, err := c.orders.PlaceOrder(within(30*time.Second), connect.NewRequest(order("VASE", card)))
	if err != nil {
		t.Fatal(err)
	}
	id := res.Msg.GetOrder().GetId()
	var last *orderv1.Order
	asked := false
	for until := time.Now().Add(60 * time.Second); time.Now().Before(until); {
		stream, err := c.orders.WatchOrder(within(60*time.Second), connect.NewRequest(&orderv1.WatchOrderRequest{OrderId: id}))
		if err != nil {
			t.Fatal(err)
		}
		for stream.Receive() {
			if o := stream.Msg().GetOrder(); o != nil {
				last = o
			}
			pending := last.GetPayment().GetStatus() == orderv1.PaymentStatus_PAYMENT_STATUS_PENDING
			if cancel && !asked && pending {
				asked = true
				if _, err := c.orders.CancelOrder(within(30*time.Second), connect.NewRequest(&orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id})); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatalf("watch: %v", err)
		}
		stream.Close()
		if final(last.GetStatus()) {
			return last
		}
	}
	t.Fatalf("order %s is %v after a minute", id, last.GetStatus())
	return nil
}

// cancelledWhileAsked holds the inventory still, so that the order is cancelled before its line has an answer; the late
// yes must be released.
func (w *world) cancelledWhileAsked(t *testing.T) {
	w.catalogue("CLOCK")
	w.receive("CLOCK", 1)
	c := w.as("ada")
	for i := range len(w.apis) {
		w.role(fmt.Sprint("inventory-", i)).pause()
	}
	res, err := c.orders.PlaceOrder(within(2*time.Second), connect.NewRequest(order("CLOCK", "pm_sim_pending")))
	if err != nil || res.Msg.GetOrder().GetLines()[0].GetStatus() != orderv1.LineStatus_LINE_STATUS_ASKED {
		t.Errorf("placed: %v, %v", res, err)
	}
	id := res.Msg.GetOrder().GetId()
	end, err := c.orders.CancelOrder(within(2*time.Second), connect.NewRequest(&orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id}))
	if err != nil || end.Msg.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_CANCELLING {
		t.Errorf("cancelled: %v, %v", end, err)
	}
	for i := range len(w.apis) {
		w.role(fmt.Sprint("inventory-", i)).resume()
	}
	w.eventually(30*time.Second, "the order is cancelled and its line released", func() error {
		got, err := c.orders.GetOrder(within(5*time.Second), connect.NewRequest(&orderv1.GetOrderRequest{OrderId: id}))
		if err != nil {
			return err
		}
		if o := got.Msg.GetOrder(); o.GetStatus() != cancelled || o.GetLines()[0].GetStatus() != orderv1.LineStatus_LINE_STATUS_RELEASED {
			return fmt.Errorf("it is %v", o)
		}
		return nil
	})
}

// purchaseLog replays a log, is cut off in the middle, and replays it again: every line is one order.
func (w *world) purchaseLog(t *testing.T) {
	w.receive("CD-CLASSIC", 10_000)
	var log strings.Builder
	log.WriteString("customer,day,units\n")
	const lines = 120
	units := 0
	for i := range lines {
		fmt.Fprintf(&log, "%04d,1997-01-%02d,%d\n", i%17, 1+i%28, 1+i%5)
		units += 1 + i%5
	}
	file := filepath.Join(w.dir, "purchases.csv")
	if err := os.WriteFile(file, []byte(log.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"order", "replay", file, "--header", "--customer", "customer", "--quantity", "units", "--sku", "CD-CLASSIC",
		"--user-prefix", "replay-", "--api", w.apis[0], "--data", w.dir}
	w.run(append(args, "--limit", fmt.Sprint(lines/2))...)
	out := w.run(args...)
	for _, want := range []string{fmt.Sprint(lines, " PAID"), fmt.Sprint(units, " units"), fmt.Sprint(lines/2, " had been placed before")} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	w.eventually(30*time.Second, "the orders are in Postgres", func() error {
		db := w.connect()
		defer db.Close(context.Background())
		var orders, sold int
		err := db.QueryRow(context.Background(), `SELECT count(DISTINCT o.id), coalesce(sum(l.quantity), 0) FROM orders o JOIN order_lines l ON l.order_id = o.id
			WHERE o.user_id LIKE 'replay-%' AND o.status = 'PAID'`).Scan(&orders, &sold)
		if err == nil && (orders != lines || sold != units) {
			err = fmt.Errorf("%d orders of %d units, want %d of %d", orders, sold, lines, units)
		}
		return err
	})
}

func (w *world) repeats(t *testing.T) {
	w.catalogue("MUG", "RARE")
	w.receive("MUG", 10)
	w.receive("RARE", 1)
	ada := w.as("ada")
	place := func(c client, req *orderv1.PlaceOrderRequest) (*orderv1.PlaceOrderResponse, error) {
		res, err := c.orders.PlaceOrder(within(30*time.Second), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	sold, refused := order("MUG", "pm_card_visa"), order("RARE", "pm_card_visa")
	refused.Lines[0].Quantity = 2
	first, err := place(ada, sold)
	if err != nil {
		t.Fatal(err)
	}
	no, err := place(ada, refused)
	if err != nil || no.GetOrder().GetStatus() != rejected {
		t.Fatalf("two of one: %v, %v", no, err)
	}
	w.change(t, "UPDATE offers SET price_minor = 2000 WHERE sku = 'MUG'")
	w.receive("RARE", 10)
	for _, c := range []struct {
		name string
		req  *orderv1.PlaceOrderRequest
		want *orderv1.Order
	}{
		{"after success, and after the price changed", sold, first.GetOrder()},
		{"after refusal, though there is stock by now", refused, no.GetOrder()},
	} {
		again, err := place(ada, c.req)
		if err != nil || !again.GetReplayed() || again.GetOrder().GetId() != c.want.GetId() || again.GetOrder().GetStatus() != c.want.GetStatus() {
			t.Errorf("%s: %v, %v; want %v", c.name, again, err, c.want)
		}
	}
	w.change(t, "UPDATE offers SET active = false WHERE sku = 'MUG'")
	if again, err := place(ada, sold); err != nil || again.GetOrder().GetId() != first.GetOrder().GetId() {
		t.Errorf("after the offer ended: %v, %v", again, err)
	}
	other := order("MUG", "pm_card_visa")
	other.RequestId, other.Lines[0].Quantity = sold.GetRequestId(), 2
	if _, err := place(ada, other); reason(err) != "IDEMPOTENCY_MISMATCH" {
		t.Errorf("other content under the same request_id: %v", err)
	}
	w.twoAtOnce(t)
}

// twoAtOnce sends the same order to both instances of the API at the same time, many times.
func (w *world) twoAtOnce(t *testing.T) {
	const times = 20
	var all sync.WaitGroup
	for range times {
		req := order("RARE", "pm_card_visa")
		all.Go(func() {
			ids := make([]string, 2)
			var both sync.WaitGroup
			for i := range ids {
				both.Go(func() {
					res, err := w.through(i%len(w.apis), "twin").orders.PlaceOrder(within(30*time.Second), connect.NewRequest(req))
					if err != nil {
						t.Error(err)
						return
					}
					ids[i] = fmt.Sprint(res.Msg.GetOrder().GetId(), " ", res.Msg.GetOrder().GetStatus())
				})
			}
			both.Wait()
			if ids[0] != ids[1] {
				t.Errorf("the two answers are %v", ids)
			}
		})
	}
	all.Wait()
}

func (w *world) change(t *testing.T, statement string) {
	t.Helper()
	db := w.connect()
	defer db.Close(context.Background())
	if _, err := db.Exec(context.Background(), statement); err != nil {
		t.Fatal(err)
	}
}

// order is one unit of a SKU, followed until it is final in one way or another.
func order(sku, card string) *orderv1.PlaceOrderRequest {
	req := &orderv1.PlaceOrderRequest{RequestId: uuid.NewString(), PaymentMethod: card, Lines: []*orderv1.PlaceOrderLine{{Sku: sku, Quantity: 1}}}
	if card == "pm_card_visa" {
		req.WaitForStatus = paid
	}
	return req
}

func final(s orderv1.OrderStatus) bool {
	return s == paid || s == rejected || s == cancelled || s == failed
}

func within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	time.AfterFunc(d, cancel)
	return ctx
}

// reason is the reason in an error's google.rpc.ErrorInfo.
func reason(err error) string {
	ce := new(connect.Error)
	if !asConnect(err, &ce) {
		return ""
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*errdetails.ErrorInfo); ok {
				return info.GetReason()
			}
		}
	}
	return ""
}
