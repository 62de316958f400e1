package order

import (
	"fmt"
	"slices"
)

// pay begins the payment of an order whose lines are all held, with a deadline of its own.
func (t *turn) pay() {
	t.Status, t.Payment.Status = PaymentPending, IntentRequested
	t.ask(StepCreate)
	t.stop(DelayPayment)
}

// next is the step that brings the payment on, from what the gateway last said: a step that could not reach the
// gateway is therefore asked for again. A CREATE that never answered is cancelled without a name.
func (t *turn) next() Step {
	switch {
	case t.Payment.Status == IntentRefunding:
		return StepRefund
	case t.Status == Cancelling:
		return StepCancel
	case t.Payment.Status == IntentRequested:
		return StepCreate
	case t.Payment.Status == IntentCreated:
		return StepConfirm
	case t.Payment.Status == IntentPending:
		return StepPoll
	}
	panic(fmt.Sprintf("order: nothing to ask the gateway in %v with the payment %v", t.Status, t.Payment.Status))
}

// ask opens a step. One that is still open is given up: its answer is ignored from now on, and the new one will know of
// whatever it did.
func (t *turn) ask(s Step) {
	t.stop(DelayPoll)
	t.stop(DelayRetry)
	t.Steps++
	t.OpenStep = s
	if t.Status == Cancelling {
		t.Asks++
	}
	if s == StepCreate && t.FirstCreateMS == 0 {
		t.FirstCreateMS = t.atMS
	}
	r := Request{Step: s, Number: t.Steps, IntentID: t.Payment.IntentID}
	switch {
	case r.IntentID == "": // also to CANCEL what CREATE may have made, because it is found by making it again
		r.AmountMinor = t.TotalMinor
	case s == StepRefund:
		r.AmountMinor, r.RefundNumber = t.owed(), t.Refunds
	}
	t.send(r)
}

// owed is what a refund of the whole order has to give back.
func (t *turn) owed() int64 { return t.Payment.ChargedMinor - t.Payment.RefundedMinor }

func (t *turn) paymentResult(r PaymentResult) (Change, error) {
	switch {
	case !t.Exists():
		return nil, UnknownOrder{}
	case r.Number > t.Steps:
		return nil, impossible("an answer to request %d of %d", r.Number, t.Steps)
	case r.Number < t.Steps || t.OpenStep == 0:
		return nil, nil
	}
	if err := t.possible(r); err != nil {
		return nil, err
	}
	t.OpenStep = 0
	t.learn(r)
	return PaymentAdvanced{r.Number}, nil
}

// outcomes are what the gateway may say to each step. PENDING to a REFUND is one that takes days; REFUSED to CONFIRM,
// POLL or CANCEL has moved no money and is cleared up by CANCEL.
var outcomes = map[Step][]Outcome{
	StepCreate:  {OutcomeCreated, OutcomeDeclined, OutcomeRefused, OutcomeUnavailable},
	StepConfirm: {OutcomePending, OutcomeSucceeded, OutcomeDeclined, OutcomeCanceled, OutcomeRefused, OutcomeUnavailable},
	StepPoll:    {OutcomePending, OutcomeSucceeded, OutcomeDeclined, OutcomeCanceled, OutcomeRefused, OutcomeUnavailable},
	StepCancel:  {OutcomePending, OutcomeSucceeded, OutcomeDeclined, OutcomeCanceled, OutcomeRefused, OutcomeUnavailable},
	StepRefund:  {OutcomePending, OutcomeRefunded, OutcomeRefused, OutcomeUnavailable},
}

// possible says no to an answer that nobody can have given to the open step.
func (t *turn) possible(r PaymentResult) error {
	if r.Step != t.OpenStep {
		return impossible("an answer to %v, but request %d was %v", r.Step, t.Steps, t.OpenStep)
	}
	if !slices.Contains(outcomes[r.Step], r.Outcome) {
		return impossible("%v answered with %v", r.Step, r.Outcome)
	}
	known := t.Payment.IntentID
	switch {
	case known != "" && r.IntentID != "" && r.IntentID != known:
		return impossible("an answer about the intent %s, the order's is %s", r.IntentID, known)
	case r.Outcome == OutcomeCreated && r.IntentID == "":
		return impossible("an intent was created without a name")
	case r.Outcome == OutcomeSucceeded && (r.AmountMinor != t.TotalMinor || r.Currency != t.Currency):
		return impossible("charged %d %s, the order's total is %d %s", r.AmountMinor, r.Currency, t.TotalMinor, t.Currency)
	case r.Outcome == OutcomeRefunded && (r.AmountMinor != t.owed() || r.Currency != t.Currency):
		return impossible("gave back %d %s of %d %s", r.AmountMinor, r.Currency, t.owed(), t.Currency)
	}
	return nil
}

func (t *turn) learn(r PaymentResult) {
	if r.IntentID != "" {
		t.Payment.IntentID = r.IntentID
	}
	switch r.Outcome {
	case OutcomeCreated:
		t.Payment.Status = IntentCreated
		t.ask(t.next())
	case OutcomePending:
		t.pending(r.Step)
	case OutcomeSucceeded:
		t.succeeded(r.AmountMinor)
	case OutcomeDeclined:
		t.Payment.Status, t.Payment.DeclineCode = IntentDeclined, r.DeclineCode
		t.fail(PaymentDeclined)
	case OutcomeCanceled: // when we did not ask for it, somebody did so at the gateway
		t.Payment.Status = IntentCanceled
		t.fail(PaymentDeclined)
	case OutcomeRefunded:
		t.Payment.Status = IntentRefunded
		t.Payment.RefundedMinor += r.AmountMinor
		t.conclude()
	case OutcomeUnavailable:
		t.again(DelayRetry)
	case OutcomeRefused:
		t.refused(r)
	default:
		panic(fmt.Sprintf("order: no case for %v", r.Outcome))
	}
}

// pending waits before it asks again, unless it was not CANCEL that was asked and the order is ending meanwhile.
func (t *turn) pending(s Step) {
	if s != StepRefund {
		t.Payment.Status = IntentPending
	}
	if t.Status == Cancelling && (s == StepConfirm || s == StepPoll) {
		t.conclude()
		return
	}
	t.again(DelayPoll)
}

// again waits before the gateway is asked again: shortly at first, and then, in an order that is ending, for the
// deadline, so that one that hangs for days does not fill the log. An order that is not ending asks shortly until its
// deadline ends it.
func (t *turn) again(shortly Delay) {
	if t.Asks < QuickAsks {
		t.start(shortly)
	}
}

func (t *turn) succeeded(charged int64) {
	t.Payment.ChargedMinor = charged
	if t.Status == Cancelling {
		t.Payment.Status = IntentRefunding
		t.Refunds++
		t.Asks = 0
		t.conclude()
		return
	}
	t.Payment.Status = IntentSucceeded
	for i := range t.Lines {
		l := &t.Lines[i]
		l.Status = Shipped
		t.send(Ship{l.Number, l.SKU, l.Quantity})
	}
	t.finish(Paid)
}

// refused is the gateway's no to the request itself. A refund that is refused is tried as a new one, because the
// gateway keeps its answer to the old one's key, and it has certainly given nothing back. Why is no word on the
// customer's card: the payment does not remember it.
func (t *turn) refused(r PaymentResult) {
	if r.Step != StepRefund {
		t.Payment.DeclineCode = r.DeclineCode
	}
	switch r.Step {
	case StepCreate:
		t.Payment.Status = IntentDeclined
		t.fail(PaymentRefused)
	case StepConfirm, StepPoll:
		t.fail(PaymentRefused)
	case StepCancel:
		t.again(DelayRetry)
	case StepRefund:
		t.Refunds++
		t.again(DelayRetry)
	}
}

// fail ends the order for its payment, or goes on ending it for what came before.
func (t *turn) fail(why Reason) {
	if t.Status == Cancelling {
		t.conclude()
		return
	}
	t.abandon(PaymentFailed, why)
}
