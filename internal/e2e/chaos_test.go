package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/millrace/millrace/internal/audit"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

// storm is how much is ordered while how much is broken.
type storm struct {
	orders, kills, brokerKills int
	brokers                    int
	customers                  int
}

// TestChaos orders while processes are killed, paused and brokers crash, one after the other, never two at once
// (replication 3, two in sync), and then holds the log, the gateway and Postgres against one another. -chaos.long is the
// form of `make chaos`.
func TestChaos(t *testing.T) {
	s := storm{orders: 2000, kills: 12, brokerKills: 2, brokers: 3, customers: 32}
	if *long {
		s.orders, s.kills, s.brokerKills = 20_000, 100, 12
	}
	s.run(t)
}

// TestChaosOnOneBroker is the same on a single broker, which is killed, too.
func TestChaosOnOneBroker(t *testing.T) {
	s := storm{orders: 500, kills: 10, brokerKills: 2, brokers: 1, customers: 32}
	if *long {
		s.orders, s.kills, s.brokerKills = 20_000, 100, 12
	}
	s.run(t)
}

const (
	chaosSKUs = 20
	maxLines  = 4
	maxUnits  = 3
)

func (s storm) run(t *testing.T) {
	if *seed == 0 {
		*seed = time.Now().UnixNano()
	}
	t.Logf("seed %d", *seed)
	w := newWorld(t, options{brokers: s.brokers, instances: 2, payment: 60 * time.Second, gateway: []string{"--fault-rate", "0.02", "--seed", fmt.Sprint(*seed)}})
	w.stockChaos(s.orders)
	w.eventually(60*time.Second, "the stock is in Postgres", func() error { return w.quiet(context.Background()) })

	var done atomic.Int64
	var load sync.WaitGroup
	began := time.Now()
	acknowledged := make([][]string, s.customers)
	for c := range s.customers {
		load.Go(func() { acknowledged[c] = w.shop(c, s, &done) })
	}
	s.disturb(w, &done)
	load.Wait()
	t.Logf("%d orders answered in %v", s.orders, time.Since(began).Round(time.Second))

	l := w.settle(5 * time.Minute)
	w.prove(l)
	orders, err := audit.Orders(l, w.table)
	if err != nil {
		t.Fatal(err)
	}
	if len(orders) != s.orders {
		t.Errorf("%d orders are in the log, %d were placed", len(orders), s.orders)
	}
	for _, ids := range acknowledged {
		if lost := audit.Lost(orders, ids); len(lost) > 0 {
			t.Errorf("acknowledged and not in the log: %v", lost)
		}
	}
	count := map[orderv1.OrderStatus]int{}
	for _, o := range orders {
		count[o.GetStatus()]++
	}
	t.Logf("ended as %v; roles were started %d times", count, w.starts())
	if count[paid] == 0 || count[rejected] == 0 {
		t.Error("the storm should leave some orders paid and some rejected")
	}
}

func chaosSKU(i int) string { return fmt.Sprintf("CHAOS-%02d", i) }

// stockChaos receives stock for about half of what will be asked for; CHAOS-00 is the hot one.
func (w *world) stockChaos(orders int) {
	skus := make([]string, chaosSKUs)
	for i := range skus {
		skus[i] = chaosSKU(i)
	}
	w.catalogue(skus...)
	perOrder := (1 + maxLines) / 2.0 * (1 + maxUnits) / 2.0
	for i, sku := range skus {
		share := perOrder * float64(orders) / 2 / chaosSKUs
		if i == 0 {
			share *= 5
		}
		w.receive(sku, int64(share)+1)
	}
}

// shop is one customer: order after order, each tried until it is answered. It returns what was acknowledged.
func (w *world) shop(customer int, s storm, done *atomic.Int64) []string {
	rng := rand.New(rand.NewPCG(uint64(*seed), uint64(customer)))
	var ids []string
	for n := customer; n < s.orders; n += s.customers {
		req := chaosOrder(rng)
		user := fmt.Sprint("customer-", customer)
		for try := 0; ; try++ {
			res, err := w.through((customer+try)%len(w.apis), user).orders.PlaceOrder(within(10*time.Second), connect.NewRequest(req))
			if err == nil {
				ids = append(ids, res.Msg.GetOrder().GetId())
				break
			}
			if !passing(err) {
				w.t.Errorf("customer %d, order %d: %v", customer, n, err)
				break
			}
			time.Sleep(100 * time.Millisecond) // a customer's patience
		}
		done.Add(1)
	}
	return ids
}

func passing(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeResourceExhausted, connect.CodeCanceled:
		return true
	}
	return strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection re") // killed in the middle of an answer
}

func chaosOrder(rng *rand.Rand) *orderv1.PlaceOrderRequest {
	cards := []string{"pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_visa",
		"pm_card_chargeDeclined", "pm_sim_pending", "pm_sim_charge_then_timeout", "pm_sim_sporadic_500"}
	req := order("", cards[rng.IntN(len(cards))])
	req.WaitForStatus = 0
	req.Lines = nil
	for i := range 1 + rng.IntN(maxLines) {
		sku := chaosSKU(rng.IntN(chaosSKUs))
		if i == 0 && rng.IntN(2) == 0 {
			sku = chaosSKU(0)
		}
		req.Lines = append(req.Lines, &orderv1.PlaceOrderLine{Sku: sku, Quantity: 1 + rng.Int64N(maxUnits)})
	}
	return req
}

// disturb breaks things as the orders progress, so that a slow machine sees as many failures as a fast one.
func (s storm) disturb(w *world, done *atomic.Int64) {
	rng := rand.New(rand.NewPCG(uint64(*seed), 1<<32))
	var running sync.WaitGroup
	for i := range s.kills {
		if !waitFor(done, int64((i+1)*s.orders/(s.kills+2))) {
			w.t.Errorf("the orders stood still before kill %d", i)
			break
		}
		victim := w.victim(rng)
		w.t.Logf("%5d orders: kill -9 %s", done.Load(), victim.name)
		victim.kill9()
		if i == s.kills/2 {
			zombie := w.role([]string{"order-1", "inventory-1"}[rng.IntN(2)])
			w.t.Logf("%5d orders: %s becomes a zombie", done.Load(), zombie.name)
			zombie.pause()
			running.Go(func() {
				time.Sleep(2 * sessionTimeout) // longer than the group waits for it
				zombie.resume()
			})
		}
		if every := max(1, s.kills/(s.brokerKills+1)); i%every == every-1 && i/every < s.brokerKills {
			w.killBroker((i / every) % s.brokers)
		}
	}
	running.Wait()
}

func (w *world) victim(rng *rand.Rand) *role {
	for {
		if r := w.roles[rng.IntN(len(w.roles))]; r.name != "gateway" || rng.IntN(4) == 0 {
			return r
		}
	}
}

func (w *world) killBroker(i int) {
	w.t.Logf("kill -9 broker %d", i)
	b := w.stack.Broker(i)
	if err := b.Kill9(); err != nil {
		w.t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := b.Start(ctx); err != nil {
		w.t.Errorf("broker %d does not start again: %v", i, err)
	}
}

// waitFor polls until so many orders are answered; false when none was for five minutes.
func waitFor(done *atomic.Int64, want int64) bool {
	last, since := done.Load(), time.Now()
	for done.Load() < want {
		time.Sleep(20 * time.Millisecond) // the interval of polling
		if now := done.Load(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > 5*time.Minute {
			return false
		}
	}
	return true
}

func (w *world) starts() int {
	n := 0
	for _, r := range w.roles {
		n += r.starts
	}
	return n
}
