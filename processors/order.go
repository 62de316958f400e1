package processors

import (
	"errors"
	"fmt"

	"github.com/lovoo/goka"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/processors/order"
	"github.com/millrace/millrace/topics"
)

// OrderGraph carries each order from its placing to its end.
func OrderGraph(t *topics.Table) *goka.GroupGraph {
	return orderGroup(newShell(t, topics.OrderGroup))
}

func orderGroup(s *shell) *goka.GroupGraph {
	return goka.DefineGroup(goka.Group(s.topics.Group(s.group)),
		input(s, s.topics.OrderCommands, deciding(clientsCommand)), // from clients
		input(s, s.topics.InventoryAnswers, deciding(lineAnswer)),  // from the SKUs
		input(s, s.topics.PaymentResults, deciding(paymentResult)), // from the gateway
		input(s, s.topics.OrderTimeouts, deciding(timeout)),        // from the clock
		output(s.topics.OrderEvents.Topic),                         // for the sinks and the API
		output(s.topics.Reservations.Topic),                        // by SKU, for the inventory processor
		output(s.topics.PaymentRequests.Topic),                     // for the payment worker
		output(s.topics.PaymentDelays.Topic),                       // for the timer worker, as the next three
		output(s.topics.PollDelays.Topic),
		output(s.topics.RetryDelays.Topic),
		output(s.topics.ForgetDelays.Topic),
		output(s.topics.DeadLetters(s.group)), // what could not be taken
		goka.Persist(orderTable{}),
	)
}

// deciding is the body of an input whose door is given.
func deciding[M proto.Message](door func(M) (order.Input, error)) func(*incoming, M) error {
	return func(in *incoming, m M) error {
		what, err := door(m)
		if err != nil {
			return err
		}
		return decideOrder(in, what)
	}
}

// decideOrder keeps what the rule decides about the order at hand, and sends the event and then what it leads to.
func decideOrder(in *incoming, what order.Input) error {
	before, _ := in.ctx.Value().(order.State) // none: no such order
	after, decision, err := order.Decide(before, what, in.cause.Time.UnixMilli())
	switch {
	case err != nil:
		return rejected(err)
	case before.Exists() && !after.Exists():
		in.ctx.Delete()
		return nil
	case decision.Ignored():
		return nil
	case after.Exists():
		in.ctx.SetValue(after)
	}
	send(in, in.topics.OrderEvents, orderEvent(in.ctx.Key(), after, decision.Event))
	for _, e := range decision.Effects {
		in.carryOut(after, e)
	}
	return nil
}

// rejected says whose fault it is that the rule could not decide.
func rejected(err error) error {
	reason := topics.Impossible
	if _, ok := errors.AsType[order.UnknownOrder](err); ok {
		reason = topics.UnknownOrder
	} else if _, ok := errors.AsType[order.Malformed](err); ok {
		reason = topics.Invalid
	}
	return topics.Rejection{Reason: reason, Detail: err.Error()}
}

func (in *incoming) carryOut(s order.State, e order.Effect) {
	switch e := e.(type) {
	case order.Reserve:
		in.reservation(s, order.Units(e), inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE)
	case order.Release:
		in.reservation(s, order.Units(e), inventoryv1.ReservationStep_RESERVATION_STEP_RELEASE)
	case order.Ship:
		in.reservation(s, order.Units(e), inventoryv1.ReservationStep_RESERVATION_STEP_SHIP)
	case order.Request:
		send(in, in.topics.PaymentRequests, paymentRequest(s, e))
	case order.Timer:
		m := &orderv1.OrderTimer{OrderId: s.ID, Delay: orderv1.OrderDelay(e.Delay), Generation: e.Generation}
		send(in, in.topics.Delayed(m.Delay), m)
	default:
		panic(fmt.Sprintf("processors: no case for %T", e))
	}
}

func (in *incoming) reservation(s order.State, u order.Units, step inventoryv1.ReservationStep) {
	send(in, in.topics.Reservations, &inventoryv1.Reservation{Sku: u.SKU, OrderId: s.ID, Line: u.Line, Quantity: u.Quantity, Step: step})
}

func paymentRequest(s order.State, r order.Request) *paymentv1.PaymentRequest {
	return &paymentv1.PaymentRequest{
		OrderId: s.ID, Step: paymentv1.PaymentStep(r.Step), StepNumber: r.Number, IntentId: r.IntentID,
		AmountMinor: r.AmountMinor, CurrencyCode: s.Currency, PaymentMethod: s.Payment.Method, UserId: s.UserID,
		Email: s.Contact.Email, RefundNumber: r.RefundNumber, FirstCreateUnixMs: s.FirstCreateMS,
	}
}
