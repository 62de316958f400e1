package timers

import (
	"testing"
	"time"

	"github.com/millrace/millrace/topics"
	"github.com/millrace/millrace/workers/workertest"
)

// The timers of a partition that goes are the next owner's, also after two rebalances with no transaction between them:
// franz-go's session tells of the first only.
func TestPartitionsThatGoWhileNothingIsDue(t *testing.T) {
	const delay = 12 * time.Second
	slow := subject
	slow.Delays = topics.Delays{Payment: delay, Poll: delay, Retry: delay, Forget: time.Hour}
	b := &belt{workertest.New(t, slow)}
	const each = 60
	b.Write(b.timers(payment, 0, each)...)
	b.Write(b.timers(poll, 0, each)...)
	b.Write(b.timers(retry, 0, each)...)
	began := time.Now()
	for ordinal := range 3 {
		b.Worker(ordinal)
		b.members(ordinal + 1)
	}
	if time.Since(began) > delay {
		t.Fatalf("it took %v for three workers to share the timers", time.Since(began))
	}
	fired := b.settled(payment, poll, retry)
	for end := time.Now().Add(6 * rest); len(fired) == 3*each && time.Now().Before(end); { // whoever sets one off again has aborted once before
		fired = b.settled(payment, poll, retry)
	}
	b.once(fired, 3*each)
}

// members waits until so many share the group's partitions.
func (b *belt) members(n int) {
	b.T.Helper()
	group := b.Table.Group(topics.TimersGroup)
	share := func() bool {
		seen, err := b.Adm.DescribeGroups(b.Ctx, group)
		if err != nil {
			b.T.Fatal(err)
		}
		if seen[group].State != "Stable" || len(seen[group].Members) != n {
			return false
		}
		total := 0
		for _, m := range seen[group].Members {
			c, ok := m.Assigned.AsConsumer()
			if !ok || len(c.Topics) == 0 {
				return false
			}
			for _, t := range c.Topics {
				total += len(t.Partitions)
			}
		}
		return total == 4*workertest.Partitions
	}
	for end := time.Now().Add(workertest.Patience); !share(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.T.Fatalf("not %d members", n)
		}
	}
}
