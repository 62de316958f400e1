package audit

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

// Timers checks that every delay that was due before `until` (by the log's clock) has led to exactly one timeout, and
// no timeout came before its delay was over.
func Timers(l Log, t *topics.Table, until time.Time) Report {
	var r Report
	r.Inputs, r.Outputs = 0, len(l.All(t.OrderTimeouts.Topic))
	fired := map[place][]time.Time{}
	for _, o := range l.All(t.OrderTimeouts.Topic) {
		cause, ok := causeOf(o)
		if !ok {
			r.violated("%s: no delay caused it", placeOf(o))
		}
		fired[cause] = append(fired[cause], o.Timestamp)
	}
	for _, delay := range []topics.Of[*orderv1.OrderTimer]{t.PaymentDelays, t.PollDelays, t.RetryDelays, t.ForgetDelays} {
		for _, d := range l.All(delay.Topic) {
			r.Inputs++
			due, at := d.Timestamp.Add(delay.Delay), fired[placeOf(d)]
			delete(fired, placeOf(d))
			switch {
			case len(at) > 1:
				r.violated("%s fired %d times", placeOf(d), len(at))
			case len(at) == 0 && due.Before(until):
				r.violated("%s was due at %v and has not fired", placeOf(d), due)
			case len(at) == 1 && at[0].Before(due):
				r.violated("%s was due at %v and fired at %v", placeOf(d), due, at[0])
			}
		}
	}
	for cause := range fired {
		r.violated("a timeout names %v, which is no delay", cause)
	}
	return r
}

// Payments checks that every request to the payment worker has an answer; answers may come twice, with one meaning.
func Payments(l Log, t *topics.Table) Report {
	var r Report
	refused := l.refused()
	answered := map[place]string{}
	for _, o := range append(l.All(t.PaymentResults.Topic), l.All(t.DeadLetters(topics.PaymentGroup))...) {
		r.Outputs++
		cause, ok := causeOf(o)
		if !ok && refused[placeOf(o)] {
			continue
		}
		if !ok {
			r.violated("%s: no request caused it", placeOf(o))
			continue
		}
		answered[cause] = topics.Header(o, topics.HeaderID)
	}
	for _, q := range l.All(t.PaymentRequests.Topic) {
		r.Inputs++
		if _, ok := answered[placeOf(q)]; !ok {
			r.violated("%s has no answer", placeOf(q))
		}
	}
	return r
}

// Orders is every order as its newest event says, by ID.
func Orders(l Log, t *topics.Table) (map[string]*orderv1.Order, error) {
	orders := map[string]*orderv1.Order{}
	for _, r := range l.All(t.OrderEvents.Topic) {
		e := &orderv1.OrderEvent{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, fmt.Errorf("%s: %w", placeOf(r), err)
		}
		if e.GetVersion() > 0 && e.GetVersion() > orders[e.GetOrderId()].GetVersion() {
			orders[e.GetOrderId()] = e.GetOrder()
		}
	}
	return orders, nil
}

// Final says whether a status ends an order. PAID does until refunds come.
func Final(s orderv1.OrderStatus) bool {
	switch s {
	case orderv1.OrderStatus_ORDER_STATUS_PAID, orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		orderv1.OrderStatus_ORDER_STATUS_PAYMENT_FAILED, orderv1.OrderStatus_ORDER_STATUS_REFUNDED:
		return true
	}
	return false
}

// Charge is what the gateway holds true about the intents of one order, in minor units.
type Charge struct {
	Intents            int
	Captured, Refunded int64
	Open               int // intents that may still succeed
}

// Money checks that every order is final, that the gateway keeps an order's total if and only if it is PAID, and
// that no intent of a finished order may still succeed.
func Money(orders map[string]*orderv1.Order, gateway map[string]Charge) Report {
	r := Report{Inputs: len(orders), Outputs: len(gateway)}
	for id, o := range orders {
		c, want := gateway[id], int64(0)
		if o.GetStatus() == orderv1.OrderStatus_ORDER_STATUS_PAID {
			want = o.GetTotal().GetMinorUnits()
		}
		switch p := o.GetPayment(); {
		case !Final(o.GetStatus()):
			r.violated("order %s is not final: %v", id, o.GetStatus())
		case c.Captured-c.Refunded != want:
			r.violated("order %s is %v: the gateway keeps %d - %d, it should keep %d", id, o.GetStatus(), c.Captured, c.Refunded, want)
		case p.GetCharged().GetMinorUnits()-p.GetRefunded().GetMinorUnits() != want:
			r.violated("order %s is %v: it says that %d - %d is kept", id, o.GetStatus(), p.GetCharged().GetMinorUnits(), p.GetRefunded().GetMinorUnits())
		case c.Open > 0:
			r.violated("order %s is %v, but %d of its intents may still succeed", id, o.GetStatus(), c.Open)
		case c.Intents > 1:
			r.violated("order %s has %d intents", id, c.Intents)
		}
	}
	for id := range gateway {
		if orders[id] == nil {
			r.violated("the gateway has an intent of order %s, which the log does not know", id)
		}
	}
	return r
}
