package order

import "fmt"

// Input is what an order decides about: Place, RepeatPlace, Cancel, LineAnswer, PaymentResult or Timeout.
type Input interface{ input() }

// Command is what every command of a client carries.
type Command struct {
	RequestID   string
	ActorID     string // who asks; whether they may is the door's question
	Fingerprint Fingerprint
}

// Place makes an order.
type Place struct {
	Command
	OrderID  string
	UserID   string
	Lines    []PlacedLine
	Currency string
	Method   string
	Contact  Contact
}

// PlacedLine is one SKU at its catalogue price.
type PlacedLine struct {
	SKU            string
	ProductID      string
	SellerID       string
	Title          string
	Quantity       int64
	UnitPriceMinor int64
}

// RepeatPlace is a Place that cannot be priced any more: it asks for the stored answer, and never makes an order.
type RepeatPlace struct{ Command }

// Cancel ends an order that is not paid yet.
type Cancel struct{ Command }

// LineAnswer is a SKU's answer to Reserve.
type LineAnswer struct {
	Line      int32
	SKU       string
	Quantity  int64
	Refused   Reason // zero: held
	Available int64
}

// PaymentResult is the gateway's answer to a Request.
type PaymentResult struct {
	Number      int32 // the Request's
	Step        Step
	Outcome     Outcome
	IntentID    string
	DeclineCode string
	AmountMinor int64 // SUCCEEDED: charged; REFUNDED: given back
	Currency    string
}

// Timeout is a Timer that is due.
type Timeout struct {
	Delay      Delay
	Generation int32
}

func (Place) input()         {}
func (RepeatPlace) input()   {}
func (Cancel) input()        {}
func (LineAnswer) input()    {}
func (PaymentResult) input() {}
func (Timeout) input()       {}

// Decision is what an input led to. Without an event the input was ignored: it has no effects, and the state is as it
// was, or gone.
type Decision struct {
	Event   Event
	Effects []Effect
}

// Ignored says that there is nothing to tell.
func (d Decision) Ignored() bool { return d.Event.Change == nil }

// Event is what changed; the State beside it is the whole order after it.
type Event struct {
	Version   int64  // 0 when there is no order
	RequestID string // of the command that this is the outcome of
	ActorID   string
	Change    Change
}

// Change is what an event tells.
type Change interface{ change() }

type (
	// Placed says that the order exists and its lines were asked for.
	Placed struct{}
	// LineHeld says that a SKU holds a line's stock; in CANCELLING it was given back at once.
	LineHeld struct{ Line int32 }
	// LineRefused says that a SKU said no.
	LineRefused struct{ Line int32 }
	// PaymentAdvanced says that a request to the gateway was answered.
	PaymentAdvanced struct{ Number int32 }
	// CancelAccepted says that the order ends, or was ending already.
	CancelAccepted struct{}
	// DeadlinePassed says that the status had lasted as long as it may; in CANCELLING, that it lasts still.
	DeadlinePassed struct{}
	// RetryDue says that the gateway is asked again.
	RetryDue struct{}
	// CommandRepeated gives a stored answer again.
	CommandRepeated struct{ Refused Reason }
	// CommandRefused says why a command changed nothing.
	CommandRefused struct{ Reason Reason }
)

func (Placed) change()          {}
func (LineHeld) change()        {}
func (LineRefused) change()     {}
func (PaymentAdvanced) change() {}
func (CancelAccepted) change()  {}
func (DeadlinePassed) change()  {}
func (RetryDue) change()        {}
func (CommandRepeated) change() {}
func (CommandRefused) change()  {}

// Effect is what must be sent besides the event: Reserve, Release, Ship, Request or Timer.
type Effect interface{ effect() }

// Units are a line's, all of them.
type Units struct {
	Line     int32
	SKU      string
	Quantity int64
}

type (
	// Reserve asks a SKU to hold units; a LineAnswer comes back.
	Reserve Units
	// Release gives a hold back.
	Release Units
	// Ship lets held units leave.
	Ship Units
)

// Request asks the gateway for a step; a PaymentResult with its number comes back, if neither is lost. A step that is tried again gets a
// new number: what makes it the same step at the gateway is the order, the step and the refund's number.
type Request struct {
	Step         Step
	Number       int32
	IntentID     string // empty: CREATE, and CANCEL when CREATE gave no name
	AmountMinor  int64  // without an intent: to make it; REFUND: to give back
	RefundNumber int32  // REFUND
}

// Timer asks for a Timeout after a delay.
type Timer struct {
	Delay      Delay
	Generation int32
}

func (Reserve) effect() {}
func (Release) effect() {}
func (Ship) effect()    {}
func (Request) effect() {}
func (Timer) effect()   {}

// Malformed is a command that no door should have let through.
type Malformed struct{ Detail string }

// Impossible is an input that would break an invariant: a bug of ours or of the other side. It is never applied.
type Impossible struct{ Detail string }

// UnknownOrder is an answer to an order that does not exist, or not any more.
type UnknownOrder struct{}

func (e Malformed) Error() string  { return "order: malformed: " + e.Detail }
func (e Impossible) Error() string { return "order: impossible: " + e.Detail }
func (UnknownOrder) Error() string { return "order: there is no such order" }

func malformed(format string, a ...any) error  { return Malformed{fmt.Sprintf(format, a...)} }
func impossible(format string, a ...any) error { return Impossible{fmt.Sprintf(format, a...)} }
