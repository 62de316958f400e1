package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
)

// A shop is an unmodified stripe-go client and the gateway it talks to.
type shop struct {
	t       *testing.T
	gateway *Gateway // nil when it runs in another process
	url     string
	client  *stripe.Client
}

// quick are the defaults with waits that a test can afford.
func quick() Settings {
	s := Defaults()
	s.Slow, s.Pending, s.Hang, s.WebhookPause = 50*time.Millisecond, 50*time.Millisecond, 20*time.Millisecond, time.Millisecond
	return s
}

func openShop(t *testing.T, s Settings) *shop {
	t.Helper()
	g, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(func() {
		g.Interrupt()
		server.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return &shop{t: t, gateway: g, url: server.URL, client: stripeClient(server.URL, 0)}
}

// stripeClient opens a connection for each request: on one that was used before, net/http itself repeats a request
// with an Idempotency-Key whose answer was lost, and the test would not see the loss.
func stripeClient(url string, retries int64) *stripe.Client {
	return stripe.NewClient("sk_test_shop", stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		URL:               stripe.String(url),
		HTTPClient:        &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second},
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
		MaxNetworkRetries: stripe.Int64(retries),
		EnableTelemetry:   stripe.Bool(false),
	})))
}

func (s *shop) params(card, key string) *stripe.PaymentIntentCreateParams {
	p := &stripe.PaymentIntentCreateParams{
		Amount: stripe.Int64(1250), Currency: stripe.String("eur"), PaymentMethodTypes: stripe.StringSlice([]string{"card"}),
		Description: stripe.String("order o-1"), ReceiptEmail: stripe.String("a@example.org"), Confirm: stripe.Bool(false),
		CaptureMethod: stripe.String("automatic"),
	}
	if card != "" {
		p.PaymentMethod = stripe.String(card)
	}
	p.AddMetadata("order_id", "o-1")
	if key != "" {
		p.SetIdempotencyKey(key)
	}
	return p
}

// intent creates one, which always works.
func (s *shop) intent(card string) *stripe.PaymentIntent {
	s.t.Helper()
	pi, err := s.client.V1PaymentIntents.Create(context.Background(), s.params(card, ""))
	if err != nil {
		s.t.Fatal(err)
	}
	return pi
}

func (s *shop) confirm(id, key string) (*stripe.PaymentIntent, error) {
	p := &stripe.PaymentIntentConfirmParams{}
	if key != "" {
		p.SetIdempotencyKey(key)
	}
	return s.client.V1PaymentIntents.Confirm(context.Background(), id, p)
}

func (s *shop) cancel(id, key string) (*stripe.PaymentIntent, error) {
	p := &stripe.PaymentIntentCancelParams{CancellationReason: stripe.String("abandoned")}
	if key != "" {
		p.SetIdempotencyKey(key)
	}
	return s.client.V1PaymentIntents.Cancel(context.Background(), id, p)
}

func (s *shop) refund(id, key string, amount int64) (*stripe.Refund, error) {
	p := &stripe.RefundCreateParams{PaymentIntent: stripe.String(id)}
	if amount != 0 {
		p.Amount = stripe.Int64(amount)
	}
	p.AddMetadata("step", key)
	if key != "" {
		p.SetIdempotencyKey(key)
	}
	return s.client.V1Refunds.Create(context.Background(), p)
}

func (s *shop) look(id string) *stripe.PaymentIntent {
	s.t.Helper()
	pi, err := s.client.V1PaymentIntents.Retrieve(context.Background(), id, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return pi
}

// await polls until the intent has the status.
func (s *shop) await(id string, want stripe.PaymentIntentStatus) *stripe.PaymentIntent {
	s.t.Helper()
	var pi *stripe.PaymentIntent
	eventually(s.t, fmt.Sprintf("%s to be %s", id, want), func() bool {
		pi = s.look(id)
		return pi.Status == want
	})
	return pi
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func (s *shop) settle(id, outcome string) int {
	s.t.Helper()
	response, err := http.PostForm(s.url+"/_simulator/payment_intents/"+id+"/settle", map[string][]string{"outcome": {outcome}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

// ledger reads the gateway's own account over HTTP, by order ID.
func (s *shop) ledger() (Ledger, map[string][]LedgerLine) {
	s.t.Helper()
	response, err := http.Get(s.url + "/_simulator/ledger")
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	var l Ledger
	if err := json.NewDecoder(response.Body).Decode(&l); err != nil {
		s.t.Fatal(err)
	}
	byOrder := map[string][]LedgerLine{}
	for _, line := range l.PaymentIntents {
		byOrder[line.Metadata["order_id"]] = append(byOrder[line.Metadata["order_id"]], line)
	}
	return l, byOrder
}

// stripeError is the error object in err; a nil one matches nothing.
func stripeError(err error) *stripe.Error {
	var e *stripe.Error
	if errors.As(err, &e) {
		return e
	}
	return &stripe.Error{Msg: fmt.Sprint(err)}
}

func (s *shop) wantError(err error, status int, kind stripe.ErrorType, code stripe.ErrorCode) *stripe.Error {
	s.t.Helper()
	e := stripeError(err)
	if e.HTTPStatusCode != status || e.Type != kind || e.Code != code {
		s.t.Fatalf("got %d %s %q (%s), want %d %s %q", e.HTTPStatusCode, e.Type, e.Code, e.Msg, status, kind, code)
	}
	return e
}

func replayed(r *stripe.APIResponse) bool { return r.Header.Get("Idempotent-Replayed") == "true" }
