package inventory

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// ledger is the second, dumb model: it remembers everything that ever happened and adds it up each time.
type ledger struct {
	outcomes []entry
	requests []sent // all that were answered and must be known again, oldest first
}

type entry struct {
	c Command
	o Outcome
}

type sent struct {
	c       Command // without its time in the log
	refused Reason
}

func (l *ledger) onHand() (n int64) {
	for _, e := range l.outcomes {
		switch e.o.Change {
		case Received, Adjusted, Restocked:
			n += e.o.Quantity
		case Shipped:
			n -= e.o.Quantity
		case Set:
			n = e.o.Quantity
		}
	}
	return n
}

func (l *ledger) reserved() (n int64) {
	for _, e := range l.outcomes {
		switch e.o.Change {
		case Held:
			n += e.o.Quantity
		case Released, Shipped:
			n -= e.o.Quantity
		}
	}
	return n
}

func (l *ledger) sellersChanges() (n int64) {
	for _, e := range l.outcomes {
		if slices.Contains([]Change{Received, Adjusted, Set}, e.o.Change) {
			n++
		}
	}
	return n
}

// expect is the outcome, or none for what is impossible. It is written from the table in the package's comment.
func (l *ledger) expect(c Command) (Outcome, bool) {
	free := l.onHand() - l.reserved()
	switch c := c.(type) {
	case Reserve:
		switch {
		case c.Quantity < 1:
			return Outcome{}, false
		case l.sellersChanges() == 0:
			return Outcome{ReserveRefused, c.Quantity, UnknownSKU}, true
		case free < c.Quantity:
			return Outcome{ReserveRefused, c.Quantity, OutOfStock}, true
		}
		return Outcome{Held, c.Quantity, None}, true
	case Release:
		return Outcome{Released, c.Quantity, None}, c.Quantity >= 1 && c.Quantity <= l.reserved()
	case Ship:
		return Outcome{Shipped, c.Quantity, None}, c.Quantity >= 1 && c.Quantity <= l.reserved()
	case Restock:
		possible := c.Quantity >= 1 && c.Quantity <= MaxOnHand && l.onHand()+c.Quantity <= MaxOnHand && l.sellersChanges() > 0
		return Outcome{Restocked, c.Quantity, None}, possible
	}
	return l.expectOfSeller(c)
}

func (l *ledger) expectOfSeller(c Command) (Outcome, bool) {
	request, asked, done, possible := content(c)
	if !possible {
		return Outcome{}, false
	}
	if reason, known := l.known(c, request); known {
		return reason(asked), true
	}
	age := time.Duration(request.LoggedAt-request.ID.Time()) * time.Millisecond
	switch newest, any := l.newestForgotten(); {
	case age > 24*time.Hour, age < -5*time.Minute, any && request.ID.Time() <= newest:
		return Outcome{CommandRefused, asked, RequestTooOld}, true
	}
	if why := l.unwilling(c); why != None {
		return Outcome{CommandRefused, asked, why}, true
	}
	return Outcome{done, asked, None}, true
}

// known finds a request among the last sixteen that were remembered.
func (l *ledger) known(c Command, r Request) (func(asked int64) Outcome, bool) {
	for _, old := range l.requests[max(0, len(l.requests)-16):] {
		was, _, _, _ := content(old.c)
		switch {
		case was.ID != r.ID:
		case old.c == timeless(c):
			return func(asked int64) Outcome { return Outcome{CommandRepeated, asked, old.refused} }, true
		default:
			return func(asked int64) Outcome { return Outcome{CommandRefused, asked, IdempotencyMismatch} }, true
		}
	}
	return nil, false
}

func (l *ledger) newestForgotten() (newest int64, any bool) {
	for _, old := range l.requests[:max(0, len(l.requests)-16)] {
		r, _, _, _ := content(old.c)
		newest, any = max(newest, r.ID.Time()), true
	}
	return newest, any
}

// unwilling is the SKU's own reason to refuse a new request. The model's numbers stay far below an overflow.
func (l *ledger) unwilling(c Command) Reason {
	after := l.onHand()
	switch c := c.(type) {
	case Receive:
		after += c.Quantity
	case Adjust:
		if l.sellersChanges() == 0 {
			return UnknownSKU
		}
		after += c.Delta
	case SetQuantity:
		if c.Guarded && l.sellersChanges() != c.IfVersion {
			return StaleVersion
		}
		after = c.Quantity
	}
	switch {
	case after < l.reserved():
		return BelowReserved
	case after > 1_000_000_000_000:
		return TooMuchStock
	}
	return None
}

func content(c Command) (r Request, asked int64, done Change, possible bool) {
	switch c := c.(type) {
	case Receive:
		return c.Request, c.Quantity, Received, c.Quantity > 0
	case Adjust:
		return c.Request, c.Delta, Adjusted, c.Delta != 0
	case SetQuantity:
		return c.Request, c.Quantity, Set, c.Quantity >= 0 && c.IfVersion >= 0
	}
	panic("not a seller's command")
}

// timeless is a seller's command without the time at which the log took it.
func timeless(c Command) Command {
	switch c := c.(type) {
	case Receive:
		c.LoggedAt = 0
		return c
	case Adjust:
		c.LoggedAt = 0
		return c
	case SetQuantity:
		c.LoggedAt = 0
		return c
	}
	return nil
}

func (l *ledger) write(c Command, o Outcome) {
	l.outcomes = append(l.outcomes, entry{c, o})
	fresh := o.Change != CommandRepeated && o.Reason != IdempotencyMismatch && o.Reason != RequestTooOld
	if c := timeless(c); c != nil && fresh {
		l.requests = append(l.requests, sent{c, o.Reason})
	}
}

// drawCommand draws from a small world, so that repeats, mismatches and the last unit come up all the time.
func drawCommand(t *rapid.T, now int64) Command {
	n := rapid.OneOf(rapid.Int64Range(-2, 12), rapid.SampledFrom([]int64{MaxOnHand, MaxOnHand - 3, MaxOnHand + 1})).Draw(t, "n")
	request := func() Request {
		made := now + rapid.SampledFrom([]int64{0, 0, 0, -1000, -2000, -3000, -MaxRequestAge, -MaxRequestAge - 1, MaxRequestLead, MaxRequestLead + 1}).Draw(t, "made")
		return Request{requestID(time.UnixMilli(made), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id")), now}
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0, 1:
		return Receive{request(), n}
	case 2:
		return Adjust{request(), n - 6, rapid.SampledFrom([]string{"", "fell"}).Draw(t, "note")}
	case 3:
		guarded := rapid.Bool().Draw(t, "guarded")
		c := SetQuantity{Request: request(), Quantity: n, Guarded: guarded}
		if guarded {
			c.IfVersion = rapid.Int64Range(-1, 9).Draw(t, "if")
		}
		return c
	case 4, 5, 6:
		return Reserve{n}
	case 7:
		return Release{n}
	case 8:
		return Ship{n}
	}
	return Restock{n}
}

// TestAgreesWithTheLedger plays random commands, new ones and repeats, to the rule and to the model: in one half of
// the programs any command, in the other many of sellers in a short time, so that requests are forgotten.
func TestAgreesWithTheLedger(t *testing.T) {
	t.Run("any", rapid.MakeCheck(func(t *rapid.T) {
		playAgainstLedger(t, 80, []int64{0, 1000, 60_000, MaxRequestAge}, drawCommand)
	}))
	t.Run("busy seller", rapid.MakeCheck(func(t *rapid.T) {
		playAgainstLedger(t, 120, []int64{0, 0, 1, 2}, drawDelivery)
	}))
}

func playAgainstLedger(t *rapid.T, most int, waits []int64, draw func(*rapid.T, int64) Command) {
	var (
		sku     State
		model   ledger
		history []Command
		now     = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC).UnixMilli()
	)
	for range rapid.IntRange(most/2, most).Draw(t, "commands") {
		now += rapid.SampledFrom(waits).Draw(t, "wait")
		c := draw(t, now)
		if len(history) > 0 && rapid.IntRange(0, 2).Draw(t, "repeat") == 0 {
			c = logged(rapid.SampledFrom(history[max(0, len(history)-40):]).Draw(t, "again"), now)
		}
		history = append(history, c)
		want, possible := model.expect(c)
		after, got, err := Decide(sku, c)
		if (err == nil) != possible || possible && got != want {
			t.Fatalf("%#v on %+v\n decided: %+v, %v\n the ledger says: %+v, possible: %v", c, sku, got, err, want, possible)
		}
		if possible {
			model.write(c, got)
		}
		checkNumbers(t, &model, after)
		sku = after
	}
	checkReplay(t, history, sku)
}

// drawDelivery draws a small delivery or correction, whose request was made a few milliseconds ago or ahead.
func drawDelivery(t *rapid.T, now int64) Command {
	made := time.UnixMilli(now + rapid.Int64Range(-12, 6).Draw(t, "made"))
	r := Request{requestID(made, rapid.StringMatching("[a-h]").Draw(t, "id")), now}
	if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
		return Adjust{r, -1, rapid.SampledFrom([]string{"", "fell"}).Draw(t, "note")}
	}
	return Receive{r, rapid.Int64Range(1, 2).Draw(t, "n")}
}

func logged(c Command, at int64) Command {
	switch c := c.(type) {
	case Receive:
		c.LoggedAt = at
		return c
	case Adjust:
		c.LoggedAt = at
		return c
	case SetQuantity:
		c.LoggedAt = at
		return c
	}
	return c
}

func checkNumbers(t *rapid.T, l *ledger, s State) {
	if s.Available() < 0 || s.Reserved < 0 || s.OnHand > MaxOnHand || len(s.Remembered) > MaxRemembered {
		t.Fatalf("never: %+v", s)
	}
	got := [4]int64{s.OnHand, s.Reserved, s.Version, s.StockVersion}
	if want := [4]int64{l.onHand(), l.reserved(), int64(len(l.outcomes)), l.sellersChanges()}; got != want {
		t.Fatalf("on hand, reserved, version, stock version: %v, the ledger says %v", got, want)
	}
	applied := map[RequestID]bool{}
	for _, e := range l.outcomes {
		if !slices.Contains([]Change{Received, Adjusted, Set}, e.o.Change) {
			continue
		}
		r, _, _, _ := content(e.c)
		if applied[r.ID] {
			t.Fatalf("%x was applied twice", r.ID)
		}
		applied[r.ID] = true
	}
}

// checkReplay decides everything once more, each command twice on the same state: the same end, and no state that was
// handed in has changed.
func checkReplay(t *rapid.T, history []Command, end State) {
	var sku State
	for _, c := range history {
		remembered := slices.Clone(sku.Remembered)
		after, first, _ := Decide(sku, c)
		again, second, _ := Decide(sku, c)
		if first != second || !same(after, again) || !slices.Equal(remembered, sku.Remembered) {
			t.Fatalf("%#v decided twice: %+v, %+v", c, first, second)
		}
		sku = after
	}
	if !same(sku, end) {
		t.Fatalf("replayed: %+v, before: %+v", sku, end)
	}
}

func same(a, b State) bool {
	return slices.Equal(a.Remembered, b.Remembered) && a.numbers() == b.numbers()
}

func (s State) numbers() [5]int64 {
	return [5]int64{s.OnHand, s.Reserved, s.Version, s.StockVersion, s.Forgotten}
}

// TestNeverBreaks and FuzzDecide play commands with any numbers in them.
func TestNeverBreaks(t *testing.T) { rapid.Check(t, playAnything) }

func FuzzDecide(f *testing.F) { f.Fuzz(rapid.MakeFuzz(playAnything)) }

func playAnything(t *rapid.T) {
	sku := State{OnHand: rapid.Int64Range(0, MaxOnHand).Draw(t, "on hand")}
	sku.Reserved = rapid.Int64Range(0, sku.OnHand).Draw(t, "reserved")
	sku.StockVersion = rapid.Int64Range(1, 3).Draw(t, "stock version")
	for range rapid.IntRange(1, 30).Draw(t, "commands") {
		c := anyCommand(t)
		after, what, err := Decide(sku, c)
		switch {
		case after.Available() < 0 || after.Reserved < 0 || after.OnHand > MaxOnHand || len(after.Remembered) > MaxRemembered:
			t.Fatalf("%#v on %+v: %+v", c, sku, after)
		case err != nil && (!same(after, sku) || what != Outcome{}):
			t.Fatalf("%#v is impossible, but: %+v, %+v", c, what, after)
		case err == nil && (after.Version != sku.Version+1 || what.Change == 0):
			t.Fatalf("%#v has no outcome: %+v, %+v", c, what, after)
		}
		sku = after
	}
}

// anyCommand has any number in it, also those that no door would let in.
func anyCommand(t *rapid.T) Command {
	n := rapid.OneOf(rapid.Int64(), rapid.Just[int64](math.MaxInt64), rapid.Just[int64](math.MinInt64)).Draw(t, "n")
	r := Request{LoggedAt: rapid.Int64Range(0, 1<<48).Draw(t, "logged")}
	made := rapid.Int64Range(max(0, r.LoggedAt-2*MaxRequestAge), r.LoggedAt+2*MaxRequestLead).Draw(t, "made")
	r.ID = requestID(time.UnixMilli(made), rapid.String().Draw(t, "id"))
	return rapid.SampledFrom([]Command{
		Receive{r, n}, Adjust{r, n, "note"}, SetQuantity{r, n, true, rapid.Int64Range(-1, 3).Draw(t, "if")},
		SetQuantity{r, n, false, 0}, Reserve{n}, Release{n}, Ship{n}, Restock{n},
	}).Draw(t, "command")
}
