package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/sinks/postgres"
	"github.com/millrace/millrace/sinks/sinktest"
	"github.com/millrace/millrace/topics"
)

var table = topics.New(topics.Options{Prefix: "s.", Partitions: 3})

// database is an empty database that has been set up.
func database(t testing.TB, table *topics.Table) (string, *pgxpool.Pool) {
	t.Helper()
	address := localtest.Postgres(t)
	return address, setUp(t, address, table)
}

func setUp(t testing.TB, address string, table *topics.Table) *pgxpool.Pool {
	t.Helper()
	if err := postgres.Setup(t.Context(), address, table); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestOrdersKeepThePromises(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Subject {
		s := subject(t, table.OrderEvents.Name)
		s.Value = func(key string, version int64) any { return orderEvent(orderID(key), version) }
		s.Refused = func(key string, version int64) any {
			e := orderEvent(orderID(key), version)
			e.Order.Lines[0].Title = "a title with a \x00 in it"
			return e
		}
		return s
	})
}

func TestStockKeepsThePromises(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Subject {
		s := subject(t, table.InventoryEvents.Name)
		s.Value = func(key string, version int64) any { return stockEvent(key, version) }
		s.Refused = func(key string, version int64) any {
			e := stockEvent(key, version)
			e.Reserved = e.OnHand + 1
			return e
		}
		return s
	})
}

func subject(t *testing.T, topic string) sinktest.Subject {
	address, pool := database(t, table)
	return sinktest.Subject{
		Store:    postgres.New(pool, table),
		Place:    sinks.Place{Topic: topic, Partition: 1},
		Contents: func(t testing.TB) string { return contents(t, pool) },
		Break: func(t testing.TB) {
			accept(t, address, false)
			pool.Reset() // so that the next try is answered by the server's refusal, not by a dead connection
		},
		Mend: func(t testing.TB) { accept(t, address, true) },
	}
}

// accept makes the server refuse connections to the database, and end those there are, or take them again.
func accept(t testing.TB, address string, connections bool) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	u.Path = "/postgres"
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS %v", name, connections)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name); err != nil {
		t.Fatal(err)
	}
}

// contents is every row of every table that the sink writes.
func contents(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	var all strings.Builder
	for _, query := range []string{
		"SELECT 'order ' || o::text FROM orders o ORDER BY id",
		"SELECT 'line ' || l::text FROM order_lines l ORDER BY order_id, line",
		"SELECT 'payment ' || p::text FROM payments p ORDER BY order_id",
		"SELECT 'attempt ' || a::text FROM payment_attempts a ORDER BY event_id",
		"SELECT 'stock ' || s::text FROM stock s ORDER BY sku",
	} {
		rows, err := pool.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			all.WriteString(l + "\n")
		}
	}
	return all.String()
}

func orderID(key string) string { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(key)).String() }

func usd(minor int64) *typev1.Money { return &typev1.Money{MinorUnits: minor, CurrencyCode: "USD"} }

// orderEvent makes an order that has another number of lines in each version.
func orderEvent(id string, version int64) *orderv1.OrderEvent {
	o := &orderv1.Order{
		Id: id, UserId: "ann", Status: orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING, Version: version,
		Total: usd(100 * version), Contact: &orderv1.Contact{Email: "ann@example.com"},
		Payment:   &orderv1.Payment{IntentId: fmt.Sprint("pi_", version), Status: orderv1.PaymentStatus_PAYMENT_STATUS_PENDING, Method: "pm_card_visa"},
		PlaceTime: timestamppb.New(time.UnixMilli(1_000)), UpdateTime: timestamppb.New(time.UnixMilli(1_000 + version)),
	}
	for n := range int32(1 + (3-version%3)%3) {
		o.Lines = append(o.Lines, &orderv1.OrderLine{
			Line: n + 1, Sku: fmt.Sprint("SKU-", n), ProductId: "p", SellerId: "s", Title: "A thing", Quantity: version,
			UnitPrice: usd(100), Amount: usd(100 * version), Status: orderv1.LineStatus_LINE_STATUS_HELD,
		})
	}
	return &orderv1.OrderEvent{OrderId: id, Version: version, Order: o, PlaceFingerprint: []byte{1, 2, 3}}
}

func stockEvent(sku string, version int64) *inventoryv1.InventoryEvent {
	return &inventoryv1.InventoryEvent{Sku: sku, Version: version, StockVersion: 1, OnHand: 1000, Reserved: version, Change: inventoryv1.InventoryChange_INVENTORY_CHANGE_RESERVED}
}

func batch(topic string, first int64, values ...any) sinks.Batch {
	s := sinks.Stretch{Place: sinks.Place{Topic: topic}, First: first, End: first + int64(len(values))}
	for i, v := range values {
		s.Records = append(s.Records, sinks.Record{Offset: first + int64(i), ID: fmt.Sprint("id-", first+int64(i)), Time: time.UnixMilli(5_000), Value: v})
	}
	return sinks.Batch{s}
}

func TestAnOrderIsWholeInPostgres(t *testing.T) {
	_, pool := database(t, table)
	store := postgres.New(pool, table)
	e := orderEvent(orderID("a"), 2)
	e.Order.Status, e.Order.Reason = orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK
	e.Order.Lines[0].Status, e.Order.Lines[0].Reason, e.Order.Lines[0].Available = orderv1.LineStatus_LINE_STATUS_REFUSED, orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK, 7
	e.Order.Payment.Charged, e.Order.Payment.Refunded, e.Order.Payment.DeclineCode = usd(200), usd(50), "expired_card"
	if err := store.Write(t.Context(), batch(table.OrderEvents.Name, 0, e)); err != nil {
		t.Fatal(err)
	}
	id := orderID("a")
	want := "order (" + id + `,ann,REJECTED,OUT_OF_STOCK,USD,200,ann@example.com,"","\\x010203","1970-01-01 00:00:01+00","1970-01-01 00:00:01.002+00",2)
line (` + id + `,1,SKU-0,p,s,"A thing",2,USD,100,200,REFUSED,OUT_OF_STOCK,7)
line (` + id + `,2,SKU-1,p,s,"A thing",2,USD,100,200,HELD,"",0)
payment (` + id + `,pi_2,PENDING,pm_card_visa,expired_card,USD,200,50)
`
	if _, err := pool.Exec(t.Context(), "SET TIME ZONE 'UTC'"); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, pool); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLinesFollowTheirOrder(t *testing.T) {
	_, pool := database(t, table)
	store := postgres.New(pool, table)
	id := orderID("a")
	lines := func() (n int) {
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM order_lines WHERE order_id = $1", id).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, step := range []struct {
		version int64
		want    int
	}{
		{1, 3}, {3, 1}, {2, 1}, {1, 1}, {4, 3}, {3, 3}, {2, 3},
	} {
		if err := store.Write(t.Context(), batch(table.OrderEvents.Name, int64(i), orderEvent(id, step.version))); err != nil {
			t.Fatal(err)
		}
		if got := lines(); got != step.want {
			t.Errorf("after version %d there are %d lines, want %d", step.version, got, step.want)
		}
	}
}

// TestWhatAVersionLeavesAsItWasIsNotWrittenAgain: a row that was written again is of another transaction.
func TestWhatAVersionLeavesAsItWasIsNotWrittenAgain(t *testing.T) {
	_, pool := database(t, table)
	store := postgres.New(pool, table)
	write := func(version int64, change func(*orderv1.Order)) {
		e := orderEvent(orderID("a"), version)
		e.Order.Lines = orderEvent(orderID("a"), 1).Order.Lines
		e.Order.Payment = orderEvent(orderID("a"), 1).Order.Payment
		change(e.Order)
		if err := store.Write(t.Context(), batch(table.OrderEvents.Name, version-1, e)); err != nil {
			t.Fatal(err)
		}
	}
	rows := func() (written []string) {
		found, err := pool.Query(t.Context(), `SELECT xmin::text FROM order_lines ORDER BY line`)
		if err == nil {
			written, err = pgx.CollectRows(found, pgx.RowTo[string])
		}
		var payment string
		if err == nil {
			err = pool.QueryRow(t.Context(), `SELECT xmin::text FROM payments`).Scan(&payment)
		}
		if err != nil {
			t.Fatal(err)
		}
		return append(written, payment)
	}
	write(1, func(*orderv1.Order) {})
	before := rows()
	write(2, func(o *orderv1.Order) { o.Lines[1].Reason = orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK })
	after := rows()
	if len(before) != 4 || after[1] == before[1] {
		t.Fatalf("the line that changed was not written: before %v, after %v", before, after)
	}
	if after[1] = before[1]; !slices.Equal(before, after) {
		t.Errorf("more was written than the line that changed: before %v, after %v", before, after)
	}
}

func TestLinesOutOfOrderAreRejected(t *testing.T) {
	e := orderEvent(orderID("a"), 1)
	e.Order.Lines[1].Line = 3
	in := postgres.New(nil, table).Inputs()[0]
	r := table.OrderEvents.Record(e, topics.Fresh("/test", ""))
	_, err := in.Decode(r.Key, r.Value)
	var rejection topics.Rejection
	if !errors.As(err, &rejection) || rejection.Reason != topics.Invalid {
		t.Errorf("lines 1, 3, 3: %v", err)
	}
}

// TestAnswersOfTheGatewayAreKeptOnce: the first of those with one ID, in the same batch as in a later one.
func TestAnswersOfTheGatewayAreKeptOnce(t *testing.T) {
	_, pool := database(t, table)
	store := postgres.New(pool, table)
	result := func(step int32, outcome paymentv1.PaymentOutcome) any {
		return &paymentv1.PaymentResult{OrderId: orderID("a"), StepNumber: step, Step: paymentv1.PaymentStep_PAYMENT_STEP_CONFIRM,
			Outcome: outcome, IntentId: "pi", AmountMinor: 5, CurrencyCode: "USD"}
	}
	const first, later = paymentv1.PaymentOutcome_PAYMENT_OUTCOME_SUCCEEDED, paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING
	twice := batch(table.PaymentResults.Name, 0, result(1, first), result(2, first), result(1, later))
	twice[0].Records[2].ID = twice[0].Records[0].ID
	again := batch(table.PaymentResults.Name, 3, result(2, later))
	again[0].Records[0].ID = twice[0].Records[1].ID
	for _, b := range []sinks.Batch{twice, again} {
		if err := store.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(contents(t, pool), "CONFIRM,SUCCEEDED"); got != 2 {
		t.Errorf("%d first answers are kept, want 2:\n%s", got, contents(t, pool))
	}
}

func TestSetupByManyAtOnceMovesNothing(t *testing.T) {
	address := localtest.Postgres(t)
	done := make(chan error)
	for range 5 {
		go func() { done <- postgres.Setup(t.Context(), address, table) }()
	}
	for range 5 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := postgres.New(pool, table).Write(t.Context(), batch(table.InventoryEvents.Name, 0, stockEvent("a", 1))); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Setup(t.Context(), address, table); err != nil {
		t.Fatal(err)
	}
	at, err := postgres.New(pool, table).Positions(t.Context(), []sinks.Place{{Topic: table.InventoryEvents.Name}})
	if err != nil || at[sinks.Place{Topic: table.InventoryEvents.Name}] != 1 {
		t.Errorf("after another setup: %v, %v", at, err)
	}
}

func TestEverythingHasAComment(t *testing.T) {
	_, pool := database(t, table)
	rows, err := pool.Query(t.Context(), `
		SELECT c.relname || coalesce('.' || a.attname, '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN LATERAL (SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped UNION ALL SELECT NULL, 0) a ON true
		WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname <> 'schema_version' AND col_description(c.oid, a.attnum) IS NULL AND (a.attnum > 0 OR obj_description(c.oid) IS NULL)`)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(bare) > 0 {
		t.Errorf("without a comment: %v, %v", bare, err)
	}
}

func TestAChangeOfAnOfferIsANewVersionOfItsProduct(t *testing.T) {
	_, pool := database(t, table)
	version := func(id string) (v int64) {
		if err := pool.QueryRow(t.Context(), "SELECT version FROM products WHERE id = $1", id).Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	run := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	run("INSERT INTO products (id, title) VALUES ('p', 'one'), ('q', 'two')")
	last := max(version("p"), version("q"))
	for _, change := range []string{
		"INSERT INTO offers VALUES ('s', 'p', 'seller', 100, 'USD')",
		"UPDATE offers SET price_minor = 200 WHERE sku = 's'",
		"UPDATE products SET version = 1 WHERE id = 'p'",
		"DELETE FROM offers WHERE sku = 's'",
		"DELETE FROM products WHERE id = 'p'; INSERT INTO products (id, title) VALUES ('p', 'one again')",
	} {
		run(change)
		if v := version("p"); v <= last {
			t.Errorf("%s: the version is %d, before it was %d", change, v, last)
		} else {
			last = v
		}
	}
	run("INSERT INTO offers VALUES ('s', 'p', 'seller', 100, 'USD')")
	p, q := version("p"), version("q")
	run("UPDATE offers SET product_id = 'q' WHERE sku = 's'")
	if version("p") <= p || version("q") <= q {
		t.Error("an offer that moves is a change of both products")
	}
}
