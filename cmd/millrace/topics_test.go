package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

// bench is a cluster with topics, and the command line in front of it.
type bench struct {
	*testing.T
	ctx    context.Context
	kafka  string
	table  *topics.Table
	writer *kgo.Client
}

func newBench(t *testing.T) *bench {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	brokers := localtest.Kafka(t)
	b := &bench{T: t, ctx: ctx, kafka: strings.Join(brokers, ","), table: topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: 3})}
	var err error
	b.writer, err = kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(b.table.Prefix+"w"), kgo.RecordPartitioner(topics.Partitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.writer.Close)
	return b
}

// topics runs `millrace topics`.
func (b *bench) topics(ctx context.Context, args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	args = append([]string{"topics"}, args...)
	code = run(ctx, append(args, "--kafka", b.kafka, "--prefix", b.table.Prefix, "--partitions", "3"), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func (b *bench) write(end kgo.TransactionEndTry, records ...*kgo.Record) {
	b.Helper()
	if err := b.writer.BeginTransaction(); err != nil {
		b.Fatal(err)
	}
	b.writer.ProduceSync(b.ctx, records...)
	if err := b.writer.EndTransaction(b.ctx, end); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) event(id string, version int64) *kgo.Record {
	return b.table.OrderEvents.Record(&orderv1.OrderEvent{OrderId: id, Version: version, Order: &orderv1.Order{Id: id, Status: orderv1.OrderStatus_ORDER_STATUS_PAID}}, topics.Fresh("/test", ""))
}

// cat runs `millrace topics cat` and reads what it prints.
func (b *bench) cat(args ...string) []shownRecord {
	b.Helper()
	code, out, errs := b.topics(b.ctx, append([]string{"cat"}, args...)...)
	if code != 0 {
		b.Fatalf("cat %v: %s", args, errs)
	}
	return records(b.T, out)
}

func records(t *testing.T, out string) (all []shownRecord) {
	t.Helper()
	for line := range strings.Lines(out) {
		var r shownRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

func TestTopicsFromPlanToCat(t *testing.T) {
	b := newBench(t)
	if code, _, errs := b.topics(b.ctx, "plan"); code != 1 || !strings.Contains(errs, b.table.OrderEvents.Name+": does not exist") {
		t.Errorf("plan on an empty cluster: %d, %s", code, errs)
	}
	if code, out, errs := b.topics(b.ctx, "apply"); code != 0 || !strings.Contains(out, "created "+b.table.OrderEvents.Name+" with 3 partitions") {
		t.Errorf("apply: %d, %s%s", code, out, errs)
	}
	if code, out, errs := b.topics(b.ctx, "apply"); code != 0 || !strings.Contains(out, "nothing to do") {
		t.Errorf("apply again: %d, %s%s", code, out, errs)
	}
	if code, out, errs := b.topics(b.ctx, "plan"); code != 0 {
		t.Errorf("plan: %d, %s%s", code, out, errs)
	}
	b.write(kgo.TryCommit, b.event("one", 1), b.event("two", 1))
	b.write(kgo.TryAbort, b.event("one", 99))
	b.write(kgo.TryCommit, b.event("one", 2))
	if code, out, errs := b.topics(b.ctx, "list"); code != 0 || !strings.Contains(out, "shop.order.v1.OrderEvent") {
		t.Errorf("list: %d, %s%s", code, out, errs)
	}

	all := b.cat("order.events")
	if len(all) != 3 {
		t.Fatalf("%d records, want 3: what is aborted is not shown", len(all))
	}
	one := b.cat("order.events.v1", "--key", "one")
	if len(one) != 2 || one[1].Headers["ce_type"] != "shop.order.v1.OrderEvent" || one[1].Time.IsZero() {
		t.Errorf("by key: %+v", one)
	}
	var value struct {
		Version string `json:"version"`
		Order   struct{ Status string }
	}
	if err := json.Unmarshal(one[1].Value, &value); err != nil || value.Version != "2" || value.Order.Status != "ORDER_STATUS_PAID" {
		t.Errorf("the value: %s, %v", one[1].Value, err)
	}
	for _, c := range []struct {
		want int
		args []string
	}{
		{1, []string{"--limit", "1"}},
		{0, []string{"--from", "end"}},
		{3, []string{"--from", "1h"}},
		{0, []string{"--from", time.Now().Add(time.Hour).Format(time.RFC3339)}},
		{3, []string{"--from", "2020-01-01"}},
		{3, []string{"--from", "0"}},
		{1, []string{"--key", "one", "--from", fmt.Sprint(one[1].Offset)}},
		{2, []string{"--key", "one", "--partition", fmt.Sprint(one[1].Partition)}},
	} {
		if got := b.cat(append([]string{b.table.OrderEvents.Name}, c.args...)...); len(got) != c.want {
			t.Errorf("%v: %d records, want %d", c.args, len(got), c.want)
		}
	}
	if code, _, errs := b.topics(b.ctx, "cat", "orders"); code != 2 || !strings.Contains(errs, `no topic "orders"`) {
		t.Errorf("an unknown topic: %d, %s", code, errs)
	}
}

func TestDeadLettersAreReadAsWhatTheyWere(t *testing.T) {
	b := newBench(t)
	if code, _, errs := b.topics(b.ctx, "apply"); code != 0 {
		t.Fatal(errs)
	}
	good, bad := b.event("one", 7), b.event("two", 1)
	bad.Value = []byte("\xff\xff not an event")
	rejection := topics.Rejection{Reason: topics.SinkRejected, Detail: "for a test"}
	b.write(kgo.TryCommit, b.table.DeadLetter(topics.PostgresSinkGroup, good, rejection), b.table.DeadLetter(topics.PostgresSinkGroup, bad, rejection))

	for _, r := range b.cat("sink-postgres.dlq") {
		switch r.Key {
		case "one":
			if !strings.Contains(string(r.Value), `"version":"7"`) || r.Headers[topics.HeaderDLQReason] != "SINK_REJECTED" {
				t.Errorf("%s %v", r.Value, r.Headers)
			}
		case "two":
			if !bytes.Equal(r.ValueBase64, bad.Value) || r.Error == "" {
				t.Errorf("%q %s", r.ValueBase64, r.Error)
			}
		}
	}
}

// lines hands on what is written, line by line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestCatFollows(t *testing.T) {
	b := newBench(t)
	if code, _, errs := b.topics(b.ctx, "apply"); code != 0 {
		t.Fatal(errs)
	}
	b.write(kgo.TryCommit, b.event("one", 1))
	ctx, stop := context.WithCancel(b.ctx)
	out, ended := make(lines), make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"topics", "cat", "order.events", "-f", "--kafka", b.kafka, "--prefix", b.table.Prefix}, out, out)
	}()
	if first := <-out; !strings.Contains(first, `"version":"1"`) {
		t.Errorf("first %s", first)
	}
	b.write(kgo.TryCommit, b.event("one", 2))
	if second := <-out; !strings.Contains(second, `"version":"2"`) {
		t.Errorf("second %s", second)
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("Ctrl-C ends it with %d", code)
	}
}
