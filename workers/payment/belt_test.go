package payment

import (
	"bytes"
	"context"
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

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

const (
	partitions     = 3
	sessionTimeout = 1500 * time.Millisecond
	patienceOfTest = 90 * time.Second

	// What a child process needs to know: it is this test binary, run again as a worker.
	envBrokers = "PAYMENT_TEST_BROKERS"
	envPrefix  = "PAYMENT_TEST_PREFIX"
	envOrdinal = "PAYMENT_TEST_ORDINAL"
	envURL     = "PAYMENT_TEST_URL"
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
	cfg := quick(strings.Split(os.Getenv(envBrokers), ","), tableOf(os.Getenv(envPrefix)), os.Getenv(envURL), ordinal)
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	w, err := New(cfg)
	if err == nil {
		err = w.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func tableOf(prefix string) *topics.Table {
	return topics.New(topics.Options{Prefix: prefix, Partitions: partitions})
}

func quick(brokers []string, table *topics.Table, url string, ordinal int) Config {
	return Config{
		Brokers: brokers, Topics: table, Ordinal: ordinal, Metrics: prometheus.NewRegistry(), Key: testKey, URL: url,
		InFlight: 16, Timeout: 2 * time.Second, Backoff: 5 * time.Millisecond, SessionTimeout: sessionTimeout, Drain: time.Second,
	}
}

// A belt is the topics of one test and a till at the far side, with the test as the order processor.
type belt struct {
	*till
	ctx     context.Context
	brokers []string
	table   *topics.Table
	adm     *kadm.Client
	asker   *kgo.Client
	metrics *prometheus.Registry // of the worker that began last
}

func newBelt(t *testing.T, till *till) *belt {
	t.Helper()
	return newBeltOn(t, till, localtest.Kafka(t))
}

func newBeltOn(t *testing.T, till *till, brokers []string) *belt {
	t.Helper()
	b := &belt{till: till, brokers: brokers, table: tableOf(localtest.Prefix(t))}
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
	b.asker, err = kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.RecordPartitioner(topics.Partitioner()),
		kgo.TransactionalID(b.table.Prefix+"asker"), kgo.ProducerBatchMaxBytes(topics.MaxRecordBytes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.asker.Close)
	return b
}

// ask writes requests as the order processor does: in a transaction.
func (b *belt) ask(requests ...*paymentv1.PaymentRequest) {
	b.t.Helper()
	var records []*kgo.Record
	for _, r := range requests {
		records = append(records, b.table.PaymentRequests.Record(r, topics.Fresh("/test", "")))
	}
	b.write(records...)
}

func (b *belt) write(records ...*kgo.Record) {
	b.t.Helper()
	if err := b.asker.BeginTransaction(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.asker.ProduceSync(b.ctx, records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.asker.EndTransaction(b.ctx, kgo.TryCommit); err != nil {
		b.t.Fatal(err)
	}
}

// worker runs one in this process until the test ends or stop is called; its error comes out of done.
func (b *belt) worker(ordinal int) (stop func(), done <-chan error) {
	b.t.Helper()
	cfg := quick(b.brokers, b.table, b.url, ordinal)
	cfg.Log = slog.New(slog.NewTextHandler(b.t.Output(), nil))
	b.metrics = prometheus.NewRegistry()
	cfg.Metrics = b.metrics
	w, err := New(cfg)
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
	c.says = &bytes.Buffer{}
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), envBrokers+"="+strings.Join(c.belt.brokers, ","), envPrefix+"="+c.belt.table.Prefix,
		envOrdinal+"="+strconv.Itoa(c.ordinal), envURL+"="+c.belt.url)
	c.cmd.Stderr = c.says
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.belt.t.Fatal(err)
	}
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

// A reader follows a topic from its beginning.
type reader struct {
	belt *belt
	cl   *kgo.Client
	all  []*kgo.Record
}

func (b *belt) reader(topic string) *reader {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(cl.Close)
	return &reader{belt: b, cl: cl}
}

// until reads until enough says so.
func (r *reader) until(enough func() bool) {
	r.belt.t.Helper()
	ctx, cancel := context.WithTimeout(r.belt.ctx, patienceOfTest)
	defer cancel()
	for !enough() {
		fetches := r.cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			r.belt.t.Fatalf("%d records, and no more came: %v", len(r.all), err)
		}
		r.all = append(r.all, fetches.Records()...)
	}
}

func (r *reader) atLeast(n int) []*kgo.Record {
	r.belt.t.Helper()
	r.until(func() bool { return len(r.all) >= n })
	return r.all
}

func (b *belt) result(r *kgo.Record) *paymentv1.PaymentResult {
	b.t.Helper()
	if err := b.table.PaymentResults.Check(r); err != nil {
		b.t.Fatal(err)
	}
	res, err := b.table.PaymentResults.Decode(r.Key, r.Value)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

// settled waits until the group has nothing left to do.
func (b *belt) settled() {
	b.t.Helper()
	topic := b.table.PaymentRequests.Name
	var lag int64
	for end := time.Now().Add(patienceOfTest); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		ends, err := b.adm.ListEndOffsets(b.ctx, topic)
		if err != nil {
			b.t.Fatal(err)
		}
		at, err := b.adm.FetchOffsets(b.ctx, b.table.Group(topics.PaymentGroup))
		if err != nil {
			b.t.Fatal(err)
		}
		lag = 0
		ends.Each(func(end kadm.ListedOffset) {
			o, _ := at.Lookup(topic, end.Partition)
			lag += end.Offset - o.At
		})
		if lag == 0 {
			return
		}
	}
	b.t.Fatalf("the lag is still %d", lag)
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
