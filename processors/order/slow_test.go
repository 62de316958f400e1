package order

import (
	"slices"
	"testing"
)

// TestEndlessAskingIsSlow: a gateway that never decides is asked QuickAsks times at short intervals and then once per
// deadline, so that an order that hangs for days writes two events per deadline.
func TestEndlessAskingIsSlow(t *testing.T) {
	for name, s := range map[string]State{
		"cancel": after(t, yes, isCreated, answer(after(t, yes, isCreated), OutcomePending), Cancel{by("c1")}),
		"refund": after(t, yes, isCreated, Cancel{by("c1")}, isCharged),
	} {
		for _, outcome := range []Outcome{OutcomePending, OutcomeUnavailable, OutcomeRefused} {
			t.Run(name+" "+outcome.String(), func(t *testing.T) {
				quick := 0
				s := mustTake(t, s, answer(s, outcome))
				for d := shortly(s); d != 0; d = shortly(s) {
					if quick++; quick > 10*QuickAsks {
						t.Fatal("it asks quickly for ever")
					}
					s = mustTake(t, s, Timeout{d, s.Waits[d].Generation})
					s = mustTake(t, s, answer(s, outcome))
				}
				if quick != QuickAsks-1 {
					t.Errorf("asked again %d times at short intervals, want %d", quick, QuickAsks-1)
				}
				s = mustTake(t, s, Timeout{DelayPayment, s.Waits[DelayPayment].Generation})
				if s.OpenStep == 0 {
					t.Fatal("the deadline did not ask")
				}
				if s = mustTake(t, s, answer(s, outcome)); shortly(s) != 0 || !s.Waits[DelayPayment].Running {
					t.Errorf("after the deadline's question it waits for %v", s.Waits)
				}
			})
		}
	}
}

// TestRefundIsQuickAgain: what was asked before the money came does not slow its return.
func TestRefundIsQuickAgain(t *testing.T) {
	s := after(t, yes, isCreated, answer(after(t, yes, isCreated), OutcomePending), Cancel{by("c1")})
	s.Asks = QuickAsks
	s = mustTake(t, s, PaymentResult{Number: s.Steps, Step: StepCancel, Outcome: OutcomeSucceeded, AmountMinor: 350, Currency: "EUR"})
	if s = mustTake(t, s, answer(s, OutcomePending)); shortly(s) != DelayPoll {
		t.Errorf("a refund after many CANCELs waits for %v", s.Waits)
	}
}

// TestPayingIsNeverSlow: a payment that is pending is bounded by its deadline, and must be seen to succeed before it.
func TestPayingIsNeverSlow(t *testing.T) {
	s := after(t, yes, isCreated)
	for range 10 * QuickAsks {
		if s = mustTake(t, s, answer(s, OutcomePending)); shortly(s) != DelayPoll {
			t.Fatalf("it waits for %v", s.Waits)
		}
		s = mustTake(t, s, Timeout{DelayPoll, s.Waits[DelayPoll].Generation})
	}
}

// TestFirstCreateIsRemembered: a CREATE that is asked again is as old as the first one.
func TestFirstCreateIsRemembered(t *testing.T) {
	s := State{}
	for i, in := range []Input{tea("r1"), yes, PaymentResult{Number: 1, Step: StepCreate, Outcome: OutcomeUnavailable}, Timeout{DelayRetry, 1}} {
		next, d, err := Decide(s, in, int64(100+i))
		if err != nil || d.Ignored() {
			t.Fatalf("%+v: %v", in, err)
		}
		s = next
	}
	if s.OpenStep != StepCreate || s.FirstCreateMS != 101 {
		t.Errorf("%v is open, the first CREATE was at %d, want 101", s.OpenStep, s.FirstCreateMS)
	}
}

// TestAnOlderOrderGetsItsDeadline: an order of before there was one in CANCELLING has it from the next event on.
func TestAnOlderOrderGetsItsDeadline(t *testing.T) {
	s := after(t, yes, isCreated, Cancel{by("c1")})
	s.Waits[DelayPayment].Running = false
	s, d, err := Decide(s, Cancel{by("c2")}, 0)
	if want := (Timer{DelayPayment, s.Waits[DelayPayment].Generation}); err != nil || !slices.Contains(d.Effects, Effect(want)) {
		t.Errorf("%v, %v", d.Effects, err)
	}
}

func mustTake(t *testing.T, s State, in Input) State {
	t.Helper()
	next, d, err := Decide(s, in, 0)
	if err != nil || d.Ignored() {
		t.Fatalf("%+v: %+v, %v", in, d, err)
	}
	return next
}

// answer is the gateway's word on the open step.
func answer(s State, o Outcome) PaymentResult {
	return PaymentResult{Number: s.Steps, Step: s.OpenStep, Outcome: o, IntentID: "pi_1"}
}

// shortly is the short delay that is running, if any.
func shortly(s State) Delay {
	for _, d := range []Delay{DelayPoll, DelayRetry} {
		if s.Waits[d].Running {
			return d
		}
	}
	return 0
}
