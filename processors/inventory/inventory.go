// Package inventory is the rule that decides who gets the stock of one SKU. It is plain values and one function,
// Decide; the shell that reads commands from Kafka and writes what was decided is processors/inventory.go.
//
// One SKU's commands are decided one after the other, so there is no race for the last unit: what is available is
// on_hand - reserved, and it is never negative. The state is of constant size: a SKU that a million people want costs
// the same per command as any other.
//
// Every command has exactly one outcome, a refusal included. Refusals, in the order in which they are checked:
//
//	Receive, Adjust, SetQuantity (sellers)
//	  (impossible)          the quantity is not one that can be asked for: see Impossible
//	  the stored answer     the same request came before, and is one of the last 16: CommandRepeated
//	  IDEMPOTENCY_MISMATCH  the same request_id came before, with other content
//	  REQUEST_TOO_OLD       the request_id was made more than 24 h before the log took the command, or more than 5 min
//	                        after it, or not after the newest one that the SKU had to forget
//	  UNKNOWN_SKU           Adjust: nothing was ever received
//	  STALE_VERSION         SetQuantity: stock_version is not the one that the seller saw
//	  BELOW_RESERVED        less would be left than is reserved; without reservations, less than nothing
//	  TOO_MUCH_STOCK        more than 1,000,000,000,000 would be on hand
//	Reserve (orders)
//	  (impossible)          the quantity is not positive
//	  UNKNOWN_SKU           nothing was ever received
//	  OUT_OF_STOCK          less is available
//	Release, Ship, Restock (orders)
//	  (impossible)          more than is reserved, or more than can be on hand
//
// A seller's request is applied at most once, ever: as long as it is among the last 16 it is recognised, and after
// that its time is not newer than what was forgotten. For that the time in a request_id must be bounded from above
// too: one from next year, once forgotten, would have every request of this year refused. All answers but
// REQUEST_TOO_OLD are remembered. That one needs no memory: a request that is too old stays too old, and one that is
// ahead of its time has changed nothing and may be sent again when its time has come.
//
// Orders' commands need no memory: the order processor writes each of them exactly once.
package inventory

import "fmt"

const (
	// MaxOnHand is the most that a SKU can have. Sums of two counts stay far from overflowing.
	MaxOnHand = 1_000_000_000_000
	// MaxRemembered is how many sellers' requests a SKU recognises.
	MaxRemembered = 16
	// MaxRequestAge is how long before its command a request_id may have been made, in milliseconds.
	MaxRequestAge = 24 * 60 * 60 * 1000
	// MaxRequestLead is how far a seller's clock may be ahead of the log's, in milliseconds.
	MaxRequestLead = 5 * 60 * 1000
)

// State is one SKU's ledger. The zero value is a SKU that nobody has heard of.
type State struct {
	OnHand       int64
	Reserved     int64
	Version      int64 // counts outcomes
	StockVersion int64 // counts sellers' changes; 0: nothing was ever received
	// Remembered are the last sellers' requests, oldest first, at most MaxRemembered. Never written in place.
	Remembered []Remembered
	// Forgotten is the newest time of a request that is no longer remembered, Unix milliseconds.
	Forgotten int64
}

// Available is what can still be reserved.
func (s State) Available() int64 { return s.OnHand - s.Reserved }

// Remembered is a seller's request and its answer.
type Remembered struct {
	ID          RequestID
	Fingerprint uint64
	Refused     Reason
}

// RequestID is a UUIDv7. Its first 48 bits are the time at which it was made, Unix milliseconds; of any other kind of
// UUID they are taken for that too, which most often makes it too old.
type RequestID [16]byte

// Time is when the request was made, Unix milliseconds.
func (id RequestID) Time() int64 {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return ms
}

// Request is what all sellers' commands have.
type Request struct {
	ID RequestID
	// LoggedAt is when the log took the command, Unix milliseconds.
	LoggedAt int64
}

// Command is what a SKU can be asked: one of the types below.
type Command interface{ isCommand() }

// Commands of sellers.
type (
	// Receive adds goods that arrived.
	Receive struct {
		Request
		Quantity int64
	}
	// Adjust corrects the count up or down. The note is for the books; it belongs to the request's content.
	Adjust struct {
		Request
		Delta int64
		Note  string
	}
	// SetQuantity sets what is on hand. With Guarded, only if the stock_version is IfVersion.
	SetQuantity struct {
		Request
		Quantity  int64
		Guarded   bool
		IfVersion int64
	}
)

// Commands of orders. Which order does not matter to the stock.
type (
	// Reserve holds units, or is refused.
	Reserve struct{ Quantity int64 }
	// Release gives held units back.
	Release struct{ Quantity int64 }
	// Ship lets held units leave the house.
	Ship struct{ Quantity int64 }
	// Restock takes units back after a refund.
	Restock struct{ Quantity int64 }
)

func (Receive) isCommand()     {}
func (Adjust) isCommand()      {}
func (SetQuantity) isCommand() {}
func (Reserve) isCommand()     {}
func (Release) isCommand()     {}
func (Ship) isCommand()        {}
func (Restock) isCommand()     {}

// Outcome is what happened. The numbers after it are in the state.
type Outcome struct {
	Change   Change
	Quantity int64  // by how many; SetQuantity: the new count; refused or repeated: what was asked
	Reason   Reason // of a refusal, or of the one that is repeated
}

// Change says what happened. The numbers are those of InventoryChange in schemas/proto.
type Change uint8

const (
	Received Change = iota + 1
	Adjusted
	Set
	Held
	Released
	Shipped
	Restocked
	ReserveRefused
	CommandRefused
	CommandRepeated
)

// Reason says why not; None says yes. The numbers are those of InventoryReason in schemas/proto.
type Reason uint8

const (
	None Reason = iota
	OutOfStock
	UnknownSKU
	StaleVersion
	BelowReserved
	RequestTooOld
	IdempotencyMismatch
	TooMuchStock
)

// Impossible is a command that, if it were applied, would break what always holds: whoever wrote it has a bug. It
// changes nothing and has no outcome.
type Impossible string

func (i Impossible) Error() string { return string(i) }

func impossible(format string, args ...any) Impossible {
	return Impossible(fmt.Sprintf(format, args...))
}
