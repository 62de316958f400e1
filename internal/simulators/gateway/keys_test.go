package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
)

func TestSameKeySameAnswer(t *testing.T) {
	s := openShop(t, quick())
	first, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", "make"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.confirm(first.ID, "pay"); err != nil {
		t.Fatal(err)
	}
	again, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", "make"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.LastResponse.RawJSON, again.LastResponse.RawJSON) {
		t.Fatalf("another answer, though the intent has moved on since:\n%s\n%s", first.LastResponse.RawJSON, again.LastResponse.RawJSON)
	}
	if !replayed(again.LastResponse) || again.LastResponse.Header.Get("Original-Request") != first.LastResponse.RequestID {
		t.Fatalf("headers: %v", again.LastResponse.Header)
	}
	if l, _ := s.ledger(); len(l.PaymentIntents) != 1 {
		t.Fatalf("%d intents", len(l.PaymentIntents))
	}
}

func TestSameKeyKeepsRefusals(t *testing.T) {
	s := openShop(t, quick())
	made := s.intent("pm_card_chargeDeclined")
	for round, want := range []bool{false, true} {
		_, err := s.confirm(made.ID, "pay")
		if e := s.wantError(err, http.StatusPaymentRequired, aCard, "card_declined"); replayed(e.LastResponse) != want {
			t.Fatalf("round %d: replayed %v", round, !want)
		}
	}
	if _, lines := s.ledger(); lines["o-1"][0].Attempts != 1 {
		t.Fatal("the card was asked twice")
	}
}

func TestSameKeyOtherRequest(t *testing.T) {
	s := openShop(t, quick())
	made, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", "k"))
	if err != nil {
		t.Fatal(err)
	}
	other := s.params("pm_card_visa", "k")
	other.Amount = stripe.Int64(1)
	_, err = s.client.V1PaymentIntents.Create(context.Background(), other)
	s.wantError(err, http.StatusBadRequest, stripe.ErrorTypeIdempotency, "")
	_, err = s.confirm(made.ID, "k")
	s.wantError(err, http.StatusBadRequest, stripe.ErrorTypeIdempotency, "")
}

func TestKeyStaysFreeWhereNothingBegan(t *testing.T) {
	s := openShop(t, quick())
	p := s.params("pm_card_none", "k")
	_, err := s.client.V1PaymentIntents.Create(context.Background(), p)
	s.wantError(err, http.StatusBadRequest, anInvalid, "resource_missing")
	made, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", "k"))
	if err != nil || replayed(made.LastResponse) {
		t.Fatal(err)
	}
	_, err = s.confirm("pi_unknown", "k2")
	s.wantError(err, http.StatusNotFound, anInvalid, "resource_missing")
	if _, err := s.confirm(made.ID, "k2"); err != nil {
		t.Fatal(err)
	}
}

func TestKeyLength(t *testing.T) {
	s := openShop(t, quick())
	if _, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", strings.Repeat("k", maxKeyChars))); err != nil {
		t.Fatal(err)
	}
	request, _ := http.NewRequest(http.MethodPost, s.url+"/v1/refunds", strings.NewReader("payment_intent=pi_1"))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer sk_test_x")
	request.Header.Set("Idempotency-Key", strings.Repeat("k", maxKeyChars+1))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Fatal(response.Status)
	}
}

// Forgetting, at the second.
func TestKeysAreForgotten(t *testing.T) {
	k, start := newKeys(24*time.Hour, 2), time.Unix(1_700_000_000, 0)
	a, b := claim{key: "a"}, claim{key: "b"}
	told := answer{intent: &intent{ID: "pi_1"}}
	if earlier, refused := k.claim(a, start); earlier != nil || refused != nil {
		t.Fatal(earlier, refused)
	}
	k.keep(a, told, start.UnixMilli())
	if earlier, _ := k.claim(a, start.Add(24*time.Hour-time.Second)); earlier == nil || earlier.answer != told {
		t.Fatal("forgotten too early")
	}
	k.claim(b, start)
	if _, refused := k.claim(claim{key: "c"}, start); refused == nil || refused.Status != http.StatusTooManyRequests {
		t.Fatalf("a third key of two: %v", refused)
	}
	if earlier, refused := k.claim(a, start.Add(24*time.Hour)); earlier != nil || refused != nil {
		t.Fatal("remembered too long", earlier, refused)
	}
	k.release(b)
	if len(k.byKey) != 1 {
		t.Fatalf("%d keys left", len(k.byKey))
	}
}

// Fifty at once with one key: one charge; everybody else hears its answer or that it is under way.
func TestOneKeyManyAtOnce(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	s := openShop(t, settings)
	made := s.intent("pm_sim_slow")
	var fresh, kept, busy atomic.Int32
	inParallel(50, func(int) {
		pi, err := s.confirm(made.ID, "pay")
		switch {
		case err != nil && stripeError(err).Code == stripe.ErrorCodeIdempotencyKeyInUse:
			busy.Add(1)
		case err != nil:
			t.Error(err)
		case replayed(pi.LastResponse):
			kept.Add(1)
		default:
			fresh.Add(1)
		}
	})
	if fresh.Load() != 1 || fresh.Load()+kept.Load()+busy.Load() != 50 {
		t.Fatalf("%d ran, %d heard it again, %d were told to wait", fresh.Load(), kept.Load(), busy.Load())
	}
}

// Many at once on one intent, each with its own key: one charge, and never more given back than was taken.
func TestOneIntentManyAtOnce(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	s := openShop(t, settings)
	made := s.intent("pm_card_visa")
	var charged, refunds atomic.Int32
	inParallel(20, func(n int) {
		if _, err := s.confirm(made.ID, fmt.Sprint("pay-", n)); err == nil {
			charged.Add(1)
		} else {
			s.wantError(err, http.StatusBadRequest, anInvalid, stripe.ErrorCodePaymentIntentUnexpectedState)
		}
	})
	inParallel(20, func(n int) {
		if _, err := s.refund(made.ID, fmt.Sprint("back-", n), 100); err == nil {
			refunds.Add(1)
		} else if e := stripeError(err); e.HTTPStatusCode != http.StatusBadRequest {
			t.Error(err)
		}
	})
	_, lines := s.ledger()
	if charged.Load() != 1 || refunds.Load() != 12 || lines["o-1"][0].Captured != 1250 || lines["o-1"][0].Refunded != 1200 {
		t.Fatalf("%d charges, %d refunds, %+v", charged.Load(), refunds.Load(), lines["o-1"])
	}
}

func inParallel(n int, do func(int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}
