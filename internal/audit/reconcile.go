package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

// Reconcile compares the rows of Postgres with the fold of the log: orders with their lines and payments, stock, and
// every answer of the gateway.
func Reconcile(ctx context.Context, l Log, t *topics.Table, db *pgx.Conn) (Report, error) {
	var r Report
	orders, err := Orders(l, t)
	if err != nil {
		return r, err
	}
	rows, err := orderRows(ctx, db)
	if err != nil {
		return r, err
	}
	stock, err := stockOf(l, t)
	if err != nil {
		return r, err
	}
	stockRows, err := texts(ctx, db, `SELECT sku, concat_ws(' ', on_hand, reserved, stock_version, version) FROM stock`)
	if err != nil {
		return r, err
	}
	folded := map[string]string{}
	for id, o := range orders {
		folded[id] = orderText(o)
	}
	r.Inputs, r.Outputs = len(folded)+len(stock), len(rows)+len(stockRows)
	compareRows(&r, "order", folded, rows)
	compareRows(&r, "stock of", stock, stockRows)
	return r, attempts(ctx, &r, l, t, db)
}

// attempts compares the gateway's answers by their IDs. One that somebody has refused may be in Postgres all the same: each
// group looks for itself.
func attempts(ctx context.Context, r *Report, l Log, t *topics.Table, db *pgx.Conn) error {
	rows, err := texts(ctx, db, `SELECT event_id, concat_ws(' ', order_id, step_number, step, outcome, amount_minor) FROM payment_attempts`)
	if err != nil {
		return err
	}
	refused, inLog := l.refused(), map[string]bool{}
	for _, o := range l.All(t.PaymentResults.Topic) {
		id := topics.Header(o, topics.HeaderID)
		again := inLog[id] // a worker that was killed has answered twice: the first one counts, here as for the order
		inLog[id] = true
		if again || refused[placeOf(o)] {
			continue
		}
		m, err := t.PaymentResults.Decode(o.Key, o.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", placeOf(o), err)
		}
		want := fmt.Sprintf("%s %d %s %s %d", m.GetOrderId(), m.GetStepNumber(), name(m.GetStep(), "PAYMENT_STEP_"),
			name(m.GetOutcome(), "PAYMENT_OUTCOME_"), m.GetAmountMinor())
		if rows[id] != want {
			r.violated("payment attempt %s: Postgres has\n    %s\n  the log\n    %s", id, rows[id], want)
		}
	}
	for id, row := range rows {
		if !inLog[id] {
			r.violated("payment attempt %s is in Postgres and not in the log: %s", id, row)
		}
	}
	return nil
}

func compareRows(r *Report, what string, log, rows map[string]string) {
	for k, want := range log {
		if rows[k] != want {
			r.violated("%s %s: Postgres has\n    %s\n  the log\n    %s", what, k, rows[k], want)
		}
	}
	for k := range rows {
		if _, ok := log[k]; !ok {
			r.violated("%s %s is in Postgres and not in the log", what, k)
		}
	}
}

// name is an enum's value without its prefix; unspecified is empty.
func name(value fmt.Stringer, prefix string) string {
	if s := strings.TrimPrefix(value.String(), prefix); s != "UNSPECIFIED" {
		return s
	}
	return ""
}

// orderText is an order with its lines and payment as comparable text.
func orderText(o *orderv1.Order) string {
	lines := make([]string, len(o.GetLines()))
	for i, l := range o.GetLines() {
		lines[i] = fmt.Sprint(l.GetLine(), " ", l.GetSku(), " ", l.GetQuantity(), " ", l.GetAmount().GetMinorUnits(), " ", name(l.GetStatus(), "LINE_STATUS_"),
			" ", name(l.GetReason(), "ORDER_REASON_"), " ", l.GetAvailable())
	}
	p := o.GetPayment()
	return fmt.Sprintf("%s %s %s %d v%d %s | %s | %s %s %s %d %d", o.GetUserId(), name(o.GetStatus(), "ORDER_STATUS_"), name(o.GetReason(), "ORDER_REASON_"),
		o.GetTotal().GetMinorUnits(), o.GetVersion(), o.GetPlaceTime().AsTime().Truncate(time.Microsecond).Format(time.RFC3339Nano),
		strings.Join(lines, ", "), p.GetIntentId(), name(p.GetStatus(), "PAYMENT_STATUS_"), p.GetDeclineCode(), p.GetCharged().GetMinorUnits(), p.GetRefunded().GetMinorUnits())
}

func orderRows(ctx context.Context, db *pgx.Conn) (map[string]string, error) {
	lines, err := texts(ctx, db, `SELECT order_id::text, string_agg(concat_ws(' ', line, sku, quantity, amount_minor, status, reason, available), ', ' ORDER BY line) FROM order_lines GROUP BY order_id`)
	if err != nil {
		return nil, err
	}
	rows, err := db.Query(ctx, `SELECT o.id::text, o.user_id, o.status, o.reason, o.total_minor, o.version, o.place_time, p.intent_id, p.status, p.decline_code, p.charged_minor, p.refunded_minor
		FROM orders o LEFT JOIN payments p ON p.order_id = o.id`)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var id, user, status, reason string
	var total, version int64
	var placed time.Time
	var intent, payment, declined *string
	var charged, refunded *int64
	_, err = pgx.ForEachRow(rows, []any{&id, &user, &status, &reason, &total, &version, &placed, &intent, &payment, &declined, &charged, &refunded}, func() error {
		out[id] = fmt.Sprintf("%s %s %s %d v%d %s | %s | %s %s %s %d %d", user, status, reason, total, version, placed.UTC().Format(time.RFC3339Nano), lines[id],
			or(intent), or(payment), or(declined), or(charged), or(refunded))
		return nil
	})
	return out, err
}

func or[T any](v *T) T {
	if v == nil {
		var none T
		return none
	}
	return *v
}

func stockOf(l Log, t *topics.Table) (map[string]string, error) {
	out := map[string]string{}
	for _, r := range l.Last(t.InventoryEvents.Topic) {
		e := &inventoryv1.InventoryEvent{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, fmt.Errorf("%s: %w", placeOf(r), err)
		}
		if e.GetVersion() > 0 {
			out[e.GetSku()] = fmt.Sprint(e.GetOnHand(), e.GetReserved(), e.GetStockVersion(), e.GetVersion())
		}
	}
	return out, nil
}

func texts(ctx context.Context, db *pgx.Conn, query string) (map[string]string, error) {
	rows, err := db.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var key, text string
	_, err = pgx.ForEachRow(rows, []any{&key, &text}, func() error {
		out[key] = text
		return nil
	})
	return out, err
}

// Lost is what a client was promised and the log does not have: IDs of orders that were acknowledged.
func Lost(orders map[string]*orderv1.Order, acknowledged []string) []string {
	return slices.DeleteFunc(slices.Clone(acknowledged), func(id string) bool { return orders[id] != nil })
}
