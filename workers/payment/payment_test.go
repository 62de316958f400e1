package payment

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	simulator "github.com/millrace/millrace/internal/simulators/gateway"
	"github.com/millrace/millrace/topics"
	"github.com/millrace/millrace/workers/workertest"
)

func TestOneResultForEachRequest(t *testing.T) {
	b := newBelt(t, openTill(t, nil))
	b.Worker(0)
	asked := map[string]*paymentv1.PaymentRequest{}
	results := b.Reader(b.Table.PaymentResults.Name)
	var orders []*order
	for i := range 50 {
		o := b.order([]string{"pm_card_visa", "pm_card_chargeDeclined"}[i%2])
		orders = append(orders, o)
		r := o.request(doCreate)
		asked[o.id] = r
		b.ask(r)
	}
	for _, r := range results.AtLeast(len(orders)) {
		res := b.result(r)
		if want := asked[res.OrderId]; res.StepNumber != want.StepNumber || res.Outcome != created || topics.Header(r, topics.HeaderCauseTopic) != b.Table.PaymentRequests.Name {
			t.Errorf("%v answers %v", res, want)
		}
	}
	b.settled()
	if n := len(results.All); n != len(orders) {
		t.Errorf("%d results of %d requests", n, len(orders))
	}
	for name, want := range map[string]float64{
		"millrace_payment_steps_total": 50, "millrace_payment_gateway_seconds": 50, "millrace_payment_steps_in_flight": 0, "millrace_payment_lag_records": 0,
	} {
		if got := b.Sum(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// A CREATE was made and its answer lost, the worker was away for more than a day, and the order asks again: the request
// is young, but what it repeats is forgotten at the gateway. Only what makes an intent goes by that.
func TestYoungRequestOfAnOldCreate(t *testing.T) {
	b := newBelt(t, openTill(t, nil))
	b.Worker(0)
	results := b.Reader(b.Table.PaymentResults.Name)
	late := b.order("pm_card_visa")
	last := func() *paymentv1.PaymentResult { return b.result(results.AtLeast(int(late.number))[late.number-1]) }
	ask := func(s paymentv1.PaymentStep, since time.Duration, want paymentv1.PaymentOutcome) {
		t.Helper()
		r := late.request(s)
		r.FirstCreateUnixMs = time.Now().Add(-since).UnixMilli()
		b.ask(r)
		late.wants(last(), want)
	}
	ask(doCreate, 24*time.Hour, noRequest)
	ask(doCancel, 24*time.Hour, noLonger)
	if n := len(late.lines()); n != 0 {
		t.Fatalf("%d intents", n)
	}
	ask(doCreate, 22*time.Hour, created)
	late.intent = last().IntentId
	ask(doConfirm, 24*time.Hour, paid)
	if line := late.line(); line.Captured != price {
		t.Errorf("%+v", line)
	}
}

// The steps of one order run in order, one at a time; those of others do not wait for it.
func TestOneOrderInOrderOthersBeside(t *testing.T) {
	till := openTill(t, nil)
	b := newBelt(t, till)
	slow := b.order("pm_card_visa")
	slow.wants(slow.do(doCreate), created)
	held := make(chan struct{})
	let := sync.OnceFunc(func() { close(held) })
	t.Cleanup(let)
	till.wire.set(func(w http.ResponseWriter, r *http.Request, sim http.Handler) {
		if strings.Contains(r.URL.Path, slow.intent) {
			<-held
		}
		sim.ServeHTTP(w, r)
	})
	b.Worker(0)
	b.ask(slow.request(doConfirm), slow.request(doPoll), slow.request(doCancel))
	for range 30 {
		b.ask(b.order("pm_card_visa").request(doCreate))
	}
	results := b.Reader(b.Table.PaymentResults.Name)
	for _, r := range results.AtLeast(30) {
		if b.result(r).OrderId == slow.id {
			t.Fatal("the held step was answered")
		}
	}
	let()
	last := int32(0)
	for _, r := range results.AtLeast(33) {
		if res := b.result(r); res.OrderId == slow.id {
			if res.StepNumber <= last {
				t.Errorf("step %d after step %d", res.StepNumber, last)
			}
			last = res.StepNumber
			slow.wants(res, paid)
		}
	}
	b.settled()
}

// The test is the order processor: it asks, reads, asks on. Workers are killed at any moment; at the end every order
// is charged once or not at all, as its card wants it, and half of the charged ones are given back once.
func TestMoneyThroughKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	till := openTill(t, func(s *simulator.Settings) { s.FaultRate, s.Seed, s.Latency = 0.05, seed, 5*time.Millisecond })
	b := newBelt(t, till)
	children := []*workertest.Child{b.Child(0), b.Child(1)}
	shop := newShop(b, []string{"pm_card_visa", "pm_card_chargeDeclined", "pm_sim_sporadic_500", "pm_sim_pending"}, 240)
	kills := 0
	for !shop.closed() {
		before := shop.answered
		shop.until(func() bool { return shop.closed() || shop.answered >= before+80 })
		if c := children[random.IntN(2)]; kills < 12 && !shop.closed() {
			c.Crash()
			kills++
		}
	}
	t.Logf("%d kills, %d results, %d of them again", kills, len(shop.results.All), shop.repeats)
	b.settled()
	shop.compareWithLedger()
}

// A worker that is stopped for longer than its session lasts, in the middle of its calls, and wakes when another has
// done its work: it does it again, under the same keys, and nothing comes of it.
func TestZombieChargesNobodyTwice(t *testing.T) {
	till := openTill(t, func(s *simulator.Settings) { s.Latency = 20 * time.Millisecond })
	b := newBelt(t, till)
	zombie := b.Child(0)
	shop := newShop(b, []string{"pm_card_visa", "pm_card_chargeDeclined"}, 120)
	shop.until(func() bool { return shop.answered >= 60 })
	zombie.Signal(syscall.SIGSTOP)
	b.Worker(1)
	at := shop.answered
	shop.until(func() bool { return shop.closed() || shop.answered > at+60 })
	zombie.Signal(syscall.SIGCONT)
	shop.until(shop.closed)
	b.settled()
	t.Logf("%d results, %d of them again", len(shop.results.All), shop.repeats)
	shop.compareWithLedger()
}

// A shop is many orders on their way: created, confirmed, polled, and every second one that is paid given back.
type shop struct {
	belt     *belt
	results  *workertest.Reader
	orders   map[string]*walk
	read     int // of the results
	answered int // results that were awaited
	repeats  int // results that were not, or not any more
	open     int
}

type walk struct {
	*order
	refunds bool
	last    *paymentv1.PaymentRequest
	ends    paymentv1.PaymentOutcome
	given   map[int32]*paymentv1.PaymentResult // the first answer by step number
}

func newShop(b *belt, cards []string, n int) *shop {
	s := &shop{belt: b, results: b.Reader(b.Table.PaymentResults.Name), orders: map[string]*walk{}, open: n}
	var first []*paymentv1.PaymentRequest
	for i := range n {
		w := &walk{order: b.order(cards[i%len(cards)]), refunds: i/len(cards)%2 == 0, given: map[int32]*paymentv1.PaymentResult{}}
		s.orders[w.id] = w
		w.last = w.request(doCreate)
		first = append(first, w.last)
	}
	b.ask(first...)
	return s
}

func (s *shop) closed() bool { return s.open == 0 }

func (s *shop) until(enough func() bool) {
	s.belt.T.Helper()
	s.results.Until(func() bool {
		var next []*paymentv1.PaymentRequest
		for _, r := range s.results.All[s.read:] {
			if req := s.hear(s.belt.result(r)); req != nil {
				next = append(next, req)
			}
		}
		s.read = len(s.results.All)
		if len(next) > 0 {
			s.belt.ask(next...)
		}
		return enough()
	})
}

// hear is what the order processor would do with a result; nil: nothing.
func (s *shop) hear(res *paymentv1.PaymentResult) *paymentv1.PaymentRequest {
	w := s.orders[res.OrderId]
	if w == nil || w.ends != 0 || res.StepNumber != w.last.StepNumber {
		s.repeats++
		s.sameAsBefore(w, res)
		return nil
	}
	s.answered++
	w.given[res.StepNumber] = res
	w.last = s.next(w, res)
	if w.last == nil {
		w.ends = res.Outcome
		s.open--
		w.last = &paymentv1.PaymentRequest{}
		return nil
	}
	return w.last
}

func (s *shop) next(w *walk, res *paymentv1.PaymentResult) *paymentv1.PaymentRequest {
	switch res.Outcome {
	case noAnswer:
		r := w.request(res.Step)
		r.RefundNumber = 1
		return r
	case created:
		w.intent = res.IntentId
		return w.request(doConfirm)
	case pending:
		return w.request(doPoll)
	case paid:
		if w.refunds {
			return w.refund(1, 700)
		}
	}
	return nil
}

// sameAsBefore: an answer that comes again must not mean anything else. An UNAVAILABLE may be better the second time,
// and a pending payment may have been decided.
func (s *shop) sameAsBefore(w *walk, res *paymentv1.PaymentResult) {
	if w == nil {
		s.belt.T.Errorf("nobody asked for %v", res)
		return
	}
	was := w.given[res.StepNumber]
	if was == nil || was.Outcome == noAnswer || res.Outcome == noAnswer || was.Outcome == pending {
		return
	}
	if !proto.Equal(was, res) {
		s.belt.T.Errorf("step %d of order %s was answered\n%v\nand then\n%v", res.StepNumber, res.OrderId, was, res)
	}
}

func (s *shop) compareWithLedger() {
	s.belt.T.Helper()
	for _, w := range s.orders {
		line, want := w.line(), simulator.LedgerLine{}
		if w.card != "pm_card_chargeDeclined" {
			want.Captured = price
			if w.refunds {
				want.Refunded = 700
			}
		}
		ends := map[bool]paymentv1.PaymentOutcome{true: noPaid, false: paid}[want.Captured == 0]
		if want.Refunded > 0 {
			ends = givenBack
		}
		if line.Captured != want.Captured || line.Refunded != want.Refunded || line.PaymentIntent != w.intent || w.ends != ends {
			s.belt.T.Errorf("%s ends as %v, the ledger has %+v", w.card, w.ends, line)
		}
	}
}

// A partition that moves is left in good order: what runs is ended, and the finished prefix is committed. (What was
// finished beyond the prefix is done again.)
func TestRebalances(t *testing.T) {
	till := openTill(t, func(s *simulator.Settings) { s.Latency = 2 * time.Millisecond })
	b := newBelt(t, till)
	b.Worker(0)
	shop := newShop(b, []string{"pm_card_visa", "pm_card_chargeDeclined"}, 300)
	for n := 100; !shop.closed(); n += 150 {
		second := b.Worker(1)
		shop.until(func() bool { return shop.closed() || shop.answered >= n })
		second.Stop()
	}
	b.settled()
	t.Logf("%d results, %d of them again", len(shop.results.All), shop.repeats)
	shop.compareWithLedger()
}

// Brokers are killed while results are on their way, one after the other.
func TestBrokerKilled(t *testing.T) {
	stack := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Brokers: 3}, Postgres: local.PostgresOptions{Off: true}})
	till := openTill(t, func(s *simulator.Settings) { s.Latency = 5 * time.Millisecond })
	b := newBelt(t, till, stack.Kafka()...)
	worker := b.Worker(0)
	requests := map[string]*paymentv1.PaymentRequest{}
	results := b.Reader(b.Table.PaymentResults.Name)
	for broker := range 2 {
		var some []*paymentv1.PaymentRequest
		for range 200 {
			r := b.order("pm_card_visa").request(doCreate)
			requests[r.OrderId] = r
			some = append(some, r)
		}
		b.ask(some...)
		results.AtLeast(len(requests) - 180)
		b.CrashBroker(stack, broker)
	}
	b.settled()
	answered := map[string]bool{}
	results.Until(func() bool {
		for _, r := range results.All {
			answered[string(r.Key)] = true
		}
		return len(answered) == len(requests)
	})
	if n := len(till.sim.Ledger().PaymentIntents); n != len(requests) {
		t.Errorf("%d intents of %d orders", n, len(requests))
	}
	worker.GoesOn()
}

func TestPoison(t *testing.T) {
	b := newBelt(t, openTill(t, nil))
	good := func() *kgo.Record {
		return b.Table.PaymentRequests.Record(b.order("pm_card_visa").request(doCreate), topics.Fresh("/test", ""))
	}
	nonsense := b.order("pm_card_visa").request(doConfirm)
	n, letters := b.Poison(good, b.Table.PaymentRequests.Record(nonsense, topics.Fresh("/test", "")))
	b.Worker(0)
	b.settled()
	if got := len(b.Reader(b.Table.PaymentResults.Name).AtLeast(n)); got != n {
		t.Errorf("%d results of %d good requests", got, n)
	}
	b.Buried(letters)
}

func TestTwoInstancesWithOneOrdinal(t *testing.T) {
	b := newBelt(t, openTill(t, nil))
	first := b.Worker(0)
	b.ask(b.order("pm_card_visa").request(doCreate))
	b.settled()
	b.Worker(0)
	b.ask(b.order("pm_card_visa").request(doCreate))
	first.Ends(ErrFenced)
	b.settled()
}

func TestNoCommittedOffset(t *testing.T) {
	b := newBelt(t, openTill(t, nil))
	if _, err := b.Adm.DeleteGroup(b.Ctx, b.Table.Group(topics.PaymentGroup)); err != nil {
		t.Fatal(err)
	}
	b.ask(b.order("pm_card_visa").request(doCreate))
	b.Worker(0).Ends(ErrOffset)
	if n := len(b.sim.Ledger().PaymentIntents); n != 0 {
		t.Errorf("%d intents from a guessed offset", n)
	}
}

func TestConfigThatContradictsItself(t *testing.T) {
	good := func() Config {
		return quick(workertest.Seat{
			Brokers: []string{"nowhere:1"}, Topics: topics.New(topics.Options{}), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		})
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Config){
		"no brokers":        func(c *Config) { c.Brokers = nil },
		"no log":            func(c *Config) { c.Log = nil },
		"no key":            func(c *Config) { c.Key = "" },
		"a negative number": func(c *Config) { c.InFlight = -1 },
		"negative time":     func(c *Config) { c.Timeout = -1 },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was let in", what)
		}
	}
}

// TestOffsetsThatCannotBeFetched: partitions that the client has let go are read by the next.
func TestOffsetsThatCannotBeFetched(t *testing.T) {
	b := newBelt(t, openTill(t, nil), localtest.Forgetful(t)...)
	for range 10 {
		b.ask(b.order("pm_card_visa").request(doCreate))
	}
	b.Worker(0)
	b.Reader(b.Table.PaymentResults.Name).AtLeast(10)
	b.settled()
}

// TestAnAnswerThatIsNotTaken: its step is carried out again, under its key, and answered then.
func TestAnAnswerThatIsNotTaken(t *testing.T) {
	b := newBelt(t, openTill(t, nil), localtest.Refusing(t)...)
	b.ask(b.order("pm_card_visa").request(doCreate))
	worker := b.Worker(0)
	b.Reader(b.Table.PaymentResults.Name).AtLeast(1)
	b.settled()
	if n := len(b.sim.Ledger().PaymentIntents); n != 1 {
		t.Errorf("%d intents of one order", n)
	}
	worker.GoesOn()
}

// TestLostPartitionsFailNoAnswers: the log does not take an answer yet when Kafka loses the worker, which comes back. More
// answers then wait behind it for the same partition of the log, and nothing happens to them.
func TestLostPartitionsFailNoAnswers(t *testing.T) {
	brokers, letGo, joins := localtest.Losing(t)
	till := openTill(t, nil)
	const more = 12
	var lost atomic.Bool
	var calls, again atomic.Int32
	till.wire.set(func(w http.ResponseWriter, r *http.Request, sim http.Handler) {
		switch {
		case lost.Load():
			again.Add(1)
		case calls.Add(1) > 1:
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			lost.Store(true)
			return
		}
		sim.ServeHTTP(w, r)
	})
	b := newBelt(t, till, brokers...)
	for range 1 + more {
		b.ask(b.order("pm_card_visa").request(doCreate))
	}
	worker := b.Worker(0)
	b.Until(func() bool { return again.Load() >= more && b.Sum("millrace_payment_steps_in_flight") == 0 })
	letGo()
	b.Reader(b.Table.PaymentResults.Name).AtLeast(1 + more)
	b.settled()
	if n := joins.Load(); n != 2 {
		t.Errorf("it joined %d times, and not when it started and when it was lost", n)
	}
	worker.GoesOn()
}
