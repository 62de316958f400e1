package payment

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v85"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
)

// The simulator's refunds succeed at once; Stripe's may be pending for days, and fail in the end.
func TestRefundThatTakesDays(t *testing.T) {
	till := openTill(t, nil)
	o := till.charge("pm_card_visa")
	for status, want := range map[string]paymentv1.PaymentOutcome{
		"pending": pending, "requires_action": pending, "succeeded": givenBack, "failed": noRequest, "canceled": noRequest,
	} {
		till.wire.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			if r.Method != http.MethodGet {
				t.Errorf("%s %s for a refund that is there", r.Method, r.URL)
			}
			fmt.Fprintf(w, `{"object":"list","has_more":false,"data":[{"id":"re_1","object":"refund","amount":700,"currency":"eur","status":%q,
				"failure_reason":"lost_or_stolen_card","metadata":{"order_id":%q,"refund_number":"1"}}]}`, status, o.id)
		})
		if res := o.wants(o.send(o.refund(1, 700), false), want); res.RefundId != "re_1" {
			t.Errorf("%s: %v", status, res)
		}
	}
}

// An operator in the gateway's dashboard knows nothing of the order's refunds, nor do theirs carry our metadata.
func TestRefundBySomebodyElse(t *testing.T) {
	till := openTill(t, nil)
	o := till.charge("pm_card_visa")
	o.refundedByHand(500)
	o.wants(o.send(o.refund(1, price), false), noRequest) // the rest is still to be given back
	o.refundedByHand(price - 500)
	o.wants(o.send(o.refund(2, 500), false), noRequest) // no telling whether this part is among what was given back
	ask := o.refund(3, price)
	for range 2 {
		if res := o.wants(o.send(ask, false), givenBack); res.RefundId != "" || res.AmountMinor != price || res.CurrencyCode != "EUR" {
			t.Errorf("given back in two parts: %v", res)
		}
	}

	o = till.charge("pm_card_visa")
	id := o.refundedByHand(price)
	for status, want := range map[string]paymentv1.PaymentOutcome{"pending": pending, "failed": noRequest, "canceled": noRequest, "succeeded": givenBack} {
		till.wire.set(func(w http.ResponseWriter, r *http.Request, sim http.Handler) {
			if r.Method != http.MethodGet || r.URL.Path != "/v1/refunds" {
				sim.ServeHTTP(w, r)
				return
			}
			told := httptest.NewRecorder()
			sim.ServeHTTP(told, r)
			fmt.Fprint(w, strings.ReplaceAll(told.Body.String(), `"status":"succeeded"`, fmt.Sprintf(`"status":%q`, status)))
		})
		res := o.wants(o.send(o.refund(1, price), false), want)
		if want != noRequest && res.RefundId != id {
			t.Errorf("%s: %v", status, res)
		}
	}
	if line := o.line(); line.Refunded != price {
		t.Errorf("refunded %d, want %d", line.Refunded, price)
	}
}

func (o *order) refundedByHand(amount int64) (id string) {
	o.till.t.Helper()
	re, err := o.till.ours.stripe.V1Refunds.Create(o.till.t.Context(), &stripe.RefundCreateParams{PaymentIntent: stripe.String(o.intent), Amount: stripe.Int64(amount)})
	if err != nil {
		o.till.t.Fatal(err)
	}
	return re.ID
}
