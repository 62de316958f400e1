package processors_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/topics"
)

func TestMain(m *testing.M) { localtest.Main(m) }

const (
	partitions = 3
	patience   = 60 * time.Second
)

// cluster is a real Kafka with the topics of one test.
type cluster struct {
	*topics.Table
	brokers []string
	admin   *kadm.Client
	client  *kgo.Client
	metrics *prometheus.Registry
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{metrics: prometheus.NewRegistry(), brokers: localtest.Kafka(t), Table: topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: partitions})}
	var err error
	if c.admin, err = topics.NewAdmin(c.brokers); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.admin.Close)
	if _, err := topics.Apply(t.Context(), c.admin, c.Table, topics.Cluster{}); err != nil {
		t.Fatal(err)
	}
	c.client, err = kgo.NewClient(kgo.SeedBrokers(c.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(topics.MaxRecordBytes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.client.Close)
	return c
}

// start runs a processor until the function that it returns is called, or the test ends.
func (c *cluster) start(t *testing.T, group, dir string) (stop func()) {
	t.Helper()
	p, err := processors.New(processors.Config{
		Brokers: c.brokers, Topics: c.Table, Group: group, DataDir: dir, CommitInterval: 20 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler), Metrics: c.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = running(t, p.Run)
	within(t, "ready", p.Ready)
	return stop
}

// running runs in the background until stopped; an error fails the test.
func running(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func within(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s within %v", what, patience)
		}
	}
}

// produce writes each record where its key belongs, one after the other.
func (c *cluster) produce(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	for _, r := range records {
		r.Partition = topics.Partition(r.Key, partitions)
	}
	c.produceThere(t, records...)
}

// produceThere writes each record to the partition that it names.
func (c *cluster) produceThere(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	if err := c.client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// processed waits until the group has no lag.
func (c *cluster) processed(t *testing.T, group string) {
	t.Helper()
	within(t, "without lag", func() bool {
		lags, err := c.admin.Lag(t.Context(), c.Group(group))
		if err != nil || lags.Error() != nil {
			return false
		}
		return lags[c.Group(group)].Lag.Total() == 0
	})
}

// read returns the first n committed records of a topic, those of a key in their order; more than n is an error.
func (c *cluster) read(t *testing.T, topic topics.Topic, n int) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...), kgo.ConsumeTopics(topic.Name), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(4<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%s: %d of %d records: %v", topic.Name, len(records), n, err)
		}
		records = append(records, fetches.Records()...)
	}
	if len(records) > n {
		t.Fatalf("%s: %d records, expected %d", topic.Name, len(records), n)
	}
	slices.SortStableFunc(records, func(a, b *kgo.Record) int { return int(a.Partition - b.Partition) })
	return records
}

// deadLetters is how many of a reason were counted.
func (c *cluster) deadLetters(t *testing.T, reason topics.Reason) (n float64) {
	t.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if f.GetName() == "millrace_processor_dead_letters_total" && l.GetValue() == string(reason) {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// place is where a record is, as its outcome's headers name it.
func place(r *kgo.Record) string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }

func causePlace(r *kgo.Record) string {
	return topics.Header(r, topics.HeaderCauseTopic) + "/" + topics.Header(r, topics.HeaderCausePartition) + "/" + topics.Header(r, topics.HeaderCauseOffset)
}
