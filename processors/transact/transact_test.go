package transact

import (
	"context"
	"testing"
	"time"
)

// run starts an instance and answers how to stop it: what Run returned.
func run(t testing.TB, cfg Config, l ledger) (*Instance, func() error) {
	t.Helper()
	cfg.Brokers = brokers(t)
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	inst, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := inst.Run(ctx, l.graph(l.decide))
		if err != nil && ctx.Err() == nil {
			t.Logf("instance ended: %v", err)
		}
		done <- err
	}()
	stopped := false
	stop := func() error {
		cancel()
		stopped = true
		select {
		case err := <-done:
			inst.Close()
			return err
		case <-time.After(30 * time.Second):
			panic("instance does not stop")
		}
	}
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
	})
	return inst, stop
}

func TestExactlyOnceWithoutFaults(t *testing.T) {
	l := newLedger(t, 4, 50)
	l.load(t, 20_000, 1)
	_, stop := run(t, Config{Dir: t.TempDir()}, l)
	adm := l.admin(t)
	within(t, 30*time.Second, "no lag", func() bool { return lag(t, adm, l.group(), l.in()) == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if v := l.check(t, nil); !v.exact() {
		t.Fatalf("%+v", v)
	}
}
