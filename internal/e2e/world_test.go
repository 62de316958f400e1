// Package e2e runs the whole system as its users do, every role a process of its own on a real Kafka and a real
// Postgres, hurts it, and reads the log afterwards. Start with order_test.go.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/api/auth"
	"github.com/millrace/millrace/internal/audit"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/topics"
)

var (
	long = flag.Bool("chaos.long", false, "the long form: 20,000 orders, 100 kills, and once more on three brokers")
	seed = flag.Int64("chaos.seed", 0, "repeat a run; 0: a new one")
)

// binary is millrace itself, built once.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if *shippedRole != "" {
		runShipped()
	}
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "millrace")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/millrace").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build millrace: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// options say what a world is made of. Zero fields take the defaults.
type options struct {
	brokers   int
	instances int // of each role
	payment   time.Duration
	gateway   []string // more flags of the simulator
	shipped   bool     // order and inventory run on Goka as shipped, not on processors/transact
}

// sessionTimeout is short, so that a paused process is out of its groups soon.
const sessionTimeout = 3 * time.Second

// world is a running system.
type world struct {
	t       *testing.T
	dir     string
	stack   *local.Stack
	kafka   []string
	db      string
	table   *topics.Table
	keys    *auth.Keys
	apis    []string // URLs
	gateway string
	roles   []*role
	env     []string
}

func newWorld(t *testing.T, o options) *world {
	t.Helper()
	o.brokers, o.instances = max(o.brokers, 1), max(o.instances, 1)
	if o.payment == 0 {
		o.payment = 60 * time.Second
	}
	w := &world{t: t, dir: localtest.Dir(t)}
	w.stack = localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Brokers: o.brokers}})
	w.kafka, w.db = w.stack.Kafka(), w.stack.PostgresURL()
	delays := topics.Delays{Payment: o.payment, Poll: 500 * time.Millisecond, Retry: time.Second}
	const partitions = 6
	w.table = topics.New(topics.Options{Partitions: partitions, Delays: delays})
	w.env = append(os.Environ(),
		"MILLRACE_KAFKA="+strings.Join(w.kafka, ","), "MILLRACE_POSTGRES="+w.db, "MILLRACE_DATA="+w.dir,
		fmt.Sprint("MILLRACE_PARTITIONS=", partitions), fmt.Sprint("MILLRACE_REPLICAS=", min(o.brokers, 3)),
		"MILLRACE_PAYMENT_DEADLINE="+delays.Payment.String(), "MILLRACE_POLL_DELAY="+delays.Poll.String(), "MILLRACE_RETRY_DELAY="+delays.Retry.String(),
		"MILLRACE_SESSION_TIMEOUT="+sessionTimeout.String(), "MILLRACE_METRICS=")
	w.startGateway(o.gateway)
	w.run("prepare", "--sample")
	w.openKeys()
	w.startRoles(o.instances, o.shipped)
	return w
}

func (w *world) openKeys() {
	keys, err := auth.Open(filepath.Join(w.dir, "keys"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.keys = keys
}

func (w *world) startGateway(more []string) {
	address := freeAddress(w.t)
	w.gateway = "http://" + address
	w.start("gateway", append([]string{"gateway", "--listen", address, "--folder", filepath.Join(w.dir, "gateway"), "--pending", "1s", "--hang", "1s", "--slow", "500ms"}, more...)...)
	w.env = append(w.env, "MILLRACE_GATEWAY_URL="+w.gateway, "MILLRACE_GATEWAY_KEY=sk_test_millrace")
	w.eventually(20*time.Second, "the gateway answers", func() error { return get(w.gateway + "/_simulator/health") })
}

// startRoles starts as many of each role as there are instances, and waits until every API is ready.
func (w *world) startRoles(instances int, shipped bool) {
	for i := range instances {
		n := fmt.Sprint(i)
		for _, name := range []string{"inventory", "order", "payment", "timers", "sink-postgres"} {
			if shipped && (name == "inventory" || name == "order") {
				w.startProgram(name+"-"+n, os.Args[0], w.shippedArgs(name, n)...)
				continue
			}
			w.start(name+"-"+n, "serve", name, "--instance", n)
		}
		address := freeAddress(w.t)
		w.apis = append(w.apis, "http://"+address)
		w.start("api-"+n, "serve", "api", "--instance", n, "--listen", address)
	}
	for _, url := range w.apis {
		w.eventually(60*time.Second, "the API is ready", func() error { return healthy(url) })
	}
}

// run runs a command of millrace to its end.
func (w *world) run(args ...string) string {
	w.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = w.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("millrace %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// client is the API as one person uses it.
type client struct {
	orders orderv1connect.OrderServiceClient
	stock  inventoryv1connect.InventoryServiceClient
}

func (w *world) as(user string, roles ...auth.Role) client { return w.through(0, user, roles...) }

// through is the person at one of the API's instances.
func (w *world) through(instance int, user string, roles ...auth.Role) client {
	w.t.Helper()
	if len(roles) == 0 {
		roles = []auth.Role{auth.Customer}
	}
	token, err := w.keys.Sign(auth.Caller{User: user, Roles: roles}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	bearer := connect.WithInterceptors(auth.WithToken(token))
	return client{
		orders: orderv1connect.NewOrderServiceClient(httpClient, w.apis[instance], bearer),
		stock:  inventoryv1connect.NewInventoryServiceClient(httpClient, w.apis[instance], bearer),
	}
}

var httpClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}, Timeout: 60 * time.Second}

// receive puts goods into stock.
func (w *world) receive(sku string, n int64) {
	w.t.Helper()
	op := w.as("operator", auth.Operator)
	req := &inventoryv1.ReceiveRequest{RequestId: uuid.Must(uuid.NewV7()).String(), Sku: sku, Quantity: n}
	w.eventually(60*time.Second, "stock of "+sku+" is received", func() error {
		_, err := op.stock.Receive(context.Background(), connect.NewRequest(req))
		return err
	})
}

// catalogue makes SKUs that can be ordered, at 10.00 USD each, besides those of the sample.
func (w *world) catalogue(skus ...string) {
	w.t.Helper()
	db := w.connect()
	defer db.Close(context.Background())
	for _, sku := range skus {
		_, err := db.Exec(context.Background(), `WITH p AS (INSERT INTO products (id, title, version) VALUES ($1, $1, 0) ON CONFLICT (id) DO NOTHING)
			INSERT INTO offers (sku, product_id, seller_id, price_minor, currency) VALUES ($1, $1, 'seller-of-' || $1, 1000, 'USD') ON CONFLICT DO NOTHING`, sku)
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	db, err := pgx.Connect(ctx, w.db)
	if err != nil {
		w.t.Fatal(err)
	}
	return db
}

// settle waits until every order is final and every group has read all there is, then proves everything.
func (w *world) settle(within time.Duration) audit.Log {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	w.eventually(within, "every order is final and nothing waits", func() error { return w.quiet(ctx) })
	l, err := audit.Read(ctx, w.kafka, w.table.All()...)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) quiet(ctx context.Context) error {
	if err := audit.Undecided(ctx, w.kafka, w.table.All()...); err != nil {
		return err
	}
	for group, reads := range w.reads() {
		n, err := audit.Lag(ctx, w.kafka, w.table.Group(group), reads...)
		if err != nil || n > 0 {
			return fmt.Errorf("%s lags %d records: %v", group, n, err)
		}
	}
	l, err := audit.Read(ctx, w.kafka, w.table.OrderEvents.Topic)
	if err != nil {
		return err
	}
	orders, err := audit.Orders(l, w.table)
	if err != nil {
		return err
	}
	for id, o := range orders {
		if !audit.Final(o.GetStatus()) {
			return fmt.Errorf("order %s is %v", id, o.GetStatus())
		}
	}
	return nil
}

// reads is what each group reads, delays apart: those wait on purpose.
func (w *world) reads() map[string][]topics.Topic {
	reads := map[string][]topics.Topic{}
	for _, t := range w.table.All() {
		for _, g := range t.Readers {
			if t.Delay == 0 {
				reads[g] = append(reads[g], t)
			}
		}
	}
	return reads
}

// prove holds the log, the gateway and Postgres against one another.
func (w *world) prove(l audit.Log) {
	w.t.Helper()
	for _, g := range []string{topics.InventoryGroup, topics.OrderGroup} {
		w.report(g, audit.Prove(l, w.auditGroup(g)))
	}
	w.report("timers", audit.Timers(l, w.table, time.Now().Add(-30*time.Second)))
	w.report("payments", audit.Payments(l, w.table))
	orders, err := audit.Orders(l, w.table)
	if err != nil {
		w.t.Fatal(err)
	}
	w.report("money", audit.Money(orders, w.charges()))
	db := w.connect()
	defer db.Close(context.Background())
	r, err := audit.Reconcile(context.Background(), l, w.table, db)
	if err != nil {
		w.t.Fatal(err)
	}
	w.report("postgres", r)
}

func (w *world) report(what string, r audit.Report) {
	w.t.Helper()
	w.t.Logf("%s: %v", what, r.String())
	if !r.OK() {
		w.t.Errorf("%s is not what the log says", what)
	}
}

func (w *world) auditGroup(name string) audit.Group {
	p, err := processors.NewReplay(w.table, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return audit.Group{Name: name, Inputs: p.Inputs(), Events: p.Events(), Outputs: p.Outputs(), Table: p.Table(), MayBeSilent: p.MayBeSilent(), Decide: p.Decide}
}

// charges is the gateway's own ledger, by order.
func (w *world) charges() map[string]audit.Charge {
	w.t.Helper()
	res, err := httpClient.Get(w.gateway + "/_simulator/ledger")
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	var ledger struct {
		Intents []struct {
			Status   string            `json:"status"`
			Captured int64             `json:"captured_minor"`
			Refunded int64             `json:"refunded_minor"`
			Metadata map[string]string `json:"metadata"`
		} `json:"payment_intents"`
	}
	if err := json.NewDecoder(res.Body).Decode(&ledger); err != nil {
		w.t.Fatal(err)
	}
	charges := map[string]audit.Charge{}
	for _, i := range ledger.Intents {
		c := charges[i.Metadata["order_id"]]
		c.Intents++
		c.Captured += i.Captured
		c.Refunded += i.Refunded
		if i.Status != "succeeded" && i.Status != "canceled" {
			c.Open++
		}
		charges[i.Metadata["order_id"]] = c
	}
	return charges
}

// eventually polls until try has no error, and fails with the last one.
func (w *world) eventually(within time.Duration, what string, try func() error) {
	w.t.Helper()
	until := time.Now().Add(within)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			w.t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		time.Sleep(100 * time.Millisecond) // the interval of polling, not a wait for luck
	}
}

func get(url string) error {
	res, err := httpClient.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// healthy asks the API by the protocol of gRPC health, as JSON.
func healthy(url string) error {
	res, err := httpClient.Post(url+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var body struct{ Status string }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
		return err
	}
	if body.Status != "SERVING" && body.Status != "SERVING_STATUS_SERVING" {
		return errors.New("health is " + body.Status)
	}
	return nil
}

var handedOut sync.Map // addresses, so that two roles never get one

func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		a := fmt.Sprint("127.0.0.1:", 20000+rand.IntN(10000)) // below the range that outgoing connections take theirs from
		l, err := net.Listen("tcp", a)
		if err != nil {
			continue
		}
		l.Close()
		if _, taken := handedOut.LoadOrStore(a, true); !taken {
			return a
		}
	}
	t.Fatal("no free port")
	return ""
}
