package timers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

const (
	payment = orderv1.OrderDelay_ORDER_DELAY_PAYMENT
	poll    = orderv1.OrderDelay_ORDER_DELAY_POLL
	retry   = orderv1.OrderDelay_ORDER_DELAY_RETRY
	forget  = orderv1.OrderDelay_ORDER_DELAY_FORGET

	partitions     = 3
	sessionTimeout = 1500 * time.Millisecond
	patienceOfTest = 90 * time.Second

	// What a child process needs to know: it is this test binary, run again as a worker.
	envBrokers = "TIMERS_TEST_BROKERS"
	envPrefix  = "TIMERS_TEST_PREFIX"
	envOrdinal = "TIMERS_TEST_ORDINAL"
)

func TestMain(m *testing.M) {
	if os.Getenv(envBrokers) != "" {
		beWorker()
	}
	localtest.Main(m)
}

// beWorker is the whole life of a child process.
func beWorker() {
	ordinal, _ := strconv.Atoi(os.Getenv(envOrdinal))
	w, err := New(Config{
		Brokers: strings.Split(os.Getenv(envBrokers), ","), Topics: tableOf(os.Getenv(envPrefix)), Ordinal: ordinal,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Metrics: prometheus.NewRegistry(), SessionTimeout: sessionTimeout,
	})
	if err == nil {
		err = w.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func tableOf(prefix string) *topics.Table {
	return topics.New(topics.Options{Prefix: prefix, Partitions: partitions, Delays: topics.Delays{
		Payment: 3 * time.Second, Poll: 100 * time.Millisecond, Retry: 400 * time.Millisecond, Forget: time.Hour,
	}})
}

// A belt is the topics of one test, with somebody at both ends.
type belt struct {
	t       *testing.T
	ctx     context.Context
	brokers []string
	table   *topics.Table
	setter  *kgo.Client
	adm     *kadm.Client
	metrics *prometheus.Registry // of the worker that began last
}

func newBelt(t *testing.T) *belt {
	t.Helper()
	return newBeltOn(t, localtest.Kafka(t))
}

func newBeltOn(t *testing.T, brokers []string) *belt {
	t.Helper()
	b := &belt{t: t, brokers: brokers, table: tableOf(localtest.Prefix(t))}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	adm, err := topics.NewAdmin(b.brokers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(adm.Close)
	b.adm = adm
	if _, err := topics.Apply(b.ctx, adm, b.table, topics.Cluster{}); err != nil {
		t.Fatal(err)
	}
	b.setter, err = kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.RecordPartitioner(topics.Partitioner()),
		kgo.TransactionalID(b.table.Prefix+"setter"), kgo.ProducerBatchMaxBytes(topics.MaxRecordBytes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.setter.Close)
	return b
}

// set writes records as the order processor does: in a transaction.
func (b *belt) set(records ...*kgo.Record) {
	b.t.Helper()
	if err := b.setter.BeginTransaction(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.setter.ProduceSync(b.ctx, records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.setter.EndTransaction(b.ctx, kgo.TryCommit); err != nil {
		b.t.Fatal(err)
	}
}

func (b *belt) timer(d orderv1.OrderDelay, order string, generation int) *kgo.Record {
	t := &orderv1.OrderTimer{OrderId: order, Delay: d, Generation: int32(generation)}
	return b.table.Delayed(d).Record(t, topics.Fresh("/test", ""))
}

// timers are so many, of many orders.
func (b *belt) timers(d orderv1.OrderDelay, from, n int) []*kgo.Record {
	var records []*kgo.Record
	for i := from; i < from+n; i++ {
		records = append(records, b.timer(d, fmt.Sprintf("order-%d", i), 1))
	}
	return records
}

// worker runs one in this process until the test ends or stop is called; its error comes out of done.
func (b *belt) worker(ordinal int) (stop func(), done <-chan error) {
	b.t.Helper()
	b.metrics = prometheus.NewRegistry()
	w, err := New(Config{
		Brokers: b.brokers, Topics: b.table, Ordinal: ordinal, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)),
		Metrics: b.metrics, SessionTimeout: sessionTimeout,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { ended <- w.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	b.t.Cleanup(stop)
	return stop, ended
}

// A child is a worker in a process of its own.
type child struct {
	belt    *belt
	ordinal int
	cmd     *exec.Cmd
	says    *bytes.Buffer
	fresh   bool   // nobody has seen it in the group yet
	member  string // what the group called its forerunner
}

func (b *belt) child(ordinal int) *child {
	b.t.Helper()
	c := &child{belt: b, ordinal: ordinal}
	c.start()
	b.t.Cleanup(c.kill9)
	return c
}

func (c *child) start() {
	c.belt.t.Helper()
	c.says, c.fresh = &bytes.Buffer{}, true
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), envBrokers+"="+strings.Join(c.belt.brokers, ","), envPrefix+"="+c.belt.table.Prefix,
		envOrdinal+"="+strconv.Itoa(c.ordinal))
	c.cmd.Stderr = c.says
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.belt.t.Fatal(err)
	}
}

// joined waits until the process that runs now has its place in the group.
func (c *child) joined() {
	c.belt.t.Helper()
	if c.fresh {
		c.member = c.until(true, func() {})
		c.fresh = false
	}
}

// until waits until the group has the child in it under a new name, or not at all any more, and does something meanwhile.
func (c *child) until(in bool, meanwhile func()) (member string) {
	c.belt.t.Helper()
	group := c.belt.table.Group(topics.TimersGroup)
	for end := time.Now().Add(patienceOfTest); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		seen, err := c.belt.adm.DescribeGroups(c.belt.ctx, group)
		if err != nil {
			c.belt.t.Fatal(err)
		}
		there := false
		for _, m := range seen[group].Members {
			if m.InstanceID != nil && *m.InstanceID == group+"-"+strconv.Itoa(c.ordinal) {
				there = !in || m.MemberID != c.member
				member = m.MemberID
			}
		}
		if there == in && seen[group].State == "Stable" {
			return member
		}
		meanwhile()
	}
	c.belt.t.Fatalf("child %d: in the group: %v\n%s", c.ordinal, !in, c.says)
	return ""
}

func (c *child) kill9() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func (c *child) signal(s syscall.Signal) {
	c.belt.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.belt.t.Fatalf("%v: %v\n%s", s, err, c.says)
	}
}

// arrivals reads a topic from its beginning, read-committed, until enough(records so far) or the patience ends.
func (b *belt) arrivals(topic string, enough func([]*kgo.Record) bool) []*kgo.Record {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(b.ctx, patienceOfTest)
	defer cancel()
	var all []*kgo.Record
	for !enough(all) {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			b.t.Fatalf("%s has %d records, and no more came", topic, len(all))
		}
		if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			b.t.Fatal(err)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

func atLeast(n int) func([]*kgo.Record) bool {
	return func(all []*kgo.Record) bool { return len(all) >= n }
}

// settled waits until the group has taken everything but the timers that wait, and returns all that went off by then.
func (b *belt) settled(delays ...orderv1.OrderDelay) []*kgo.Record {
	b.t.Helper()
	for end := time.Now().Add(patienceOfTest); ; time.Sleep(20 * time.Millisecond) {
		lag := b.lag(delays...)
		if lag == 0 {
			break
		}
		if time.Now().After(end) {
			b.t.Fatalf("the lag is still %d", lag)
		}
	}
	return b.all(b.table.OrderTimeouts.Name)
}

func (b *belt) lag(delays ...orderv1.OrderDelay) int64 {
	b.t.Helper()
	var names []string
	for _, d := range delays {
		names = append(names, b.table.Delayed(d).Name)
	}
	ends, err := b.adm.ListEndOffsets(b.ctx, names...)
	if err != nil {
		b.t.Fatal(err)
	}
	at, err := b.adm.FetchOffsets(b.ctx, b.table.Group(topics.TimersGroup))
	if err != nil {
		b.t.Fatal(err)
	}
	var lag int64
	ends.Each(func(end kadm.ListedOffset) {
		o, _ := at.Lookup(end.Topic, end.Partition)
		lag += end.Offset - o.At
	})
	return lag
}

// stable waits until no transaction is open in a topic (a zombie's ends after its time-out), and returns its ends.
func (b *belt) stable(topic string) kadm.ListedOffsets {
	b.t.Helper()
	for end := time.Now().Add(patienceOfTest); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		committed, err := b.adm.ListCommittedOffsets(b.ctx, topic)
		if err != nil {
			b.t.Fatal(err)
		}
		ends, err := b.adm.ListEndOffsets(b.ctx, topic)
		if err != nil {
			b.t.Fatal(err)
		}
		open := false
		ends.Each(func(e kadm.ListedOffset) {
			c, _ := committed.Lookup(topic, e.Partition)
			open = open || c.Offset != e.Offset
		})
		if !open {
			return ends
		}
	}
	b.t.Fatalf("%s has an open transaction", topic)
	return nil
}

// all is what a topic holds for a read-committed reader.
func (b *belt) all(topic string) []*kgo.Record {
	b.t.Helper()
	ends := b.stable(topic)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	left := map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if end.Offset > 0 {
			left[end.Partition] = end.Offset
		}
	})
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := cl.PollFetches(b.ctx)
		if err := fetches.Err(); err != nil {
			b.t.Fatal(err)
		}
		for _, r := range fetches.Records() {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return all
}

func (b *belt) timeout(r *kgo.Record) *orderv1.OrderTimer {
	b.t.Helper()
	if err := b.table.OrderTimeouts.Check(r); err != nil {
		b.t.Fatal(err)
	}
	t, err := b.table.OrderTimeouts.Decode(r.Key, r.Value)
	if err != nil {
		b.t.Fatal(err)
	}
	return t
}

// once checks that exactly these timers went off, each once.
func (b *belt) once(fired []*kgo.Record, want int) {
	b.t.Helper()
	times := map[string]int{}
	for _, r := range fired {
		t := b.timeout(r)
		times[fmt.Sprintf("%s %v %d", t.OrderId, t.Delay, t.Generation)]++
	}
	for which, n := range times {
		if n != 1 {
			b.t.Errorf("%s went off %d times", which, n)
		}
	}
	if len(times) != want {
		b.t.Errorf("%d timers went off, want %d", len(times), want)
	}
}

// sum adds up a family of the last worker's metrics: counters and gauges by value, histograms by count.
func (b *belt) sum(name string) float64 {
	b.t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			total := 0.0
			for _, m := range f.Metric {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
			return total
		}
	}
	b.t.Fatalf("no metric %s", name)
	return 0
}
