package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"
)

// An inbox is the shop's webhook endpoint; it refuses the first answers as often as told.
type inbox struct {
	*httptest.Server
	mu     sync.Mutex
	refuse int
	tries  int
	events []stripe.Event
	errors []error
}

const inboxSecret = "whsec_of_the_test"

func openInbox(t *testing.T, refuse int) *inbox {
	in := &inbox{refuse: refuse}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		event, err := webhook.ConstructEvent(body, r.Header.Get("Stripe-Signature"), inboxSecret)
		in.mu.Lock()
		defer in.mu.Unlock()
		in.tries++
		if err != nil {
			in.errors = append(in.errors, err)
		}
		if in.tries <= in.refuse {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		in.events = append(in.events, event)
	}))
	t.Cleanup(in.Close)
	return in
}

func (in *inbox) await(t *testing.T, n int) []stripe.Event {
	t.Helper()
	eventually(t, "webhooks", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return len(in.events) >= n
	})
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.events) != n || len(in.errors) > 0 {
		t.Fatalf("%d events of %d; %v", len(in.events), n, in.errors)
	}
	return in.events
}

func (in *inbox) shop(t *testing.T) *shop {
	settings := quick()
	settings.WebhookURL, settings.WebhookSecret = in.URL, inboxSecret
	return openShop(t, settings)
}

// stripe-go accepts the signature and reads the event.
func TestWebhooks(t *testing.T) {
	for _, c := range []struct {
		card, end string
		kind      stripe.EventType
		status    stripe.PaymentIntentStatus
	}{
		{"pm_card_visa", "", stripe.EventTypePaymentIntentSucceeded, "succeeded"},
		{"pm_card_chargeDeclined", "", stripe.EventTypePaymentIntentPaymentFailed, "requires_payment_method"},
		{"pm_sim_pending", "", stripe.EventTypePaymentIntentSucceeded, "succeeded"},
		{"pm_sim_pending_declined", "", stripe.EventTypePaymentIntentPaymentFailed, "requires_payment_method"},
		{"pm_sim_pending_forever", "cancel", stripe.EventTypePaymentIntentCanceled, "canceled"},
		{"pm_sim_late_success", "cancel", stripe.EventTypePaymentIntentSucceeded, "succeeded"},
	} {
		t.Run(c.card, func(t *testing.T) {
			in := openInbox(t, 0)
			s := in.shop(t)
			made := s.intent(c.card)
			s.confirm(made.ID, "pay")
			if c.end == "cancel" {
				s.cancel(made.ID, "end")
			}
			event := in.await(t, 1)[0]
			var pi stripe.PaymentIntent
			if err := json.Unmarshal(event.Data.Raw, &pi); err != nil {
				t.Fatal(err)
			}
			if event.Type != c.kind || pi.ID != made.ID || pi.Status != c.status || pi.Metadata["order_id"] != "o-1" {
				t.Fatalf("%s with %s %s", event.Type, pi.ID, pi.Status)
			}
		})
	}
}

func TestDuplicateWebhook(t *testing.T) {
	in := openInbox(t, 0)
	s := in.shop(t)
	s.confirm(s.intent("pm_sim_duplicate_webhook").ID, "pay")
	events := in.await(t, 2)
	if events[0].ID == "" || events[0].ID != events[1].ID {
		t.Fatalf("a repeat cannot be known: %q, %q", events[0].ID, events[1].ID)
	}
}

func TestWebhookIsTriedAgain(t *testing.T) {
	in := openInbox(t, 3)
	s := in.shop(t)
	s.confirm(s.intent("pm_card_visa").ID, "pay")
	in.await(t, 1)
	if in.tries != 4 || s.gateway.webhooks.retried.Load() != 3 {
		t.Fatalf("%d tries, %d counted", in.tries, s.gateway.webhooks.retried.Load())
	}
}

// Somebody who never answers 2xx costs webhookAttempts tries and is then left alone.
func TestWebhookIsGivenUp(t *testing.T) {
	in := openInbox(t, 1_000_000)
	s := in.shop(t)
	s.confirm(s.intent("pm_card_visa").ID, "pay")
	eventually(t, "the last try", func() bool { return s.gateway.webhooks.dropped.Load() == 1 })
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.tries != webhookAttempts || s.gateway.webhooks.underway.Load() != 0 {
		t.Fatalf("%d tries, %d still under way", in.tries, s.gateway.webhooks.underway.Load())
	}
}

func TestSignature(t *testing.T) {
	now, body := time.Unix(1_795_000_000, 0), []byte(`{"id":"evt_1"}`)
	if err := webhook.ValidatePayloadIgnoringTolerance(body, sign(body, "whsec_a", now), "whsec_a"); err != nil {
		t.Fatal(err)
	}
	if err := webhook.ValidatePayloadIgnoringTolerance(body, sign(body, "whsec_a", now), "whsec_b"); err == nil {
		t.Fatal("another secret's signature passes")
	}
}

func TestAPIVersionIsStripeGos(t *testing.T) {
	if APIVersion != stripe.APIVersion {
		t.Fatalf("%s, stripe-go has %s", APIVersion, stripe.APIVersion)
	}
}
