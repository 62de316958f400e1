package transact

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// send writes records as they are.
func (l ledger) send(t testing.TB, records ...*kgo.Record) {
	t.Helper()
	cl := client(t)
	defer cl.Close()
	for _, r := range records {
		r.Topic = l.in()
	}
	must(t, "send", func() error { return cl.ProduceSync(context.Background(), records...).FirstErr() })
}

// work runs an instance with a callback until nothing is left to do.
func (l ledger) work(t *testing.T, cfg Config, cb goka.ProcessCallback) *Instance {
	t.Helper()
	cfg.Brokers, cfg.Logger = brokers(t), quiet()
	inst, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- inst.Run(ctx, l.graph(cb)) }()
	adm := l.admin(t)
	within(t, 60*time.Second, "no lag", func() bool { return inst.Err() != nil || inst.Ready() && lag(t, adm, l.group(), l.in()) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return inst
}

// tooLarge makes a callback that emits something small and something of the size that the command asks for, after it has
// written to the table.
func (l ledger) tooLarge(size int) goka.ProcessCallback {
	return func(ctx goka.Context, msg any) {
		if strings.HasPrefix(msg.(string), poisonID) {
			ctx.SetValue(int64(-1))
			ctx.Emit(goka.Stream(l.out()), ctx.Key(), "an outcome that must not be seen")
			ctx.Emit(goka.Stream(l.out()), ctx.Key(), strings.Repeat("x", size))
			return
		}
		l.decide(ctx, msg)
	}
}

// An emit that fails loses nothing and loops nothing: neither its own outcome, table and offset, which go together or not
// at all, nor those of its neighbours.
func TestEmitTooLarge(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 3, 20)
	l.load(t, 1000, 1)
	l.poison(t, 1)
	l.poison(t, 2)
	l.load(t, 1000, 2)
	registry := prometheus.NewRegistry()
	inst := l.work(t, Config{Dir: t.TempDir(), DeadLetter: l.letter, Registerer: registry}, l.tooLarge(20<<20))
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, 2)
	if n := counted(t, registry, "transact_dead_letters_total"); n != 2 {
		t.Errorf("%v dead letters counted", n)
	}
	if n := counted(t, registry, "transact_aborts_total"); n > 2*defaultAttempts {
		t.Errorf("%v aborts for two records", n)
	}
	inst.Close()
	if left, _ := registry.Gather(); len(left) > 0 {
		t.Errorf("%d metrics left after Close", len(left))
	}
}

// counted sums a counter over its labels.
func counted(t *testing.T, g prometheus.Gatherer, name string) (sum float64) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// The broker may refuse what the client thought would do. It refuses whole batches: the innocent in them must not pay.
func TestEmitRefusedByTheBroker(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 20)
	adm := l.admin(t)
	inst, stop := func() (*Instance, func() error) {
		inst, err := New(Config{Brokers: brokers(t), Logger: quiet(), DeadLetter: l.letter, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- inst.Run(ctx, l.graph(l.tooLarge(300_000))) }()
		return inst, func() error { cancel(); defer inst.Close(); return <-done }
	}()
	l.load(t, 100, 1)
	within(t, 30*time.Second, "no lag", func() bool { return inst.Ready() && lag(t, adm, l.group(), l.in()) == 0 })
	must(t, "shrink the topic", func() error { return setConfig(adm, l.out(), "max.message.bytes", "10000") })
	m := &topicManager{logReader: logReaderOn(client(t)), ctx: context.Background()}
	within(t, 20*time.Second, "the broker knows", func() bool {
		v, err := m.config(context.Background(), l.out(), "max.message.bytes")
		return err == nil && v == "10000"
	})
	l.load(t, 20, 2)
	l.poison(t, 1)
	l.load(t, 20, 3)
	within(t, 60*time.Second, "no lag", func() bool { return inst.Err() != nil || lag(t, adm, l.group(), l.in()) == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	// The poison's large emit compresses well below the limit only if the client compresses it; either way the outcome is
	// one of two, and never half of it.
	l.checkLetters(t, 1)
}

// Dense poison: each costs a few transactions, and all goes on.
func TestManyPoisonousRecords(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	for i := range 30 {
		l.poison(t, i)
	}
	l.load(t, 200, 1)
	l.work(t, Config{DeadLetter: l.letter}, l.decide).Close()
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, 30)
}

// undecodable fails for some values, as goka codecs may.
type undecodable struct{ *codec.String }

func (c undecodable) Decode(data []byte) (any, error) {
	if bytes.HasPrefix(data, []byte(poisonID)) {
		return nil, fmt.Errorf("not mine")
	}
	return c.String.Decode(data)
}

func TestUndecodableRecordIsDeadLettered(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 5)
	l.poison(t, 1)
	l.load(t, 10, 1)
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet(), DeadLetter: l.letter})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	graph := goka.DefineGroup(goka.Group(l.group()), goka.Input(goka.Stream(l.in()), undecodable{new(codec.String)}, l.decide),
		goka.Output(goka.Stream(l.out()), new(codec.String)), goka.Persist(new(codec.Int64)))
	go func() { done <- inst.Run(ctx, graph) }()
	adm := l.admin(t)
	within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, 1)
}

func TestRefusedRecordsNeverReachCallbacks(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	l.load(t, 100, 1)
	for i := range 5 {
		l.poison(t, i)
	}
	accept := func(r *kgo.Record) error {
		if isPoison(r) {
			return fmt.Errorf("not at my door")
		}
		return nil
	}
	l.work(t, Config{DeadLetter: l.letter, Accept: accept}, func(ctx goka.Context, msg any) {
		if strings.HasPrefix(msg.(string), poisonID) {
			t.Error("a refused record reached the callback")
		}
		l.decide(ctx, msg)
	}).Close()
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, 5)
	for _, r := range readAll(t, l.dlq()) {
		if string(r.Headers[0].Value) != "not at my door" {
			t.Errorf("reason %q", r.Headers[0].Value)
		}
	}
}

func TestHeadersBothWays(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 1)
	in := []kgo.RecordHeader{{Key: "z", Value: []byte("1")}, {Key: "a", Value: []byte("2")}}
	l.send(t, &kgo.Record{Key: []byte("k"), Value: []byte("v"), Headers: in})
	l.work(t, Config{}, func(ctx goka.Context, msg any) {
		if h := ctx.Headers(); string(h["z"]) != "1" || string(h["a"]) != "2" {
			t.Errorf("headers %v", h)
		}
		if r := Record(ctx); string(r.Key) != ctx.Key() || r.Headers[0].Key != "z" || r.Offset != ctx.Offset() {
			t.Errorf("record %v", r)
		}
		Emit(ctx, goka.Stream(l.out()), "k", "as given", kgo.RecordHeader{Key: "b"}, kgo.RecordHeader{Key: "a"})
		ctx.Emit(goka.Stream(l.out()), "k", "sorted", goka.WithCtxEmitHeaders(goka.Headers{"c": []byte("3"), "b": nil}),
			goka.WithCtxEmitHeaders(goka.Headers{"a": []byte("1")}))
		ctx.SetValue(int64(1), goka.WithCtxEmitHeaders(goka.Headers{"t": []byte("4")}))
	}).Close()
	out := readAll(t, l.out())
	if got := headerKeys(out[0]); got != "ba" {
		t.Errorf("as given: %s", got)
	}
	if got := headerKeys(out[1]); got != "abc" || string(out[1].Headers[2].Value) != "3" {
		t.Errorf("sorted: %s", got)
	}
	if got := headerKeys(readAll(t, l.table())[0]); got != "t" {
		t.Errorf("table: %s", got)
	}
}

func headerKeys(r *kgo.Record) (keys string) {
	for _, h := range r.Headers {
		keys += h.Key
	}
	return keys
}

// Several inputs, nil values, deletions, and emits of nil.
func TestNilValuesAndDeletes(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	l.send(t, &kgo.Record{Key: []byte("a"), Value: []byte("1")}, &kgo.Record{Key: []byte("b"), Value: []byte("1")},
		&kgo.Record{Key: []byte("a")}, &kgo.Record{Key: []byte("c"), Value: []byte("")})
	var mu sync.Mutex
	var saw []string
	l.work(t, Config{Dir: t.TempDir()}, func(ctx goka.Context, msg any) {
		mu.Lock()
		saw = append(saw, fmt.Sprintf("%s=%v had %v", ctx.Key(), msg, ctx.Value()))
		mu.Unlock()
		if msg == nil {
			ctx.Delete()
			ctx.Emit(goka.Stream(l.out()), ctx.Key(), nil)
			return
		}
		ctx.SetValue(int64(7))
	}).Close()
	sort.Strings(saw)
	if got := strings.Join(saw, "; "); got != "a=1 had <nil>; a=<nil> had 7; b=1 had <nil>; c= had <nil>" {
		t.Errorf("saw %s", got)
	}
	last := map[string]string{}
	for _, r := range readAll(t, l.table()) {
		last[string(r.Key)] = string(r.Value)
	}
	if fmt.Sprint(last) != "map[a: b:7 c:7]" {
		t.Errorf("table %v", last)
	}
	if out := readAll(t, l.out()); len(out) != 1 || out[0].Value != nil {
		t.Errorf("out %v", out)
	}
}

// Callbacks that are slow do not make transactions long: what has not begun is left to the next one.
func TestSlowCallbacks(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	l.load(t, 600, 1)
	registry := prometheus.NewRegistry()
	slow := func(ctx goka.Context, msg any) {
		time.Sleep(2 * time.Millisecond)
		l.decide(ctx, msg)
	}
	inst := l.work(t, Config{Dir: t.TempDir(), CommitInterval: 20 * time.Millisecond, Registerer: registry}, slow)
	defer inst.Close()
	if v := l.check(t, nil); !v.exact() {
		t.Errorf("%+v", v)
	}
	// 610 records of 2 ms in two partitions take 610 ms: in one transaction, or in one of 40 ms each.
	if n := counted(t, registry, "transact_transactions_total"); n < 8 {
		t.Errorf("%v transactions", n)
	}
	if n := counted(t, registry, "transact_records_total"); n != 610 {
		t.Errorf("%v records counted", n)
	}
}

// A stop commits what callbacks have done, leaves what they have not begun, and does not wait for it.
func TestStopIsQuickAndExact(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	l.load(t, 5000, 1)
	for range 3 {
		inst, err := New(Config{Brokers: brokers(t), Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		started, once := make(chan struct{}), sync.Once{}
		done := make(chan error, 1)
		go func() {
			done <- inst.Run(ctx, l.graph(func(ctx goka.Context, msg any) {
				once.Do(func() { close(started) })
				time.Sleep(time.Millisecond)
				l.decide(ctx, msg)
			}))
		}()
		<-started
		cancel()
		began := time.Now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("stopped after %v", took)
		}
		inst.Close()
	}
	l.work(t, Config{}, l.decide).Close()
	if v := l.check(t, nil); !v.exact() {
		t.Errorf("%+v", v)
	}
}

// A stop does not wait for a table that cannot be read back now.
func TestStopWhileReadingBack(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 5)
	holder := client(t, kgo.TransactionalID(l.name+"-holder"), kgo.TransactionTimeout(60*time.Second))
	must(t, "begin", holder.BeginTransaction)
	row := &kgo.Record{Topic: l.table(), Key: []byte("k"), Value: []byte("1")}
	must(t, "hold the table", func() error { return holder.ProduceSync(context.Background(), row).FirstErr() })
	inst, stop := run(t, Config{Dir: t.TempDir()}, l)
	within(t, 30*time.Second, "it reads back", func() bool { return inst.table(0) != nil })
	began := time.Now()
	must(t, "stop", stop)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopped after %v", took)
	}
}

// A table that is being read back when the stop comes is not taken for one that is read back.
func TestStopLeavesAHalfReadTable(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 5)
	l.load(t, 100, 1)
	l.work(t, Config{}, l.decide).Close()
	ctx, cancel := context.WithCancel(context.Background())
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet(), FailPoint: func(point string) {
		switch point {
		case Recovering:
			cancel()
		case Recovered:
			t.Error("it is used")
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	must(t, "run", func() error { return inst.Run(ctx, l.graph(l.decide)) })
}

// Two inputs share the table: every record once, whatever their order.
func TestTwoInputs(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	second := l.name + "-second"
	createTopics(t, 2, l.group(), []string{l.in(), second}, nil, "")
	l.load(t, 500, 1)
	cl := client(t)
	for i := range 500 {
		r := &kgo.Record{Topic: second, Key: []byte(account(i % 10)), Value: fmt.Appendf(nil, "s%d|1000", i)}
		must(t, "send", func() error { return cl.ProduceSync(context.Background(), r).FirstErr() })
	}
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	c := new(codec.String)
	graph := goka.DefineGroup(goka.Group(l.group()), goka.Inputs(goka.Streams{goka.Stream(l.in()), goka.Stream(second)}, c, l.decide),
		goka.Output(goka.Stream(l.out()), c), goka.Persist(new(codec.Int64)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- inst.Run(ctx, graph) }()
	adm := l.admin(t)
	within(t, 30*time.Second, "no lag", func() bool {
		return lag(t, adm, l.group(), l.in()) == 0 && lag(t, adm, l.group(), second) == 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, r := range readAll(t, l.out()) {
		id, _, _ := strings.Cut(string(r.Value), "|")
		times[id]++
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s has %d outcomes", id, n)
		}
	}
	if len(times) != 1010 {
		t.Errorf("%d outcomes", len(times))
	}
}

// The changelog goes where the table is, even for a key that belongs elsewhere: a restart finds its value.
func TestRecordInTheWrongPartition(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 1)
	stray := client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	write := func() {
		for p := range int32(2) {
			r := &kgo.Record{Topic: l.in(), Partition: p, Key: []byte("k"), Value: fmt.Appendf(nil, "i%d|%d", p, 10+p)}
			must(t, "send", func() error { return stray.ProduceSync(context.Background(), r).FirstErr() })
		}
	}
	write()
	l.work(t, Config{}, l.decide).Close()
	write()
	l.work(t, Config{}, l.decide).Close()
	var saw []string
	for _, r := range readAll(t, l.table()) {
		saw = append(saw, fmt.Sprintf("%d:%s", r.Partition, r.Value))
	}
	sort.Strings(saw)
	if got := strings.Join(saw, " "); got != "0:10 0:20 1:11 1:22" {
		t.Errorf("changelog %s", got)
	}
}

func TestStatelessGroup(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	l.load(t, 200, 1)
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet(), DeadLetter: l.letter})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	c := new(codec.String)
	graph := goka.DefineGroup(goka.Group(l.group()), goka.Input(goka.Stream(l.in()), c, func(ctx goka.Context, msg any) {
		if strings.HasPrefix(msg.(string), "c1-7|") {
			ctx.SetValue("there is no table")
		}
		ctx.Emit(goka.Stream(l.out()), ctx.Key(), msg)
	}), goka.Output(goka.Stream(l.out()), c))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- inst.Run(ctx, graph) }()
	adm := l.admin(t)
	within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, l.out())); n != 209 {
		t.Errorf("%d outcomes", n)
	}
	l.checkLetters(t, 1)
}
