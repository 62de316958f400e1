package timers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
	"github.com/millrace/millrace/workers/workertest"
)

// No timer goes off early by the broker's own clock, none waits behind one of another delay, and what is not due yet
// stays.
func TestTimersGoOffWhenTheyAreDue(t *testing.T) {
	b := newBelt(t)
	const each = 40
	b.Write(b.timers(payment, 0, each)...)
	b.Write(b.timers(forget, 0, each)...)
	b.Write(b.timers(retry, 0, each)...)
	b.Write(b.timers(poll, 0, each)...)
	b.Worker(0)
	fired := b.arrivals(3 * each)
	b.once(fired, 3*each)
	set := map[string]*kgo.Record{}
	for _, d := range []orderv1.OrderDelay{payment, retry, poll} {
		for _, r := range b.All(b.Table.Delayed(d).Name) {
			set[topics.Header(r, topics.HeaderID)] = r
		}
	}
	for _, r := range fired {
		cause := set[topics.Header(r, topics.HeaderCauseID)]
		if cause == nil {
			t.Fatalf("%s has no cause among the timers", r.Key)
		}
		delay := b.Table.Delayed(b.timeout(r).Delay).Delay
		if waited := r.Timestamp.Sub(cause.Timestamp); waited < delay {
			t.Errorf("%v after %v, which is early", b.timeout(r), waited)
		}
	}
	b.shortFirst(fired)
	b.settled(payment, retry, poll)
	for end := time.Now().Add(workertest.Patience); b.Sum("millrace_timers_lateness_seconds") != 3*each || b.Sum("millrace_timers_behind_seconds") > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v timers were counted, want %d; behind by %v s with nothing due", b.Sum("millrace_timers_lateness_seconds"), 3*each, b.Sum("millrace_timers_behind_seconds"))
		}
	}
}

// shortFirst: all were set within a second, the delays are further apart.
func (b *belt) shortFirst(fired []*kgo.Record) {
	b.T.Helper()
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
		b.T.Errorf("a short timer went off at %v, after a long one at %v", lastShort, firstLong)
	}
}

// More timers than are read ahead: the rest is read when there is room.
func TestManyMoreTimersThanAreReadAhead(t *testing.T) {
	b := newBelt(t)
	const n = workertest.Partitions * ahead * 4
	for from := 0; from < n; from += 1000 {
		b.Write(b.timers(retry, from, min(1000, n-from))...)
	}
	b.Worker(0)
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
			b.Write(b.timers(poll, set, n)...)
			b.Write(b.timers(retry, set, n)...)
			set += n
			time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) // the kill falls where it falls
		}
		children[random.IntN(2)].crash()
	}
	b.once(b.settled(poll, retry), 2*set)
}

// A worker that is stopped for longer than its session lasts, while another takes over, does no harm when it wakes.
func TestZombie(t *testing.T) {
	b := newBelt(t)
	zombie := b.child(0)
	set := 0
	more := func() {
		b.Write(b.timers(poll, set, 25)...)
		set += 25
	}
	more()
	b.settled(poll)
	b.Worker(1)
	for range 2 {
		more()
		zombie.Signal(syscall.SIGSTOP)
		zombie.until(false, more)
		b.settled(poll)
		zombie.Signal(syscall.SIGCONT)
		more()
		b.settled(poll)
	}
	b.once(b.settled(poll), set)
}

// Brokers are killed in the middle of it, one after the other.
func TestBrokerKilled(t *testing.T) {
	stack := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Brokers: 3}, Postgres: local.PostgresOptions{Off: true}})
	b := newBelt(t, stack.Kafka()...)
	worker := b.Worker(0)
	set := 0
	for broker := range 2 {
		b.Write(b.timers(poll, set, 300)...)
		b.Write(b.timers(retry, set, 300)...)
		set += 300
		b.arrivals(2*set - 300) // the polls of this round are gone, or about to go
		b.CrashBroker(stack, broker)
	}
	b.once(b.settled(poll, retry), 2*set)
	worker.GoesOn()
}

// Instances come and go in order: no timer is lost or doubled.
func TestRebalances(t *testing.T) {
	b := newBelt(t)
	b.Worker(0)
	set := 0
	for range 4 {
		second := b.Worker(1)
		for range 8 {
			b.Write(b.timers(poll, set, 50)...)
			set += 50
		}
		second.Stop()
	}
	b.once(b.settled(poll), set)
}

func TestPoison(t *testing.T) {
	b := newBelt(t)
	goods := 0
	good := func() *kgo.Record {
		goods++
		return b.timer(poll, fmt.Sprintf("good-%d", goods), 1)
	}
	wrongDelay := b.Table.PollDelays.Record(&orderv1.OrderTimer{OrderId: "o", Delay: retry}, topics.Fresh("/test", ""))
	noOrder := b.Table.PollDelays.Record(&orderv1.OrderTimer{Delay: poll}, topics.Fresh("/test", ""))
	n, letters := b.Poison(good, wrongDelay, noOrder)
	b.Worker(0)
	b.once(b.settled(poll), n)
	b.Buried(letters)
}

func TestTwoInstancesWithOneOrdinal(t *testing.T) {
	b := newBelt(t)
	first := b.Worker(0)
	b.Write(b.timers(poll, 0, 10)...)
	b.settled(poll)
	second := b.Worker(0)
	b.Write(b.timers(poll, 10, 10)...)
	select {
	case err := <-first.Done:
		if !errors.Is(err, ErrFenced) {
			t.Errorf("the first ends with %v", err)
		}
	case err := <-second.Done:
		if !errors.Is(err, ErrFenced) {
			t.Errorf("the second ends with %v", err)
		}
	case <-time.After(workertest.Patience):
		t.Fatal("both go on")
	}
	b.once(b.settled(poll), 20)
}

func TestNoCommittedOffset(t *testing.T) {
	b := newBelt(t)
	if _, err := b.Adm.DeleteGroup(b.Ctx, b.Table.Group(topics.TimersGroup)); err != nil {
		t.Fatal(err)
	}
	b.Write(b.timers(poll, 0, 10)...)
	b.Worker(0).Ends(ErrOffset)
}

// TestOffsetsThatCannotBeFetched: partitions that the client has let go are read by the next.
func TestOffsetsThatCannotBeFetched(t *testing.T) {
	b := newBelt(t, localtest.Forgetful(t)...)
	b.Write(b.timers(poll, 0, 10)...)
	b.Worker(0)
	b.once(b.settled(poll), 10)
}
