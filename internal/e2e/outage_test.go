package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/millrace/millrace/internal/audit"
	"github.com/millrace/millrace/internal/local"
)

// outage is how long a part is away.
const outage = time.Minute

// TestAPartIsAwayForAMinute takes Kafka, Postgres and the gateway away, one after the other, while customers order.
// They see UNAVAILABLE, or wait; nothing acknowledged is lost, and everything goes on by itself.
func TestAPartIsAwayForAMinute(t *testing.T) {
	w := newWorld(t, options{payment: 5 * time.Minute})
	w.catalogue("STEADY")
	w.receive("STEADY", 1_000_000)
	var stop atomic.Bool
	var customers sync.WaitGroup
	var mu sync.Mutex
	var acknowledged []string
	refused := map[connect.Code]int{}
	for c := range 4 {
		customers.Go(func() {
			for !stop.Load() {
				res, err := w.as(fmt.Sprint("c", c)).orders.PlaceOrder(within(5*time.Second), connect.NewRequest(order("STEADY", "pm_card_visa")))
				mu.Lock()
				if err == nil {
					acknowledged = append(acknowledged, res.Msg.GetOrder().GetId())
				} else {
					refused[connect.CodeOf(err)]++
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond) // a customer's pause
			}
		})
	}
	w.away(t, "kafka", w.stack.Broker(0), &mu, &acknowledged)
	w.away(t, "postgres", w.stack.Postgres(), &mu, &acknowledged)
	w.gatewayAway(t, &mu, &acknowledged)
	stop.Store(true)
	customers.Wait()
	t.Logf("%d acknowledged, refused %v", len(acknowledged), refused)
	for code := range refused {
		if code != connect.CodeUnavailable && code != connect.CodeDeadlineExceeded {
			t.Errorf("customers saw %v", code)
		}
	}
	l := w.settle(3 * time.Minute)
	w.prove(l)
	orders, err := audit.Orders(l, w.table)
	if err != nil {
		t.Fatal(err)
	}
	if lost := audit.Lost(orders, acknowledged); len(lost) > 0 {
		t.Errorf("acknowledged and not in the log: %v", lost)
	}
}

func (w *world) away(t *testing.T, what string, p *local.Process, mu *sync.Mutex, acknowledged *[]string) {
	t.Helper()
	if err := p.Kill9(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(outage) // the outage itself
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.goesOn(what, mu, acknowledged)
}

func (w *world) gatewayAway(t *testing.T, mu *sync.Mutex, acknowledged *[]string) {
	t.Helper()
	g := w.role("gateway")
	g.pause()
	time.Sleep(outage) // the outage itself
	g.resume()
	w.goesOn("gateway", mu, acknowledged)
}

// goesOn waits until orders are paid again.
func (w *world) goesOn(what string, mu *sync.Mutex, acknowledged *[]string) {
	w.t.Helper()
	mu.Lock()
	before := len(*acknowledged)
	mu.Unlock()
	w.eventually(90*time.Second, "orders are paid again after "+what+" was away", func() error {
		mu.Lock()
		defer mu.Unlock()
		if n := len(*acknowledged) - before; n < 20 {
			return fmt.Errorf("%d orders since", n)
		}
		return nil
	})
}
