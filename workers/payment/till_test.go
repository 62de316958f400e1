package payment

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	simulator "github.com/millrace/millrace/internal/simulators/gateway"
)

const (
	doCreate  = paymentv1.PaymentStep_PAYMENT_STEP_CREATE
	doConfirm = paymentv1.PaymentStep_PAYMENT_STEP_CONFIRM
	doPoll    = paymentv1.PaymentStep_PAYMENT_STEP_POLL
	doCancel  = paymentv1.PaymentStep_PAYMENT_STEP_CANCEL
	doRefund  = paymentv1.PaymentStep_PAYMENT_STEP_REFUND

	created       = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CREATED
	pending       = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING
	paid          = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_SUCCEEDED
	noPaid        = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_DECLINED
	noLonger      = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CANCELED
	givenBack     = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUNDED
	noAnswer      = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_UNAVAILABLE
	noRequest     = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUSED
	price         = int64(1999)
	testKey       = "sk_test_of_the_tests"
	clientTimeout = 2 * time.Second // of one call
	decideLimit   = 5 * time.Second // until a pending card must have decided
)

// A wire is what stands between us and the simulator: tests can cut it.
type wire struct {
	sim  http.Handler
	does atomic.Pointer[func(w http.ResponseWriter, r *http.Request, sim http.Handler)]
}

func (c *wire) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if does := c.does.Load(); does != nil {
		(*does)(w, r, c.sim)
		return
	}
	c.sim.ServeHTTP(w, r)
}

func (c *wire) set(does func(w http.ResponseWriter, r *http.Request, sim http.Handler)) {
	c.does.Store(&does)
}

func (c *wire) mend() { c.does.Store(nil) }

// lose lets the simulator act and keeps its answer from us.
func lose(_ http.ResponseWriter, r *http.Request, sim http.Handler) {
	sim.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// answer answers in the simulator's place.
func answer(status int, body string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// A till is our gateway in front of a simulator's.
type till struct {
	t    *testing.T
	sim  *simulator.Gateway
	wire *wire
	url  string
	ours *gateway
}

func openTill(t *testing.T, change func(*simulator.Settings)) *till {
	t.Helper()
	s := simulator.Defaults()
	s.Slow, s.Hang, s.Pending = 20*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	if change != nil {
		change(&s)
	}
	sim, err := simulator.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	c := &wire{sim: sim}
	server := httptest.NewServer(c)
	t.Cleanup(func() {
		sim.Interrupt()
		server.Close()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{Key: testKey, URL: server.URL, InFlight: 16, Tries: 3, Backoff: time.Millisecond, Timeout: clientTimeout}
	return &till{t: t, sim: sim, wire: c, url: server.URL, ours: newGateway(cfg, func(string, error, time.Duration) {})}
}

// An order is one order's requests, as its processor would write them.
type order struct {
	till   *till
	id     string
	card   string
	intent string
	number int32
}

func (t *till) order(card string) *order { return &order{till: t, id: uuid.NewString(), card: card} }

func (o *order) request(s paymentv1.PaymentStep) *paymentv1.PaymentRequest {
	o.number++
	r := &paymentv1.PaymentRequest{
		OrderId: o.id, Step: s, StepNumber: o.number, IntentId: o.intent, AmountMinor: price, CurrencyCode: "EUR", UserId: "u",
	}
	if o.intent == "" {
		r.PaymentMethod, r.Email = o.card, "buyer@example.com"
	}
	return r
}

func (o *order) do(s paymentv1.PaymentStep) *paymentv1.PaymentResult {
	return o.send(o.request(s), false)
}

func (o *order) send(r *paymentv1.PaymentRequest, old bool) *paymentv1.PaymentResult {
	o.till.t.Helper()
	if err := check(r); err != nil {
		o.till.t.Fatal(err)
	}
	res, err := o.till.ours.step(o.till.t.Context(), r, old)
	if err != nil {
		o.till.t.Fatal(err)
	}
	if res.OrderId != o.id || res.Step != r.Step || res.StepNumber != r.StepNumber {
		o.till.t.Fatalf("%v is not an answer to %v", res, r)
	}
	if res.Outcome == created {
		o.intent = res.IntentId
	}
	return res
}

func (o *order) wants(res *paymentv1.PaymentResult, want paymentv1.PaymentOutcome) *paymentv1.PaymentResult {
	o.till.t.Helper()
	if res.Outcome != want {
		o.till.t.Fatalf("%s: %v of step %v, want %v: %s %s", o.card, res.Outcome, res.Step, want, res.DeclineCode, res.Message)
	}
	return res
}

// charge makes an order whose intent has been confirmed.
func (t *till) charge(card string) *order {
	t.t.Helper()
	o := t.order(card)
	o.wants(o.do(doCreate), created)
	o.do(doConfirm)
	return o
}

// line is the ledger's one line about the order.
func (o *order) line() simulator.LedgerLine {
	o.till.t.Helper()
	lines := o.lines()
	if len(lines) != 1 {
		o.till.t.Fatalf("order %s has %d intents: %+v", o.id, len(lines), lines)
	}
	return lines[0]
}

func (o *order) lines() []simulator.LedgerLine {
	var own []simulator.LedgerLine
	for _, line := range o.till.sim.Ledger().PaymentIntents {
		if line.Metadata["order_id"] == o.id {
			own = append(own, line)
		}
	}
	return own
}
