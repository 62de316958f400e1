package transact

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local/localtest"
)

var names atomic.Int64

// fresh is a name that no earlier test or run has used.
func fresh(t testing.TB) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "=", "-").Replace(t.Name()))
	return fmt.Sprintf("%s-%d-%d", name, time.Now().UnixNano()/1e6, names.Add(1))
}

func client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers(t)...), kgo.RecordPartitioner(Partitioner()), kgo.MetadataMinAge(topicPoll)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func quiet() *slog.Logger {
	level := slog.LevelError
	if os.Getenv("TRANSACT_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// createTopics makes topics, and commits the group's first offsets for its inputs.
func createTopics(t testing.TB, partitions int32, group string, inputs, outputs []string, table string) {
	t.Helper()
	adm := kadm.NewClient(client(t))
	ctx := context.Background()
	must(t, "create", func() error {
		_, err := adm.CreateTopics(ctx, partitions, -1, nil, append(append([]string{}, inputs...), outputs...)...)
		return err
	})
	if table != "" {
		compact := map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
		must(t, "create table", func() error { _, err := adm.CreateTopic(ctx, partitions, -1, compact, table); return err })
	}
	within(t, 20*time.Second, "topics exist", func() bool {
		topics := append(append([]string{}, inputs...), outputs...)
		if table != "" {
			topics = append(topics, table)
		}
		all, err := adm.ListTopics(ctx, topics...)
		return err == nil && all.Error() == nil
	})
	commitFirst(t, adm, group, inputs, partitions)
}

func commitFirst(t testing.TB, adm *kadm.Client, group string, inputs []string, partitions int32) {
	t.Helper()
	first := kadm.Offsets{}
	for _, topic := range inputs {
		for p := range partitions {
			first.AddOffset(topic, p, 0, -1)
		}
	}
	within(t, 20*time.Second, "first offsets committed", func() bool { // brokers learn late of new topics
		return adm.CommitAllOffsets(context.Background(), group, first) == nil
	})
}

func must(t testing.TB, what string, do func() error) {
	t.Helper()
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// within polls until ok, or fails the test.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// readAll reads a topic as a read-committed consumer does, to its end, after all open transactions are decided.
func readAll(t testing.TB, topic string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	r := &logReader{cl: client(t), timeout: 30 * time.Second}
	r.adm = kadm.NewClient(r.cl)
	details, err := r.adm.ListTopics(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []*kgo.Record
	for _, p := range details[topic].Partitions.Numbers() {
		all = append(all, readPartition(t, ctx, r, topic, p)...)
	}
	return all
}

func readPartition(t testing.TB, ctx context.Context, r *logReader, topic string, p int32) []*kgo.Record {
	t.Helper()
	end, _, err := r.end(ctx, topic, p)
	if err != nil {
		t.Fatal(err)
	}
	start, err := r.start(ctx, topic, p)
	if err != nil {
		t.Fatal(err)
	}
	if end == start {
		return nil
	}
	cl := client(t, kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {p: kgo.NewOffset().AtStart()}}))
	defer cl.Close()
	var all []*kgo.Record
	for {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("read %s/%d to %d: %v", topic, p, end, err)
		}
		all = append(all, fs.Records()...)
		if n := len(all); n > 0 && all[n-1].Offset >= end-1 {
			return all
		}
	}
}

// lag is how far a group's committed offsets are behind the visible ends of its inputs.
func lag(t testing.TB, adm *kadm.Client, group, topic string) int64 {
	t.Helper()
	ends, err := adm.ListCommittedOffsets(context.Background(), topic)
	if err != nil {
		return -1
	}
	at, err := adm.FetchOffsets(context.Background(), group)
	if err != nil {
		return -1
	}
	var n int64
	ends.Each(func(o kadm.ListedOffset) {
		c, _ := at.Lookup(o.Topic, o.Partition)
		n += o.Offset - max(c.At, 0)
	})
	return n
}

// ownBrokers are those of tests that hurt theirs, by the tests' names.
var ownBrokers sync.Map

func brokers(t testing.TB) []string {
	if own, ok := ownBrokers.Load(t.Name()); ok {
		return own.([]string)
	}
	return localtest.Kafka(t)
}
