package order

import (
	"fmt"
	"math"
	"slices"
)

// Decide is the rule. atMS is when the log took the input, in Unix milliseconds. The error is Malformed, Impossible or
// UnknownOrder, and then the state is as it was.
//
// Refused, in this order: a command for no order with NOT_FOUND (version 0, nothing kept); a request_id that came with
// other content with IDEMPOTENCY_MISMATCH (a repeat with the same content gets its stored answer); the 33rd command
// with TOO_MANY_COMMANDS; and what does not fit the status with STATE_CONFLICT. Only the last is remembered.
//
// A timer that was cancelled and an answer to a request that has one are ignored. So is, after it did its work,
// FORGET: the order is gone and there is nothing to tell.
func Decide(s State, in Input, atMS int64) (State, Decision, error) {
	t := begin(s, atMS)
	change, err := t.take(in)
	if err != nil {
		return s, Decision{}, err
	}
	if change == nil {
		return t.State, Decision{}, nil
	}
	t.close(change)
	return t.State, t.decision, nil
}

// turn is one decision in the making: the order as it becomes, and what is to be sent.
type turn struct {
	State
	atMS     int64
	command  Command // zero when no client asks
	decision Decision
}

func begin(s State, atMS int64) *turn {
	s.Lines = slices.Clone(s.Lines)
	s.Commands = slices.Clone(s.Commands)
	return &turn{State: s, atMS: atMS}
}

// keepDeadline holds that no order waits for ever, whatever was lost: one that is not final has a deadline running.
func (t *turn) keepDeadline() {
	if !t.Status.Final() && !t.Waits[DelayPayment].Running {
		t.start(DelayPayment)
	}
}

// close makes the event of what changed. Without an order there is no version to count.
func (t *turn) close(c Change) {
	if t.Exists() {
		t.Version++
		t.UpdatedAtMS = t.atMS
		t.keepDeadline()
	}
	t.decision.Event = Event{Version: t.Version, RequestID: t.command.RequestID, ActorID: t.command.ActorID, Change: c}
}

func (t *turn) take(in Input) (Change, error) {
	switch in := in.(type) {
	case Place:
		t.command = in.Command
		return t.place(in)
	case RepeatPlace:
		t.command = in.Command
		return t.repeatPlace(), nil
	case Cancel:
		t.command = in.Command
		return t.cancel(), nil
	case LineAnswer:
		return t.lineAnswer(in)
	case PaymentResult:
		return t.paymentResult(in)
	case Timeout:
		return t.timeout(in), nil
	}
	panic(fmt.Sprintf("order: no case for %T", in))
}

func (t *turn) place(p Place) (Change, error) {
	if t.Exists() {
		if answer := t.known(); answer != nil {
			return answer, nil
		}
		return t.refuse(StateConflict), nil
	}
	if err := t.price(p.Lines); err != nil {
		return nil, err
	}
	t.ID, t.UserID, t.Status, t.PlacedAtMS = p.OrderID, p.UserID, Reserving, t.atMS
	t.Currency, t.Contact, t.Payment.Method = p.Currency, p.Contact, p.Method
	t.remember(0)
	for _, l := range t.Lines {
		t.send(Reserve{l.Number, l.SKU, l.Quantity})
	}
	return Placed{}, nil
}

// repeatPlace finds an order by its ID, which is made of the request_id: that the order does not know it is a conflict,
// and not remembered, because it asked for nothing.
func (t *turn) repeatPlace() Change {
	if !t.Exists() {
		return CommandRefused{NotFound}
	}
	if answer := t.known(); answer != nil {
		return answer
	}
	return CommandRefused{StateConflict}
}

// price makes the lines and their total. What it refuses, the API refuses too, with a reason.
func (t *turn) price(lines []PlacedLine) error {
	if len(lines) < 1 || len(lines) > MaxLines {
		return malformed("an order has 1 to %d lines, this one %d", MaxLines, len(lines))
	}
	seen := make(map[string]bool, len(lines))
	for i, p := range lines {
		switch {
		case seen[p.SKU]:
			return malformed("line %d: SKU %s comes twice", i+1, p.SKU)
		case p.Quantity < 1 || p.Quantity > MaxQuantity:
			return malformed("line %d: quantity %d is not 1 to %d", i+1, p.Quantity, MaxQuantity)
		case p.UnitPriceMinor < 1 || p.UnitPriceMinor > (math.MaxInt64-t.TotalMinor)/p.Quantity:
			return malformed("line %d: %d times %d is nothing, or more than can be counted", i+1, p.Quantity, p.UnitPriceMinor)
		}
		seen[p.SKU] = true
		l := Line{
			Number: int32(i + 1), SKU: p.SKU, ProductID: p.ProductID, SellerID: p.SellerID, Title: p.Title,
			Quantity: p.Quantity, UnitPriceMinor: p.UnitPriceMinor, AmountMinor: p.Quantity * p.UnitPriceMinor, Status: Asked,
		}
		t.Lines = append(t.Lines, l)
		t.TotalMinor += l.AmountMinor
	}
	return nil
}

// cancel accepts a second one while the order is ending: the client gets what was asked for, whatever began the end.
func (t *turn) cancel() Change {
	if !t.Exists() {
		return CommandRefused{NotFound}
	}
	if answer := t.known(); answer != nil {
		return answer
	}
	switch t.Status {
	case Reserving, PaymentPending:
		t.remember(0)
		t.abandon(Cancelled, CancelledByRequest)
		return CancelAccepted{}
	case Cancelling:
		t.remember(0)
		return CancelAccepted{}
	case Paid, Rejected, Cancelled, PaymentFailed:
		return t.refuse(StateConflict)
	}
	panic(fmt.Sprintf("order: no rule makes %v", t.Status))
}

// known answers a command that was answered before, and the one too many.
func (t *turn) known() Change {
	i := slices.IndexFunc(t.Commands, func(a Answered) bool { return a.RequestID == t.command.RequestID })
	switch {
	case i >= 0 && t.Commands[i].Fingerprint != t.command.Fingerprint:
		return CommandRefused{IdempotencyMismatch}
	case i >= 0:
		return CommandRepeated{t.Commands[i].Refused}
	case len(t.Commands) >= MaxCommands:
		return CommandRefused{TooManyCommands}
	}
	return nil
}

func (t *turn) refuse(why Reason) Change {
	t.remember(why)
	return CommandRefused{why}
}

func (t *turn) remember(refused Reason) {
	t.Commands = append(t.Commands, Answered{t.command.RequestID, t.command.Fingerprint, refused})
}

func (t *turn) lineAnswer(a LineAnswer) (Change, error) {
	if !t.Exists() {
		return nil, UnknownOrder{}
	}
	if a.Line < 1 || int(a.Line) > len(t.Lines) {
		return nil, impossible("an answer for line %d of %d", a.Line, len(t.Lines))
	}
	l := &t.Lines[a.Line-1]
	switch {
	case l.Status != Asked:
		return nil, impossible("an answer for line %d, which is %v", l.Number, l.Status)
	case l.SKU != a.SKU || l.Quantity != a.Quantity:
		return nil, impossible("an answer about %d of %s for line %d, which asked for %d of %s", a.Quantity, a.SKU, l.Number, l.Quantity, l.SKU)
	case a.Refused != 0:
		return t.lineRefused(l, a), nil
	}
	return t.lineHeld(l), nil
}

func (t *turn) lineHeld(l *Line) Change {
	l.Status = Held
	switch {
	case t.Status == Cancelling:
		t.release(l)
		t.conclude()
	case t.all(Held):
		t.pay()
	}
	return LineHeld{l.Number}
}

func (t *turn) lineRefused(l *Line, a LineAnswer) Change {
	l.Status, l.Reason, l.Available = Refused, a.Refused, a.Available
	if t.Status == Cancelling {
		t.conclude()
	} else {
		t.abandon(Rejected, a.Refused)
	}
	return LineRefused{l.Number}
}

func (t *turn) timeout(o Timeout) Change {
	if !t.Exists() || t.Waits[o.Delay] != (Wait{o.Generation, true}) {
		return nil
	}
	t.stop(o.Delay)
	switch o.Delay {
	case DelayPayment:
		t.overdue()
		return DeadlinePassed{}
	case DelayPoll, DelayRetry:
		t.ask(t.next())
		return RetryDue{}
	case DelayForget:
		t.State = State{}
		return nil
	}
	panic(fmt.Sprintf("order: nothing waits for %v", o.Delay))
}

// overdue ends what has lasted as long as it may. An order that is ending already cannot be given up: the gateway is
// asked again for what it owes, because the request or its answer may be lost. A line is not asked again, because a SKU
// would hold twice: until somebody replays its answer the deadline comes again and again, and is seen.
func (t *turn) overdue() {
	switch t.Status {
	case Reserving:
		t.abandon(Rejected, ReservationDeadline)
	case PaymentPending:
		t.abandon(PaymentFailed, PaymentDeadline)
	case Cancelling:
		if !t.Payment.Status.settled() {
			t.ask(t.next())
		}
	default:
		panic(fmt.Sprintf("order: %v has no deadline", t.Status))
	}
}

// abandon begins the end without a sale. Every hold is given back now: a success that comes later is refunded.
func (t *turn) abandon(end Status, why Reason) {
	t.Status, t.EndsAs, t.Reason = Cancelling, end, why
	t.stop(DelayPayment) // the end has one of its own
	for i := range t.Lines {
		if t.Lines[i].Status == Held {
			t.release(&t.Lines[i])
		}
	}
	t.conclude()
}

// conclude takes an order in CANCELLING as far as it can go now.
func (t *turn) conclude() {
	switch {
	case t.OpenStep != 0: // its answer comes first: one step at a time
	case !t.Payment.Status.settled():
		t.ask(t.next())
	case t.any(Asked): // the late answers come first
	default:
		t.finish(t.EndsAs)
	}
}

func (t *turn) finish(end Status) {
	t.Status, t.EndsAs = end, 0
	t.stop(DelayPayment)
	t.start(DelayForget)
}

func (t *turn) release(l *Line) {
	l.Status = Released
	t.send(Release{l.Number, l.SKU, l.Quantity})
}

func (t *turn) all(s LineStatus) bool {
	return !slices.ContainsFunc(t.Lines, func(l Line) bool { return l.Status != s })
}

func (t *turn) any(s LineStatus) bool {
	return slices.ContainsFunc(t.Lines, func(l Line) bool { return l.Status == s })
}

func (t *turn) send(e Effect) { t.decision.Effects = append(t.decision.Effects, e) }

// stop cancels the timer of a delay, if one is running.
func (t *turn) stop(d Delay) { t.Waits[d].Running = false }

// start replaces the timer of a delay.
func (t *turn) start(d Delay) {
	g := t.Waits[d].Generation + 1
	t.Waits[d] = Wait{g, true}
	t.send(Timer{d, g})
}
