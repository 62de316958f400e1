package gateway

import "time"

// This file is the rule: what an intent becomes. It reads no clock, draws no number and writes nothing.

type status string

const (
	needsMethod  status = "requires_payment_method"
	needsConfirm status = "requires_confirmation"
	processing   status = "processing"
	succeeded    status = "succeeded"
	canceled     status = "canceled"
)

// An intent is one version of a payment intent. It is never changed: each step makes the next version, so that an
// idempotency key can keep the very version it answered. The JSON is the journal's, not Stripe's.
type intent struct {
	ID          string            `json:"id"`
	Amount      int64             `json:"amount"`
	Currency    string            `json:"currency"`
	Status      status            `json:"status"`
	Method      string            `json:"method,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Description string            `json:"description,omitempty"`
	Receipt     string            `json:"receipt_email,omitempty"`
	Created     int64             `json:"created"` // unix seconds

	Attempts     int      `json:"attempts,omitempty"` // confirms that reached the card
	Received     int64    `json:"received,omitempty"`
	Refunded     int64    `json:"refunded,omitempty"`
	SettlesAt    int64    `json:"settles_at,omitempty"` // unix milliseconds; 0: not by itself
	CanceledAt   int64    `json:"canceled_at,omitempty"`
	CancelReason string   `json:"cancel_reason,omitempty"`
	LastError    *refusal `json:"last_error,omitempty"`
}

// A refund gives back a part of what an intent received.
type refund struct {
	ID       string            `json:"id"`
	Intent   string            `json:"intent"`
	Amount   int64             `json:"amount"`
	Currency string            `json:"currency"`
	Reason   string            `json:"reason,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Created  int64             `json:"created"`
}

// The events a shop hears about by webhook.
const (
	eventSucceeded = "payment_intent.succeeded"
	eventFailed    = "payment_intent.payment_failed"
	eventCanceled  = "payment_intent.canceled"
)

// A change is what one step does: the version after it, the refund it made, what the caller is refused, and the event
// to tell. A refused step may still have changed the intent: a decline does.
type change struct {
	intent  *intent
	refund  *refund
	refusal *refusal
	event   string
}

func create(c createIntent, id string, now time.Time) change {
	i := &intent{
		ID: id, Amount: c.Amount, Currency: c.Currency, Status: needsMethod, Method: c.Method,
		Metadata: c.Metadata, Description: c.Description, Receipt: c.Receipt, Created: now.Unix(),
	}
	if i.Method != "" {
		i.Status = needsConfirm
	}
	return change{intent: i}
}

func confirm(i *intent, method string, now time.Time, pending time.Duration) change {
	switch i.Status {
	case succeeded:
		return change{intent: i, refusal: unexpected("You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed.")}
	case processing, canceled:
		return change{intent: i, refusal: unexpected("You cannot confirm this PaymentIntent because it has a status of %s. Only a PaymentIntent with one of the following statuses may be confirmed: requires_confirmation, requires_action, requires_payment_method.", i.Status)}
	case needsMethod, needsConfirm:
		return attempt(i, method, now, pending)
	}
	panic("gateway: unknown status " + i.Status)
}

// attempt brings the payment to the card, which has the say.
func attempt(i *intent, method string, now time.Time, pending time.Duration) change {
	next := *i
	if method != "" {
		next.Method = method
	}
	if next.Method == "" {
		return change{intent: i, refusal: unexpected("You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment method or ConfirmationToken.")}
	}
	card := cards[next.Method]
	next.Attempts++
	next.LastError = nil
	switch card.ending {
	case fails500Kept:
		if next.Attempts == 1 {
			next.Status = needsConfirm
			return change{intent: &next, refusal: brokenAfter()}
		}
	case endsLater:
		next.SettlesAt = now.Add(pending).UnixMilli()
		next.Status = processing
		return change{intent: &next}
	case endsWhenTold, endsOnlyTold, endsOnCancel:
		next.Status = processing
		return change{intent: &next}
	case endsAtOnce, fails500Early:
	}
	if card.decline != nil {
		return failed(&next, card.decline)
	}
	return charged(&next)
}

// charged and failed end an attempt; next is theirs to fill.
func charged(next *intent) change {
	next.Status, next.Received, next.SettlesAt = succeeded, next.Amount, 0
	return change{intent: next, event: eventSucceeded}
}

// A declined intent asks for another payment method, as Stripe's do.
func failed(next *intent, why *decline) change {
	next.Status, next.Method, next.SettlesAt = needsMethod, "", 0
	next.LastError = why.refused()
	return change{intent: next, refusal: next.LastError, event: eventFailed}
}

func cancel(i *intent, reason string, now time.Time) change {
	ending := cards[i.Method].ending
	switch i.Status {
	case needsMethod, needsConfirm:
		return cancelled(i, reason, now)
	case processing:
		if ending == endsWhenTold {
			return cancelled(i, reason, now)
		}
		if ending == endsOnCancel {
			late := *i
			ch := charged(&late)
			ch.refusal = cannotCancel(succeeded)
			return ch
		}
		return change{intent: i, refusal: cannotCancel(processing)}
	case succeeded, canceled:
		return change{intent: i, refusal: cannotCancel(i.Status)}
	}
	panic("gateway: unknown status " + i.Status)
}

func cancelled(i *intent, reason string, now time.Time) change {
	next := *i
	next.Status, next.CanceledAt, next.CancelReason, next.SettlesAt = canceled, now.Unix(), reason, 0
	return change{intent: &next, event: eventCanceled}
}

func cannotCancel(s status) *refusal {
	return unexpected("You cannot cancel this PaymentIntent because it has a status of %s. Only a PaymentIntent with one of the following statuses may be canceled: requires_payment_method, requires_capture, requires_confirmation, requires_action.", s)
}

// settle is the last word on a processing payment: by its card when the time has come, or as somebody tells it.
func settle(i *intent, approved bool) change {
	if i.Status != processing {
		return change{intent: i, refusal: unexpected("simulator: only a processing PaymentIntent can be settled; this one has a status of %s.", i.Status)}
	}
	next := *i
	if approved {
		return charged(&next)
	}
	why := cards[i.Method].decline
	if why == nil {
		why = declineGeneric
	}
	ch := failed(&next, why)
	ch.refusal = nil // nobody is waiting for it: the intent says it
	return ch
}

func giveBack(i *intent, c createRefund, id string, now time.Time) change {
	left := i.Received - i.Refunded
	switch {
	case i.Status != succeeded:
		return change{intent: i, refusal: noCharge(i.ID)}
	case left == 0:
		return change{intent: i, refusal: &refusal{Status: 400, Type: typeInvalid, Code: "charge_already_refunded", Message: "Charge " + chargeID(i.ID) + " has already been refunded."}}
	case c.Amount > left:
		return change{intent: i, refusal: tooMuch(c.Amount, left, i.Currency)}
	}
	amount := c.Amount
	if amount == 0 {
		amount = left
	}
	next := *i
	next.Refunded += amount
	return change{intent: &next, refund: &refund{
		ID: id, Intent: i.ID, Amount: amount, Currency: i.Currency, Reason: c.Reason, Metadata: c.Metadata, Created: now.Unix(),
	}}
}

func noCharge(id string) *refusal {
	r := unexpected("This PaymentIntent (%s) does not have a successful charge to refund.", id)
	r.Code, r.Param = "", "payment_intent"
	return r
}

func tooMuch(asked, left int64, currency string) *refusal {
	r := unexpected("Refund amount (%d %s minor units) is greater than unrefunded amount on charge (%d %s minor units)", asked, currency, left, currency)
	r.Code, r.Param = "", "amount"
	return r
}

// An intent has one charge that succeeded at most, so its ID follows from the intent's.
func chargeID(intentID string) string { return "ch_" + intentID[len("pi_"):] }

func intentOfCharge(id string) string { return "pi_" + id[len("ch_"):] }
