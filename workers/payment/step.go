package payment

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v85"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/topics"
)

const (
	maxMessageBytes = 256
	maxCodeBytes    = 64
	maxIDBytes      = 255
)

// step carries out one request. old says that the idempotency keys it relies on may be forgotten, so that it begins nothing. The
// error is only ctx's: then there is no result, and whoever owns the partition next carries it out again. A gateway
// that hangs holds a step for as long as all its tries and one look, and no longer.
func (g *gateway) step(ctx context.Context, r *paymentv1.PaymentRequest, old bool) (*paymentv1.PaymentResult, error) {
	limited, cancel := context.WithTimeout(ctx, g.timeout*time.Duration(g.tries+1))
	defer cancel()
	res := g.perform(limited, r, old)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return res, nil
}

func (g *gateway) perform(ctx context.Context, r *paymentv1.PaymentRequest, old bool) *paymentv1.PaymentResult {
	switch r.Step {
	case paymentv1.PaymentStep_PAYMENT_STEP_CREATE:
		return g.stepCreate(ctx, r, old)
	case paymentv1.PaymentStep_PAYMENT_STEP_CONFIRM:
		return g.stepConfirm(ctx, r, old)
	case paymentv1.PaymentStep_PAYMENT_STEP_POLL:
		return g.look(ctx, r, nil)
	case paymentv1.PaymentStep_PAYMENT_STEP_CANCEL:
		return g.stepCancel(ctx, r, old)
	case paymentv1.PaymentStep_PAYMENT_STEP_REFUND:
		return g.stepRefund(ctx, r)
	}
	panic(fmt.Sprintf("payment: step %v passed the door", r.Step))
}

// makes says that a request makes the order's intent, or finds it by making it again.
func makes(r *paymentv1.PaymentRequest) bool {
	return r.Step == paymentv1.PaymentStep_PAYMENT_STEP_CREATE || r.Step == paymentv1.PaymentStep_PAYMENT_STEP_CANCEL && r.IntentId == ""
}

// check says what a request lacks.
func check(r *paymentv1.PaymentRequest) error {
	lacks := func(what string) error {
		return topics.Rejection{Reason: topics.Invalid, Detail: fmt.Sprintf("%v needs %s", r.Step, what)}
	}
	if r.OrderId == "" || r.StepNumber < 1 {
		return lacks("an order_id and a step_number from 1")
	}
	if len(r.IntentId) > maxIDBytes {
		return lacks("an intent_id of at most 255 bytes")
	}
	switch r.Step {
	case paymentv1.PaymentStep_PAYMENT_STEP_CREATE:
		if r.AmountMinor < 1 || len(r.CurrencyCode) != 3 || r.PaymentMethod == "" {
			return lacks("an amount_minor above 0, a currency_code and a payment_method")
		}
	case paymentv1.PaymentStep_PAYMENT_STEP_CONFIRM, paymentv1.PaymentStep_PAYMENT_STEP_POLL:
		if r.IntentId == "" {
			return lacks("an intent_id")
		}
	case paymentv1.PaymentStep_PAYMENT_STEP_CANCEL:
	case paymentv1.PaymentStep_PAYMENT_STEP_REFUND:
		if r.IntentId == "" || r.AmountMinor < 1 || r.RefundNumber < 1 {
			return lacks("an intent_id, an amount_minor above 0 and a refund_number from 1")
		}
	default:
		return topics.Rejection{Reason: topics.Invalid, Detail: fmt.Sprintf("step %d is not one", r.Step)}
	}
	return nil
}

func (g *gateway) stepCreate(ctx context.Context, r *paymentv1.PaymentRequest, old bool) *paymentv1.PaymentResult {
	if old { // a second intent could come of it; the first, if there is one, was never confirmed
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUSED, "", "the order's first CREATE is older than an idempotency key lives")
	}
	pi, err := g.create(ctx, r)
	switch troubleOf(err) {
	case none:
		res := say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CREATED, "", "")
		res.IntentId = pi.ID
		return res
	case requestNo, issuerNo:
		return refused(r, err)
	}
	return unavailable(r, err)
}

func (g *gateway) stepConfirm(ctx context.Context, r *paymentv1.PaymentRequest, old bool) *paymentv1.PaymentResult {
	if old {
		return g.look(ctx, r, nil)
	}
	pi, err := g.confirm(ctx, r)
	switch troubleOf(err) {
	case none:
		return g.settle(ctx, r, pi, nil)
	case issuerNo:
		code, words := codeAndWords(err)
		return g.decline(ctx, r, code, words)
	}
	return g.look(ctx, r, err)
}

// look answers with what the gateway holds true about the intent, after a call that ended in trouble or because the
// step only looks.
func (g *gateway) look(ctx context.Context, r *paymentv1.PaymentRequest, trouble error) *paymentv1.PaymentResult {
	pi, err := g.intent(ctx, r.IntentId)
	if err != nil {
		return unavailable(r, err)
	}
	return g.settle(ctx, r, pi, trouble)
}

func (g *gateway) settle(ctx context.Context, r *paymentv1.PaymentRequest, pi *stripe.PaymentIntent, trouble error) *paymentv1.PaymentResult {
	switch standingOf(pi) {
	case succeeded:
		return charged(r, pi)
	case processing:
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING, "", "")
	case canceled:
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CANCELED, "", "")
	case declinedFinal:
		code, words := reason(pi)
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_DECLINED, code, words)
	case declined:
		code, words := reason(pi)
		return g.decline(ctx, r, code, words)
	case untouched:
		if r.Step == paymentv1.PaymentStep_PAYMENT_STEP_POLL {
			return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING, "", "")
		}
		return notDone(r, trouble)
	}
	panic("payment: unknown standing")
}

// reason is why the issuer said no.
func reason(pi *stripe.PaymentIntent) (code, words string) {
	if pi.LastPaymentError == nil {
		return "authentication_required", "The card asks the buyer to prove who they are."
	}
	return codeAndWords(pi.LastPaymentError)
}

// decline makes a no final: Stripe would let the same intent be paid with another card.
func (g *gateway) decline(ctx context.Context, r *paymentv1.PaymentRequest, code, words string) *paymentv1.PaymentResult {
	res := g.endIntent(ctx, r, r.IntentId)
	if res.Outcome == paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CANCELED {
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_DECLINED, code, words)
	}
	return res
}

func (g *gateway) stepCancel(ctx context.Context, r *paymentv1.PaymentRequest, old bool) *paymentv1.PaymentResult {
	if r.IntentId != "" {
		return g.endIntent(ctx, r, r.IntentId)
	}
	if old || r.AmountMinor < 1 {
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CANCELED, "", "no intent was ever confirmed")
	}
	made := g.stepCreate(ctx, r, false)
	switch made.Outcome {
	case paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CREATED:
		return g.endIntent(ctx, r, made.IntentId)
	case paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUSED:
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CANCELED, "", "the gateway never took the intent")
	}
	return made
}

// endIntent makes sure that an intent can never succeed, or finds that it has.
func (g *gateway) endIntent(ctx context.Context, r *paymentv1.PaymentRequest, id string) *paymentv1.PaymentResult {
	pi, err := g.cancel(ctx, r, id)
	if err != nil {
		var lookErr error
		if pi, lookErr = g.intent(ctx, id); lookErr != nil {
			return unavailable(r, lookErr)
		}
	}
	res := ended(r, pi, err)
	res.IntentId = id
	return res
}

func ended(r *paymentv1.PaymentRequest, pi *stripe.PaymentIntent, trouble error) *paymentv1.PaymentResult {
	switch standingOf(pi) {
	case canceled, declinedFinal:
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CANCELED, "", "")
	case succeeded:
		return charged(r, pi)
	case processing:
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING, "", "")
	case untouched, declined:
		return notDone(r, trouble)
	}
	panic("payment: unknown standing")
}

func (g *gateway) stepRefund(ctx context.Context, r *paymentv1.PaymentRequest) *paymentv1.PaymentResult {
	if found, err := g.findRefund(ctx, r); err != nil {
		return unavailable(r, err)
	} else if found != nil {
		return refunded(r, found)
	}
	made, err := g.refund(ctx, r)
	if err == nil {
		return refunded(r, made)
	}
	all, lookErr := g.refunds(ctx, r.IntentId)
	if lookErr != nil {
		return unavailable(r, lookErr)
	}
	if found := ours(all, r); found != nil {
		return refunded(r, found)
	}
	switch troubleOf(err) {
	case requestNo:
		return g.refundedByOthers(ctx, r, all, err)
	case issuerNo:
		return refused(r, err)
	}
	return unavailable(r, err)
}

// refundedByOthers answers a refund that the gateway does not take. When it was to be of the whole charge and others have given
// that back, an operator in the gateway's dashboard say, there is nothing left to ask for.
func (g *gateway) refundedByOthers(ctx context.Context, r *paymentv1.PaymentRequest, all []*stripe.Refund, no error) *paymentv1.PaymentResult {
	pi, err := g.intent(ctx, r.IntentId)
	if err != nil {
		return unavailable(r, err)
	}
	whole, done, coming, id := pi.AmountReceived, int64(0), int64(0), ""
	for _, re := range all {
		switch re.Status {
		case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
			continue
		case stripe.RefundStatusSucceeded:
			done += re.Amount
		default:
			coming += re.Amount
		}
		if re.Amount == whole {
			id = re.ID // of several, none is the answer
		}
	}
	if r.AmountMinor != whole || done+coming != whole {
		return refused(r, no)
	}
	res := say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUNDED, "", "somebody else has given the charge back")
	if coming > 0 {
		res = say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING, "", "somebody else is giving the charge back")
	} else {
		res.AmountMinor, res.CurrencyCode = whole, strings.ToUpper(string(pi.Currency))
	}
	res.RefundId = id
	return res
}

// refunded says how a refund stands. One that is pending may still fail, days later.
func refunded(r *paymentv1.PaymentRequest, re *stripe.Refund) *paymentv1.PaymentResult {
	var res *paymentv1.PaymentResult
	switch re.Status {
	case stripe.RefundStatusSucceeded:
		res = say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUNDED, "", "")
		res.AmountMinor, res.CurrencyCode = re.Amount, strings.ToUpper(string(re.Currency))
	case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
		res = say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUSED, string(re.FailureReason), "the gateway's refund has "+string(re.Status))
	default:
		res = say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING, "", "")
	}
	res.RefundId = re.ID
	return res
}

func charged(r *paymentv1.PaymentRequest, pi *stripe.PaymentIntent) *paymentv1.PaymentResult {
	res := say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_SUCCEEDED, "", "")
	res.AmountMinor, res.CurrencyCode = pi.AmountReceived, strings.ToUpper(string(pi.Currency))
	return res
}

func refused(r *paymentv1.PaymentRequest, err error) *paymentv1.PaymentResult {
	code, words := codeAndWords(err)
	return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUSED, code, words)
}

func unavailable(r *paymentv1.PaymentRequest, err error) *paymentv1.PaymentResult {
	code, words := codeAndWords(err)
	return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_UNAVAILABLE, code, words)
}

// notDone is for an intent that a call should have changed and did not.
func notDone(r *paymentv1.PaymentRequest, trouble error) *paymentv1.PaymentResult {
	if trouble == nil {
		return say(r, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_UNAVAILABLE, "", "the request is older than its idempotency key lives")
	}
	return unavailable(r, trouble)
}

// say answers a request.
func say(r *paymentv1.PaymentRequest, o paymentv1.PaymentOutcome, code, words string) *paymentv1.PaymentResult {
	return &paymentv1.PaymentResult{
		OrderId: r.OrderId, Step: r.Step, StepNumber: r.StepNumber, Outcome: o, IntentId: r.IntentId,
		DeclineCode: clip(code, maxCodeBytes), Message: clip(words, maxMessageBytes),
	}
}
