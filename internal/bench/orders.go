package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/topics"
)

const (
	orderSKUs       = 200
	calmRate        = 100 // orders a second, for the latencies
	calmSeconds     = 30
	warmSeconds     = 60
	probeSeconds    = 15
	firstProbe      = 300.0
	rateStep        = 1.3
	finest          = 1.1 // two rates this close are the same on this machine
	ordersInFlight  = 4096
	orderPartitions = 6
)

var orderRoles = []string{"api", "order", "inventory", "payment", "timers", "sink-postgres"}

// shop is the whole system, each role a process, with a reader that sees each order go by.
type shop struct {
	dir     string
	stack   *local.Stack
	table   *topics.Table
	roles   map[string]*exec.Cmd
	metrics map[string]string // by role, the address of its metrics and profiles
	orders  orderv1connect.OrderServiceClient
	stock   inventoryv1connect.InventoryServiceClient
	env     []string
	bin     string

	mu         sync.Mutex
	placed     map[string]time.Time // by order ID, when its call began
	waits      map[string]bool      // of them, those whose lines are all held and that are not paid yet
	held       []float64            // milliseconds until all its lines were held
	paid       []float64            // milliseconds until it was paid
	open       atomic.Int64         // placed and not paid
	turnedAway atomic.Int64         // by an API that was full
	early      map[string][]seen    // events of orders whose call has not returned
}

type seen struct {
	status orderv1.OrderStatus
	at     time.Time
}

// orders measures two-line orders through every role: latency at a calm rate, and the highest rate that holds.
func orders(ctx context.Context, b *bench) (result, error) {
	s, err := b.openShop(ctx)
	if err != nil {
		return result{}, err
	}
	defer s.close()
	r := result{Figures: map[string]float64{}, Ratios: map[string]float64{}}
	for role, cmd := range s.roles {
		r.Figures["rss_rest_mb_"+role] = math.Round(residentMB(cmd.Process.Pid))
	}
	if _, err := s.hold(ctx, calmRate, warmSeconds*time.Second); err != nil { // the broker's JVM compiles for as long
		return r, err
	}
	if err := s.calm(ctx, b, r); err != nil {
		return r, err
	}
	best, err := s.highest(ctx, b)
	if err != nil {
		return r, err
	}
	r.Figures["orders_per_second"] = best
	return r, s.account(ctx, b, best, r)
}

// calm measures how long an order takes at a rate that strains nothing.
func (s *shop) calm(ctx context.Context, b *bench, r result) error {
	if _, err := s.hold(ctx, calmRate, calmSeconds*time.Second); err != nil {
		return err
	}
	r.Figures["reserved_p50_ms"], r.Figures["reserved_p99_ms"] = quantile(s.held, 0.5), quantile(s.held, 0.99)
	r.Figures["paid_p50_ms"], r.Figures["paid_p99_ms"] = quantile(s.paid, 0.5), quantile(s.paid, 0.99)
	fmt.Fprintf(b.out, "  at %d/s: reserved p50 %.0f ms, paid p50 %.0f ms\n", calmRate, r.Figures["reserved_p50_ms"], r.Figures["paid_p50_ms"])
	return nil
}

// highest looks for the rate that holds: up by steps until one does not hold for a short while, then down from there by
// finer ones until one holds for long.
func (s *shop) highest(ctx context.Context, b *bench) (float64, error) {
	try := func(rate float64, d time.Duration) (bool, error) {
		ok, err := s.hold(ctx, rate, d)
		fmt.Fprintf(b.out, "  %5.0f/s for %v: %s\n", rate, d, map[bool]string{true: "held", false: "fell behind"}[ok])
		return ok, err
	}
	rate := firstProbe
	for ok := true; ok; rate *= rateStep {
		var err error
		if ok, err = try(rate, probeSeconds*time.Second); err != nil {
			return 0, err
		}
	}
	for rate /= rateStep; rate > 1; {
		rate /= finest
		ok, err := try(rate, time.Duration(b.seconds)*time.Second)
		if err != nil || ok {
			return math.Floor(rate), err
		}
	}
	return 0, errors.New("no rate held")
}

// account holds the best rate once more and reports what each role used.
func (s *shop) account(ctx context.Context, b *bench, best float64, r result) error {
	before := s.cpu()
	const d = probeSeconds * time.Second
	profiled := make(chan error, 1)
	go func() { profiled <- s.profiles(ctx, b.profile) }()
	if _, err := s.hold(ctx, best, d); err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	for part, seconds := range s.cpu() {
		r.Figures["cpu_ms_per_order_"+part] = 1000 * (seconds - before[part]) / (best * d.Seconds())
	}
	for role, cmd := range s.roles {
		r.Figures["rss_load_mb_"+role] = math.Round(residentMB(cmd.Process.Pid))
	}
	return nil
}

// cpu is what every part of the machine has computed, in seconds: the roles, the servers, and this client.
func (s *shop) cpu() map[string]float64 {
	all := map[string]float64{
		"kafka": cpuSeconds(s.stack.Broker(0).PID()), "postgres": cpuSecondsWithChildren(s.stack.Postgres().PID()), "client": cpuSeconds(os.Getpid()),
	}
	for role, cmd := range s.roles {
		all[role] = cpuSeconds(cmd.Process.Pid)
	}
	return all
}

// profiles writes a CPU profile of each role to a folder, if there is one.
func (s *shop) profiles(ctx context.Context, dir string) error {
	if dir == "" {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for role, address := range s.metrics {
		g.Go(func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, probeSeconds-2), nil)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			f, err := os.Create(filepath.Join(dir, "orders-"+role+".pprof"))
			if err != nil {
				return err
			}
			_, err = io.Copy(f, res.Body)
			return errors.Join(err, f.Close())
		})
	}
	return g.Wait()
}

// hold places orders at a rate, whatever the answers, and says whether the system kept up: at the end, no more are
// unpaid than come in one second, and soon none. A call that was turned away is not kept up with.
func (s *shop) hold(ctx context.Context, perSecond float64, d time.Duration) (bool, error) {
	s.mu.Lock()
	s.held, s.paid = nil, nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, d+5*time.Minute)
	defer cancel()
	pace := rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/50)))
	g, calls := errgroup.WithContext(ctx)
	g.SetLimit(ordersInFlight)
	for until := time.Now().Add(d); time.Now().Before(until); {
		if err := pace.Wait(calls); err != nil {
			break
		}
		g.Go(func() error { return s.place(calls) })
	}
	behind := s.open.Load()
	if err := g.Wait(); err != nil {
		return false, err
	}
	for s.open.Load() > 0 {
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("%d orders are still not paid", s.open.Load())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return s.turnedAway.Swap(0) == 0 && float64(behind) <= perSecond, nil
}

func (s *shop) place(ctx context.Context) error {
	first := rand.IntN(orderSKUs)
	req := &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), PaymentMethod: "pm_card_visa",
		Lines: []*orderv1.PlaceOrderLine{{Sku: orderSKU(first), Quantity: 1}, {Sku: orderSKU((first + 1) % orderSKUs), Quantity: 1}},
	}
	s.open.Add(1)
	began := time.Now()
	res, err := s.orders.PlaceOrder(ctx, connect.NewRequest(req))
	if connect.CodeOf(err) == connect.CodeResourceExhausted { // the API is full: this rate does not hold
		s.open.Add(-1)
		s.turnedAway.Add(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("place: %w", err)
	}
	id := res.Msg.GetOrder().GetId()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.placed[id] = began
	for _, e := range s.early[id] {
		s.note(id, e)
	}
	delete(s.early, id)
	return nil
}

// follow sees every event of every order, as any reader would.
func (s *shop) follow(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.stack.Kafka()...), kgo.ConsumeTopics(s.table.OrderEvents.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	go func() {
		defer cl.Close()
		for ctx.Err() == nil {
			fs := cl.PollFetches(ctx)
			now := time.Now()
			fs.EachRecord(func(r *kgo.Record) {
				e, err := s.table.OrderEvents.Decode(r.Key, r.Value)
				if err != nil {
					return
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				what := seen{e.GetOrder().GetStatus(), now}
				if _, ok := s.placed[e.GetOrderId()]; ok {
					s.note(e.GetOrderId(), what)
				} else if what.status >= orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING {
					s.early[e.GetOrderId()] = append(s.early[e.GetOrderId()], what)
				}
			})
		}
	}()
	return nil
}

// note keeps an order's first sight of being held, and its being paid. s.mu is held.
func (s *shop) note(id string, e seen) {
	began, ok := s.placed[id]
	ms := float64(e.at.Sub(began).Microseconds()) / 1000
	switch {
	case !ok:
	case e.status == orderv1.OrderStatus_ORDER_STATUS_PAID:
		s.paid = append(s.paid, ms)
		delete(s.placed, id)
		delete(s.waits, id)
		s.open.Add(-1)
	case e.status == orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING && !s.waits[id]:
		s.held = append(s.held, ms)
		s.waits[id] = true
	}
}

func orderSKU(i int) string { return fmt.Sprintf("BENCH-%04d", i) }

// openShop builds millrace, starts the servers and every role, and fills the shelves.
func (b *bench) openShop(ctx context.Context) (*shop, error) {
	s := &shop{dir: filepath.Join(b.dir, "shop"), bin: filepath.Join(b.dir, "millrace"), roles: map[string]*exec.Cmd{}, metrics: map[string]string{}, placed: map[string]time.Time{}, waits: map[string]bool{}, early: map[string][]seen{}}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", s.bin, "./cmd/millrace").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build millrace: %w\n%s", err, out)
	}
	var err error
	s.stack, err = local.Start(ctx, local.Options{Dir: s.dir, Log: b.out, Kafka: local.KafkaOptions{Port: 19092, HeapMB: benchHeapMB, JVM: benchJVM}, Postgres: local.PostgresOptions{Port: 15433}})
	if err != nil {
		return nil, err
	}
	s.table = topics.New(topics.Options{Partitions: orderPartitions})
	return s, s.begin(ctx)
}

func (s *shop) begin(ctx context.Context) error {
	gateway, err := freeAddress()
	if err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	s.env = append(os.Environ(), "MILLRACE_KAFKA="+strings.Join(s.stack.Kafka(), ","), "MILLRACE_POSTGRES="+s.stack.PostgresURL(), "MILLRACE_DATA="+s.dir,
		fmt.Sprint("MILLRACE_PARTITIONS=", orderPartitions), "MILLRACE_GATEWAY_URL=http://"+gateway, "MILLRACE_GATEWAY_KEY=sk_test_millrace", "MILLRACE_LOG_LEVEL=warn")
	prepare := exec.CommandContext(ctx, s.bin, "prepare")
	prepare.Env = s.env
	if out, err := prepare.CombinedOutput(); err != nil {
		return fmt.Errorf("prepare: %w\n%s", err, out)
	}
	if err := s.catalogue(ctx); err != nil {
		return err
	}
	if err := s.start("gateway", "gateway", "--listen", gateway); err != nil {
		return err
	}
	for _, role := range orderRoles {
		if s.metrics[role], err = freeAddress(); err != nil {
			return err
		}
		args := []string{"serve", role, "--metrics", s.metrics[role]}
		if role == "api" {
			args = append(args, "--listen", address)
		}
		if err := s.start(role, args...); err != nil {
			return err
		}
	}
	if err := s.connect("http://" + address); err != nil {
		return err
	}
	if err := s.receive(ctx); err != nil {
		return err
	}
	return s.follow(ctx)
}

func (s *shop) start(name string, args ...string) error {
	cmd := exec.Command(s.bin, args...)
	cmd.Env, cmd.Stderr = s.env, os.Stderr
	s.roles[name] = cmd
	return cmd.Start()
}

func (s *shop) close() {
	for _, cmd := range s.roles {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, cmd := range s.roles {
		_ = cmd.Wait()
	}
	_ = s.stack.Stop(context.Background())
}

func (s *shop) catalogue(ctx context.Context) error {
	db, err := pgx.Connect(ctx, s.stack.PostgresURL())
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	for i := range orderSKUs {
		_, err := db.Exec(ctx, `WITH p AS (INSERT INTO products (id, title, version) VALUES ($1, $1, 0))
			INSERT INTO offers (sku, product_id, seller_id, price_minor, currency) VALUES ($1, $1, 'bench', 1000, 'USD')`, orderSKU(i))
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *shop) connect(url string) error {
	keys, err := auth.Open(filepath.Join(s.dir, "keys"))
	if err != nil {
		return err
	}
	token, err := keys.Sign(auth.Caller{User: "bench", Roles: []auth.Role{auth.Operator}}, 12*time.Hour)
	if err != nil {
		return err
	}
	bearer := connect.WithInterceptors(auth.WithToken(token))
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: ordersInFlight}}
	s.orders = orderv1connect.NewOrderServiceClient(hc, url, bearer)
	s.stock = inventoryv1connect.NewInventoryServiceClient(hc, url, bearer)
	return nil
}

// receive fills the shelves; the first call waits for the API to be there.
func (s *shop) receive(ctx context.Context) error {
	for i := range orderSKUs {
		req := &inventoryv1.ReceiveRequest{RequestId: uuid.Must(uuid.NewV7()).String(), Sku: orderSKU(i), Quantity: 100_000_000}
		for until := time.Now().Add(time.Minute); ; {
			_, err := s.stock.Receive(ctx, connect.NewRequest(req))
			if err == nil {
				break
			}
			if time.Now().After(until) || ctx.Err() != nil {
				return fmt.Errorf("receive: %w", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

func freeAddress() (string, error) {
	for range 1000 {
		a := fmt.Sprint("127.0.0.1:", 20000+rand.IntN(10000))
		l, err := net.Listen("tcp", a)
		if err == nil {
			return a, l.Close()
		}
	}
	return "", errors.New("no free port")
}
