package postgres

import (
	"fmt"
	"slices"
	"strings"
	"time"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

// statement is one round of SQL with its arguments.
type statement struct {
	sql  string
	args []any
}

// statements bring the rows into their tables. The lines and payments come after their orders, and only where the
// order is now of their version.
func (r rows) statements() []statement {
	var all []statement
	if len(r.orders) > 0 {
		lines := linesOf(r.orders)
		all = append(all, ordersTable.upsert(r.orders), linesTable.upsert(lines), dropOldLines(r.orders), paymentsTable.upsert(paidOf(r.orders)))
	}
	if len(r.stock) > 0 {
		all = append(all, stockTable.upsert(r.stock))
	}
	if len(r.attempts) > 0 {
		all = append(all, attemptsTable.upsert(r.attempts))
	}
	return all
}

// column is one column of a table and what a row has in it.
type column[R any] struct {
	name   string
	array  string // the SQL type of many of them
	values func(rows []R) any
}

func of[R, T any](name, array string, value func(R) T) column[R] {
	return column[R]{name, array, func(rows []R) any {
		values := make([]T, len(rows))
		for i, r := range rows {
			values[i] = value(r)
		}
		return values
	}}
}

// uuids are sent as text, so that it is the server that refuses what is none.
func uuids[R any](name string, value func(R) string) column[R] {
	return of(name, "text[]::uuid[]", value)
}
func texts[R any](name string, value func(R) string) column[R]  { return of(name, "text[]", value) }
func bigints[R any](name string, value func(R) int64) column[R] { return of(name, "bigint[]", value) }
func ints[R any](name string, value func(R) int32) column[R]    { return of(name, "int[]", value) }
func bytes[R any](name string, value func(R) []byte) column[R]  { return of(name, "bytea[]", value) }
func times[R any](name string, value func(R) time.Time) column[R] {
	return of(name, "timestamptz[]", value)
}

// table is how rows are written: many in one statement.
type table[R any] struct {
	columns []column[R]
	sql     string
}

// newTable is of rows that stand alone. A row with a version replaces an older one of the same key; one without is never
// changed.
func newTable[R any](name, key string, columns ...column[R]) table[R] {
	action := "NOTHING"
	if slices.ContainsFunc(columns, func(c column[R]) bool { return c.name == "version" }) {
		action = "UPDATE SET " + each(columns, "%[1]s = excluded.%[1]s") + " WHERE excluded.version > t.version"
	}
	names := each(columns, "%[1]s")
	return table[R]{columns, fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM unnest(%s) AS n (%s) ON CONFLICT (%s) DO %s",
		name, names, names, arrays(columns), names, key, action)}
}

// newChildren is of rows below an order. They come with its version, and are taken only when the order is now of this
// version: it is what this batch says. A row that is there already, and the same, is left alone.
func newChildren[R any](name, key string, version column[R], columns ...column[R]) table[R] {
	sources := append(slices.Clip(columns), version)
	return table[R]{sources, fmt.Sprintf(`INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM unnest(%[4]s) AS n (%[5]s)
		JOIN orders o ON o.id = n.order_id AND o.version = n.version LEFT JOIN %[1]s old USING (%[6]s)
		WHERE (%[7]s) IS DISTINCT FROM (%[3]s) ON CONFLICT (%[6]s) DO UPDATE SET %[8]s`,
		name, each(columns, "%[1]s"), each(columns, "n.%[1]s"), arrays(sources), each(sources, "%[1]s"), key, each(columns, "old.%[1]s"),
		each(columns, "%[1]s = excluded.%[1]s"))}
}

// each is a list of the columns' names, each put into a format.
func each[R any](columns []column[R], format string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = fmt.Sprintf(format, c.name)
	}
	return strings.Join(list, ", ")
}

// arrays is a list of the statement's parameters, one for each column.
func arrays[R any](columns []column[R]) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = fmt.Sprintf("$%d::%s", i+1, c.array)
	}
	return strings.Join(list, ", ")
}

func (t table[R]) upsert(rows []R) statement {
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		args[i] = c.values(rows)
	}
	return statement{t.sql, args}
}

type event = *orderv1.OrderEvent

var ordersTable = newTable("orders", "id",
	uuids("id", event.GetOrderId),
	texts("user_id", func(e event) string { return e.GetOrder().GetUserId() }),
	texts("status", func(e event) string { return name(e.GetOrder().GetStatus(), "ORDER_STATUS_") }),
	texts("reason", func(e event) string { return name(e.GetOrder().GetReason(), "ORDER_REASON_") }),
	texts("currency", func(e event) string { return e.GetOrder().GetTotal().GetCurrencyCode() }),
	bigints("total_minor", func(e event) int64 { return e.GetOrder().GetTotal().GetMinorUnits() }),
	texts("contact_email", func(e event) string { return e.GetOrder().GetContact().GetEmail() }),
	texts("contact_phone", func(e event) string { return e.GetOrder().GetContact().GetPhone() }),
	bytes("place_fingerprint", event.GetPlaceFingerprint),
	times("place_time", func(e event) time.Time { return e.GetOrder().GetPlaceTime().AsTime() }),
	times("update_time", func(e event) time.Time { return e.GetOrder().GetUpdateTime().AsTime() }),
	bigints("version", event.GetVersion),
)

// lineRow is a line with what it has of its order.
type lineRow struct {
	*orderv1.OrderLine
	order event
}

func linesOf(orders []event) []lineRow {
	var lines []lineRow
	for _, e := range orders {
		for _, l := range e.GetOrder().GetLines() {
			lines = append(lines, lineRow{l, e})
		}
	}
	return lines
}

var linesTable = newChildren("order_lines", "order_id, line",
	bigints("version", func(l lineRow) int64 { return l.order.GetVersion() }),
	uuids("order_id", func(l lineRow) string { return l.order.GetOrderId() }),
	ints("line", func(l lineRow) int32 { return l.GetLine() }),
	texts("sku", func(l lineRow) string { return l.GetSku() }),
	texts("product_id", func(l lineRow) string { return l.GetProductId() }),
	texts("seller_id", func(l lineRow) string { return l.GetSellerId() }),
	texts("title", func(l lineRow) string { return l.GetTitle() }),
	bigints("quantity", func(l lineRow) int64 { return l.GetQuantity() }),
	texts("currency", func(l lineRow) string { return l.GetUnitPrice().GetCurrencyCode() }),
	bigints("unit_price_minor", func(l lineRow) int64 { return l.GetUnitPrice().GetMinorUnits() }),
	bigints("amount_minor", func(l lineRow) int64 { return l.GetAmount().GetMinorUnits() }),
	texts("status", func(l lineRow) string { return name(l.GetStatus(), "LINE_STATUS_") }),
	texts("reason", func(l lineRow) string { return name(l.GetReason(), "ORDER_REASON_") }),
	bigints("available", func(l lineRow) int64 { return l.GetAvailable() }),
)

// dropOldLines removes the lines that the newest version of an order does not have. Lines are numbered from 1 without a
// gap (readOrder sees to it), so they are those after the last one.
func dropOldLines(orders []event) statement {
	ids, versions, lines := make([]string, len(orders)), make([]int64, len(orders)), make([]int32, len(orders))
	for i, e := range orders {
		ids[i], versions[i], lines[i] = e.GetOrderId(), e.GetVersion(), int32(len(e.GetOrder().GetLines()))
	}
	return statement{`DELETE FROM order_lines l USING unnest($1::text[]::uuid[], $2::bigint[], $3::int[]) AS n (order_id, version, lines)
		JOIN orders o ON o.id = n.order_id AND o.version = n.version
		WHERE l.order_id = n.order_id AND l.line > n.lines`, []any{ids, versions, lines}}
}

// paidOf are the orders that know something of their money.
func paidOf(orders []event) []event {
	var paid []event
	for _, e := range orders {
		if e.GetOrder().GetPayment() != nil {
			paid = append(paid, e)
		}
	}
	return paid
}

var paymentsTable = newChildren("payments", "order_id",
	bigints("version", event.GetVersion),
	uuids("order_id", event.GetOrderId),
	texts("intent_id", func(e event) string { return e.GetOrder().GetPayment().GetIntentId() }),
	texts("status", func(e event) string { return name(e.GetOrder().GetPayment().GetStatus(), "PAYMENT_STATUS_") }),
	texts("method", func(e event) string { return e.GetOrder().GetPayment().GetMethod() }),
	texts("decline_code", func(e event) string { return e.GetOrder().GetPayment().GetDeclineCode() }),
	texts("currency", func(e event) string { return e.GetOrder().GetTotal().GetCurrencyCode() }),
	bigints("charged_minor", func(e event) int64 { return e.GetOrder().GetPayment().GetCharged().GetMinorUnits() }),
	bigints("refunded_minor", func(e event) int64 { return e.GetOrder().GetPayment().GetRefunded().GetMinorUnits() }),
)

var stockTable = newTable("stock", "sku",
	texts("sku", func(s stockRow) string { return s.GetSku() }),
	bigints("on_hand", func(s stockRow) int64 { return s.GetOnHand() }),
	bigints("reserved", func(s stockRow) int64 { return s.GetReserved() }),
	bigints("stock_version", func(s stockRow) int64 { return s.GetStockVersion() }),
	times("update_time", func(s stockRow) time.Time { return s.time }),
	bigints("version", func(s stockRow) int64 { return s.GetVersion() }),
)

var attemptsTable = newTable("payment_attempts", "event_id",
	texts("event_id", func(a attemptRow) string { return a.id }),
	uuids("order_id", func(a attemptRow) string { return a.GetOrderId() }),
	ints("step_number", func(a attemptRow) int32 { return a.GetStepNumber() }),
	texts("step", func(a attemptRow) string { return name(a.GetStep(), "PAYMENT_STEP_") }),
	texts("outcome", func(a attemptRow) string { return name(a.GetOutcome(), "PAYMENT_OUTCOME_") }),
	texts("intent_id", func(a attemptRow) string { return a.GetIntentId() }),
	texts("refund_id", func(a attemptRow) string { return a.GetRefundId() }),
	texts("decline_code", func(a attemptRow) string { return a.GetDeclineCode() }),
	texts("message", func(a attemptRow) string { return a.GetMessage() }),
	texts("currency", func(a attemptRow) string { return a.GetCurrencyCode() }),
	bigints("amount_minor", func(a attemptRow) int64 { return a.GetAmountMinor() }),
	times("result_time", func(a attemptRow) time.Time { return a.time }),
)
