package payment

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	simulator "github.com/millrace/millrace/internal/simulators/gateway"
	"github.com/millrace/millrace/topics"
)

// What CONFIRM answers for each card, at first and when it has been polled until it is decided.
var cards = map[string]struct{ first, last paymentv1.PaymentOutcome }{
	"pm_card_visa":                                 {paid, paid},
	"pm_card_visa_debit":                           {paid, paid},
	"pm_card_mastercard":                           {paid, paid},
	"pm_card_amex":                                 {paid, paid},
	"pm_card_chargeDeclined":                       {noPaid, noPaid},
	"pm_card_visa_chargeDeclined":                  {noPaid, noPaid},
	"pm_card_chargeDeclinedInsufficientFunds":      {noPaid, noPaid},
	"pm_card_visa_chargeDeclinedInsufficientFunds": {noPaid, noPaid},
	"pm_card_visa_chargeDeclinedLostCard":          {noPaid, noPaid},
	"pm_card_visa_chargeDeclinedStolenCard":        {noPaid, noPaid},
	"pm_card_chargeDeclinedExpiredCard":            {noPaid, noPaid},
	"pm_card_chargeDeclinedIncorrectCvc":           {noPaid, noPaid},
	"pm_card_chargeDeclinedProcessingError":        {noPaid, noPaid},
	"pm_sim_slow":                                  {paid, paid},
	"pm_sim_pending":                               {pending, paid},
	"pm_sim_pending_declined":                      {pending, noPaid},
	"pm_sim_pending_forever":                       {pending, pending},
	"pm_sim_pending_stuck":                         {pending, pending},
	"pm_sim_late_success":                          {pending, pending},
	"pm_sim_charge_then_timeout":                   {paid, paid},
	"pm_sim_sporadic_500":                          {paid, paid},
	"pm_sim_stored_500":                            {paid, paid},
	"pm_sim_duplicate_webhook":                     {paid, paid},
}

func TestEveryCard(t *testing.T) {
	for _, card := range simulator.Cards() {
		want, known := cards[card.ID]
		if !known {
			t.Errorf("what does %s do here?", card.ID)
			continue
		}
		t.Run(card.ID, func(t *testing.T) {
			t.Parallel()
			o := openTill(t, nil).order(card.ID)
			o.wants(o.do(doCreate), created)
			confirm := o.request(doConfirm)
			o.wants(o.send(confirm, false), want.first)
			o.settles(want.last)
			o.wants(o.send(confirm, false), want.first) // redelivered: the same answer, in the same words
			o.wants(o.send(confirm, true), want.last)   // after a day
			o.wants(o.do(doConfirm), want.last)         // asked again
			o.wants(o.do(doPoll), want.last)
			o.inTheBooks(want.last)
		})
	}
}

func (o *order) settles(last paymentv1.PaymentOutcome) {
	o.till.t.Helper()
	for end := time.Now().Add(decideLimit); ; time.Sleep(time.Millisecond) {
		res := o.do(doPoll)
		if res.Outcome != pending || last == pending {
			o.wants(res, last)
			return
		}
		if time.Now().After(end) {
			o.till.t.Fatalf("%s is still pending", o.card)
		}
	}
}

func (o *order) inTheBooks(last paymentv1.PaymentOutcome) {
	o.till.t.Helper()
	line := o.line()
	switch last {
	case paid:
		if line.Captured != price {
			o.till.t.Errorf("captured %d, want %d", line.Captured, price)
		}
	case noPaid:
		if line.Captured != 0 || line.Status != "canceled" {
			o.till.t.Errorf("a declined intent is %s and captured %d", line.Status, line.Captured)
		}
	default:
		if line.Captured != 0 {
			o.till.t.Errorf("captured %d of a pending payment", line.Captured)
		}
	}
}

func TestAmountAndDeclineCode(t *testing.T) {
	till := openTill(t, nil)
	good := till.order("pm_card_visa")
	good.wants(good.do(doCreate), created)
	if res := good.do(doConfirm); res.AmountMinor != price || res.CurrencyCode != "EUR" || res.IntentId != good.intent {
		t.Errorf("charged: %v", res)
	}
	bad := till.order("pm_card_chargeDeclinedInsufficientFunds")
	bad.wants(bad.do(doCreate), created)
	for range 2 {
		if res := bad.do(doConfirm); res.DeclineCode != "insufficient_funds" || res.Message == "" {
			t.Errorf("declined: %v", res)
		}
	}
}

func TestCreateAskedOftenMakesOneIntent(t *testing.T) {
	till := openTill(t, nil)
	o := till.order("pm_card_visa")
	var requests []*paymentv1.PaymentRequest
	for range 20 {
		requests = append(requests, o.request(doCreate))
	}
	var all sync.WaitGroup
	outcomes := make([]*paymentv1.PaymentResult, len(requests))
	for i, r := range requests {
		all.Go(func() { outcomes[i], _ = till.ours.step(t.Context(), r, false) })
	}
	all.Wait()
	intent := o.line().PaymentIntent
	for _, res := range outcomes {
		if res.Outcome == created && res.IntentId != intent {
			t.Errorf("%v, but the order's intent is %s", res, intent)
		}
	}
	o.wants(o.do(doCreate), created)
}

func TestLostAnswersAreFoundAgain(t *testing.T) {
	till := openTill(t, nil)
	till.wire.set(lose)
	o := till.order("pm_card_visa")
	o.wants(o.do(doCreate), noAnswer)
	till.wire.mend()
	o.wants(o.do(doCreate), created)

	till.wire.set(lose)
	o.wants(o.do(doConfirm), noAnswer)
	till.wire.mend()
	o.wants(o.do(doConfirm), paid)
	if line := o.line(); line.Captured != price || line.Attempts != 1 {
		t.Errorf("the card was asked %d times and paid %d", line.Attempts, line.Captured)
	}
}

// Only the confirm's answer gets lost: looking finds what became of it, within the same step.
func TestAnswerOfConfirmLost(t *testing.T) {
	till := openTill(t, nil)
	o := till.order("pm_card_visa")
	o.wants(o.do(doCreate), created)
	till.wire.set(func(w http.ResponseWriter, r *http.Request, sim http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/confirm") {
			lose(w, r, sim)
		}
		sim.ServeHTTP(w, r)
	})
	o.wants(o.do(doConfirm), paid)
}

func TestCancel(t *testing.T) {
	till := openTill(t, nil)
	unconfirmed := till.order("pm_card_visa")
	unconfirmed.wants(unconfirmed.do(doCreate), created)
	for what, c := range map[string]struct {
		order *order
		want  paymentv1.PaymentOutcome
	}{
		"unconfirmed":       {unconfirmed, noLonger},
		"charged":           {till.charge("pm_card_visa"), paid},
		"declined":          {till.charge("pm_card_chargeDeclined"), noLonger},
		"pending":           {till.charge("pm_sim_pending_forever"), noLonger},
		"will not be ended": {till.charge("pm_sim_pending_stuck"), pending},
		"charged meanwhile": {till.charge("pm_sim_late_success"), paid},
	} {
		t.Run(what, func(t *testing.T) {
			r := c.order.request(doCancel)
			for range 2 {
				if res := c.order.wants(c.order.send(r, false), c.want); res.IntentId != c.order.intent {
					t.Errorf("%v names another intent", res)
				}
			}
			c.order.wants(c.order.do(doCancel), c.want)
			c.order.wants(c.order.send(c.order.request(doCancel), true), c.want)
		})
	}
}

// A stuck payment refuses to be cancelled, and the gateway keeps that answer under its key; the next CANCEL has another.
func TestCancelAfterItWasRefused(t *testing.T) {
	till := openTill(t, nil)
	o := till.charge("pm_sim_pending_stuck")
	o.wants(o.do(doCancel), pending)
	till.tell(o.intent, "declined")
	o.wants(o.do(doCancel), noLonger)
	o.wants(o.do(doPoll), noPaid)
}

func (t *till) tell(intent, outcome string) {
	t.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/_simulator/payment_intents/"+intent+"/settle", strings.NewReader("outcome="+outcome))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Bearer "+testKey)
	w := httptest.NewRecorder()
	t.sim.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.t.Fatalf("settle: %d %s", w.Code, w.Body)
	}
}

func TestCancelOfAnIntentNobodyKnows(t *testing.T) {
	till := openTill(t, nil)
	lost := till.order("pm_card_visa")
	till.wire.set(lose)
	lost.wants(lost.do(doCreate), noAnswer)
	till.wire.mend()
	lost.wants(lost.do(doCancel), noLonger)
	if line := lost.line(); line.Status != "canceled" {
		t.Errorf("the intent whose CREATE was not answered is %s", line.Status)
	}

	never := till.order("pm_nobody_has_this")
	never.wants(never.do(doCreate), noRequest)
	never.wants(never.do(doCancel), noLonger)

	bare := till.order("pm_card_visa")
	r := bare.request(doCancel)
	r.AmountMinor, r.CurrencyCode, r.PaymentMethod = 0, "", ""
	bare.wants(bare.send(r, false), noLonger)

	down := till.order("pm_card_visa")
	till.wire.set(answer(http.StatusBadGateway, "<html>"))
	down.wants(down.do(doCancel), noAnswer)
}

func TestRefund(t *testing.T) {
	// Keys are forgotten at once: what keeps refunds apart is their number.
	till := openTill(t, func(s *simulator.Settings) { s.KeepKeys = time.Nanosecond })
	o := till.charge("pm_card_visa")
	first := o.refund(1, 500)
	for _, old := range []bool{false, false, true} {
		res := o.wants(o.send(first, old), givenBack)
		if res.RefundId == "" || res.AmountMinor != 500 || res.CurrencyCode != "EUR" {
			t.Errorf("%v", res)
		}
	}
	o.wants(o.send(o.refund(1, 500), false), givenBack)
	o.wants(o.send(o.refund(2, 1499), false), givenBack)
	if res := o.wants(o.send(o.refund(3, 1), false), noRequest); res.DeclineCode == "" || res.Message == "" {
		t.Errorf("refused without a word: %v", res)
	}
	if line := o.line(); line.Refunded != price {
		t.Errorf("refunded %d, want %d", line.Refunded, price)
	}
}

func (o *order) refund(number int32, amount int64) *paymentv1.PaymentRequest {
	r := o.request(doRefund)
	r.RefundNumber, r.AmountMinor = number, amount
	return r
}

func TestRefundWhoseAnswerGetsLost(t *testing.T) {
	till := openTill(t, nil)
	o := till.charge("pm_card_visa")
	till.wire.set(func(w http.ResponseWriter, r *http.Request, sim http.Handler) {
		if r.Method == http.MethodPost {
			lose(w, r, sim)
		}
		sim.ServeHTTP(w, r)
	})
	o.wants(o.send(o.refund(1, 700), false), givenBack)
	till.wire.set(lose)
	o.wants(o.send(o.refund(2, 700), false), noAnswer)
	till.wire.mend()
	o.wants(o.send(o.refund(2, 700), false), givenBack)
	if line := o.line(); line.Refunded != 1400 {
		t.Errorf("refunded %d, want 1400", line.Refunded)
	}
}

func TestOldRequestsBeginNothing(t *testing.T) {
	till := openTill(t, nil)
	o := till.order("pm_card_visa")
	o.wants(o.send(o.request(doCreate), true), noRequest)
	o.wants(o.send(o.request(doCancel), true), noLonger)
	if n := len(o.lines()); n != 0 {
		t.Fatalf("%d intents", n)
	}
	o.wants(o.do(doCreate), created)
	o.wants(o.send(o.request(doConfirm), true), noAnswer)
	if line := o.line(); line.Attempts != 0 {
		t.Errorf("the card was asked %d times", line.Attempts)
	}
	o.wants(o.send(o.request(doPoll), true), pending)
}

func TestGatewayThatAnswersNothingOfWorth(t *testing.T) {
	till := openTill(t, nil)
	o := till.order("pm_card_visa")
	o.wants(o.do(doCreate), created)
	for what, cut := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"500 without a body":  answer(http.StatusInternalServerError, ""),
		"a proxy's page":      answer(http.StatusBadGateway, "<html>bad gateway</html>"),
		"200 and a page":      answer(http.StatusOK, "<html>hello</html>"),
		"too many requests":   answer(http.StatusTooManyRequests, `{"error":{"type":"invalid_request_error","code":"rate_limit","message":"slow down"}}`),
		"key not let in":      answer(http.StatusUnauthorized, `{"error":{"type":"invalid_request_error","message":"no"}}`),
		"not for this key":    answer(http.StatusForbidden, `{"error":{"type":"invalid_request_error","message":"no"}}`),
		"an account without":  answer(http.StatusNotFound, `{"error":{"type":"invalid_request_error","code":"resource_missing","message":"no"}}`),
		"connections dropped": func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
	} {
		t.Run(what, func(t *testing.T) {
			till.wire.set(cut)
			for _, s := range []paymentv1.PaymentStep{doConfirm, doPoll, doCancel} {
				o.wants(o.do(s), noAnswer)
			}
			o.wants(o.send(o.refund(1, 1), false), noAnswer)
			fresh := till.order("pm_card_visa")
			fresh.wants(fresh.do(doCreate), noAnswer)
		})
	}
	till.wire.mend()
	o.wants(o.do(doConfirm), paid)
}

// A gateway that takes requests and never answers holds a step for a while, not for all its calls together.
func TestGatewayThatHangs(t *testing.T) {
	till := openTill(t, nil)
	o := till.order("pm_card_visa")
	o.wants(o.do(doCreate), created)
	till.ours.timeout, till.ours.tries = 20*time.Millisecond, 10
	till.wire.set(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body) // a server only notices that nobody waits when it has read the request
		<-r.Context().Done()
	})
	began := time.Now()
	for _, s := range []paymentv1.PaymentStep{doConfirm, doPoll, doCancel} {
		o.wants(o.do(s), noAnswer)
	}
	if took := time.Since(began); took > clientTimeout {
		t.Errorf("three steps took %v, a single call may take %v", took, clientTimeout)
	}
	till.wire.mend()
	till.ours.timeout = clientTimeout
	o.wants(o.do(doConfirm), paid)
}

// No request goes out on behalf of nobody: a step whose partition is taken away has no result.
func TestStepCutOff(t *testing.T) {
	till := openTill(t, nil)
	o := till.order("pm_card_visa")
	ctx, cancel := context.WithCancel(t.Context())
	till.wire.set(func(http.ResponseWriter, *http.Request, http.Handler) { cancel(); panic(http.ErrAbortHandler) })
	if res, err := till.ours.step(ctx, o.request(doCreate), false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", res, err)
	}
}

// Every third call goes wrong, before or after it had its effect; a shop that repeats what was not answered ends right.
func TestSporadicFaults(t *testing.T) {
	till := openTill(t, func(s *simulator.Settings) { s.FaultRate, s.Seed = 0.35, 7 })
	for i := range 60 {
		o := till.order([]string{"pm_card_visa", "pm_card_chargeDeclined", "pm_sim_stored_500"}[i%3])
		o.insist(doCreate)
		if o.insist(doConfirm).Outcome == paid {
			o.insist(doRefund)
		}
		line := o.line()
		if i%3 == 1 && (line.Captured != 0 || line.Status != "canceled") {
			t.Errorf("declined: %+v", line)
		}
		if i%3 != 1 && (line.Captured != price || line.Refunded != price) {
			t.Errorf("charged and refunded: %+v", line)
		}
	}
}

func (o *order) insist(s paymentv1.PaymentStep) *paymentv1.PaymentResult {
	o.till.t.Helper()
	for range 20 {
		r := o.request(s)
		r.RefundNumber = 1
		if res := o.send(r, false); res.Outcome != noAnswer {
			return res
		}
	}
	o.till.t.Fatalf("%v has no answer", s)
	return nil
}

func TestRequestsThatLackSomething(t *testing.T) {
	good := func() *paymentv1.PaymentRequest {
		return &paymentv1.PaymentRequest{OrderId: "o", StepNumber: 1, IntentId: "pi_1", AmountMinor: 1, CurrencyCode: "EUR", PaymentMethod: "pm", RefundNumber: 1}
	}
	all := []paymentv1.PaymentStep{doCreate, doConfirm, doPoll, doCancel, doRefund}
	for _, s := range all {
		r := good()
		if r.Step = s; check(r) != nil {
			t.Errorf("%v: %v", s, check(r))
		}
	}
	for what, c := range map[string]struct {
		steps []paymentv1.PaymentStep
		spoil func(*paymentv1.PaymentRequest)
	}{
		"no order":            {all, func(r *paymentv1.PaymentRequest) { r.OrderId = "" }},
		"no number":           {all, func(r *paymentv1.PaymentRequest) { r.StepNumber = 0 }},
		"long intent":         {all, func(r *paymentv1.PaymentRequest) { r.IntentId = strings.Repeat("i", 256) }},
		"no step":             {all, func(r *paymentv1.PaymentRequest) { r.Step = 0 }},
		"unknown step":        {all, func(r *paymentv1.PaymentRequest) { r.Step = 99 }},
		"no intent":           {all[1:3], func(r *paymentv1.PaymentRequest) { r.IntentId = "" }},
		"no intent to refund": {all[4:], func(r *paymentv1.PaymentRequest) { r.IntentId = "" }},
		"no refund":           {all[4:], func(r *paymentv1.PaymentRequest) { r.RefundNumber = 0 }},
		"no amount":           {[]paymentv1.PaymentStep{doCreate, doRefund}, func(r *paymentv1.PaymentRequest) { r.AmountMinor = 0 }},
		"no currency":         {all[:1], func(r *paymentv1.PaymentRequest) { r.CurrencyCode = "" }},
		"no card":             {all[:1], func(r *paymentv1.PaymentRequest) { r.PaymentMethod = "" }},
	} {
		for _, s := range c.steps {
			r := good()
			r.Step = s
			c.spoil(r)
			var rej topics.Rejection
			if err := check(r); !errors.As(err, &rej) || rej.Reason != topics.Invalid {
				t.Errorf("%v with %s: %v", s, what, err)
			}
		}
	}
}
