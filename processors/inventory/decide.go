package inventory

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Decide says what a command does to a SKU. The error is always an Impossible, and the state is then the old one.
func Decide(s State, c Command) (State, Outcome, error) {
	switch c := c.(type) {
	case Reserve:
		return reserve(s, c.Quantity)
	case Release:
		return unreserve(s, Released, c.Quantity, 0)
	case Ship:
		return unreserve(s, Shipped, c.Quantity, c.Quantity)
	case Restock:
		return restock(s, c.Quantity)
	case Receive:
		return receive(s, c)
	case Adjust:
		return adjust(s, c)
	case SetQuantity:
		return setQuantity(s, c)
	}
	panic(fmt.Sprintf("inventory: no rule for a %T", c))
}

func reserve(s State, n int64) (State, Outcome, error) {
	if n <= 0 {
		return s, Outcome{}, impossible("reserve %d units", n)
	}
	why := None
	switch {
	case s.StockVersion == 0:
		why = UnknownSKU
	case n > s.Available():
		why = OutOfStock
	}
	s.Version++
	if why != None {
		return s, Outcome{ReserveRefused, n, why}, nil
	}
	s.Reserved += n
	return s, Outcome{Held, n, None}, nil
}

// unreserve ends a hold; `leaving` of its units are gone for good.
func unreserve(s State, what Change, n, leaving int64) (State, Outcome, error) {
	if n <= 0 || n > s.Reserved {
		return s, Outcome{}, impossible("release or ship %d units of %d reserved", n, s.Reserved)
	}
	s.Version++
	s.Reserved -= n
	s.OnHand -= leaving
	return s, Outcome{what, n, None}, nil
}

func restock(s State, n int64) (State, Outcome, error) {
	if n <= 0 || s.StockVersion == 0 || n > MaxOnHand-s.OnHand {
		return s, Outcome{}, impossible("restock %d units to %d on hand, after %d changes by sellers", n, s.OnHand, s.StockVersion)
	}
	s.Version++
	s.OnHand += n
	return s, Outcome{Restocked, n, None}, nil
}

func receive(s State, c Receive) (State, Outcome, error) {
	if c.Quantity <= 0 {
		return s, Outcome{}, impossible("receive %d units", c.Quantity)
	}
	return answer(s, c.Request, fingerprint("receive %d", c.Quantity), c.Quantity, Received, func() (int64, Reason) {
		return c.Quantity, None
	})
}

func adjust(s State, c Adjust) (State, Outcome, error) {
	if c.Delta == 0 {
		return s, Outcome{}, impossible("adjust by nothing")
	}
	return answer(s, c.Request, fingerprint("adjust %d %q", c.Delta, c.Note), c.Delta, Adjusted, func() (int64, Reason) {
		if s.StockVersion == 0 {
			return 0, UnknownSKU
		}
		return c.Delta, None
	})
}

func setQuantity(s State, c SetQuantity) (State, Outcome, error) {
	if c.Quantity < 0 || c.IfVersion < 0 {
		return s, Outcome{}, impossible("set %d units if the version is %d", c.Quantity, c.IfVersion)
	}
	print := fingerprint("set %d %t %d", c.Quantity, c.Guarded, c.IfVersion)
	return answer(s, c.Request, print, c.Quantity, Set, func() (int64, Reason) {
		if c.Guarded && c.IfVersion != s.StockVersion {
			return 0, StaleVersion
		}
		return c.Quantity - s.OnHand, None
	})
}

// answer gives a seller's request its one answer: the stored one, or a new one, which it remembers. `change` says by
// how much the count would change, or why it may not.
func answer(s State, r Request, print uint64, asked int64, done Change, change func() (int64, Reason)) (State, Outcome, error) {
	s.Version++
	if known, ok := s.recall(r.ID); ok {
		if known.Fingerprint != print {
			return s, Outcome{CommandRefused, asked, IdempotencyMismatch}, nil
		}
		return s, Outcome{CommandRepeated, asked, known.Refused}, nil
	}
	if tooOld(s, r) {
		return s, Outcome{CommandRefused, asked, RequestTooOld}, nil
	}
	by, why := change()
	if why == None {
		why = s.fits(by)
	}
	s = s.remember(Remembered{r.ID, print, why})
	if why != None {
		return s, Outcome{CommandRefused, asked, why}, nil
	}
	s.OnHand += by
	s.StockVersion++
	return s, Outcome{done, asked, None}, nil
}

func tooOld(s State, r Request) bool {
	made := r.ID.Time()
	return made < r.LoggedAt-MaxRequestAge || made > r.LoggedAt+MaxRequestLead || made <= s.Forgotten
}

// fits says whether on_hand may change by this much. Written so that no sum can overflow.
func (s State) fits(by int64) Reason {
	switch {
	case by < s.Reserved-s.OnHand:
		return BelowReserved
	case by > MaxOnHand-s.OnHand:
		return TooMuchStock
	}
	return None
}

func (s State) recall(id RequestID) (Remembered, bool) {
	for _, m := range s.Remembered {
		if m.ID == id {
			return m, true
		}
	}
	return Remembered{}, false
}

// remember makes a new list, because the old state may still be somebody's.
func (s State) remember(m Remembered) State {
	kept := s.Remembered
	if len(kept) >= MaxRemembered {
		s.Forgotten = max(s.Forgotten, kept[0].ID.Time())
		kept = kept[1:]
	}
	list := make([]Remembered, 0, len(kept)+1)
	s.Remembered = append(append(list, kept...), m)
	return s
}

// fingerprint is of what the seller sent, nothing looked up.
func fingerprint(format string, sent ...any) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, format, sent...))
	return binary.BigEndian.Uint64(sum[:8])
}
