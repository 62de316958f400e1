package timers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

// No timer goes off early by the broker's own clock, none waits behind one of another delay, and what is not due yet
// stays.
func TestTimersGoOffWhenTheyAreDue(t *testing.T) {
	b := newBelt(t)
	const each = 40
	b.set(b.timers(payment, 0, each)...)
	b.set(b.timers(forget, 0, each)...)
	b.set(b.timers(retry, 0, each)...)
	b.set(b.timers(poll, 0, each)...)
	b.worker(0)
	fired := b.arrivals(b.table.OrderTimeouts.Name, atLeast(3*each))
	b.once(fired, 3*each)
	set := map[string]*kgo.Record{}
	for _, d := range []orderv1.OrderDelay{payment, retry, poll} {
		for _, r := range b.all(b.table.Delayed(d).Name) {
			set[topics.Header(r, topics.HeaderID)] = r
		}
	}
	for _, r := range fired {
		cause := set[topics.Header(r, topics.HeaderCauseID)]
		if cause == nil {
			t.Fatalf("%s has no cause among the timers", r.Key)
		}
		delay := b.table.Delayed(b.timeout(r).Delay).Delay
		if waited := r.Timestamp.Sub(cause.Timestamp); waited < delay {
			t.Errorf("%v after %v, which is early", b.timeout(r), waited)
		}
	}
	b.shortFirst(fired)
	b.settled(payment, retry, poll)
	for end := time.Now().Add(patienceOfTest); b.sum("millrace_timers_lateness_seconds") != 3*each || b.sum("millrace_timers_behind_seconds") > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v timers were counted, want %d; behind by %v s with nothing due", b.sum("millrace_timers_lateness_seconds"), 3*each, b.sum("millrace_timers_behind_seconds"))
		}
	}
}

// shortFirst: all were set within a second, the delays are further apart.
func (b *belt) shortFirst(fired []*kgo.Record) {
	b.t.Helper()
	var lastShort, firstLong time.Time
	for _, r := range fired {
		if b.timeout(r).Delay == payment {
			if firstLong.IsZero() || r.Timestamp.Before(firstLong) {
				firstLong = r.Timestamp
			}
		} else if r.Timestamp.After(lastShort) {
			lastShort = r.Timestamp
		}
	}
	if lastShort.After(firstLong) {
		b.t.Errorf("a short timer went off at %v, after a long one at %v", lastShort, firstLong)
	}
}

// More timers than are read ahead: the rest is read when there is room.
func TestManyMoreTimersThanAreReadAhead(t *testing.T) {
	b := newBelt(t)
	const n = partitions * ahead * 4
	for from := 0; from < n; from += 1000 {
		b.set(b.timers(retry, from, min(1000, n-from))...)
	}
	b.worker(0)
	b.once(b.settled(retry), n)
}

func TestEachTimerOnceThroughKills(t *testing.T) {
	b := newBelt(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	children := []*child{b.child(0), b.child(1)}
	set := 0
	for range 12 {
		for _, c := range children {
			c.joined()
		}
		for range 5 {
			n := 20 + random.IntN(60)
			b.set(b.timers(poll, set, n)...)
			b.set(b.timers(retry, set, n)...)
			set += n
			time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) // the kill falls where it falls
		}
		c := children[random.IntN(2)]
		c.kill9()
		c.start()
	}
	b.once(b.settled(poll, retry), 2*set)
}

// A worker that is stopped for longer than its session lasts, while another takes over, does no harm when it wakes.
func TestZombie(t *testing.T) {
	b := newBelt(t)
	zombie := b.child(0)
	set := 0
	more := func() {
		b.set(b.timers(poll, set, 25)...)
		set += 25
	}
	more()
	b.settled(poll)
	b.worker(1)
	for range 2 {
		more()
		zombie.signal(syscall.SIGSTOP)
		zombie.until(false, more)
		b.settled(poll)
		zombie.signal(syscall.SIGCONT)
		more()
		b.settled(poll)
	}
	b.once(b.settled(poll), set)
}

// The broker is killed in the middle of it, and stays away for a while.
func TestBrokerKilled(t *testing.T) {
	stack := localtest.Stack(t, local.Options{Postgres: local.PostgresOptions{Off: true}})
	b := newBeltOn(t, stack.Kafka())
	_, done := b.worker(0)
	set := 0
	for range 2 {
		b.set(b.timers(poll, set, 300)...)
		b.set(b.timers(retry, set, 300)...)
		set += 300
		b.arrivals(b.table.OrderTimeouts.Name, atLeast(2*set-300)) // the polls of this round are gone, or about to go
		if err := stack.Broker(0).Kill9(); err != nil {
			t.Fatal(err)
		}
		if err := stack.Broker(0).Start(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	b.once(b.settled(poll, retry), 2*set)
	select {
	case err := <-done:
		t.Errorf("the worker has ended: %v", err)
	default:
	}
}

// Instances come and go in order: no timer is lost or doubled.
func TestRebalances(t *testing.T) {
	b := newBelt(t)
	b.worker(0)
	set := 0
	for range 4 {
		stop, _ := b.worker(1)
		for range 8 {
			b.set(b.timers(poll, set, 50)...)
			set += 50
		}
		stop()
	}
	b.once(b.settled(poll), set)
}

func TestPoison(t *testing.T) {
	b := newBelt(t)
	good := func(n int) *kgo.Record { return b.timer(poll, fmt.Sprintf("good-%d", n), 1) }
	change := func(f func(*kgo.Record)) *kgo.Record {
		r := good(1000)
		f(r)
		return r
	}
	wrongDelay := b.table.PollDelays.Record(&orderv1.OrderTimer{OrderId: "o", Delay: retry}, topics.Fresh("/test", ""))
	noOrder := b.table.PollDelays.Record(&orderv1.OrderTimer{Delay: poll}, topics.Fresh("/test", ""))
	poison := map[*kgo.Record]topics.Reason{
		change(func(r *kgo.Record) { r.Value = []byte("\xff\x00 random bytes") }):    topics.DecodeFailed,
		change(func(r *kgo.Record) { r.Value = nil }):                                topics.Empty,
		change(func(r *kgo.Record) { r.Headers = nil }):                              topics.MissingHeaders,
		change(func(r *kgo.Record) { r.Key = []byte("somebody else") }):              topics.WrongKey,
		change(func(r *kgo.Record) { r.Key = []byte(strings.Repeat("k", 900_000)) }): topics.KeyTooLong,
		wrongDelay: topics.Invalid,
		noOrder:    topics.Invalid,
	}
	n := 0
	for r := range poison {
		b.set(good(n), r, good(n+1))
		n += 2
	}
	b.astray(good(n))
	b.worker(0)
	b.once(b.settled(poll), n)
	want := map[topics.Reason]int{topics.WrongPartition: 1}
	for _, reason := range poison {
		want[reason]++
	}
	for _, r := range b.all(b.table.DeadLetters(topics.TimersGroup).Name) {
		want[topics.Reason(topics.Header(r, topics.HeaderDLQReason))]--
	}
	for reason, left := range want {
		if left != 0 {
			t.Errorf("%s: %d dead letters too few", reason, left)
		}
	}
}

// astray writes a record to a partition that is not its key's.
func (b *belt) astray(r *kgo.Record) {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	r.Partition = (topics.Partition(r.Key, partitions) + 1) % partitions
	if err := cl.ProduceSync(b.ctx, r).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

func TestTwoInstancesWithOneOrdinal(t *testing.T) {
	b := newBelt(t)
	_, first := b.worker(0)
	b.set(b.timers(poll, 0, 10)...)
	b.settled(poll)
	_, second := b.worker(0)
	b.set(b.timers(poll, 10, 10)...)
	select {
	case err := <-first:
		if !errors.Is(err, ErrFenced) {
			t.Errorf("the first ends with %v", err)
		}
	case err := <-second:
		if !errors.Is(err, ErrFenced) {
			t.Errorf("the second ends with %v", err)
		}
	case <-time.After(patienceOfTest):
		t.Fatal("both go on")
	}
	b.once(b.settled(poll), 20)
}

func TestNoCommittedOffset(t *testing.T) {
	b := newBelt(t)
	if _, err := b.adm.DeleteGroup(b.ctx, b.table.Group(topics.TimersGroup)); err != nil {
		t.Fatal(err)
	}
	b.set(b.timers(poll, 0, 10)...)
	_, done := b.worker(0)
	select {
	case err := <-done:
		if !errors.Is(err, ErrOffset) {
			t.Errorf("%v", err)
		}
	case <-time.After(patienceOfTest):
		t.Fatal("it goes on, from a guessed offset")
	}
}
