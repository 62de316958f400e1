package payment

import (
	"fmt"
	"net/http"
	"testing"

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
