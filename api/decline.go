package api

import (
	"context"

	"connectrpc.com/authn"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/api/auth"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

// declined is the code that stands for all that are not a customer's business. Why an issuer said no, that a card was
// reported stolen above all, would teach a thief to try another way.
const declined = "card_declined"

// customersCodes are the gateway's codes by which customers can help themselves.
var customersCodes = map[string]bool{
	"insufficient_funds": true,
	"expired_card":       true,
	"incorrect_cvc":      true,
	"processing_error":   true,
}

// operates says that the caller may see everything.
func operates(ctx context.Context) bool {
	caller, known := authn.GetInfo(ctx).(auth.Caller)
	return known && caller.Is(auth.Operator)
}

// discreet keeps the gateway's own codes out of an answer to somebody who is no operator. Every answer passes here, so
// that no handler can forget it.
func discreet(answer any) {
	switch m := answer.(type) {
	case *orderv1.PlaceOrderResponse:
		m.Order = withoutCode(m.Order)
	case *orderv1.GetOrderResponse:
		m.Order = withoutCode(m.Order)
	case *orderv1.ListOrdersResponse:
		for i, o := range m.Orders {
			m.Orders[i] = withoutCode(o)
		}
	case *orderv1.CancelOrderResponse:
		m.Order = withoutCode(m.Order)
	case *orderv1.WatchOrderResponse:
		m.Order = withoutCode(m.Order)
	}
}

// withoutCode copies an order that has to change, because the tail shares its orders among all who watch.
func withoutCode(o *orderv1.Order) *orderv1.Order {
	was := o.GetPayment().GetDeclineCode()
	hears := customersCode(o.GetReason(), was)
	if hears == was {
		return o
	}
	o = proto.CloneOf(o)
	o.Payment.DeclineCode = hears
	return o
}

// customersCode is what a customer hears of a code. Only an order that ends because its card was declined has one: the
// codes of requests that the gateway refused are the shop's business.
func customersCode(why orderv1.OrderReason, code string) string {
	switch {
	case code == "" || why != orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED:
		return ""
	case customersCodes[code]:
		return code
	}
	return declined
}
