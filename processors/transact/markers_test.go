package transact

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// transactionally writes commands to each partition in a transaction of its own, and ends it.
func (l ledger) transactionally(t *testing.T, end kgo.TransactionEndTry, name string, n int) {
	t.Helper()
	ctx := context.Background()
	cl := client(t, kgo.TransactionalID(l.name+"-writer"))
	defer cl.Close()
	must(t, "begin", cl.BeginTransaction)
	for i := range n {
		r := &kgo.Record{Topic: l.in(), Key: []byte(account(i % l.accounts)), Value: fmt.Appendf(nil, "%s%d|1", name, i)}
		must(t, "write", func() error { return cl.ProduceSync(ctx, r).FirstErr() })
	}
	must(t, "end", func() error { return cl.EndTransaction(ctx, end) })
}

// ends are the ends of topics' partitions, markers included.
func ends(t *testing.T, adm *kadm.Client, topics ...string) kadm.Offsets {
	t.Helper()
	listed, err := adm.ListEndOffsets(context.Background(), topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	return listed.Offsets()
}

// atEnd waits until the group stands behind the last marker of each partition of its input.
func (l ledger) atEnd(t *testing.T, inst *Instance, adm *kadm.Client) {
	t.Helper()
	within(t, 30*time.Second, "committed offsets are the ends", func() bool {
		if inst.Err() != nil {
			t.Fatal(inst.Err())
		}
		at, err := adm.FetchOffsets(context.Background(), l.group())
		all := err == nil
		ends(t, adm, l.in()).Each(func(o kadm.Offset) {
			c, _ := at.Lookup(o.Topic, o.Partition)
			all = all && c.At == o.At
		})
		return all
	})
}

// An input that is written in transactions ends with markers. The group passes them, so that it stands in the log even
// when retention has emptied it; and it does so without a trace in its own topics.
func TestMarkersArePassed(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	adm := l.admin(t)
	l.transactionally(t, kgo.TryAbort, "never", 20)
	l.transactionally(t, kgo.TryCommit, "first", 20)
	registry := prometheus.NewRegistry()
	inst, stop := run(t, Config{Dir: t.TempDir(), Registerer: registry}, l)
	l.atEnd(t, inst, adm)

	written := fmt.Sprint(ends(t, adm, l.out(), l.table()))
	l.transactionally(t, kgo.TryAbort, "never", 20)
	l.atEnd(t, inst, adm)
	if now := fmt.Sprint(ends(t, adm, l.out(), l.table())); now != written {
		t.Errorf("passing markers wrote to the group's topics: %s, then %s", written, now)
	}
	if n := counted(t, registry, "transact_records_total"); n != 20 {
		t.Errorf("%v records counted", n)
	}
	if v := l.check(t, nil); !v.exact() {
		t.Errorf("%+v", v)
	}

	must(t, "stop", stop)
	must(t, "empty the input", func() error {
		_, err := adm.DeleteRecords(context.Background(), ends(t, adm, l.in()))
		return err
	})
	inst, stop = run(t, Config{}, l)
	l.transactionally(t, kgo.TryCommit, "second", 10)
	l.atEnd(t, inst, adm)
	must(t, "stop", stop)
	if n := len(readAll(t, l.out())); n != 30 {
		t.Errorf("%d outcomes", n)
	}
}

// markersPolled tells of markers that the instance was given.
type markersPolled chan struct{}

func (m markersPolled) OnFetchRecordUnbuffered(r *kgo.Record, polled bool) {
	if polled && isMarker(r) {
		m <- struct{}{}
	}
}

// A stop does not wait until markers have waited long enough.
func TestStopPassesMarkers(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 1)
	polled := make(markersPolled, 100)
	inst, stop := run(t, Config{Client: []kgo.Opt{kgo.WithHooks(polled)}}, l)
	within(t, 30*time.Second, "ready", inst.Ready)
	l.transactionally(t, kgo.TryAbort, "never", 1)
	select {
	case <-polled:
	case <-time.After(30 * time.Second):
		t.Fatal("no marker was polled")
	}
	must(t, "stop", stop)
	l.atEnd(t, inst, l.admin(t))
}

// Markers between a partition's records are nobody's records: not those of a poisonous one that is tried alone, nor of
// one that waits for it.
func TestMarkersBesidePoison(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 2, 10)
	for i := range 5 {
		l.transactionally(t, kgo.TryCommit, fmt.Sprintf("a%d-", i), 20)
		l.poison(t, 2*i)
		l.transactionally(t, kgo.TryAbort, "never", 5)
		l.poison(t, 2*i+1)
	}
	l.transactionally(t, kgo.TryCommit, "b", 20)
	inst, stop := run(t, Config{DeadLetter: l.letter}, l)
	l.atEnd(t, inst, l.admin(t))
	must(t, "stop", stop)
	if v := l.check(t, isPoison); !v.exact() {
		t.Errorf("%+v", v)
	}
	l.checkLetters(t, 10)
}
