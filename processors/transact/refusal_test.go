package transact

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// endsWith runs an instance that must end by itself.
func endsWith(t *testing.T, cfg Config, graph *goka.GroupGraph, opts ...goka.ProcessorOption) error {
	t.Helper()
	cfg.Brokers, cfg.Logger = brokers(t), quiet()
	inst, err := New(cfg)
	if err != nil {
		return err
	}
	defer inst.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	err = inst.Run(ctx, graph, opts...)
	if ctx.Err() != nil {
		t.Fatal("the instance goes on")
	}
	return err
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestMissingOffsetIsFatal(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 5)
	l.load(t, 100, 1)
	adm := l.admin(t)
	must(t, "forget the group", func() error { _, err := adm.DeleteGroup(context.Background(), l.group()); return err })
	wantError(t, endsWith(t, Config{}, l.graph(l.decide)), ErrNoCommittedOffset)
	if n := len(readAll(t, l.out())); n != 0 {
		t.Fatalf("%d outcomes of a group without offsets", n)
	}
}

func TestOffsetOutOfRangeIsFatal(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(t *testing.T, l ledger, adm *kadm.Client){
		"behind the end": func(t *testing.T, l ledger, adm *kadm.Client) {
			at := kadm.Offsets{}
			at.AddOffset(l.in(), 0, 1_000_000, -1)
			must(t, "commit", func() error { return adm.CommitAllOffsets(context.Background(), l.group(), at) })
		},
		"before the start": func(t *testing.T, l ledger, adm *kadm.Client) {
			gone := kadm.Offsets{}
			gone.AddOffset(l.in(), 0, 5, -1)
			must(t, "delete records", func() error { _, err := adm.DeleteRecords(context.Background(), gone); return err })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t, 1, 5)
			l.load(t, 100, 1)
			arrange(t, l, l.admin(t))
			wantError(t, endsWith(t, Config{}, l.graph(l.decide)), ErrOffsetOutOfRange)
		})
	}
}

func TestSecondInstanceWithOurIDFencesUs(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 5)
	first, stopFirst := run(t, Config{Dir: t.TempDir()}, l)
	within(t, 30*time.Second, "first is ready", first.Ready)
	l.load(t, 100, 1)
	second, stopSecond := run(t, Config{Dir: t.TempDir()}, l)
	within(t, 30*time.Second, "second is ready", second.Ready)
	within(t, 30*time.Second, "first is fenced", func() bool {
		l.load(t, 10, time.Now().UnixNano())
		return first.Err() != nil
	})
	wantError(t, stopFirst(), ErrFenced)
	adm := l.admin(t)
	within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	if err := stopSecond(); err != nil {
		t.Fatalf("the one that took over: %v", err)
	}
	if v := l.check(t, nil); !v.exact() {
		t.Fatalf("%+v", v)
	}
}

// An idle instance notices too.
func TestSecondInstanceFencesAnIdleOne(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 5)
	first, stopFirst := run(t, Config{}, l)
	within(t, 30*time.Second, "first is ready", first.Ready)
	_, stopSecond := run(t, Config{}, l)
	within(t, 30*time.Second, "first is fenced", func() bool { return first.Err() != nil })
	wantError(t, stopFirst(), ErrFenced)
	if err := stopSecond(); err != nil {
		t.Fatalf("the one that took over: %v", err)
	}
}

func TestFolderIsOneInstances(t *testing.T) {
	t.Parallel()
	l, dir := newLedger(t, 1, 5), t.TempDir()
	_, stop := run(t, Config{Dir: dir}, l)
	_, err := New(Config{Brokers: brokers(t), Dir: dir})
	wantError(t, err, ErrFolderInUse)
	within(t, 20*time.Second, "the folder is marked", func() bool {
		marked, err := os.ReadFile(dir + "/" + identityName)
		return err == nil && len(marked) > 0
	})
	stop()
	wantError(t, endsWith(t, Config{Dir: dir, Ordinal: 1}, l.graph(l.decide)), ErrWrongFolder)
}

func TestUnprovenGraphsAreRefused(t *testing.T) {
	c, nothing := new(codec.String), func(goka.Context, any) {}
	for name, edge := range map[string]goka.Edge{
		"join":    goka.Join("other-table", c),
		"lookup":  goka.Lookup("other-table", c),
		"loop":    goka.Loop(c, nothing),
		"visitor": goka.Visitor("all", nothing),
	} {
		t.Run(name, func(t *testing.T) {
			inst, err := New(Config{Brokers: []string{"127.0.0.1:1"}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = inst.Processor(goka.DefineGroup("g", goka.Input("in", c, nothing), goka.Persist(c), edge))
			wantError(t, err, ErrUnsupported)
		})
	}
}

func TestUnprovenCallsAreRefused(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(goka.Context){
		"defer commit": func(ctx goka.Context) { ctx.DeferCommit() },
		"join":         func(ctx goka.Context) { ctx.Join("t") },
		"lookup":       func(ctx goka.Context) { ctx.Lookup("t", "k") },
		"loopback":     func(ctx goka.Context) { ctx.Loopback("k", "v") },
		"unknown topic": func(ctx goka.Context) {
			defer func() { _ = recover() }() // to hide it does not help
			ctx.Emit("nowhere", "k", "v")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t, 1, 1)
			l.load(t, 1, 1)
			err := endsWith(t, Config{DeadLetter: l.letter}, l.graph(func(ctx goka.Context, _ any) { call(ctx) }))
			wantError(t, err, ErrUnsupported)
			l.checkLetters(t, 0)
		})
	}
}

func TestUnprovenOptionsAreRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 5)
	other, stop := run(t, Config{Ordinal: 1}, l)
	defer stop()
	within(t, 30*time.Second, "another has partitions", other.Ready)
	wantError(t, endsWith(t, Config{}, l.graph(l.decide), goka.WithHotStandby()), ErrUnsupported)
	wantError(t, endsWith(t, Config{}, l.graph(l.decide), goka.WithRecoverAhead()), ErrUnsupported)
	wrap := goka.WithContextWrapper(func(ctx goka.Context) goka.Context { return struct{ gokaContext }{ctx} })
	l.load(t, 10, 1)
	wantError(t, endsWith(t, Config{}, l.graph(l.decide), wrap), ErrUnsupported)
}

func TestTopicsThatDoNotFit(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, spoil := range map[string]struct {
		do    func(l ledger, adm *kadm.Client) error
		shows func(l ledger, m *topicManager) bool // brokers learn late
	}{
		"no output": {
			func(l ledger, adm *kadm.Client) error { _, err := adm.DeleteTopic(ctx, l.out()); return err },
			func(l ledger, m *topicManager) bool {
				_, err := m.topicNow(ctx, l.out())
				return errors.Is(err, ErrTopic)
			},
		},
		"no table": {
			func(l ledger, adm *kadm.Client) error { _, err := adm.DeleteTopic(ctx, l.table()); return err },
			func(l ledger, m *topicManager) bool {
				_, err := m.topicNow(ctx, l.table())
				return errors.Is(err, ErrTopic)
			},
		},
		"other count": {
			func(l ledger, adm *kadm.Client) error { _, err := adm.UpdatePartitions(ctx, 3, l.table()); return err },
			func(l ledger, m *topicManager) bool {
				d, _ := m.topicNow(ctx, l.table())
				return len(d.Partitions) == 3
			},
		},
		"not compacted": {
			func(l ledger, adm *kadm.Client) error { return setConfig(adm, l.table(), "cleanup.policy", "delete") },
			func(l ledger, m *topicManager) bool {
				policy, _ := m.config(ctx, l.table(), "cleanup.policy")
				return policy == "delete"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t, 2, 5)
			adm, m := l.admin(t), &topicManager{logReader: logReaderOn(client(t)), ctx: ctx}
			within(t, 20*time.Second, "it shows", func() bool { _ = spoil.do(l, adm); return spoil.shows(l, m) })
			wantError(t, endsWith(t, Config{}, l.graph(l.decide)), ErrTopic)
		})
	}
}

func setConfig(adm *kadm.Client, topic, name, value string) error {
	resp, err := adm.AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Name: name, Value: &value}}, topic)
	for _, r := range resp {
		err = errors.Join(err, r.Err)
	}
	return err
}

func TestTableIsCreatedWhenAsked(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 5)
	adm := l.admin(t)
	must(t, "delete table", func() error { _, err := adm.DeleteTopic(context.Background(), l.table()); return err })
	m := &topicManager{logReader: logReaderOn(client(t)), ctx: context.Background()}
	within(t, 20*time.Second, "it is gone", func() bool { _, err := m.topicNow(m.ctx, l.table()); return errors.Is(err, ErrTopic) })
	l.load(t, 100, 1)
	_, stop := run(t, Config{CreateTable: &NewTable{ReplicationFactor: 1, MinInSyncReplicas: 1}}, l)
	within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if v := l.check(t, nil); !v.exact() {
		t.Fatalf("%+v", v)
	}
}

// A changelog that was made anew is another one, even when somebody has written more to it than the store has read.
func TestStoreOfAnotherChangelogIsRefused(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]int{"empty": 0, "longer": 500} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storeOfAnotherChangelog(t, rows)
		})
	}
}

func storeOfAnotherChangelog(t *testing.T, rows int) {
	l, dir := newLedger(t, 1, 5), t.TempDir()
	l.load(t, 100, 1)
	adm := l.admin(t)
	_, stop := run(t, Config{Dir: dir}, l)
	within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	stop()
	must(t, "delete table", func() error { _, err := adm.DeleteTopic(context.Background(), l.table()); return err })
	within(t, 20*time.Second, "the table's topic is made anew", func() bool {
		_, err := adm.CreateTopic(context.Background(), 1, 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, l.table())
		return err == nil
	})
	within(t, 20*time.Second, "the table is written", func() bool { // brokers learn late of a new topic, clients never
		cl := client(t)
		defer cl.Close()
		var written []*kgo.Record
		for i := range rows {
			written = append(written, &kgo.Record{Topic: l.table(), Key: []byte(account(i)), Value: []byte("1")})
		}
		return cl.ProduceSync(context.Background(), written...).FirstErr() == nil
	})
	wantError(t, endsWith(t, Config{Dir: dir}, l.graph(l.decide)), ErrStoreAhead)
}

// A table that is read back to its end makes its store young again, without a commit.
func TestReadingBackMakesAStoreYoung(t *testing.T) {
	t.Parallel()
	l, dir := newLedger(t, 1, 5), t.TempDir()
	l.load(t, 100, 1)
	l.work(t, Config{Dir: dir}, l.decide).Close()
	store := func() *levelStore {
		b, err := openLevelStore(filepath.Join(dir, "tables"), l.table(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := store()
	b.makeOld(t)
	must(t, "close", b.close)
	l.work(t, Config{Dir: dir}, l.decide).Close()
	b = store()
	defer b.close()
	if age, err := b.age(); err != nil || age > time.Minute {
		t.Fatalf("%v old (%v)", age, err)
	}
}

// A value that the table's codec cannot read is no record's fault: nobody is dead-lettered for it.
func TestUnreadableValueStops(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 1)
	row := &kgo.Record{Topic: l.table(), Key: []byte(account(0)), Value: []byte("a lot")}
	must(t, "write the table", func() error { return client(t).ProduceSync(context.Background(), row).FirstErr() })
	l.load(t, 20, 1)
	wantError(t, endsWith(t, Config{DeadLetter: l.letter}, l.graph(l.decide)), ErrStore)
	l.checkLetters(t, 0)
}

// A goka whose options keep headers elsewhere is refused, before anything runs.
func TestOtherGokaIsRefused(t *testing.T) {
	must(t, "this goka", func() error { return hasEmitHeaders(reflect.TypeFor[goka.ContextOption]()) })
	for name, option := range map[string]reflect.Type{
		"renamed":  reflect.TypeFor[func(*struct{ headers goka.Headers })](),
		"retyped":  reflect.TypeFor[func(*struct{ emitHeaders []string })](),
		"by value": reflect.TypeFor[func(struct{ emitHeaders goka.Headers })](),
		"no func":  reflect.TypeFor[struct{ emitHeaders goka.Headers }](),
	} {
		t.Run(name, func(t *testing.T) { wantError(t, hasEmitHeaders(option), ErrUnsupported) })
	}
}

// A store is trusted for half as long as its changelog keeps deletions.
func TestStoreIsAsOldAsDeletionsAllow(t *testing.T) {
	t.Parallel()
	l, dir := newLedger(t, 1, 5), t.TempDir()
	l.load(t, 100, 1)
	adm := l.admin(t)
	readBack := func() (fetches int64) {
		var n atomic.Int64
		l.work(t, Config{Dir: dir, FailPoint: func(point string) {
			if point == Recovering {
				n.Add(1)
			}
		}}, l.decide).Close()
		return n.Load()
	}
	readBack()
	if n := readBack(); n != 0 {
		t.Errorf("%d fetches to read back what the store has", n)
	}
	m := &topicManager{logReader: logReaderOn(client(t)), ctx: context.Background()}
	must(t, "keep no deletions", func() error { return setConfig(adm, l.table(), "delete.retention.ms", "0") })
	within(t, 20*time.Second, "the broker knows", func() bool {
		n, err := m.number(context.Background(), l.table(), "delete.retention.ms")
		return err == nil && n == 0
	})
	time.Sleep(2 * time.Millisecond) // the store's age is counted in them
	if n := readBack(); n == 0 {
		t.Error("a store that may be stale is trusted")
	}
	if v := l.check(t, nil); !v.exact() {
		t.Errorf("%+v", v)
	}
}

func TestPoisonWithoutDeadLettersStops(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 1)
	l.load(t, 20, 1)
	l.poison(t, 7)
	err := endsWith(t, Config{Dir: t.TempDir()}, l.graph(l.decide))
	var poison *PoisonError
	var callback *CallbackError
	if !errors.As(err, &poison) || poison.Offset != 21 || !errors.As(err, &callback) || !strings.Contains(callback.Stack, "ledger.decide") {
		t.Fatalf("got %v", err)
	}
	if v := l.check(t, isPoison); !v.exact() { // what came before it is done
		t.Fatalf("%+v", v)
	}
}

func TestConfigContradictions(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no brokers":        {},
		"negative ordinal":  {Brokers: []string{"b"}, Ordinal: -1},
		"interval too long": {Brokers: []string{"b"}, CommitInterval: 8 * time.Second},
		"interval too fine": {Brokers: []string{"b"}, CommitInterval: time.Microsecond},
		"attempts":          {Brokers: []string{"b"}, Attempts: -1},
		"one attempt":       {Brokers: []string{"b"}, Attempts: 1}, // would take the innocent with the guilty
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(cfg)
			wantError(t, err, ErrConfig)
		})
	}
}
