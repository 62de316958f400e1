package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
)

// queryWait bounds one question to Postgres.
const queryWait = 3 * time.Second

// store reads what the sink wrote, and the catalogue. It writes nothing.
type store struct{ pool *pgxpool.Pool }

// storedOrder is an order as Postgres has it, with the fingerprint of the request that placed it (nil if unknown).
type storedOrder struct {
	order       *orderv1.Order
	fingerprint []byte
}

// offer is what the catalogue says of a SKU.
type offer struct {
	sku, productID, sellerID, title, currency string
	priceMinor                                int64
	active                                    bool // the product's deletion makes it false, too
}

// orderColumns selects one order in one row, so that its lines are those of its version.
const orderColumns = `o.id, o.user_id, o.status, o.reason, o.currency, o.total_minor, o.contact_email, o.contact_phone,
  o.place_fingerprint, o.place_time, o.update_time, o.version,
  coalesce(p.intent_id, ''), coalesce(p.status, ''), coalesce(p.method, ''), coalesce(p.decline_code, ''),
  coalesce(p.charged_minor, 0), coalesce(p.refunded_minor, 0),
  (SELECT coalesce(json_agg(json_build_object('line', l.line, 'sku', l.sku, 'product_id', l.product_id,
      'seller_id', l.seller_id, 'title', l.title, 'quantity', l.quantity, 'unit_price_minor', l.unit_price_minor,
      'amount_minor', l.amount_minor, 'status', l.status, 'reason', l.reason, 'available', l.available)
      ORDER BY l.line), '[]'::json) FROM order_lines l WHERE l.order_id = o.id)
  FROM orders o LEFT JOIN payments p ON p.order_id = o.id `

const (
	oneOrder  = `SELECT ` + orderColumns + `WHERE o.id = $1`
	manyOrder = `SELECT ` + orderColumns + `
  WHERE ($1 = '' OR o.user_id = $1) AND ($2 = '' OR o.status = $2)
    AND ($3::timestamptz IS NULL OR o.place_time < $3 OR (o.place_time = $3 AND o.id > $4))
  ORDER BY o.place_time DESC, o.id LIMIT $5`
	someOffers = `SELECT f.sku, f.product_id, f.seller_id, p.title, f.currency, f.price_minor, f.active AND p.deleted_at IS NULL
  FROM offers f JOIN products p ON p.id = f.product_id WHERE f.sku = ANY($1)`
	stockColumns = `f.sku, f.seller_id, coalesce(s.on_hand, 0), coalesce(s.reserved, 0), coalesce(s.version, 0),
  coalesce(s.stock_version, 0), s.update_time FROM offers f LEFT JOIN stock s ON s.sku = f.sku `
	someStock = `SELECT ` + stockColumns + `WHERE f.sku = ANY($1)`
	pageStock = `SELECT ` + stockColumns + `WHERE f.sku > $1 AND starts_with(f.sku, $2) ORDER BY f.sku LIMIT $3`
	sinkPlace = `SELECT coalesce(max(next_offset), 0) FROM sink_offsets WHERE consumer_group = $1 AND topic = $2 AND partition = $3`
)

// placing is what PlaceOrder needs to know.
type placing struct {
	stored   *storedOrder // nil if it is not there
	offers   map[string]offer
	nextSunk int64 // how far the sink has come in the order's partition
}

// sinkPartition names a partition to the sink's own table.
type sinkPartition struct {
	group, topic string
	partition    int32
}

// placing asks in one round trip. The sink's place is asked first: what it covers is in the answers after it.
func (s store) placing(ctx context.Context, orderID string, skus []string, sink sinkPartition) (placing, error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	var p placing
	batch := &pgx.Batch{}
	batch.Queue(sinkPlace, sink.group, sink.topic, sink.partition).QueryRow(func(row pgx.Row) error { return row.Scan(&p.nextSunk) })
	batch.Queue(oneOrder, orderID).Query(func(rows pgx.Rows) (err error) {
		p.stored, err = atMostOne(pgx.CollectRows(rows, scanOrder))
		return err
	})
	batch.Queue(someOffers, skus).Query(func(rows pgx.Rows) (err error) {
		p.offers, err = collectOffers(rows)
		return err
	})
	if err := s.pool.SendBatch(asking, batch).Close(); err != nil {
		return placing{}, unanswered(ctx, "price an order", err)
	}
	return p, nil
}

func (s store) order(ctx context.Context, id string) (*storedOrder, error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	rows, err := s.pool.Query(asking, oneOrder, id)
	if err != nil {
		return nil, unanswered(ctx, "read an order", err)
	}
	found, err := atMostOne(pgx.CollectRows(rows, scanOrder))
	return found, unanswered(ctx, "read an order", err)
}

// orderPage says which orders to list: the empty string is any.
type orderPage struct {
	user, status string
	after        *orderPlace
	size         int
}

// orderPlace is where a page ended: pages are ordered by time, newest first, then by ID.
type orderPlace struct {
	Time time.Time `json:"t"`
	ID   uuid.UUID `json:"i"`
}

func (s store) orders(ctx context.Context, page orderPage) ([]*storedOrder, error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	var after *time.Time
	id := uuid.Nil
	if page.after != nil {
		after, id = &page.after.Time, page.after.ID
	}
	rows, err := s.pool.Query(asking, manyOrder, page.user, page.status, after, id, page.size)
	if err != nil {
		return nil, unanswered(ctx, "list orders", err)
	}
	found, err := pgx.CollectRows(rows, scanOrder)
	return found, unanswered(ctx, "list orders", err)
}

func (s store) offers(ctx context.Context, skus ...string) (map[string]offer, error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	rows, err := s.pool.Query(asking, someOffers, skus)
	if err != nil {
		return nil, unanswered(ctx, "read offers", err)
	}
	found, err := collectOffers(rows)
	return found, unanswered(ctx, "read offers", err)
}

// storedStock is a SKU of the catalogue, its stock (zero if there never was any) and whose it is.
type storedStock struct {
	stock    *inventoryv1.Stock
	sellerID string
}

func (s store) stock(ctx context.Context, skus ...string) (map[string]storedStock, error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	rows, err := s.pool.Query(asking, someStock, skus)
	if err != nil {
		return nil, unanswered(ctx, "read stock", err)
	}
	found, err := pgx.CollectRows(rows, scanStock)
	if err != nil {
		return nil, unanswered(ctx, "read stock", err)
	}
	bySKU := make(map[string]storedStock, len(found))
	for _, f := range found {
		bySKU[f.stock.GetSku()] = f
	}
	return bySKU, nil
}

func (s store) stockPage(ctx context.Context, after, prefix string, size int) ([]storedStock, error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	rows, err := s.pool.Query(asking, pageStock, after, prefix, size)
	if err != nil {
		return nil, unanswered(ctx, "list stock", err)
	}
	found, err := pgx.CollectRows(rows, scanStock)
	return found, unanswered(ctx, "list stock", err)
}

// sinkAt is how far the sink has come in a partition.
func (s store) sinkAt(ctx context.Context, sink sinkPartition) (next int64, err error) {
	asking, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	err = s.pool.QueryRow(asking, sinkPlace, sink.group, sink.topic, sink.partition).Scan(&next)
	return next, unanswered(ctx, "read the sink's place", err)
}

func atMostOne(found []*storedOrder, err error) (*storedOrder, error) {
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

func collectOffers(rows pgx.Rows) (map[string]offer, error) {
	offers := map[string]offer{}
	var f offer
	_, err := pgx.ForEachRow(rows, []any{&f.sku, &f.productID, &f.sellerID, &f.title, &f.currency, &f.priceMinor, &f.active}, func() error {
		offers[f.sku] = f
		return nil
	})
	return offers, err
}

func scanStock(row pgx.CollectableRow) (storedStock, error) {
	s := storedStock{stock: &inventoryv1.Stock{}}
	var at *time.Time
	err := row.Scan(&s.stock.Sku, &s.sellerID, &s.stock.OnHand, &s.stock.Reserved, &s.stock.Version, &s.stock.StockVersion, &at)
	s.stock.Available = s.stock.OnHand - s.stock.Reserved
	if at != nil {
		s.stock.UpdateTime = timestamppb.New(*at)
	}
	return s, err
}

// lineRow is a line as orderColumns gives it.
type lineRow struct {
	Line           int32  `json:"line"`
	SKU            string `json:"sku"`
	ProductID      string `json:"product_id"`
	SellerID       string `json:"seller_id"`
	Title          string `json:"title"`
	Quantity       int64  `json:"quantity"`
	UnitPriceMinor int64  `json:"unit_price_minor"`
	AmountMinor    int64  `json:"amount_minor"`
	Status         string `json:"status"`
	Reason         string `json:"reason"`
	Available      int64  `json:"available"`
}

func scanOrder(row pgx.CollectableRow) (*storedOrder, error) {
	var id uuid.UUID
	var status, reason, currency, paymentStatus string
	var totalMinor, chargedMinor, refundedMinor int64
	var placed, updated time.Time
	var lines []byte
	s := &storedOrder{order: &orderv1.Order{Contact: &orderv1.Contact{}, Payment: &orderv1.Payment{}}}
	o := s.order
	err := row.Scan(&id, &o.UserId, &status, &reason, &currency, &totalMinor, &o.Contact.Email, &o.Contact.Phone,
		&s.fingerprint, &placed, &updated, &o.Version,
		&o.Payment.IntentId, &paymentStatus, &o.Payment.Method, &o.Payment.DeclineCode, &chargedMinor, &refundedMinor, &lines)
	if err != nil {
		return nil, err
	}
	money := func(minor int64) *typev1.Money { return &typev1.Money{MinorUnits: minor, CurrencyCode: currency} }
	o.Id, o.Total = id.String(), money(totalMinor)
	o.Status = orderv1.OrderStatus(orderv1.OrderStatus_value["ORDER_STATUS_"+status])
	o.Reason = orderv1.OrderReason(orderv1.OrderReason_value["ORDER_REASON_"+reason])
	o.Payment.Status = orderv1.PaymentStatus(orderv1.PaymentStatus_value["PAYMENT_STATUS_"+paymentStatus])
	o.Payment.Charged, o.Payment.Refunded = money(chargedMinor), money(refundedMinor)
	o.PlaceTime, o.UpdateTime = timestamppb.New(placed), timestamppb.New(updated)
	o.Lines, err = linesOf(lines, money)
	return s, err
}

func linesOf(raw []byte, money func(int64) *typev1.Money) ([]*orderv1.OrderLine, error) {
	var rows []lineRow
	if err := json.Unmarshal(raw, &rows); err != nil {
		return nil, fmt.Errorf("order lines: %w", err)
	}
	lines := make([]*orderv1.OrderLine, 0, len(rows))
	for _, r := range rows {
		lines = append(lines, &orderv1.OrderLine{
			Line: r.Line, Sku: r.SKU, ProductId: r.ProductID, SellerId: r.SellerID, Title: r.Title, Quantity: r.Quantity,
			UnitPrice: money(r.UnitPriceMinor), Amount: money(r.AmountMinor), Available: r.Available,
			Status: orderv1.LineStatus(orderv1.LineStatus_value["LINE_STATUS_"+r.Status]),
			Reason: orderv1.OrderReason(orderv1.OrderReason_value["ORDER_REASON_"+r.Reason]),
		})
	}
	return lines, nil
}

// unanswered names an error of Postgres: one that says the question is wrong is our bug; everything else, the server's
// absence above all, is POSTGRES_UNAVAILABLE. When the caller's time was up before queryWait, it is nobody's fault.
func unanswered(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	err = fmt.Errorf("postgres: %s: %w", what, err)
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch said.Code[:2] {
		case "08", "25", "40", "53", "55", "57", "58": // connection, read-only, rollback, resources, not ready, shutting down, system
		case "22": // a value, such as a NUL character, that Postgres cannot hold
			return refuse(InvalidArgument, "a value that cannot be stored").because(err)
		default:
			return err
		}
	}
	var scan pgx.ScanArgError
	if errors.As(err, &scan) {
		return err
	}
	return refuse(PostgresUnavailable, "the store did not answer; try again").because(err)
}
