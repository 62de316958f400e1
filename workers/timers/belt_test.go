package timers

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
	"github.com/millrace/millrace/workers/workertest"
)

const (
	payment = orderv1.OrderDelay_ORDER_DELAY_PAYMENT
	poll    = orderv1.OrderDelay_ORDER_DELAY_POLL
	retry   = orderv1.OrderDelay_ORDER_DELAY_RETRY
	forget  = orderv1.OrderDelay_ORDER_DELAY_FORGET
)

var subject = workertest.Subject{
	Group:  topics.TimersGroup,
	Delays: topics.Delays{Payment: 3 * time.Second, Poll: 100 * time.Millisecond, Retry: 400 * time.Millisecond, Forget: time.Hour},
	New: func(s workertest.Seat) (workertest.Worker, error) {
		return New(Config{
			Brokers: s.Brokers, Topics: s.Topics, Ordinal: s.Ordinal, Log: s.Log, Metrics: s.Metrics, SessionTimeout: workertest.SessionTimeout,
		})
	},
}

func TestMain(m *testing.M) { workertest.Main(m, subject) }

// A belt has somebody at both ends, the test.
type belt struct{ *workertest.Belt }

func newBelt(t *testing.T, brokers ...string) *belt {
	t.Helper()
	return &belt{workertest.New(t, subject, brokers...)}
}

func (b *belt) timer(d orderv1.OrderDelay, order string, generation int) *kgo.Record {
	t := &orderv1.OrderTimer{OrderId: order, Delay: d, Generation: int32(generation)}
	return b.Table.Delayed(d).Record(t, topics.Fresh("/test", ""))
}

// timers are so many, of many orders.
func (b *belt) timers(d orderv1.OrderDelay, from, n int) []*kgo.Record {
	var records []*kgo.Record
	for i := from; i < from+n; i++ {
		records = append(records, b.timer(d, fmt.Sprintf("order-%d", i), 1))
	}
	return records
}

// A child is a worker in a process of its own, which the test looks for in its group.
type child struct {
	*workertest.Child
	belt   *belt
	fresh  bool   // nobody has seen it in the group yet
	member string // what the group called its forerunner
}

func (b *belt) child(ordinal int) *child {
	b.T.Helper()
	return &child{Child: b.Child(ordinal), belt: b, fresh: true}
}

func (c *child) crash() {
	c.belt.T.Helper()
	c.Crash()
	c.fresh = true
}

// joined waits until the process that runs now has its place in the group.
func (c *child) joined() {
	c.belt.T.Helper()
	if c.fresh {
		c.member = c.until(true, func() {})
		c.fresh = false
	}
}

// until waits until the group has the child in it under a new name, or not at all any more, and does something meanwhile.
func (c *child) until(in bool, meanwhile func()) (member string) {
	c.belt.T.Helper()
	group := c.belt.Table.Group(topics.TimersGroup)
	for end := time.Now().Add(workertest.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		seen, err := c.belt.Adm.DescribeGroups(c.belt.Ctx, group)
		if err != nil {
			c.belt.T.Fatal(err)
		}
		there := false
		for _, m := range seen[group].Members {
			if m.InstanceID != nil && *m.InstanceID == group+"-"+strconv.Itoa(c.Ordinal) {
				there = !in || m.MemberID != c.member
				member = m.MemberID
			}
		}
		if there == in && seen[group].State == "Stable" {
			return member
		}
		meanwhile()
	}
	c.belt.T.Fatalf("child %d: in the group: %v\n%s", c.Ordinal, !in, c.Says)
	return ""
}

// arrivals are at least the first n timers that went off.
func (b *belt) arrivals(n int) []*kgo.Record {
	b.T.Helper()
	return b.Reader(b.Table.OrderTimeouts.Name).AtLeast(n)
}

// settled waits until the group has taken everything but the timers that wait, and returns all that went off by then.
func (b *belt) settled(delays ...orderv1.OrderDelay) []*kgo.Record {
	b.T.Helper()
	var names []string
	for _, d := range delays {
		names = append(names, b.Table.Delayed(d).Name)
	}
	b.Settled(names...)
	return b.All(b.Table.OrderTimeouts.Name)
}

func (b *belt) timeout(r *kgo.Record) *orderv1.OrderTimer {
	b.T.Helper()
	return workertest.Decoded(b.Belt, b.Table.OrderTimeouts, r)
}

// once checks that exactly these timers went off, each once.
func (b *belt) once(fired []*kgo.Record, want int) {
	b.T.Helper()
	times := map[string]int{}
	for _, r := range fired {
		t := b.timeout(r)
		times[fmt.Sprintf("%s %v %d", t.OrderId, t.Delay, t.Generation)]++
	}
	for which, n := range times {
		if n != 1 {
			b.T.Errorf("%s went off %d times", which, n)
		}
	}
	if len(times) != want {
		b.T.Errorf("%d timers went off, want %d", len(times), want)
	}
}
