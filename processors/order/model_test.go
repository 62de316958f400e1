package order

// The second model knows no state machine, no steps and no timers: it reads the whole history of an order each time,
// and says where the order has to be and what the newest command is answered. What ends an order is what came first;
// whether it has ended is whether everybody has answered.

func expect(history []Input) (Status, Reason, Change) {
	f := facts{lines: len(history[0].(Place).Lines), answered: map[string]Answered{}}
	var answer Change
	for _, in := range history {
		answer = f.read(in)
	}
	status, why := f.status()
	return status, why, answer
}

type facts struct {
	lines, answers int
	paying         bool // the gateway was asked
	lastWord       bool // and has nothing more to say
	paid           bool
	end            Status // the first cause of an end without a sale
	why            Reason
	answered       map[string]Answered
}

func (f *facts) status() (Status, Reason) {
	switch {
	case f.paid:
		return Paid, 0
	case f.end == 0 && f.answers < f.lines:
		return Reserving, 0
	case f.end == 0:
		return PaymentPending, 0
	case f.answers < f.lines || f.paying && !f.lastWord:
		return Cancelling, f.why
	}
	return f.end, f.why
}

func (f *facts) because(end Status, why Reason) {
	if f.end == 0 {
		f.end, f.why = end, why
	}
}

func (f *facts) read(in Input) Change {
	switch in := in.(type) {
	case Place:
		return f.command(in.Command, func() Change {
			if len(f.answered) == 0 {
				return Placed{}
			}
			return CommandRefused{StateConflict}
		})
	case RepeatPlace:
		if _, known := f.answered[in.RequestID]; !known && len(f.answered) < 32 {
			return CommandRefused{StateConflict}
		}
		return f.command(in.Command, nil)
	case Cancel:
		return f.command(in.Command, func() Change {
			if status, _ := f.status(); status.Final() {
				return CommandRefused{StateConflict}
			}
			f.because(Cancelled, CancelledByRequest)
			return CancelAccepted{}
		})
	case LineAnswer:
		f.answers++
		if in.Refused != 0 {
			f.because(Rejected, in.Refused)
		}
		f.paying = f.paying || f.answers == f.lines && f.end == 0
	case Timeout:
		if in.Delay == DelayPayment && f.paying {
			f.because(PaymentFailed, PaymentDeadline)
		} else if in.Delay == DelayPayment {
			f.because(Rejected, ReservationDeadline)
		}
	case PaymentResult:
		f.money(in)
	}
	return nil
}

// command answers a repeat and one too many; what is new is decided and remembered.
func (f *facts) command(c Command, decide func() Change) Change {
	was, known := f.answered[c.RequestID]
	switch {
	case known && was.Fingerprint != c.Fingerprint:
		return CommandRefused{IdempotencyMismatch}
	case known:
		return CommandRepeated{was.Refused}
	case len(f.answered) >= 32:
		return CommandRefused{TooManyCommands}
	}
	answer := decide()
	refused, _ := answer.(CommandRefused)
	f.answered[c.RequestID] = Answered{c.RequestID, c.Fingerprint, refused.Reason}
	return answer
}

func (f *facts) money(r PaymentResult) {
	switch r.Outcome {
	case OutcomeSucceeded:
		f.paid = f.end == 0
	case OutcomeDeclined, OutcomeCanceled:
		f.lastWord = true
		f.because(PaymentFailed, PaymentDeclined)
	case OutcomeRefunded:
		f.lastWord = true
	case OutcomeRefused:
		f.lastWord = r.Step == StepCreate
		f.because(PaymentFailed, PaymentRefused)
	}
}
