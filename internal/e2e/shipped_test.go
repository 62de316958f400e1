package e2e

import (
	"context"
	"flag"
	"fmt"
	"hash"
	"hash/fnv"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"

	"github.com/millrace/millrace/internal/audit"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/topics"
)

// The test binary itself is a role on Goka as shipped when these are set.
var (
	shippedRole       = flag.String("shipped.role", "", "used by the tests: be this group on Goka as shipped")
	shippedDir        = flag.String("shipped.dir", "", "its folder")
	shippedKafka      = flag.String("shipped.kafka", "", "its brokers")
	shippedPartitions = flag.Int("shipped.partitions", 0, "of its topics")
)

func (w *world) shippedArgs(group, instance string) []string {
	return []string{"-shipped.role", group, "-shipped.dir", filepath.Join(w.dir, "shipped-"+group+"-"+instance),
		"-shipped.kafka", strings.Join(w.kafka, ","), "-shipped.partitions", fmt.Sprint(w.table.Partitions)}
}

// runShipped is Goka's defaults with acks from all and offsets from the oldest, around the same rules and shells.
func runShipped() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := goka.DefaultConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Group.Session.Timeout = sessionTimeout
	cfg.Consumer.Group.Heartbeat.Interval = sessionTimeout / 4
	goka.ReplaceGlobalConfig(cfg)
	t := topics.New(topics.Options{Partitions: int32(*shippedPartitions)})
	graph := processors.InventoryGraph(t)
	if *shippedRole == topics.OrderGroup {
		graph = processors.OrderGraph(t)
	}
	p, err := goka.NewProcessor(strings.Split(*shippedKafka, ","), graph, goka.WithStorageBuilder(storage.DefaultBuilder(*shippedDir)),
		goka.WithHasher(func() hash.Hash32 { return fnv.New32a() }), goka.WithNilHandling(goka.NilProcess))
	if err == nil {
		err = p.Run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestGokaAsShippedFailsTheSameCheck runs the same rules without processors/transact: the proof finds nothing wrong as
// long as nothing is killed, and much as soon as something is. If it found nothing here, it would prove nothing anywhere.
func TestGokaAsShippedFailsTheSameCheck(t *testing.T) {
	w := newWorld(t, options{shipped: true, payment: 10 * time.Second})
	calm, kills := storm{orders: 100, customers: 16}, storm{orders: 600, customers: 16, kills: 12}
	w.stockChaos(calm.orders + kills.orders)
	calm.onShipped(w)
	if n := w.violations(w.settle(time.Minute)); n != 0 {
		t.Fatalf("%d violations before anything was killed", n)
	}
	kills.onShipped(w)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	l, err := audit.Read(ctx, w.kafka, w.table.All()...)
	if err != nil {
		t.Fatal(err)
	}
	if w.violations(l) == 0 {
		t.Errorf("the proof finds nothing wrong with Goka as shipped after %d kills: it cannot fail", kills.kills)
	}
}

func (s storm) onShipped(w *world) {
	var done atomic.Int64
	var load sync.WaitGroup
	for c := range s.customers {
		load.Go(func() { w.shopOnce(c, s, &done) })
	}
	for i := range s.kills {
		if !waitFor(&done, int64((i+1)*s.orders/(s.kills+2))) {
			break
		}
		w.role([]string{"inventory-0", "order-0"}[i%2]).kill9()
	}
	load.Wait()
}

func (w *world) violations(l audit.Log) int {
	found := 0
	for _, g := range []string{topics.InventoryGroup, topics.OrderGroup} {
		r := audit.Prove(l, w.auditGroup(g))
		summary, _, _ := strings.Cut(r.String(), "\n")
		w.t.Logf("%s: %s", g, summary)
		found += r.Count
	}
	return found
}

// shopOnce is a customer who does not insist: orders may well be lost here.
func (w *world) shopOnce(customer int, s storm, done *atomic.Int64) {
	c := w.as(fmt.Sprint("customer-", customer))
	for n := customer; n < s.orders; n += s.customers {
		req := order(chaosSKU(n%chaosSKUs), "pm_card_visa")
		req.WaitForStatus = 0
		_, _ = c.orders.PlaceOrder(within(2*time.Second), connect.NewRequest(req)) // an answer is not what is looked at
		done.Add(1)
	}
}
