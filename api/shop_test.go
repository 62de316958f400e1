package api_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/schemas"
	"github.com/millrace/millrace/topics"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// patience bounds every wait of the tests.
const patience = 20 * time.Second

// catalogue is what the tests' shop sells.
const catalogue = `
INSERT INTO products (id, title) VALUES ('P1', 'A blue cup'), ('P2', 'A red cup'), ('P3', 'A yacht');
INSERT INTO products (id, title, deleted_at) VALUES ('P4', 'A gone cup', now());
INSERT INTO offers (sku, product_id, seller_id, price_minor, currency, active) VALUES
  ('CUP-BLUE', 'P1', 'sue', 1250, 'USD', true), ('CUP-RED', 'P2', 'sam', 300, 'USD', true),
  ('CUP-EURO', 'P2', 'sam', 300, 'EUR', true), ('CUP-OLD', 'P1', 'sue', 100, 'USD', false),
  ('CUP-GONE', 'P4', 'sue', 100, 'USD', true), ('YACHT', 'P3', 'sue', 9223372036854775807, 'USD', true),
  ('BOAT', 'P3', 'sue', 60000000, 'USD', true);`

// shop is a broker, a real Postgres, somebody who plays the processors and the sink, and any number of APIs.
type shop struct {
	t       *testing.T
	brokers []string
	cluster *kfake.Cluster // nil for a real one
	table   *topics.Table
	pool    *pgxpool.Pool
	keys    *auth.Keys
	played  *played
}

// openShop opens one on a broker in process.
func openShop(t *testing.T) *shop {
	t.Helper()
	return openShopWith(t, topics.Options{Partitions: 3})
}

func openShopWith(t *testing.T, o topics.Options) *shop {
	t.Helper()
	table := topics.New(o)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(table.Partitions, names(table)...))
	must(t, err)
	t.Cleanup(cluster.Close)
	s := openShopOn(t, cluster.ListenAddrs(), table)
	s.cluster = cluster
	return s
}

// openRealShop opens one on a real Kafka, where transactions leave the marks that they leave in production.
func openRealShop(t *testing.T) *shop {
	t.Helper()
	table := topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: 3})
	client, err := kgo.NewClient(kgo.SeedBrokers(localtest.Kafka(t)...))
	must(t, err)
	defer client.Close()
	made, err := kadm.NewClient(client).CreateTopics(t.Context(), table.Partitions, 1, nil, names(table)...)
	must(t, err)
	must(t, made.Error())
	return openShopOn(t, localtest.Kafka(t), table)
}

func names(table *topics.Table) []string {
	var names []string
	for _, topic := range table.All() {
		names = append(names, topic.Name)
	}
	return names
}

func openShopOn(t *testing.T, brokers []string, table *topics.Table) *shop {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), localtest.Postgres(t))
	must(t, err)
	t.Cleanup(pool.Close)
	migrate(t, pool)
	_, err = pool.Exec(t.Context(), catalogue)
	must(t, err)
	keys, err := auth.Open(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	s := &shop{t: t, brokers: brokers, table: table, pool: pool, keys: keys}
	s.played = play(t, s)
	return s
}

func migrate(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	files, err := schemas.Postgres.ReadDir("postgres")
	must(t, err)
	for _, f := range files {
		b, err := schemas.Postgres.ReadFile("postgres/" + f.Name())
		must(t, err)
		_, err = pool.Exec(t.Context(), string(b))
		must(t, err)
	}
}

// door is one running API.
type door struct {
	*shop
	server  *api.Server
	url     string
	stop    func() error
	metrics *prometheus.Registry
	log     *lockedBuffer
}

func (s *shop) open(limits api.Limits) *door {
	s.t.Helper()
	return s.openWith(s.brokers, s.pool, limits)
}

func (s *shop) openWith(brokers []string, pool *pgxpool.Pool, limits api.Limits) *door {
	t := s.t
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	d := &door{shop: s, url: "http://" + listener.Addr().String(), metrics: prometheus.NewRegistry(), log: &lockedBuffer{}}
	d.server, err = api.New(api.Config{
		Brokers: brokers, Topics: s.table, Postgres: pool, Keys: s.keys, Listener: listener, Limits: limits,
		Log: slog.New(slog.NewTextHandler(d.log, nil)), Metrics: d.metrics,
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.server.Run(ctx) }()
	d.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("the API does not stop")
		}
	})
	t.Cleanup(func() {
		must(t, d.stop())
		if t.Failed() {
			t.Logf("the API's log:\n%s", d.log)
		}
	})
	return d
}

// ready waits until the API serves.
func (d *door) ready() *door {
	d.t.Helper()
	eventually(d.t, "the API is ready", d.server.Ready)
	return d
}

// as is a client with a token for this caller.
func (d *door) as(user string, role auth.Role, options ...connect.ClientOption) client {
	d.t.Helper()
	token, err := d.keys.Sign(auth.Caller{User: user, Roles: []auth.Role{role}}, time.Hour)
	must(d.t, err)
	return d.with("Bearer "+token, options...)
}

type client struct {
	orderv1connect.OrderServiceClient
	inventoryv1connect.InventoryServiceClient
}

func (d *door) with(authorization string, options ...connect.ClientOption) client {
	options = append(options, connect.WithInterceptors(header{"Authorization", authorization}))
	return client{
		orderv1connect.NewOrderServiceClient(h2c, d.url, options...),
		inventoryv1connect.NewInventoryServiceClient(h2c, d.url, options...),
	}
}

// h2c speaks HTTP/2 without TLS, as gRPC does inside a cluster.
var h2c = func() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}()

// header puts one header on every call.
type header struct{ name, value string }

func (h header) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if h.value != "" {
			req.Header().Set(h.name, h.value)
		}
		return next(ctx, req)
	}
}

func (h header) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set(h.name, h.value)
		return conn
	}
}

func (h header) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// played plays the order and the inventory processor, in transactions as the real ones do, and the Postgres sink. It
// knows just enough of their contracts.
type played struct {
	*shop
	client *kgo.Client
	pause  sync.RWMutex // held: nothing is decided
	closed sync.Mutex   // held: nothing is written to Postgres

	mu     sync.Mutex
	orders map[string]*playedOrder
	stock  map[string]*playedStock
	seen   []*kgo.Record // the commands, in the order they were decided
}

type playedOrder struct {
	order       *orderv1.Order
	fingerprint map[string][]byte
	refused     map[string]orderv1.OrderReason
	placing     []byte
}

type playedStock struct {
	event *inventoryv1.InventoryEvent
	moves map[string]string
}

func play(t *testing.T, s *shop) *played {
	t.Helper()
	p := &played{shop: s, orders: map[string]*playedOrder{}, stock: map[string]*playedStock{}}
	var err error
	p.client, err = kgo.NewClient(
		kgo.SeedBrokers(s.brokers...), kgo.RecordPartitioner(topics.Partitioner()), kgo.TransactionalID(s.table.Group("played")),
		kgo.ConsumeTopics(s.table.OrderCommands.Name, s.table.InventoryCommands.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			p.client.PollFetches(ctx).EachRecord(p.decide)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		p.client.Close()
	})
	return p
}

func (p *played) decide(r *kgo.Record) {
	p.pause.RLock()
	defer p.pause.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, r)
	switch r.Topic {
	case p.table.OrderCommands.Name:
		c, err := p.table.OrderCommands.Decode(r.Key, r.Value)
		must(p.t, err)
		p.tellOrder(p.decideOrder(c, r.Timestamp), topics.CauseOf(r))
	case p.table.InventoryCommands.Name:
		c, err := p.table.InventoryCommands.Decode(r.Key, r.Value)
		must(p.t, err)
		p.tellStock(p.decideStock(c), topics.CauseOf(r))
	}
}

func (p *played) decideOrder(c *orderv1.OrderCommand, at time.Time) *orderv1.OrderEvent {
	e := &orderv1.OrderEvent{OrderId: c.GetOrderId(), RequestId: c.GetRequestId()}
	o := p.orders[c.GetOrderId()]
	if o == nil && c.GetPlace() == nil {
		e.Change = refusedOrder(orderv1.OrderReason_ORDER_REASON_NOT_FOUND)
		return e
	}
	switch {
	case o == nil:
		o = &playedOrder{order: placedOrder(c, at), fingerprint: map[string][]byte{}, refused: map[string]orderv1.OrderReason{}, placing: c.GetFingerprint()}
		p.orders[c.GetOrderId()] = o
		e.Change = &orderv1.OrderEvent_Placed{Placed: &orderv1.OrderPlaced{}}
	case o.fingerprint[c.GetRequestId()] != nil:
		if bytes.Equal(o.fingerprint[c.GetRequestId()], c.GetFingerprint()) {
			e.Change = &orderv1.OrderEvent_CommandRepeated{CommandRepeated: &orderv1.CommandRepeated{Refused: o.refused[c.GetRequestId()]}}
		} else {
			e.Change = refusedOrder(orderv1.OrderReason_ORDER_REASON_IDEMPOTENCY_MISMATCH)
		}
	case o.order.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_RESERVING:
		o.refused[c.GetRequestId()] = orderv1.OrderReason_ORDER_REASON_STATE_CONFLICT
		e.Change = refusedOrder(orderv1.OrderReason_ORDER_REASON_STATE_CONFLICT)
	default:
		o.order.Status = orderv1.OrderStatus_ORDER_STATUS_CANCELLING
		e.Change = &orderv1.OrderEvent_CancelAccepted{CancelAccepted: &orderv1.CancelAccepted{}}
	}
	if o.fingerprint[c.GetRequestId()] == nil {
		o.fingerprint[c.GetRequestId()] = c.GetFingerprint()
	}
	o.bump(e, at)
	return e
}

func refusedOrder(why orderv1.OrderReason) *orderv1.OrderEvent_CommandRefused {
	return &orderv1.OrderEvent_CommandRefused{CommandRefused: &orderv1.CommandRefused{Reason: why}}
}

func (o *playedOrder) bump(e *orderv1.OrderEvent, at time.Time) {
	o.order.Version++
	o.order.UpdateTime = timestamppb.New(at)
	e.Version, e.Order, e.PlaceFingerprint = o.order.GetVersion(), proto.CloneOf(o.order), o.placing
}

func placedOrder(c *orderv1.OrderCommand, at time.Time) *orderv1.Order {
	p := c.GetPlace()
	money := func(minor int64) *typev1.Money {
		return &typev1.Money{MinorUnits: minor, CurrencyCode: p.GetCurrencyCode()}
	}
	o := &orderv1.Order{
		Id: c.GetOrderId(), UserId: c.GetUserId(), Status: orderv1.OrderStatus_ORDER_STATUS_RESERVING, PlaceTime: timestamppb.New(at),
		Payment: &orderv1.Payment{Method: p.GetPaymentMethod()}, Contact: p.GetContact(), Total: money(0),
	}
	for i, l := range p.GetLines() {
		amount := l.GetQuantity() * l.GetUnitPriceMinor()
		o.Lines = append(o.Lines, &orderv1.OrderLine{
			Line: int32(i + 1), Sku: l.GetSku(), ProductId: l.GetProductId(), SellerId: l.GetSellerId(), Title: l.GetTitle(), Quantity: l.GetQuantity(),
			UnitPrice: money(l.GetUnitPriceMinor()), Amount: money(amount), Status: orderv1.LineStatus_LINE_STATUS_ASKED,
		})
		o.Total.MinorUnits += amount
	}
	return o
}

// decline lets the gateway say no, and nothing more happen.
func (p *played) decline(id, code string) {
	p.mu.Lock()
	p.orders[id].order.Payment.DeclineCode = code
	p.orders[id].order.Reason = orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED
	status := p.orders[id].order.GetStatus()
	p.mu.Unlock()
	p.move(id, status)
}

// move takes an order to a status, as stock, gateway or time would.
func (p *played) move(id string, status orderv1.OrderStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.orders[id]
	if o == nil {
		p.t.Errorf("there is no order %s to move", id)
		return
	}
	o.order.Status = status
	e := &orderv1.OrderEvent{OrderId: id, Change: &orderv1.OrderEvent_PaymentAdvanced{PaymentAdvanced: &orderv1.PaymentAdvanced{}}}
	o.bump(e, time.Now())
	p.tellOrder(e, topics.Cause{ID: uuid.NewString(), Time: time.Now()})
}

func (p *played) decideStock(c *inventoryv1.InventoryCommand) *inventoryv1.InventoryEvent {
	s := p.stock[c.GetSku()]
	if s == nil {
		s = &playedStock{event: &inventoryv1.InventoryEvent{Sku: c.GetSku()}, moves: map[string]string{}}
		p.stock[c.GetSku()] = s
	}
	e := s.event
	e.Version++
	e.Reason, e.RequestId = inventoryv1.InventoryReason_INVENTORY_REASON_UNSPECIFIED, c.GetRequestId()
	said := c.String()
	before, again := s.moves[c.GetRequestId()]
	switch set := c.GetSet(); {
	case again && before == said:
		e.Change = inventoryv1.InventoryChange_INVENTORY_CHANGE_COMMAND_REPEATED
	case again:
		refuseStock(e, inventoryv1.InventoryReason_INVENTORY_REASON_IDEMPOTENCY_MISMATCH)
	case set != nil && set.IfVersion != nil && set.GetIfVersion() != e.GetStockVersion():
		refuseStock(e, inventoryv1.InventoryReason_INVENTORY_REASON_STALE_VERSION)
	case set != nil && set.GetQuantity() < e.GetReserved():
		refuseStock(e, inventoryv1.InventoryReason_INVENTORY_REASON_BELOW_RESERVED)
	case set != nil:
		e.Change, e.OnHand = inventoryv1.InventoryChange_INVENTORY_CHANGE_SET, set.GetQuantity()
		e.StockVersion++
	case c.GetReceive() != nil:
		e.Change, e.OnHand = inventoryv1.InventoryChange_INVENTORY_CHANGE_RECEIVED, e.GetOnHand()+c.GetReceive().GetQuantity()
		e.StockVersion++
	default:
		e.Change, e.OnHand = inventoryv1.InventoryChange_INVENTORY_CHANGE_ADJUSTED, e.GetOnHand()+c.GetAdjust().GetDelta()
		e.StockVersion++
	}
	s.moves[c.GetRequestId()] = said
	return proto.CloneOf(e)
}

func refuseStock(e *inventoryv1.InventoryEvent, why inventoryv1.InventoryReason) {
	e.Change, e.Reason = inventoryv1.InventoryChange_INVENTORY_CHANGE_COMMAND_REFUSED, why
}

// reserve is what an order would do to a SKU.
func (p *played) reserve(sku string, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.stock[sku].event
	e.Version++
	e.Reserved += n
	e.Change, e.RequestId, e.Reason = inventoryv1.InventoryChange_INVENTORY_CHANGE_RESERVED, "", 0
	p.tellStock(proto.CloneOf(e), topics.Cause{ID: uuid.NewString(), Time: time.Now()})
}

func (p *played) tellOrder(e *orderv1.OrderEvent, c topics.Cause) {
	r := p.commit(p.table.OrderEvents.Record(e, topics.By("/played/order", c, e.GetOrderId(), 0)))
	if r != nil {
		p.sinkOrder(e, r)
	}
}

func (p *played) tellStock(e *inventoryv1.InventoryEvent, c topics.Cause) {
	r := p.commit(p.table.InventoryEvents.Record(e, topics.By("/played/inventory", c, e.GetSku(), 0)))
	if r != nil && p.closed.TryLock() {
		defer p.closed.Unlock()
		p.exec(`INSERT INTO stock (sku, on_hand, reserved, stock_version, update_time, version) VALUES ($1, $2, $3, $4, $5, $6)
		  ON CONFLICT (sku) DO UPDATE SET on_hand = $2, reserved = $3, stock_version = $4, update_time = $5, version = $6`,
			e.GetSku(), e.GetOnHand(), e.GetReserved(), e.GetStockVersion(), r.Timestamp, e.GetVersion())
	}
}

// commit writes one record in a transaction of its own, so that a marker follows it. Nil when the broker has gone.
func (p *played) commit(r *kgo.Record) *kgo.Record {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.client.BeginTransaction(); err != nil {
		p.t.Errorf("begin: %v", err)
		return nil
	}
	if err := p.client.ProduceSync(ctx, r).FirstErr(); err != nil {
		p.t.Errorf("produce: %v", err)
		return nil
	}
	if err := p.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		p.t.Errorf("commit: %v", err)
		return nil
	}
	return r
}

// sinkOrder writes an order as the sink does, its place too, unless the sink is closed.
func (p *played) sinkOrder(e *orderv1.OrderEvent, r *kgo.Record) {
	if !p.closed.TryLock() {
		return
	}
	defer p.closed.Unlock()
	if o := e.GetOrder(); o != nil {
		p.exec(`INSERT INTO orders (id, user_id, status, currency, total_minor, contact_email, place_fingerprint, place_time, update_time, version, reason)
		  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO UPDATE SET status = $3, update_time = $9, version = $10, reason = $11`,
			o.GetId(), o.GetUserId(), o.GetStatus().String()[len("ORDER_STATUS_"):], o.GetTotal().GetCurrencyCode(), o.GetTotal().GetMinorUnits(),
			o.GetContact().GetEmail(), e.GetPlaceFingerprint(), o.GetPlaceTime().AsTime(), o.GetUpdateTime().AsTime(), o.GetVersion(), o.GetReason().String()[len("ORDER_REASON_"):])
		for _, l := range o.GetLines() {
			p.exec(`INSERT INTO order_lines (order_id, line, sku, product_id, seller_id, title, quantity, currency, unit_price_minor, amount_minor, status)
			  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (order_id, line) DO UPDATE SET status = $11`,
				o.GetId(), l.GetLine(), l.GetSku(), l.GetProductId(), l.GetSellerId(), l.GetTitle(), l.GetQuantity(), l.GetAmount().GetCurrencyCode(),
				l.GetUnitPrice().GetMinorUnits(), l.GetAmount().GetMinorUnits(), l.GetStatus().String()[len("LINE_STATUS_"):])
		}
		p.exec(`INSERT INTO payments (order_id, method, currency, decline_code) VALUES ($1, $2, $3, $4)
		  ON CONFLICT (order_id) DO UPDATE SET decline_code = $4`,
			o.GetId(), o.GetPayment().GetMethod(), o.GetTotal().GetCurrencyCode(), o.GetPayment().GetDeclineCode())
	}
	p.sinkPlace(r.Partition, r.Offset+1)
}

func (p *played) sinkPlace(partition int32, next int64) {
	p.exec(`INSERT INTO sink_offsets VALUES ($1, $2, $3, $4) ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET next_offset = $4`,
		p.table.Group(topics.PostgresSinkGroup), p.table.OrderEvents.Name, partition, next)
}

func (s *shop) exec(sql string, args ...any) {
	if _, err := s.pool.Exec(context.Background(), sql, args...); err != nil {
		s.t.Errorf("%s: %v", sql, err)
	}
}

// asleep runs f while nothing is decided.
func (p *played) asleep(f func()) {
	p.pause.Lock()
	defer p.pause.Unlock()
	f()
}

// forget is what the order processor does with an order that has long been final.
func (p *played) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.orders, id)
}

// settle returns when what was decided is in Postgres, too: an outcome is told before.
func (p *played) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
}

// commands are the order commands that were decided for an order.
func (p *played) commands(orderID string) []*orderv1.OrderCommand {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*orderv1.OrderCommand
	for _, r := range p.seen {
		if r.Topic == p.table.OrderCommands.Name && string(r.Key) == orderID {
			c, err := p.table.OrderCommands.Decode(r.Key, r.Value)
			must(p.t, err)
			found = append(found, c)
		}
	}
	return found
}

func (p *played) last() *kgo.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[len(p.seen)-1]
}

// refusal is an error as a client sees it.
type refusal struct {
	code     connect.Code
	reason   string
	fields   []string
	metadata map[string]string
}

func refusalOf(err error) refusal {
	var e *connect.Error
	if !errors.As(err, &e) {
		return refusal{}
	}
	r := refusal{code: e.Code()}
	for _, d := range e.Details() {
		switch v, _ := d.Value(); v := v.(type) {
		case *errdetails.ErrorInfo:
			r.reason, r.metadata = v.GetReason(), v.GetMetadata()
		case *errdetails.BadRequest:
			for _, f := range v.GetFieldViolations() {
				r.fields = append(r.fields, f.GetField())
			}
		}
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
