package order

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is everything outside one order: SKUs that answer late or never, a gateway with a ledger of its own that loses
// answers and requests, timers that fire whenever they like, and a client who repeats.
type world struct {
	*rapid.T
	order    State
	lines    []PlacedLine
	stock    map[int32]int64 // by line: units held
	shipped  map[int32]int64
	asked    []Reserve // unanswered
	gateway  gateway
	open     []Request       // unanswered
	answered []PaymentResult // for delivering again
	timers   []Timer         // all that were ever started
	history  []Input         // what was neither ignored nor refused as impossible
	kind     bool            // from now on everything works at the first try
	silent   bool            // a SKU's answer is lost for ever
	overdue  bool            // what happens is that the deadline passed
}

// gateway is what really happened to the money, whatever was answered.
type gateway struct {
	intent            intent
	charged, refunded int64
	refunds           map[int32]bool // by number: done
}

type intent int

const (
	none intent = iota
	created
	processing
	charged
	dead
)

// TestWorlds plays random programs of a world against the rule: after every input the invariants, and at the end, when
// everything works again, the promises.
func TestWorlds(t *testing.T) { rapid.Check(t, playWorld) }

// FuzzWorlds plays the same programs, led by coverage.
func FuzzWorlds(f *testing.F) { f.Fuzz(rapid.MakeFuzz(playWorld)) }

func playWorld(rt *rapid.T) {
	w := newWorld(rt)
	w.Repeat(map[string]func(*rapid.T){
		"a SKU answers":             func(t *rapid.T) { w.T = t; w.skuAnswers() },
		"the gateway answers":       func(t *rapid.T) { w.T = t; w.gatewayAnswers() },
		"the gateway says it twice": func(t *rapid.T) { w.T = t; w.oldAnswer() },
		"a SKU's answer is lost":    func(t *rapid.T) { w.T = t; w.skuIsSilent() },
		"the gateway is silent":     func(t *rapid.T) { w.T = t; w.gatewayIsSilent() },
		"it has been asked often":   func(t *rapid.T) { w.T = t; w.askedOften() },
		"a timer fires":             func(t *rapid.T) { w.T = t; w.timerFires() },
		"the client cancels":        func(t *rapid.T) { w.T = t; w.happen(Cancel{w.command()}) },
		"the client places":         func(t *rapid.T) { w.T = t; w.happen(w.place()) },
		"the client places again":   func(t *rapid.T) { w.T = t; w.happen(RepeatPlace{w.command()}) },
		"nonsense":                  func(t *rapid.T) { w.T = t; w.nonsense() },
	})
	w.T = rt
	w.end()
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, stock: map[int32]int64{}, shipped: map[int32]int64{}}
	w.gateway.refunds = map[int32]bool{}
	for i := range rapid.IntRange(1, 4).Draw(t, "lines") {
		w.lines = append(w.lines, PlacedLine{
			SKU: fmt.Sprintf("SKU%d", i), Quantity: rapid.Int64Range(1, 3).Draw(t, "quantity"), UnitPriceMinor: rapid.Int64Range(1, 500).Draw(t, "price"),
		})
	}
	p := w.place()
	p.Command = Command{RequestID: "r0", Fingerprint: Fingerprint{0}}
	w.happen(p)
	w.getOn()
	return w
}

// getOn begins somewhere on the way, because few random programs get far: with the lines held, with the card being
// charged, or with a success that came too late.
func (w *world) getOn() {
	far := rapid.IntRange(0, 5).Draw(w.T, "far")
	w.kind = true
	for far > 0 && len(w.asked) > 0 {
		w.skuAnswers()
	}
	if far > 1 {
		w.gatewayAnswers()
	}
	if far > 3 {
		w.happen(Cancel{Command{RequestID: "c1"}})
		w.gatewayAnswers()
	}
	w.kind = false
}

func (w *world) place() Place {
	return Place{Command: w.command(), OrderID: "o1", UserID: "ann", Lines: w.lines, Currency: "EUR", Method: "pm_card_visa"}
}

// command comes from a client with few request_ids, so that it repeats, and with other content too.
func (w *world) command() Command {
	return Command{
		RequestID:   fmt.Sprintf("r%d", rapid.IntRange(0, 40).Draw(w.T, "request")),
		Fingerprint: Fingerprint{byte(rapid.IntRange(0, 1).Draw(w.T, "content"))},
	}
}

func (w *world) skuAnswers() {
	if len(w.asked) == 0 {
		w.Skip("nothing is asked")
	}
	i := w.pick("line", 0, len(w.asked))
	r := w.asked[i]
	w.asked = slices.Delete(w.asked, i, i+1)
	a := LineAnswer{Line: r.Line, SKU: r.SKU, Quantity: r.Quantity}
	if a.Refused = []Reason{0, 0, OutOfStock, UnknownSKU}[w.pick("stock", 0, 4)]; a.Refused == 0 {
		w.stock[r.Line] += r.Quantity
	}
	w.mustMatter(a)
}

// skuIsSilent seldom, because such an order never ends: its answer, or what it was asked, became a dead letter.
func (w *world) skuIsSilent() {
	if len(w.asked) == 0 || w.pick("silence", 0, 8) != 7 {
		w.Skip("every SKU answers")
	}
	w.asked, w.silent = w.asked[1:], true
}

// gatewayIsSilent loses a request, or an answer to what the gateway has done.
func (w *world) gatewayIsSilent() {
	if len(w.open) == 0 {
		w.Skip("nothing is open")
	}
	if rapid.Bool().Draw(w.T, "done") {
		w.gateway.do(w, w.open[0])
	}
	w.open = w.open[1:]
}

// askedOften stands for a gateway that has been asked in vain for long.
func (w *world) askedOften() {
	if w.order.Status != Cancelling {
		w.Skip("it is not ending")
	}
	w.order.Asks = QuickAsks
}

func (w *world) gatewayAnswers() {
	if len(w.open) == 0 {
		w.Skip("nothing is open")
	}
	r := w.open[0]
	w.open = w.open[1:]
	a := PaymentResult{Number: r.Number, Step: r.Step, IntentID: r.IntentID, Currency: "EUR"}
	a.Outcome, a.AmountMinor = w.gateway.do(w, r)
	if a.Outcome == OutcomeCreated {
		a.IntentID = "pi_1"
	}
	if w.pick("answer lost", 0, 4) == 3 {
		a = PaymentResult{Number: r.Number, Step: r.Step, Outcome: OutcomeUnavailable}
	}
	w.answered = append(w.answered, a)
	if given := r.Number < w.order.Steps; given != w.happen(a).Ignored() {
		w.Fatalf("the answer to request %d of %d was ignored: %v", r.Number, w.order.Steps, !given)
	}
}

func (g *gateway) do(w *world, r Request) (Outcome, int64) {
	if lacks(r, total(w.lines)) {
		w.Fatalf("the payment worker would not take %+v", r)
	}
	switch r.Step {
	case StepCreate:
		if g.intent == none && w.pick("create", 0, 6) == 5 {
			return OutcomeRefused, 0
		}
		g.intent = max(g.intent, created)
		return OutcomeCreated, 0
	case StepRefund:
		return g.refund(w, r)
	case StepConfirm, StepPoll:
		return g.decide(w, []intent{charged, processing, dead, g.intent}[w.pick("bank", 0, 4)])
	case StepCancel:
		if g.intent == processing {
			how := w.pick("bank", 0, 4)
			if how == 3 {
				return OutcomeRefused, 0
			}
			return g.decide(w, []intent{dead, processing, charged}[how])
		}
		return g.decide(w, dead)
	}
	panic("no such step")
}

// lacks says whether a request is without something that its step needs (see workers/payment).
func lacks(r Request, total int64) bool {
	switch r.Step {
	case StepCreate:
		return r.AmountMinor != total
	case StepConfirm, StepPoll:
		return r.IntentID == ""
	case StepCancel:
		return r.IntentID == "" && r.AmountMinor != total
	}
	return r.IntentID == "" || r.AmountMinor < 1 || r.RefundNumber < 1
}

// decide moves the intent on, unless it has been decided, and says where it is.
func (g *gateway) decide(w *world, to intent) (Outcome, int64) {
	if g.intent != charged && g.intent != dead {
		if to == charged {
			g.charged += total(w.lines)
		}
		g.intent = to
	}
	switch g.intent {
	case created:
		return OutcomeRefused, 0
	case processing:
		return OutcomePending, 0
	case charged:
		return OutcomeSucceeded, g.charged
	}
	return []Outcome{OutcomeCanceled, OutcomeDeclined}[w.pick("words", 0, 2)], 0
}

func (g *gateway) refund(w *world, r Request) (Outcome, int64) {
	how := w.pick("refund", 0, 3)
	switch {
	case g.refunds[r.RefundNumber]:
	case how == 0:
		g.refunds[r.RefundNumber] = true
		g.refunded += r.AmountMinor
	case how == 1:
		return OutcomeRefused, 0
	default:
		return OutcomePending, 0
	}
	if g.refunded > g.charged {
		w.Fatalf("gave back %d of %d", g.refunded, g.charged)
	}
	return OutcomeRefunded, r.AmountMinor
}

// oldAnswer delivers an answer again. It may only be ignored.
func (w *world) oldAnswer() {
	if len(w.answered) == 0 {
		w.Skip("nothing was answered")
	}
	if d, err := w.decide(rapid.SampledFrom(w.answered).Draw(w.T, "answer")); err != nil || !d.Ignored() {
		w.Fatalf("an old answer led to %+v, %v", d, err)
	}
}

func (w *world) timerFires() {
	i := w.pick("timer", len(w.timers)-1, len(w.timers))
	if timer := w.timers[i]; timer.Delay != DelayForget {
		w.happen(Timeout(timer))
	}
}

// nonsense may be refused or ignored, but never change anything.
func (w *world) nonsense() {
	in := rapid.SampledFrom([]Input{
		LineAnswer{Line: 0}, LineAnswer{Line: 99}, LineAnswer{Line: 1, SKU: "OTHER", Quantity: 1},
		PaymentResult{Number: w.order.Steps + 1, Step: StepConfirm, Outcome: OutcomeSucceeded},
		PaymentResult{Number: w.order.Steps, Step: StepRefund, Outcome: OutcomeSucceeded, AmountMinor: total(w.lines)},
		PaymentResult{Number: w.order.Steps, Step: w.order.OpenStep, Outcome: OutcomeSucceeded, AmountMinor: total(w.lines) + 1},
		Timeout{DelayHold, 1}, Timeout{DelayPoll, 0}, Timeout{DelayPayment, 99}, Timeout{DelayForget, 99},
	}).Draw(w.T, "nonsense")
	if d, err := w.decide(in); err == nil && !d.Ignored() {
		w.Fatalf("%+v led to %+v", in, d)
	}
}

// happen lets the order decide, does what it wants and looks whether all is well.
func (w *world) happen(in Input) Decision {
	before := w.order.Version
	o, _ := in.(Timeout)
	w.overdue = o.Delay == DelayPayment
	d, err := w.decide(in)
	if err != nil {
		w.Fatalf("%+v: %v", in, err)
	}
	if d.Ignored() {
		return d
	}
	if d.Event.Version != before+1 || w.order.Version != before+1 {
		w.Fatalf("version %d follows %d, the order says %d", d.Event.Version, before, w.order.Version)
	}
	for _, e := range d.Effects {
		w.do(e)
	}
	w.history = append(w.history, in)
	w.check()
	w.compare(in, d.Event.Change)
	return d
}

func (w *world) mustMatter(in Input) {
	if d := w.happen(in); d.Ignored() {
		w.Fatalf("%+v was ignored", in)
	}
}

// decide holds the rule to being one: the same twice, and its argument as it was.
func (w *world) decide(in Input) (Decision, error) {
	given := w.order
	given.Lines, given.Commands = slices.Clone(given.Lines), slices.Clone(given.Commands)
	at := int64(len(w.history))
	after, d, err := Decide(w.order, in, at)
	if !reflect.DeepEqual(w.order, given) {
		w.Fatalf("%+v changed the state that it was given", in)
	}
	if again, d2, err2 := Decide(w.order, in, at); !reflect.DeepEqual(after, again) || !reflect.DeepEqual(d, d2) || !reflect.DeepEqual(err, err2) {
		w.Fatalf("%+v was decided differently the second time", in)
	}
	if (err != nil || d.Ignored()) && !reflect.DeepEqual(after, given) && after.Exists() {
		w.Fatalf("%+v changed the order without an event", in)
	}
	w.order = after
	return d, err
}

func (w *world) do(e Effect) {
	switch e := e.(type) {
	case Reserve:
		w.asked = append(w.asked, e)
	case Release:
		w.take(Units(e))
	case Ship:
		w.take(Units(e))
		w.shipped[e.Line] += e.Quantity
	case Timer:
		w.timers = append(w.timers, e)
	case Request:
		if w.open = append(w.open, e); len(w.open) > 1 && !w.overdue {
			w.Fatalf("two requests are open: %+v", w.open)
		}
	}
}

func (w *world) take(u Units) {
	if w.stock[u.Line] != u.Quantity || w.lines[u.Line-1].SKU != u.SKU {
		w.Fatalf("%+v of a hold of %d", u, w.stock[u.Line])
	}
	delete(w.stock, u.Line)
}

// pick draws a number below n; in a kind world it is the good one.
func (w *world) pick(what string, good, n int) int {
	if w.kind {
		return good
	}
	return rapid.IntRange(0, n-1).Draw(w.T, what)
}

func (w *world) check() {
	if !w.order.Status.Final() && !w.runs(DelayPayment) {
		w.Fatalf("stranded in %v: no deadline is running", w.order.Status)
	}
	if w.order.Status.Final() && (len(w.asked) > 0 || len(w.open) > 0 || w.ticking() || !w.runs(DelayForget)) {
		w.Fatalf("%v is final, but %v, %v are unanswered and the timers are %v", w.order.Status, w.asked, w.open, w.order.Waits)
	}
	for _, l := range w.order.Lines {
		if held := w.stock[l.Number] > 0; held != (l.Status == Held) {
			w.Fatalf("line %d is %v, the stock holds %d", l.Number, l.Status, w.stock[l.Number])
		}
	}
	if len(w.order.Commands) > MaxCommands {
		w.Fatalf("%d commands are remembered", len(w.order.Commands))
	}
}

// compare asks the second model.
func (w *world) compare(in Input, answer Change) {
	status, reason, want := expect(w.history)
	if w.order.Status != status || w.order.Reason != reason {
		w.Fatalf("after %+v: %v because of %v, the model says %v because of %v", in, w.order.Status, w.order.Reason, status, reason)
	}
	if want != nil && answer != want {
		w.Fatalf("%+v was answered %#v, the model says %#v", in, answer, want)
	}
}

func (w *world) ticking() bool {
	return w.runs(DelayPayment) || w.runs(DelayPoll) || w.runs(DelayRetry)
}

// runs says whether a timer that was started has the current generation.
func (w *world) runs(d Delay) bool {
	return slices.Contains(w.timers, Timer{d, w.order.Waits[d].Generation}) && w.order.Waits[d].Running
}

// end lets everything work and every timer fire until nothing happens any more, and then counts.
func (w *world) end() {
	w.kind = true
	for range 100 {
		switch {
		case len(w.asked) > 0:
			w.skuAnswers()
		case len(w.open) > 0:
			w.gatewayAnswers()
		case w.runs(DelayPoll):
			w.mustMatter(Timeout{DelayPoll, w.order.Waits[DelayPoll].Generation})
		case w.runs(DelayRetry):
			w.mustMatter(Timeout{DelayRetry, w.order.Waits[DelayRetry].Generation})
		case w.runs(DelayPayment):
			w.mustMatter(Timeout{DelayPayment, w.order.Waits[DelayPayment].Generation})
		}
	}
	w.count()
	if w.silent { // it waits, with a deadline, and keeps neither stock nor money
		if w.order.Status != Cancelling || w.order.OpenStep != 0 {
			w.Fatalf("%v, %v is open, and a SKU does not answer", w.order.Status, w.order.OpenStep)
		}
		return
	}
	if !w.order.Status.Final() {
		w.Fatalf("%v at the end", w.order.Status)
	}
	w.forget()
}

func (w *world) count() {
	paid := w.order.Status == Paid
	kept := w.gateway.charged - w.gateway.refunded
	if p := w.order.Payment; p.ChargedMinor != w.gateway.charged || p.RefundedMinor != w.gateway.refunded {
		w.Fatalf("the order says charged %d, refunded %d, the gateway %+v", p.ChargedMinor, p.RefundedMinor, w.gateway)
	}
	if want := total(w.lines); paid && kept != want || !paid && kept != 0 {
		w.Fatalf("%v, and %d of %d are kept", w.order.Status, kept, want)
	}
	if len(w.stock) > 0 {
		w.Fatalf("%v, and still held: %v", w.order.Status, w.stock)
	}
	for i, l := range w.lines {
		if n := w.shipped[int32(i+1)]; paid && n != l.Quantity || !paid && n != 0 {
			w.Fatalf("%v, and %d of %d shipped of line %d", w.order.Status, n, l.Quantity, i+1)
		}
	}
}

// forget fires the last timer, which is the one that a final order leaves behind.
func (w *world) forget() {
	last := w.timers[len(w.timers)-1]
	if d, err := w.decide(Timeout(last)); err != nil || !d.Ignored() || w.order.Exists() {
		w.Fatalf("%+v left %v, %+v, %v", last, w.order.Status, d, err)
	}
}

func total(lines []PlacedLine) (sum int64) {
	for _, l := range lines {
		sum += l.Quantity * l.UnitPriceMinor
	}
	return sum
}
