package transact

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"

	"github.com/millrace/millrace/internal/local/localtest"
)

// child is a process that runs one instance of a ledger, and may kill itself. The test binary runs it, being asked by the
// environment.
type child struct {
	Brokers    []string
	Ledger     string
	Partitions int32
	Accounts   int
	Opening    int64
	Dir        string // empty: in memory
	Ordinal    int
	Session    time.Duration
	Point      string // failure point to die at
	Hit        int64  // the how-manieth time
	Goka       bool   // goka as shipped
}

const childEnv = "TRANSACT_TEST_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		var c child
		if err := json.Unmarshal([]byte(spec), &c); err != nil {
			panic(err)
		}
		if err := c.run(); err != nil {
			fmt.Fprintf(os.Stderr, "child %s/%d: %v\n", c.Ledger, c.Ordinal, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	localtest.Main(m)
}

func (c child) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l := ledger{name: c.Ledger, partitions: c.Partitions, accounts: c.Accounts, opening: c.Opening}
	if c.Goka {
		return c.runGoka(ctx, l)
	}
	inst, err := New(Config{
		Brokers: c.Brokers, Dir: c.Dir, Ordinal: c.Ordinal, SessionTimeout: c.Session, Logger: quiet(),
		DeadLetter: l.letter, FailPoint: c.failPoint(), CommitInterval: 30 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	return inst.Run(ctx, l.graph(l.decide))
}

func (c child) failPoint() func(string) {
	var hits atomic.Int64
	return func(point string) {
		if point == c.Point && hits.Add(1) == c.Hit {
			die()
		}
	}
}

// die is a kill -9 from outside, as far as anybody can tell.
func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// runGoka dies in the callback, after it has written and emitted.
func (c child) runGoka(ctx context.Context, l ledger) error {
	cfg := goka.DefaultConfig()
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Group.Session.Timeout = c.Session
	cfg.Consumer.Group.Heartbeat.Interval = c.Session / 4
	goka.ReplaceGlobalConfig(cfg)
	tm := goka.NewTopicManagerConfig()
	tm.Table.Replication, tm.Stream.Replication = 1, 1
	point := c.failPoint()
	p, err := goka.NewProcessor(c.Brokers, l.graph(func(gctx goka.Context, msg any) {
		l.decide(gctx, msg)
		point(Delivered)
	}),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithTopicManagerConfig(tm)),
		goka.WithStorageBuilder(storage.DefaultBuilder(c.Dir)),
		goka.WithLogger(gokaLogger{quiet()}))
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// process is a child that runs.
type process struct {
	*exec.Cmd
	exited chan struct{}
}

func (c child) start(t testing.TB) *process {
	t.Helper()
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(os.Args[0]), exited: make(chan struct{})}
	p.Env = append(os.Environ(), childEnv+"="+string(spec), "GOMAXPROCS=2")
	p.Stdout, p.Stderr = os.Stdout, os.Stderr
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.Wait(); close(p.exited) }()
	t.Cleanup(func() { p.Process.Kill(); <-p.exited })
	return p
}

func (p *process) goneIn(d time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(d):
		return false
	}
}

func (p *process) killed() bool {
	s, ok := p.ProcessState.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && s.Signal() == syscall.SIGKILL
}

func (l ledger) child(t testing.TB, dir string) child {
	return child{Brokers: brokers(t), Ledger: l.name, Partitions: l.partitions, Accounts: l.accounts, Opening: l.opening,
		Dir: dir, Session: 6 * time.Second}
}

// finish lets healthy children work off what is left.
func (l ledger) finish(t testing.TB, c child) {
	t.Helper()
	c.Point = ""
	p := c.start(t)
	adm := l.admin(t)
	within(t, 60*time.Second, "no lag", func() bool {
		if p.goneIn(0) {
			t.Fatal("the last child has ended")
		}
		return lag(t, adm, l.group(), l.in()) == 0
	})
	p.Process.Signal(syscall.SIGTERM)
	<-p.exited
}

func TestKilledAtEachFailurePoint(t *testing.T) {
	for _, point := range FailPoints() {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			killedAt(t, point)
		})
	}
}

const killsPerPoint = 3

func killedAt(t *testing.T, point string) {
	l := newLedger(t, 3, 20)
	dir := filepath.Join(t.TempDir(), "0")
	if point == Recovering { // what is on disk need not be read back
		dir = ""
	}
	c, fed := l.child(t, dir), 0
	for n := range killsPerPoint {
		c.Point, c.Hit = point, int64(n+1)
		switch {
		case point == Recovering && n == 0: // for there to be something to read back
			c.Point, c.Hit = Committed, 2
		case point == BeforeBegin || point == Recovered || point == Recovering: // once in a life
			c.Hit = 1
		}
		p := c.start(t)
		within(t, 60*time.Second, point+" is reached", func() bool {
			l.load(t, 100, int64(fed))
			l.poison(t, fed)
			fed++
			return p.goneIn(100 * time.Millisecond)
		})
		if !p.killed() {
			t.Fatalf("kill %d: the child ended by itself: %v", n, p.ProcessState)
		}
	}
	l.finish(t, c)
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, fed)
}

// TestGokaAsShippedFails: a check that cannot fail proves nothing.
func TestGokaAsShippedFails(t *testing.T) {
	l := newLedger(t, 3, 20)
	l.load(t, 3_000, 1)
	c := l.child(t, t.TempDir())
	c.Goka, c.Point, c.Session = true, Delivered, time.Second
	for n := range 2 {
		c.Hit = int64(500 + 400*n)
		p := c.start(t)
		select {
		case <-p.exited:
		case <-time.After(30 * time.Second):
			t.Fatal("the callback was not reached")
		}
	}
	c.Point = ""
	l.finish(t, c)
	v := l.check(t, nil)
	if v.exact() || v.wrong == 0 {
		t.Fatalf("goka as shipped passes the check: %+v", v)
	}
	t.Logf("%+v", v)
}
