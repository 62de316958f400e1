package order

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the right side of testdata/*.txt")

// TestStories plays testdata/*.txt: on the left what happens to one order, on the right what the rule answers.
// A shopkeeper can review them. The language on the left:
//
//	r1: place 2 TEA at 350, 1 CUP at 900   a command, by its request_id; "r1 with other content: ..." changes what was sent
//	r1: place again                        the repeat of a Place that has no price any more
//	r1: cancel
//	TEA: yes  |  TEA: no, 3 left  |  TEA: unknown
//	gateway: created pi_1                  the answer to the open step; "gateway to 1 CREATE: ..." names another
//	timer: PAYMENT                         the newest timer of that delay is due; "timer: PAYMENT 1" names its generation
//	look                                   shows the order
func TestStories(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no stories in testdata")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			was, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(was))
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, was) {
				t.Errorf("%s is told otherwise now (go test ./processors/order -update rewrites it):\n%s", file, firstDifference(string(was), string(got)))
			}
		})
	}
}

const column = 54

// told is an order, and the newest timer of each delay that it started.
type told struct {
	State
	timers [delays]int32
}

// play tells the story again. A line without a left side was an answer, and is told anew.
func play(t *testing.T, story string) []byte {
	var out bytes.Buffer
	var s told
	for n, line := range strings.Split(strings.TrimRight(story, "\n"), "\n") {
		left, _, answered := strings.Cut(line, "|")
		left = strings.TrimSpace(left)
		switch {
		case left == "" && answered:
		case left == "":
			fmt.Fprintln(&out)
		case strings.HasPrefix(left, "#"):
			fmt.Fprintln(&out, line)
			if strings.HasPrefix(left, "##") {
				s = told{}
			}
		default:
			var answers []string
			answers = s.happen(t, n+1, left)
			for i, a := range answers {
				if i > 0 {
					left = ""
				}
				fmt.Fprintf(&out, "%-*s | %s\n", column, left, a)
			}
		}
	}
	return out.Bytes()
}

func (s *told) happen(t *testing.T, line int, what string) []string {
	if what == "look" {
		return look(s.State)
	}
	in, err := s.understand(what)
	if err != nil {
		t.Fatalf("line %d: %q: %v", line, what, err)
	}
	after, d, err := Decide(s.State, in, 0)
	existed := s.Exists()
	s.State = after
	switch {
	case err != nil:
		return []string{"never applied: " + err.Error()}
	case d.Ignored() && existed && !s.Exists():
		return []string{"forgotten"}
	case d.Ignored():
		return []string{"ignored"}
	}
	for _, e := range d.Effects {
		if timer, ok := e.(Timer); ok {
			s.timers[timer.Delay] = timer.Generation
		}
	}
	return tell(after, d)
}

func tell(s State, d Decision) []string {
	lines := []string{fmt.Sprintf("v%d %v: %s", d.Event.Version, s.Status, change(d.Event.Change))}
	for _, e := range d.Effects {
		lines = append(lines, "   "+effect(e))
	}
	return lines
}

func change(c Change) string {
	switch c := c.(type) {
	case Placed:
		return "placed"
	case LineHeld:
		return fmt.Sprintf("line %d is held", c.Line)
	case LineRefused:
		return fmt.Sprintf("line %d is refused", c.Line)
	case PaymentAdvanced:
		return fmt.Sprintf("the gateway answered request %d", c.Number)
	case CancelAccepted:
		return "the cancel is accepted"
	case DeadlinePassed:
		return "the deadline passed"
	case RetryDue:
		return "time to ask again"
	case CommandRepeated:
		return "a repeat, answered as before: " + accepted(c.Refused)
	case CommandRefused:
		return "refused, " + c.Reason.String()
	}
	return fmt.Sprintf("%T", c)
}

func accepted(refused Reason) string {
	if refused == 0 {
		return "accepted"
	}
	return "refused, " + refused.String()
}

func effect(e Effect) string {
	switch e := e.(type) {
	case Reserve:
		return fmt.Sprintf("reserve %d %s", e.Quantity, e.SKU)
	case Release:
		return fmt.Sprintf("release %d %s", e.Quantity, e.SKU)
	case Ship:
		return fmt.Sprintf("ship %d %s", e.Quantity, e.SKU)
	case Timer:
		return fmt.Sprintf("timer %v %d", e.Delay, e.Generation)
	case Request:
		return strings.TrimRight(fmt.Sprintf("request %d: %v %s%s", e.Number, e.Step, e.IntentID, ofMoney(e)), " ")
	}
	return fmt.Sprintf("%T", e)
}

func ofMoney(r Request) string {
	switch r.Step {
	case StepRefund:
		return fmt.Sprintf(" refund %d of %d", r.RefundNumber, r.AmountMinor)
	}
	if r.AmountMinor != 0 {
		return fmt.Sprintf("of %d", r.AmountMinor)
	}
	return ""
}

func look(s State) []string {
	if !s.Exists() {
		return []string{"no order"}
	}
	seen := []string{fmt.Sprintf("%v%s, total %d %s", s.Status, because(s.Reason), s.TotalMinor, s.Currency)}
	seen = append(seen, fmt.Sprintf("   payment %v%s: charged %d, refunded %d", s.Payment.Status, code(s), s.Payment.ChargedMinor, s.Payment.RefundedMinor))
	for _, l := range s.Lines {
		seen = append(seen, fmt.Sprintf("   %d %s at %d: %v%s", l.Quantity, l.SKU, l.UnitPriceMinor, l.Status, left(l)))
	}
	return seen
}

func because(r Reason) string {
	if r == 0 {
		return ""
	}
	return " because of " + r.String()
}

func code(s State) string {
	if s.Payment.DeclineCode == "" {
		return ""
	}
	return " (" + s.Payment.DeclineCode + ")"
}

func left(l Line) string {
	if l.Status != Refused {
		return ""
	}
	return fmt.Sprintf(", %v, %d left", l.Reason, l.Available)
}

func (s *told) understand(what string) (Input, error) {
	who, says, found := strings.Cut(what, ": ")
	if !found {
		return nil, errors.New("who says it?")
	}
	switch {
	case strings.HasPrefix(who, "r"):
		return understandCommand(who, says)
	case strings.HasPrefix(who, "gateway"):
		return understandGateway(s.State, who, says)
	case who == "timer":
		return s.understandTimer(says)
	}
	return understandStock(s.State, who, says)
}

func understandCommand(who, says string) (Input, error) {
	request, other, changed := strings.Cut(who, " with other")
	c := Command{RequestID: request, ActorID: "ann", Fingerprint: Fingerprint{1}}
	if changed && other == " content" {
		c.Fingerprint = Fingerprint{2}
	}
	lines, isPlace := strings.CutPrefix(says, "place ")
	switch {
	case says == "cancel":
		return Cancel{c}, nil
	case says == "place again":
		return RepeatPlace{c}, nil
	case !isPlace:
		return nil, errors.New("no such command")
	}
	p := Place{Command: c, OrderID: "o1", UserID: "ann", Currency: "EUR", Method: "pm_card_visa"}
	for _, l := range strings.Split(lines, ", ") {
		var line PlacedLine
		if _, err := fmt.Sscanf(l, "%d %s at %d", &line.Quantity, &line.SKU, &line.UnitPriceMinor); err != nil {
			return nil, err
		}
		p.Lines = append(p.Lines, line)
	}
	return p, nil
}

func understandStock(s State, sku, says string) (Input, error) {
	a := LineAnswer{SKU: sku, Line: 1, Quantity: 1}
	for _, l := range s.Lines {
		if l.SKU == sku {
			a.Line, a.Quantity = l.Number, l.Quantity
		}
	}
	switch {
	case says == "yes":
	case says == "unknown":
		a.Refused = UnknownSKU
	default:
		a.Refused = OutOfStock
		if _, err := fmt.Sscanf(says, "no, %d left", &a.Available); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func understandGateway(s State, who, says string) (Input, error) {
	r := PaymentResult{Number: s.Steps, Step: s.OpenStep, IntentID: s.Payment.IntentID, Currency: s.Currency}
	var step string
	if n, _ := fmt.Sscanf(who, "gateway to %d %s", &r.Number, &step); n == 2 {
		r.Step = called(step, StepCreate, StepRefund)
	}
	words := strings.Fields(says)
	r.Outcome = called(strings.ToUpper(words[0]), OutcomeCreated, OutcomeRefused)
	if r.Outcome == 0 {
		return nil, errors.New("no such outcome")
	}
	rest := strings.Join(words[1:], " ")
	switch r.Outcome {
	case OutcomeCreated:
		r.IntentID = rest
	case OutcomeSucceeded:
		r.AmountMinor = s.TotalMinor
	case OutcomeRefunded:
		r.AmountMinor = s.Payment.ChargedMinor - s.Payment.RefundedMinor
	case OutcomeDeclined, OutcomeRefused:
		r.DeclineCode = rest
	}
	if n, _ := fmt.Sscanf(rest, "%d", &r.AmountMinor); n == 1 {
		return r, nil
	}
	return r, nil
}

func (s *told) understandTimer(says string) (Input, error) {
	delay, generation, named := strings.Cut(says, " ")
	o := Timeout{Delay: called(delay, DelayHold, DelayForget)}
	o.Generation = s.timers[o.Delay]
	if o.Delay == 0 {
		return nil, errors.New("no such delay")
	}
	if named {
		n, err := strconv.Atoi(generation)
		o.Generation = int32(n)
		return o, err
	}
	return o, nil
}

// called is the constant with that name, or zero.
func called[T interface {
	~uint8
	fmt.Stringer
}](name string, first, last T) T {
	for v := first; v <= last; v++ {
		if v.String() == name {
			return v
		}
	}
	return 0
}

func firstDifference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	for i := range max(len(a), len(b)) {
		x, y := at(a, i), at(b, i)
		if x != y {
			return fmt.Sprintf("line %d\n  was: %s\n  is:  %s", i+1, x, y)
		}
	}
	return cmp.Or(was, is)
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}
