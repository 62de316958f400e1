package transact

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
)

func TestViewOnATransactionalTable(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"in memory": "", "on disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t, 3, 20)
			l.load(t, 300, 1)
			inst, stop := run(t, Config{}, l)
			defer stop()
			adm := l.admin(t)
			within(t, 30*time.Second, "no lag", func() bool { return inst.Ready() && lag(t, adm, l.group(), l.in()) == 0 })
			view, closeView := openView(t, l, dir)
			wantSame(t, l, view)
			l.load(t, 300, 2) // it follows
			within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
			wantSame(t, l, view)
			closeView()
			view, closeView = openView(t, l, dir) // and begins where it was
			defer closeView()
			wantSame(t, l, view)
		})
	}
}

func openView(t *testing.T, l ledger, dir string) (*goka.View, func()) {
	t.Helper()
	opts := append(ViewOptions(dir), goka.WithViewLogger(gokaLogger{quiet()}))
	view, err := goka.NewView(brokers(t), goka.GroupTable(goka.Group(l.group())), new(codec.Int64), opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- view.Run(ctx) }()
	select {
	case <-view.WaitRunning():
	case err := <-done:
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("the view does not recover")
	}
	return view, func() { cancel(); <-done }
}

// wantSame waits until the view shows the last value of each key of the changelog, and no other keys.
func wantSame(t *testing.T, l ledger, view *goka.View) {
	t.Helper()
	want := map[string]string{}
	for _, r := range readAll(t, l.table()) {
		want[string(r.Key)] = string(r.Value)
	}
	within(t, 20*time.Second, "the view shows the table", func() bool { return fmt.Sprint(viewed(t, view)) == fmt.Sprint(want) })
	for k, w := range want {
		if v, err := view.Get(k); err != nil || fmt.Sprint(v) != w {
			t.Fatalf("%s is %v (%v), want %s", k, v, err, w)
		}
	}
}

func viewed(t *testing.T, view *goka.View) map[string]string {
	t.Helper()
	it, err := view.Iterator()
	if err != nil {
		t.Fatal(err)
	}
	defer it.Release()
	got := map[string]string{}
	for it.Next() {
		v, err := it.Value()
		if err != nil {
			t.Fatal(err)
		}
		got[it.Key()] = fmt.Sprint(v)
	}
	return got
}
