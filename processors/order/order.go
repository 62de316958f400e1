// Package order is the rule of one order: the saga that asks every line's SKU for stock, carries the payment through
// and, when it cannot end in a sale, gives everything back. It decides and does nothing else: no Kafka, no clock, no
// protobuf. What it decides about comes in as an Input, what must happen goes out as an Event and Effects; the other
// half, which reads and writes the topics, is processors/order.go.
//
//	RESERVING --all held--> PAYMENT_PENDING --succeeded--> PAID (lines shipped)
//	    | any refused,          | declined, refused,
//	    | cancel, deadline      | cancel, deadline
//	    v                       v
//	CANCELLING  (late answers awaited, holds released, the intent cancelled or refunded)
//	    v
//	REJECTED | CANCELLED | PAYMENT_FAILED
//
// Promises, each held by a rapid test:
//   - An order is final only when no line is ASKED and the gateway has given its last word. Until then a deadline is
//     running, and when it passes the gateway is asked again for what it owes: nothing is stranded, even if a request or
//     an answer is lost.
//   - Goods are shipped if and only if the order is PAID; otherwise nothing stays held.
//   - Money stays with us if and only if the order is PAID; a success that comes too late is given back.
//   - One request is open per line, one step per order; only the deadline gives a step up for the next. Holds are given
//     back at once when the order begins to end, because a success after that is refunded, never shipped.
//   - A command that was answered gets the same answer again.
package order

const (
	// MaxLines is how many lines an order has at most.
	MaxLines = 100
	// MaxQuantity is how many units a line has at most.
	MaxQuantity = 10_000
	// MaxCommands is how many commands an order remembers; more are refused.
	MaxCommands = 32
	// QuickAsks is how often an order that is ending asks the gateway for the same thing at short intervals; after that
	// it asks once per deadline.
	QuickAsks = 30
)

// State is one order, whole. The zero State is no order.
type State struct {
	ID          string
	UserID      string
	Status      Status
	Lines       []Line // Lines[i].Number is i+1
	Currency    string
	TotalMinor  int64 // the sum of the lines' amounts
	Contact     Contact
	Payment     Payment
	Reason      Reason // why it ended, or is ending, without a sale
	EndsAs      Status // what an order in CANCELLING ends as
	PlacedAtMS  int64  // when the log took the order, in Unix milliseconds
	UpdatedAtMS int64  // when it took what caused the newest version
	Version     int64  // counts the order's events
	Commands    []Answered
	Waits       [delays]Wait // by Delay
	Steps       int32        // how many requests went to the gateway; the last one's number
	OpenStep    Step         // what the last request was, while it is unanswered
	Refunds     int32        // the number of the newest refund
	Asks        int32        // in CANCELLING: how often the gateway was asked in a row for what it is asked now

	// FirstCreateMS is when the log took what the first CREATE was asked for, in Unix milliseconds: the gateway knows
	// for a limited time that a later CREATE is the same one.
	FirstCreateMS int64
}

// Exists says whether there is an order at all.
func (s State) Exists() bool { return s.ID != "" }

// Line is one SKU of an order.
type Line struct {
	Number         int32
	SKU            string
	ProductID      string
	SellerID       string
	Title          string
	Quantity       int64
	UnitPriceMinor int64
	AmountMinor    int64
	Status         LineStatus
	Reason         Reason // when REFUSED
	Available      int64  // when REFUSED: how many there were
}

// Contact is where to tell the customer.
type Contact struct{ Email, Phone string }

// Payment is what is known of the order's money.
type Payment struct {
	IntentID      string // empty until the gateway has named it
	Status        PaymentStatus
	Method        string
	DeclineCode   string
	ChargedMinor  int64
	RefundedMinor int64
}

// Answered is a command and the answer it got.
type Answered struct {
	RequestID   string
	Fingerprint Fingerprint
	Refused     Reason // zero: accepted
}

// Wait is one of the order's timers. A timeout counts only while it runs, and only with its generation.
type Wait struct {
	Generation int32 // of the newest one
	Running    bool
}

// Fingerprint stands for what the client sent, nothing looked up.
type Fingerprint [32]byte

// Status is where an order stands. The numbers of this and of every other enumeration here are the schema's.
type Status uint8

const (
	Draft Status = iota + 1 // a cart; no rule makes one yet
	Reserving
	PaymentPending
	Paid
	Refunding // no rule makes it yet
	Cancelling
	Rejected
	Cancelled
	PaymentFailed
	Refunded // no rule makes it yet
)

// Final says that nothing is awaited any more.
func (s Status) Final() bool {
	switch s {
	case Paid, Rejected, Cancelled, PaymentFailed, Refunded:
		return true
	}
	return false
}

// LineStatus is where a line stands with its SKU.
type LineStatus uint8

const (
	Unasked LineStatus = iota + 1 // no rule makes it yet: a placed order asks at once
	Asked
	Held
	Refused
	Released
	Shipped
)

// PaymentStatus is what the gateway last said of the order's intent. Zero: it was never asked.
type PaymentStatus uint8

const (
	IntentRequested PaymentStatus = iota + 1
	IntentCreated
	IntentPending
	IntentSucceeded
	IntentDeclined
	IntentCanceled
	IntentRefunded
	IntentRefunding
)

// settled says that the gateway has given its last word, or was never asked for one.
func (p PaymentStatus) settled() bool {
	switch p {
	case 0, IntentSucceeded, IntentDeclined, IntentCanceled, IntentRefunded:
		return true
	}
	return false
}

// Reason says why an order, a line or a command was refused or ended.
type Reason uint8

const (
	OutOfStock Reason = iota + 1
	UnknownSKU
	CancelledByRequest
	PaymentDeclined
	PaymentDeadline
	ReservationDeadline
	IdempotencyMismatch
	StateConflict
	NotFound
	TooManyCommands
	PaymentRefused
)

// Step is one short thing to do at the gateway.
type Step uint8

const (
	StepCreate Step = iota + 1
	StepConfirm
	StepPoll
	StepCancel
	StepRefund
)

// Outcome is the gateway's word on a step.
type Outcome uint8

const (
	OutcomeCreated Outcome = iota + 1
	OutcomePending
	OutcomeSucceeded
	OutcomeDeclined
	OutcomeCanceled
	OutcomeRefunded
	OutcomeUnavailable
	OutcomeRefused
)

// Delay is which fixed delay a timer waits.
type Delay uint8

const (
	DelayHold    Delay = iota + 1 // a cart's held line; no rule starts one yet
	DelayPayment                  // the deadline of whatever is not final: the reservations, the payment, the end
	DelayPoll
	DelayRetry
	DelayForget

	delays = DelayForget + 1
)
