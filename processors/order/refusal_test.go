package order

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
)

// after plays inputs that must all be taken, beginning with a Place of one TEA at 350.
func after(t *testing.T, ins ...Input) State {
	t.Helper()
	var s State
	for _, in := range append([]Input{tea("r1")}, ins...) {
		next, d, err := Decide(s, in, 0)
		if err != nil || d.Ignored() {
			t.Fatalf("%+v: %+v, %v", in, d, err)
		}
		s = next
	}
	return s
}

func tea(request string) Place {
	return Place{Command: by(request), OrderID: "o1", UserID: "ann", Currency: "EUR", Lines: []PlacedLine{{SKU: "TEA", Quantity: 1, UnitPriceMinor: 350}}}
}

func by(request string) Command    { return Command{RequestID: request, Fingerprint: Fingerprint{1}} }
func other(request string) Command { return Command{RequestID: request, Fingerprint: Fingerprint{2}} }

func commands(n int) (cancels []Input) {
	for i := range n {
		cancels = append(cancels, Cancel{by(fmt.Sprint("c", i))})
	}
	return cancels
}

var (
	yes       = LineAnswer{Line: 1, SKU: "TEA", Quantity: 1}
	no        = LineAnswer{Line: 1, SKU: "TEA", Quantity: 1, Refused: OutOfStock}
	isCreated = PaymentResult{Number: 1, Step: StepCreate, Outcome: OutcomeCreated, IntentID: "pi_1"}
	isCharged = PaymentResult{Number: 2, Step: StepConfirm, Outcome: OutcomeSucceeded, AmountMinor: 350, Currency: "EUR"}
)

// TestRefusalsInOrder holds that the first reason that applies is the one that is given: each row of the table also
// has the faults of the rows below it.
func TestRefusalsInOrder(t *testing.T) {
	full := after(t, append(commands(MaxCommands-1), no)...)
	final := after(t, no)
	for _, row := range []struct {
		name       string
		state      State
		in         Input
		want       Change
		remembered bool
	}{
		{"no order", State{}, Cancel{by("c1")}, CommandRefused{NotFound}, false},
		{"no order to repeat", State{}, RepeatPlace{by("r1")}, CommandRefused{NotFound}, false},
		{"other content, full, final", full, Cancel{other("c1")}, CommandRefused{IdempotencyMismatch}, false},
		{"other content of the place, full, final", full, Place{Command: other("r1")}, CommandRefused{IdempotencyMismatch}, false},
		{"a repeat, full, final", full, Cancel{by("c1")}, CommandRepeated{}, false},
		{"a repeat of the place, full, final, nothing in it", full, Place{Command: by("r1")}, CommandRepeated{}, false},
		{"a repeat without a price, full, final", full, RepeatPlace{by("r1")}, CommandRepeated{}, false},
		{"one too many, final", full, Cancel{by("c99")}, CommandRefused{TooManyCommands}, false},
		{"one place too many, final", full, Place{Command: by("r9")}, CommandRefused{TooManyCommands}, false},
		{"a cancel of a final order", final, Cancel{by("c1")}, CommandRefused{StateConflict}, true},
		{"a cancel of a paid order", after(t, yes, isCreated, isCharged), Cancel{by("c1")}, CommandRefused{StateConflict}, true},
		{"another place", final, Place{Command: by("r9")}, CommandRefused{StateConflict}, true},
		{"a repeat of what was never placed", final, RepeatPlace{by("r9")}, CommandRefused{StateConflict}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, d, err := Decide(row.state, row.in, 0)
			if err != nil || d.Event.Change != row.want || len(d.Effects) > 0 {
				t.Fatalf("got %#v, %v, %v, want %#v", d.Event.Change, d.Effects, err, row.want)
			}
			if got := len(s.Commands) > len(row.state.Commands); got != row.remembered {
				t.Errorf("remembered: %v, want %v", got, row.remembered)
			}
			want := row.state
			want.Commands = s.Commands
			if want.Exists() {
				want.Version++
			}
			if !reflect.DeepEqual(s, want) {
				t.Errorf("a refusal changed the order:\n%+v\n%+v", s, want)
			}
		})
	}
}

// TestNeverApplied holds that what cannot be is refused with the right error and leaves the order as it was.
func TestNeverApplied(t *testing.T) {
	asked, confirming := after(t), after(t, yes, isCreated)
	refunding := after(t, yes, isCreated, Cancel{by("c1")}, isCharged)
	result := func(n int32, s Step, o Outcome, amount int64) PaymentResult {
		return PaymentResult{Number: n, Step: s, Outcome: o, AmountMinor: amount, IntentID: "pi_1", Currency: "EUR"}
	}
	for _, row := range []struct {
		name  string
		state State
		in    Input
		want  any
	}{
		{"no line", State{}, Place{OrderID: "o1"}, Malformed{}},
		{"too many lines", State{}, Place{OrderID: "o1", Lines: slices.Repeat(tea("r1").Lines, MaxLines+1)}, Malformed{}},
		{"a SKU twice", State{}, Place{OrderID: "o1", Lines: slices.Repeat(tea("r1").Lines, 2)}, Malformed{}},
		{"an answer for no order", State{}, yes, UnknownOrder{}},
		{"a result for no order", State{}, isCreated, UnknownOrder{}},
		{"line 0", asked, LineAnswer{Line: 0, SKU: "TEA", Quantity: 1}, Impossible{}},
		{"line 2 of 1", asked, LineAnswer{Line: 2, SKU: "TEA", Quantity: 1}, Impossible{}},
		{"another SKU", asked, LineAnswer{Line: 1, SKU: "CUP", Quantity: 1}, Impossible{}},
		{"another quantity", asked, LineAnswer{Line: 1, SKU: "TEA", Quantity: 2}, Impossible{}},
		{"a line that has its answer", confirming, yes, Impossible{}},
		{"a request that was never sent", confirming, result(3, StepConfirm, OutcomeSucceeded, 350), Impossible{}},
		{"another step", confirming, result(2, StepPoll, OutcomeSucceeded, 350), Impossible{}},
		{"an outcome that the step has not", confirming, result(2, StepConfirm, OutcomeRefunded, 350), Impossible{}},
		{"another intent", confirming, PaymentResult{Number: 2, Step: StepConfirm, Outcome: OutcomePending, IntentID: "pi_2"}, Impossible{}},
		{"an intent without a name", after(t, yes), PaymentResult{Number: 1, Step: StepCreate, Outcome: OutcomeCreated}, Impossible{}},
		{"charged too little", confirming, result(2, StepConfirm, OutcomeSucceeded, 349), Impossible{}},
		{"charged in another currency", confirming, PaymentResult{Number: 2, Step: StepConfirm, Outcome: OutcomeSucceeded, AmountMinor: 350, Currency: "USD"}, Impossible{}},
		{"gave back too much", refunding, result(3, StepRefund, OutcomeRefunded, 351), Impossible{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, d, err := Decide(row.state, row.in, 0)
			if reflect.TypeOf(err) != reflect.TypeOf(row.want) {
				t.Errorf("got %v, want a %T", err, row.want)
			}
			if !d.Ignored() || !reflect.DeepEqual(s, row.state) {
				t.Errorf("it was applied: %+v", d)
			}
		})
	}
}

// TestNobodyAsksTwice holds that a result which lost its race is ignored, not refused: the worker may answer twice.
func TestNobodyAsksTwice(t *testing.T) {
	for name, s := range map[string]State{
		"the next request is open": after(t, yes, isCreated),
		"none is open":             after(t, yes, PaymentResult{Number: 1, Step: StepCreate, Outcome: OutcomeUnavailable}),
	} {
		if _, d, err := Decide(s, isCreated, 0); err != nil || !d.Ignored() {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}
