package postgres

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/topics"
)

// readOrder is the door for orders. An event about an order that does not exist has no row.
func readOrder(e *orderv1.OrderEvent) (any, error) {
	if e.GetVersion() == 0 {
		return nil, nil
	}
	o := e.GetOrder()
	switch {
	case e.GetVersion() < 0:
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: "versions begin at 1"}
	case o.GetId() != e.GetOrderId() || o.GetVersion() != e.GetVersion():
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: "the order in the event is not the one that the event is about"}
	case !numbered(o.GetLines()):
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: "the lines are not numbered from 1 without a gap"}
	case !valid(o.GetPlaceTime()) || !valid(o.GetUpdateTime()):
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: "place_time or update_time is missing or no time"}
	}
	return e, nil
}

// numbered says that lines count from 1 without a gap.
func numbered(lines []*orderv1.OrderLine) bool {
	for i, l := range lines {
		if l.GetLine() != int32(i+1) {
			return false
		}
	}
	return true
}

func valid(t *timestamppb.Timestamp) bool { return t != nil && t.IsValid() }

func readStock(e *inventoryv1.InventoryEvent) (any, error) {
	if e.GetVersion() < 1 {
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: "versions begin at 1"}
	}
	return e, nil
}

func readAttempt(r *paymentv1.PaymentResult) (any, error) { return r, nil }

// name is an enum's value without its prefix; unspecified is empty.
func name(value interface{ String() string }, of string) string {
	if s := strings.TrimPrefix(value.String(), of); s != "UNSPECIFIED" {
		return s
	}
	return ""
}

// stockRow is a SKU's newest event. It alone has no time of its own.
type stockRow struct {
	*inventoryv1.InventoryEvent
	time time.Time
}

// attemptRow is one answer of the gateway.
type attemptRow struct {
	*paymentv1.PaymentResult
	id   string
	time time.Time
}

// rows is a batch folded to one row per key, sorted, so that two writers lock rows in the same order.
type rows struct {
	orders   []*orderv1.OrderEvent
	stock    []stockRow
	attempts []attemptRow
}

func fold(b sinks.Batch) rows {
	orders, stock, attempts := map[string]*orderv1.OrderEvent{}, map[string]stockRow{}, map[string]attemptRow{}
	for _, s := range b {
		for _, r := range s.Records {
			switch v := r.Value.(type) {
			case *orderv1.OrderEvent:
				if v.GetVersion() > orders[v.GetOrderId()].GetVersion() {
					orders[v.GetOrderId()] = v
				}
			case *inventoryv1.InventoryEvent:
				if v.GetVersion() > stock[v.GetSku()].GetVersion() {
					stock[v.GetSku()] = stockRow{v, r.Time}
				}
			case *paymentv1.PaymentResult:
				if _, again := attempts[r.ID]; !again { // the first is kept, as it is when the next comes in a later batch
					attempts[r.ID] = attemptRow{v, r.ID, r.Time}
				}
			}
		}
	}
	return rows{sorted(orders), sorted(stock), sorted(attempts)}
}

func sorted[K cmp.Ordered, V any](m map[K]V) []V {
	all := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, m[k])
	}
	return all
}
