package gateway

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
)

const (
	anInvalid = stripe.ErrorTypeInvalidRequest
	aCard     = stripe.ErrorTypeCard
	anAPI     = stripe.ErrorTypeAPI
)

// Every card is in the package's documentation, in the words of --help.
func TestCardsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(doc)), " ")
	for _, card := range Cards() {
		if !strings.Contains(text, " "+card.ID+" "+card.Does) {
			t.Errorf("doc.go does not say: %s %s", card.ID, card.Does)
		}
	}
}

// What each card makes of a confirm. The cards that end otherwise have tests of their own below.
func TestCardsThatAnswerAtOnce(t *testing.T) {
	s := openShop(t, quick())
	declines := map[string][2]string{
		"pm_card_chargeDeclined":                       {"card_declined", "generic_decline"},
		"pm_card_visa_chargeDeclined":                  {"card_declined", "generic_decline"},
		"pm_card_chargeDeclinedInsufficientFunds":      {"card_declined", "insufficient_funds"},
		"pm_card_visa_chargeDeclinedInsufficientFunds": {"card_declined", "insufficient_funds"},
		"pm_card_visa_chargeDeclinedLostCard":          {"card_declined", "lost_card"},
		"pm_card_visa_chargeDeclinedStolenCard":        {"card_declined", "stolen_card"},
		"pm_card_chargeDeclinedExpiredCard":            {"expired_card", ""},
		"pm_card_chargeDeclinedIncorrectCvc":           {"incorrect_cvc", ""},
		"pm_card_chargeDeclinedProcessingError":        {"processing_error", ""},
	}
	for _, card := range []string{"pm_card_visa", "pm_card_visa_debit", "pm_card_mastercard", "pm_card_amex", "pm_sim_duplicate_webhook"} {
		t.Run(card, func(t *testing.T) { s.approves(t, card) })
	}
	for card, want := range declines {
		t.Run(card, func(t *testing.T) { s.declines(t, card, want[0], want[1]) })
	}
}

func (s *shop) approves(t *testing.T, card string) {
	made := s.intent(card)
	if made.Status != stripe.PaymentIntentStatusRequiresConfirmation || made.AmountReceived != 0 || made.PaymentMethod.ID != card {
		t.Fatalf("created: %s, received %d, method %v", made.Status, made.AmountReceived, made.PaymentMethod)
	}
	pi, err := s.confirm(made.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*stripe.PaymentIntent{pi, s.look(made.ID)} {
		if got.Status != stripe.PaymentIntentStatusSucceeded || got.AmountReceived != 1250 || got.LatestCharge.ID == "" {
			t.Fatalf("confirmed: %s, received %d, charge %v", got.Status, got.AmountReceived, got.LatestCharge)
		}
		if got.Metadata["order_id"] != "o-1" || got.Description != "order o-1" || got.ReceiptEmail != "a@example.org" || got.Currency != "eur" {
			t.Fatalf("came back changed: %+v", got)
		}
	}
}

func (s *shop) declines(t *testing.T, card, code, reason string) {
	made := s.intent(card)
	_, err := s.confirm(made.ID, "")
	e := s.wantError(err, http.StatusPaymentRequired, aCard, stripe.ErrorCode(code))
	if string(e.DeclineCode) != reason || e.PaymentIntent == nil || e.PaymentIntent.ID != made.ID {
		t.Fatalf("decline code %q, intent %v", e.DeclineCode, e.PaymentIntent)
	}
	after := s.look(made.ID)
	if after.Status != stripe.PaymentIntentStatusRequiresPaymentMethod || after.PaymentMethod != nil || after.AmountReceived != 0 {
		t.Fatalf("after: %s, %v, %d", after.Status, after.PaymentMethod, after.AmountReceived)
	}
	if after.LastPaymentError == nil || string(after.LastPaymentError.Code) != code {
		t.Fatalf("last error: %v", after.LastPaymentError)
	}
	again, err := s.client.V1PaymentIntents.Confirm(context.Background(), made.ID, &stripe.PaymentIntentConfirmParams{PaymentMethod: stripe.String("pm_card_visa")})
	if err != nil || again.Status != stripe.PaymentIntentStatusSucceeded {
		t.Fatalf("another card: %v, %v", again.Status, err)
	}
}

func TestSlowAnswersLate(t *testing.T) {
	settings := quick()
	s := openShop(t, settings)
	made := s.intent("pm_sim_slow")
	start := time.Now()
	pi, err := s.confirm(made.ID, "")
	if err != nil || pi.Status != stripe.PaymentIntentStatusSucceeded {
		t.Fatal(pi, err)
	}
	if took := time.Since(start); took < settings.Slow {
		t.Fatalf("took %s, should take %s", took, settings.Slow)
	}
}

// Who gives up on a slow card is told on asking again that the first is still at it, and in the end its answer.
func TestSlowGoesOnWithoutItsCaller(t *testing.T) {
	settings := quick()
	settings.Slow = 1500 * time.Millisecond
	s := openShop(t, settings)
	made := s.intent("pm_sim_slow")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	p := &stripe.PaymentIntentConfirmParams{}
	p.SetIdempotencyKey("slow")
	if _, err := s.client.V1PaymentIntents.Confirm(ctx, made.ID, p); err == nil {
		t.Fatal("answered in time")
	}
	_, err := s.confirm(made.ID, "slow")
	s.wantError(err, http.StatusConflict, stripe.ErrorTypeIdempotency, "idempotency_key_in_use")
	s.await(made.ID, stripe.PaymentIntentStatusSucceeded)
	pi, err := s.confirm(made.ID, "slow")
	if err != nil || pi.Status != stripe.PaymentIntentStatusSucceeded || !replayed(pi.LastResponse) {
		t.Fatal(pi.Status, err)
	}
}

func TestPendingSettlesByItself(t *testing.T) {
	s := openShop(t, quick())
	for card, want := range map[string]stripe.PaymentIntentStatus{
		"pm_sim_pending":          stripe.PaymentIntentStatusSucceeded,
		"pm_sim_pending_declined": stripe.PaymentIntentStatusRequiresPaymentMethod,
	} {
		made := s.intent(card)
		pi, err := s.confirm(made.ID, "")
		if err != nil || pi.Status != stripe.PaymentIntentStatusProcessing || pi.AmountReceived != 0 {
			t.Fatal(card, pi.Status, err)
		}
		end := s.await(made.ID, want)
		if (end.AmountReceived == 1250) != (want == stripe.PaymentIntentStatusSucceeded) {
			t.Fatalf("%s: received %d", card, end.AmountReceived)
		}
	}
}

func TestPendingCannotBeCancelled(t *testing.T) {
	settings := quick()
	settings.Pending = time.Hour
	s := openShop(t, settings)
	for _, card := range []string{"pm_sim_pending", "pm_sim_pending_stuck"} {
		made := s.intent(card)
		s.confirm(made.ID, "")
		_, err := s.cancel(made.ID, "")
		e := s.wantError(err, http.StatusBadRequest, anInvalid, stripe.ErrorCodePaymentIntentUnexpectedState)
		if e.PaymentIntent == nil || e.PaymentIntent.Status != stripe.PaymentIntentStatusProcessing {
			t.Fatalf("%s: the error carries %v", card, e.PaymentIntent)
		}
		if got := s.settle(made.ID, "succeeded"); got != http.StatusOK {
			t.Fatalf("settle: %d", got)
		}
		if pi := s.look(made.ID); pi.Status != stripe.PaymentIntentStatusSucceeded || pi.AmountReceived != 1250 {
			t.Fatal(card, pi.Status)
		}
	}
}

func TestPendingForever(t *testing.T) {
	s := openShop(t, quick())
	left, told := s.intent("pm_sim_pending_forever"), s.intent("pm_sim_pending_forever")
	s.confirm(left.ID, "")
	s.confirm(told.ID, "")
	if pi, err := s.cancel(left.ID, ""); err != nil || pi.Status != stripe.PaymentIntentStatusCanceled || pi.CancellationReason != "abandoned" || pi.CanceledAt == 0 {
		t.Fatal(pi, err)
	}
	if got := s.settle(left.ID, "succeeded"); got != http.StatusBadRequest {
		t.Fatalf("a cancelled payment was settled: %d", got)
	}
	if got := s.settle(told.ID, "declined"); got != http.StatusOK {
		t.Fatal(got)
	}
	if pi := s.look(told.ID); pi.Status != stripe.PaymentIntentStatusRequiresPaymentMethod || pi.LastPaymentError == nil {
		t.Fatal(pi.Status, pi.LastPaymentError)
	}
}

func TestLateSuccessBeatsTheCancel(t *testing.T) {
	s := openShop(t, quick())
	made := s.intent("pm_sim_late_success")
	s.confirm(made.ID, "")
	_, err := s.cancel(made.ID, "late")
	e := s.wantError(err, http.StatusBadRequest, anInvalid, stripe.ErrorCodePaymentIntentUnexpectedState)
	if e.PaymentIntent.Status != stripe.PaymentIntentStatusSucceeded || e.PaymentIntent.AmountReceived != 1250 {
		t.Fatalf("the error carries %s", e.PaymentIntent.Status)
	}
	_, err = s.cancel(made.ID, "late")
	if e := s.wantError(err, http.StatusBadRequest, anInvalid, stripe.ErrorCodePaymentIntentUnexpectedState); !replayed(e.LastResponse) {
		t.Fatal("the refusal was not kept")
	}
}

func TestChargeThenTimeout(t *testing.T) {
	s := openShop(t, quick())
	made := s.intent("pm_sim_charge_then_timeout")
	_, err := s.confirm(made.ID, "pay")
	if err == nil || stripeError(err).HTTPStatusCode != 0 {
		t.Fatalf("answered: %v", err)
	}
	if pi := s.look(made.ID); pi.Status != stripe.PaymentIntentStatusSucceeded || pi.AmountReceived != 1250 {
		t.Fatalf("not charged: %s", pi.Status)
	}
	pi, err := s.confirm(made.ID, "pay")
	if err != nil || pi.Status != stripe.PaymentIntentStatusSucceeded || !replayed(pi.LastResponse) {
		t.Fatal("asked again with the same key:", pi, err)
	}
	if _, lines := s.ledger(); lines["o-1"][0].Captured != 1250 || lines["o-1"][0].Attempts != 1 {
		t.Fatalf("charged twice? %+v", lines["o-1"])
	}
}

// With its own retries stripe-go gets over a lost answer alone.
func TestStripeGoRetriesLostAnswers(t *testing.T) {
	s := openShop(t, quick())
	s.client = stripeClient(s.url, 2)
	made := s.intent("pm_sim_charge_then_timeout")
	if pi, err := s.confirm(made.ID, "pay"); err != nil || pi.AmountReceived != 1250 {
		t.Fatal(pi, err)
	}
}

// A 500 before anything happened leaves the key free: the same request, sent again, works after one or two of them.
func TestSporadic500(t *testing.T) {
	s := openShop(t, quick())
	seen := map[int]bool{}
	for n := 0; n < 40 && len(seen) < 2; n++ {
		made := s.intent("pm_sim_sporadic_500")
		failures := 0
		for {
			pi, err := s.confirm(made.ID, "pay-"+made.ID)
			if err == nil {
				if pi.Status != stripe.PaymentIntentStatusSucceeded || replayed(pi.LastResponse) {
					t.Fatal(pi.Status)
				}
				break
			}
			failures++
			if e := s.wantError(err, http.StatusInternalServerError, anAPI, ""); e.LastResponse.Header.Get("Stripe-Should-Retry") != "true" {
				t.Fatal("does not say that it may be sent again")
			}
		}
		if failures != 1 && failures != 2 {
			t.Fatalf("failed %d times", failures)
		}
		seen[failures] = true
	}
	if len(seen) < 2 {
		t.Fatalf("always failed the same number of times: %v", seen)
	}
}

// A 500 after execution began stays with its key, as at Stripe: only another key gets on.
func TestStored500(t *testing.T) {
	s := openShop(t, quick())
	made := s.intent("pm_sim_stored_500")
	_, err := s.confirm(made.ID, "pay-1")
	s.wantError(err, http.StatusInternalServerError, anAPI, "")
	_, err = s.confirm(made.ID, "pay-1")
	e := s.wantError(err, http.StatusInternalServerError, anAPI, "")
	if !replayed(e.LastResponse) || e.LastResponse.Header.Get("Stripe-Should-Retry") != "false" {
		t.Fatal("the 500 was not kept")
	}
	if pi := s.look(made.ID); pi.AmountReceived != 0 {
		t.Fatal("charged")
	}
	if pi, err := s.confirm(made.ID, "pay-2"); err != nil || pi.Status != stripe.PaymentIntentStatusSucceeded {
		t.Fatal(pi, err)
	}
}

func TestCreateAndConfirmInOne(t *testing.T) {
	s := openShop(t, quick())
	p := s.params("pm_card_visa", "")
	p.Confirm = stripe.Bool(true)
	if pi, err := s.client.V1PaymentIntents.Create(context.Background(), p); err != nil || pi.Status != stripe.PaymentIntentStatusSucceeded {
		t.Fatal(pi, err)
	}
	p = s.params("pm_card_chargeDeclined", "")
	p.Confirm = stripe.Bool(true)
	_, err := s.client.V1PaymentIntents.Create(context.Background(), p)
	e := s.wantError(err, http.StatusPaymentRequired, aCard, "card_declined")
	if pi := s.look(e.PaymentIntent.ID); pi.Status != stripe.PaymentIntentStatusRequiresPaymentMethod {
		t.Fatal(pi.Status)
	}
}
