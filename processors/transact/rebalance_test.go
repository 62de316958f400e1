package transact

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kadm"
)

// leaving is a goka that does nothing but take leave.
type leaving struct{ sarama.ConsumerGroupHandler }

func (leaving) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// A member that has lost its partitions and is left none is ready, even if it learns of both at once: nothing comes after
// that would tell it so.
func TestReadyWithoutPartitions(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 1)
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	if _, err := inst.Processor(l.graph(l.decide)); err != nil {
		t.Fatal(err)
	}
	e, err := inst.newEngine(leaving{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.close(nil)
	must(t, "begin", e.begin)
	e.session = &session{engine: e, handler: e.handler, cancel: func() {}}
	e.rebalanced(nil, false)
	e.rebalanced(map[string][]int32{}, true)
	if moved, err := e.follow(context.Background()); !moved || err != nil {
		t.Fatalf("moved: %v, %v", moved, err)
	}
	if e.isMoved() || !inst.Ready() {
		t.Error("not ready, and nothing to wait for")
	}
}

// A member that is given up for dead while its transaction is open aborts that at once, and joins again.
func TestGivenUpWithAnOpenTransaction(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 5)
	l.load(t, 100, 1)
	adm := l.admin(t)
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet(), SessionTimeout: 6 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	var once sync.Once
	var told time.Time
	giveUp := func() {
		_, err := adm.LeaveGroup(context.Background(), kadm.LeaveGroup(l.group()).InstanceIDs(l.name+"-0"))
		for late := time.Now().Add(10 * time.Second); err == nil && !inst.current.Load().awaited.Load() && time.Now().Before(late); {
			time.Sleep(10 * time.Millisecond)
		}
		told = time.Now()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- inst.Run(ctx, l.graph(func(ctx goka.Context, msg any) { once.Do(giveUp); l.decide(ctx, msg) }))
	}()
	within(t, 60*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	cancel()
	must(t, "run", func() error { return <-done })
	if took := time.Since(told); took > maxCommitWait/2 {
		t.Errorf("done %v after it was given up", took)
	}
	if v := l.check(t, nil); !v.exact() {
		t.Errorf("%+v", v)
	}
}
