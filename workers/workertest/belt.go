// Package workertest is what the tests of every worker stand on: the topics of one test on a real Kafka, the test as
// the order processor at both ends of them, and workers in this process, or in processes of their own to be killed.
package workertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

const (
	Partitions     = 3 // of every topic
	SessionTimeout = 1500 * time.Millisecond
	Patience       = 90 * time.Second // with what must come in the end

	envSeat = "WORKERTEST_SEAT" // a child process is this test binary, run again with its seat here
)

// A Subject is one of the workers, and what the belt must know of it.
type Subject struct {
	Group  string // one of the topics package's
	Delays topics.Delays
	New    func(Seat) (Worker, error)
}

// A Worker works until ctx ends, or an error that a person must look at.
type Worker interface {
	Run(ctx context.Context) error
}

// A Seat is what one worker at a belt is given. The first part crosses to a child process.
type Seat struct {
	Brokers []string
	Prefix  string
	Ordinal int
	Outside string // as the belt's

	Topics  *topics.Table        `json:"-"`
	Log     *slog.Logger         `json:"-"`
	Metrics *prometheus.Registry `json:"-"`
}

// Main is for TestMain: it runs the tests or, in a process that Child started, the worker.
func Main(m *testing.M, s Subject) {
	if seat := os.Getenv(envSeat); seat != "" {
		fmt.Fprintln(os.Stderr, s.beWorker(seat))
		os.Exit(1)
	}
	localtest.Main(m)
}

// beWorker is the whole life of a child process.
func (s Subject) beWorker(text string) error {
	seat := Seat{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Metrics: prometheus.NewRegistry()}
	if err := json.Unmarshal([]byte(text), &seat); err != nil {
		return err
	}
	seat.Topics = s.table(seat.Prefix)
	w, err := s.New(seat)
	if err != nil {
		return err
	}
	return w.Run(context.Background())
}

func (s Subject) table(prefix string) *topics.Table {
	return topics.New(topics.Options{Prefix: prefix, Partitions: Partitions, Delays: s.Delays})
}

// A Belt is the topics of one test.
type Belt struct {
	T       *testing.T
	Ctx     context.Context
	Table   *topics.Table
	Adm     *kadm.Client
	Outside string // URL of what the workers talk to, if they do

	subject Subject
	brokers []string
	writer  *kgo.Client
	metrics *prometheus.Registry // of the worker that began last
}

// New makes the topics, on the Kafka that all tests share unless brokers of another are given.
func New(t *testing.T, s Subject, brokers ...string) *Belt {
	t.Helper()
	if len(brokers) == 0 {
		brokers = localtest.Kafka(t)
	}
	b := &Belt{T: t, Table: s.table(localtest.Prefix(t)), subject: s, brokers: brokers}
	var cancel context.CancelFunc
	b.Ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	var err error
	if b.Adm, err = topics.NewAdmin(brokers); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Adm.Close)
	if _, err := topics.Apply(b.Ctx, b.Adm, b.Table, replicated(len(brokers))); err != nil {
		t.Fatal(err)
	}
	b.writer = b.client(kgo.RecordPartitioner(topics.Partitioner()), kgo.TransactionalID(b.Table.Prefix+"writer"),
		kgo.ProducerBatchMaxBytes(topics.MaxRecordBytes))
	return b
}

// replicated is what a cluster of three or more can promise.
func replicated(brokers int) topics.Cluster {
	if brokers < 3 {
		return topics.Cluster{}
	}
	return topics.Cluster{ReplicationFactor: 3, MinInSync: 2}
}

// client is one until the test ends.
func (b *Belt) client(options ...kgo.Opt) *kgo.Client {
	b.T.Helper()
	cl, err := kgo.NewClient(append(options, kgo.SeedBrokers(b.brokers...))...)
	if err != nil {
		b.T.Fatal(err)
	}
	b.T.Cleanup(cl.Close)
	return cl
}

// Write writes records as the order processor does: in a transaction.
func (b *Belt) Write(records ...*kgo.Record) {
	b.T.Helper()
	if err := b.writer.BeginTransaction(); err != nil {
		b.T.Fatal(err)
	}
	if err := b.writer.ProduceSync(b.Ctx, records...).FirstErr(); err != nil {
		b.T.Fatal(err)
	}
	if err := b.writer.EndTransaction(b.Ctx, kgo.TryCommit); err != nil {
		b.T.Fatal(err)
	}
}

func (b *Belt) seat(ordinal int) Seat {
	return Seat{Brokers: b.brokers, Prefix: b.Table.Prefix, Ordinal: ordinal, Outside: b.Outside}
}

// Running is a worker in this process.
type Running struct {
	Stop func()
	Done <-chan error // of Run
	t    *testing.T
}

// Worker runs one until the test ends or it is stopped.
func (b *Belt) Worker(ordinal int) Running {
	b.T.Helper()
	b.metrics = prometheus.NewRegistry()
	seat := b.seat(ordinal)
	seat.Topics, seat.Log, seat.Metrics = b.Table, slog.New(slog.NewTextHandler(b.T.Output(), nil)), b.metrics
	w, err := b.subject.New(seat)
	if err != nil {
		b.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Ctx)
	ended := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		err := w.Run(ctx)
		if err != nil {
			seat.Log.Error("the worker has ended", "ordinal", ordinal, "error", err)
		}
		ended <- err
	})
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	b.T.Cleanup(stop)
	return Running{Stop: stop, Done: ended, t: b.T}
}

// Ends waits until the worker ends by itself, with this error.
func (r Running) Ends(want error) {
	r.t.Helper()
	select {
	case err := <-r.Done:
		if !errors.Is(err, want) {
			r.t.Errorf("it ends with %v, want %v", err, want)
		}
	case <-time.After(Patience):
		r.t.Fatalf("it goes on, want %v", want)
	}
}

// GoesOn checks that the worker has not ended.
func (r Running) GoesOn() {
	r.t.Helper()
	select {
	case err := <-r.Done:
		r.t.Errorf("the worker has ended: %v", err)
	default:
	}
}

// CrashBroker kills a broker of a stack and starts it again. Let there be three: a lone one that crashes can lose the end
// of a transaction (docs/operations.md).
func (b *Belt) CrashBroker(stack *local.Stack, which int) {
	b.T.Helper()
	broker := stack.Broker(which)
	if err := broker.Kill9(); err != nil {
		b.T.Fatal(err)
	}
	if err := broker.Start(b.Ctx); err != nil {
		b.T.Fatal(err)
	}
}

// Sum adds up a family of the last worker's metrics: counters and gauges by value, histograms by count.
func (b *Belt) Sum(name string) float64 {
	b.T.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		b.T.Fatal(err)
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
	b.T.Fatalf("no metric %s", name)
	return 0
}
