package transact

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// writer writes one partition's log in transactions.
type writer struct {
	t     *testing.T
	cl    *kgo.Client
	topic string
	last  int64 // of the last record that was produced, visible or not
}

func newWriter(t *testing.T, config map[string]*string) *writer {
	t.Helper()
	topic := fresh(t)
	adm := kadm.NewClient(client(t))
	must(t, "create", func() error { _, err := adm.CreateTopic(context.Background(), 1, 1, config, topic); return err })
	within(t, 20*time.Second, "the topic exists", func() bool {
		all, err := adm.ListTopics(context.Background(), topic)
		return err == nil && all.Error() == nil
	})
	return &writer{t: t, topic: topic, cl: client(t, kgo.TransactionalID(topic), kgo.TransactionTimeout(20*time.Second))}
}

func (w *writer) begin(keys ...string) {
	w.t.Helper()
	must(w.t, "begin", w.cl.BeginTransaction)
	for _, k := range keys {
		r := &kgo.Record{Topic: w.topic, Key: []byte(k), Value: []byte(strings.Repeat("v", 100))}
		must(w.t, "produce", func() error { return w.cl.ProduceSync(context.Background(), r).FirstErr() })
		w.last = r.Offset
	}
}

func (w *writer) end(commit kgo.TransactionEndTry) {
	w.t.Helper()
	must(w.t, "end", func() error { return w.cl.EndTransaction(context.Background(), commit) })
}

func (w *writer) reader(timeout time.Duration) *logReader {
	w.t.Helper()
	r, err := newLogReader(brokers(w.t), timeout, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.close)
	return r
}

func (w *writer) wantEnd(want int64) {
	w.t.Helper()
	end, _, err := w.reader(30*time.Second).end(context.Background(), w.topic, 0)
	if err != nil || end != want {
		w.t.Fatalf("the log ends at %d (%v), want %d", end, err, want)
	}
}

func TestEndOfATransactionalLog(t *testing.T) {
	t.Parallel()
	w := newWriter(t, nil)
	w.wantEnd(0)
	w.begin("a", "b")
	w.end(kgo.TryCommit)
	visible := w.last + 1
	w.wantEnd(visible) // not the marker after it
	for range 3 * firstLookBack {
		w.begin("c")
		w.end(kgo.TryAbort)
	}
	w.wantEnd(visible) // further back than the first look
	w.begin("d")
	w.end(kgo.TryCommit)
	w.wantEnd(w.last + 1)
}

func TestEndOfALogOfWhichNothingIsVisible(t *testing.T) {
	t.Parallel()
	w := newWriter(t, nil)
	w.begin("a", "b", "c")
	w.end(kgo.TryAbort)
	w.wantEnd(0)
}

// Compaction takes deletions away in the end, and leaves a log of which nothing is visible. The store that has read them
// is behind nothing.
func TestTableOfWhichNothingIsLeft(t *testing.T) {
	t.Parallel()
	l, dir := newLedger(t, 1, 5), t.TempDir()
	left := &writer{t: t, topic: l.table(), cl: client(t, kgo.TransactionalID(l.name+"-writer"))}
	left.begin("a", "b", "c")
	left.end(kgo.TryAbort)
	b, err := openLevelStore(filepath.Join(dir, "tables"), l.table(), 0)
	if err != nil {
		t.Fatal(err)
	}
	must(t, "read", func() error { return b.apply(nil, 1, true) })
	must(t, "close", b.close)
	l.load(t, 20, 1)
	l.work(t, Config{Dir: dir}, l.decide).Close()
	if v := l.check(t, nil); !v.exact() {
		t.Errorf("%+v", v)
	}
}

func TestEndWaitsForOpenTransactions(t *testing.T) {
	t.Parallel()
	w := newWriter(t, nil)
	w.begin("a")
	_, _, err := w.reader(300*time.Millisecond).end(context.Background(), w.topic, 0)
	wantError(t, err, ErrRecoveryTimeout)
	if id, epoch, _ := w.cl.ProducerID(context.Background()); !strings.Contains(err.Error(), fmt.Sprintf("producer %d, epoch %d", id, epoch)) {
		t.Errorf("%v does not name producer %d", err, id)
	}
	ended := make(chan int64, 1)
	go func() {
		end, _, _ := w.reader(30*time.Second).end(context.Background(), w.topic, 0)
		ended <- end
	}()
	w.end(kgo.TryCommit)
	if end := <-ended; end != w.last+1 {
		t.Fatalf("the log ends at %d, want %d", end, w.last+1)
	}
}

// A compacted log has gaps, batches without records, and records whose marker is long gone.
func TestEndOfACompactedLog(t *testing.T) {
	t.Parallel()
	w := newWriter(t, map[string]*string{
		"cleanup.policy":            kadm.StringPtr("compact"),
		"segment.bytes":             kadm.StringPtr("1048576"),
		"segment.ms":                kadm.StringPtr("100"),
		"min.cleanable.dirty.ratio": kadm.StringPtr("0.001"),
		"delete.retention.ms":       kadm.StringPtr("0"),
	})
	var keys []string
	for i := range 50 {
		keys = append(keys, fmt.Sprint(i%5))
	}
	before := 0
	within(t, 60*time.Second, "the log is compacted", func() bool {
		w.begin(keys...)
		w.end(kgo.TryCommit)
		w.begin(keys...)
		w.end(kgo.TryAbort)
		before += len(keys)
		return len(readAll(t, w.topic)) < before/2
	})
	w.begin("last")
	w.end(kgo.TryCommit)
	visible := w.last + 1
	w.wantEnd(visible)
	w.begin(keys...)
	w.end(kgo.TryAbort)
	w.wantEnd(visible)
}
