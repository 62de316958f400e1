package transact

import (
	"context"
	"math/rand"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
)

// chaosKills is how many disruptions a chaos test makes: few, so that it is part of every run, or what
// TRANSACT_CHAOS says (`make chaos`).
func chaosKills(t *testing.T, few int) int {
	n, err := strconv.Atoi(os.Getenv("TRANSACT_CHAOS"))
	if err != nil {
		return few
	}
	return n
}

// feeder loads a ledger while a test disrupts it.
type feeder struct {
	stop chan struct{}
	done chan int // poisonous commands
}

func (l ledger) feed(t *testing.T, cl *kgo.Client) *feeder {
	f := &feeder{make(chan struct{}), make(chan int)}
	go func() {
		poisonous, n := 0, 0
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-f.stop:
				f.done <- poisonous
				return
			case <-tick.C:
			}
			for range 20 {
				n++
				value := "f" + strconv.Itoa(n) + "|" + strconv.Itoa(rand.Intn(7)-4)
				if n%4000 == 0 {
					poisonous++
					value = poisonID + strconv.Itoa(n) + "|a lot"
				}
				cl.Produce(context.Background(), &kgo.Record{Topic: l.in(), Key: []byte(account(rand.Intn(l.accounts))), Value: []byte(value)}, nil)
			}
		}
	}()
	return f
}

func (f *feeder) end() (poisonous int) {
	close(f.stop)
	return <-f.done
}

// fleet is children that are started again when they end.
type fleet struct {
	t        *testing.T
	children []child
	running  []*process
}

func (l ledger) fleet(t *testing.T, size int) *fleet {
	f := &fleet{t: t}
	for n := range size {
		c := l.child(t, t.TempDir())
		c.Ordinal = n
		f.children = append(f.children, c)
		f.running = append(f.running, c.start(t))
	}
	return f
}

func (f *fleet) revive() {
	for n, p := range f.running {
		if p.goneIn(0) {
			f.running[n] = f.children[n].start(f.t)
		}
	}
}

// kill ends one member in one of several ways, and starts it again.
func (f *fleet) kill(r *rand.Rand) {
	n := r.Intn(len(f.running))
	p := f.running[n]
	switch way := r.Intn(10); {
	case way < 7:
		p.Process.Kill()
	case way < 9:
		p.Process.Signal(syscall.SIGTERM)
	default: // it comes back after others have taken its place
		p.Process.Signal(syscall.SIGSTOP)
		time.Sleep(f.children[n].Session + 2*time.Second)
		p.Process.Signal(syscall.SIGCONT)
		return
	}
	<-p.exited
	f.revive()
}

// settle waits until all is worked off, then stops the fleet.
func (f *fleet) settle(l ledger) {
	adm := l.admin(f.t)
	within(f.t, 120*time.Second, "no lag", func() bool {
		f.revive()
		return lag(f.t, adm, l.group(), l.in()) == 0
	})
	for _, p := range f.running {
		p.Process.Signal(syscall.SIGTERM)
		<-p.exited
	}
}

func TestChaosTwoInstances(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 4, 50)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	fl := l.fleet(t, 2)
	feed := l.feed(t, client(t))
	for range chaosKills(t, 8) {
		time.Sleep(time.Duration(300+r.Intn(1500)) * time.Millisecond) // disruptions at random moments are what is tested
		fl.kill(r)
	}
	poisonous := feed.end()
	fl.settle(l)
	v := l.check(t, isPoison)
	t.Logf("%+v, %d poisonous", v, poisonous)
	if !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, poisonous)
}

// A zombie is stopped for longer than its session and its transaction last, in the middle of one, and comes back.
func TestZombie(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 20)
	fl := l.fleet(t, 2)
	feed := l.feed(t, client(t))
	adm := l.admin(t)
	within(t, 30*time.Second, "the first commits", func() bool { return len(readAll(t, l.out())) > 100 })
	zombie := fl.running[0]
	zombie.Process.Signal(syscall.SIGSTOP)
	time.Sleep(fl.children[0].Session + time.Second) // longer than the session
	before := lag(t, adm, l.group(), l.in())
	within(t, 30*time.Second, "the other takes over", func() bool { return lag(t, adm, l.group(), l.in()) < max(before, 500) })
	time.Sleep(defaultTransactionTimeout - fl.children[0].Session) // and than the transaction
	zombie.Process.Signal(syscall.SIGCONT)
	poisonous := feed.end()
	fl.settle(l)
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, poisonous)
	if fl.running[0] != zombie {
		t.Error("the zombie has ended, instead of beginning again")
	}
}

// Brokers die, one after the other, and come back: everything goes on by itself, in the same processes. There are three,
// because a lone one that crashes can lose the end of a transaction (see the package's documentation).
func TestBrokerDies(t *testing.T) {
	t.Parallel()
	stack := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Brokers: 3}, Postgres: local.PostgresOptions{Off: true}})
	ownBrokers.Store(t.Name(), stack.Kafka())
	l := newLedger(t, 2, 20)
	fl := l.fleet(t, 2)
	first := append([]*process{}, fl.running...)
	feed := l.feed(t, client(t))
	for n := range stack.Brokers() {
		done := l.done(t)
		within(t, 60*time.Second, "work goes on", func() bool { return l.done(t) > done+500 })
		must(t, "kill a broker", stack.Broker(n).Kill9)
		must(t, "start it again", func() error { return stack.Broker(n).Start(context.Background()) })
	}
	poisonous := feed.end()
	fl.settle(l)
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, poisonous)
	for n, p := range fl.running {
		if p != first[n] {
			t.Errorf("instance %d ended", n)
		}
	}
}

// done counts the commands that are committed.
func (l ledger) done(t *testing.T) (n int64) {
	at, err := l.admin(t).FetchOffsets(context.Background(), l.group())
	if err != nil {
		return 0
	}
	at.Each(func(o kadm.OffsetResponse) { n += o.At })
	return n
}
