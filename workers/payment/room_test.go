package payment

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// idle is a worker that does not run, and its partition 0 with one task that does.
func idle(t *testing.T) (*Worker, task) {
	t.Helper()
	w, err := New(Config{Brokers: []string{"nowhere"}, Topics: topics.New(topics.Options{Partitions: 2}), Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Key: "sk_test"})
	if err != nil {
		t.Fatal(err)
	}
	p := w.partitionOf(0)
	p.progress.begin(&kgo.Record{Offset: 0})
	w.unfinished, p.running = 1, 1
	return w, task{record: &kgo.Record{Offset: 0}, partition: p}
}

// crowded is an idle worker whose window is full behind that task. Nothing else will ever end.
func crowded(t *testing.T) (*Worker, task) {
	t.Helper()
	w, last := idle(t)
	for offset := int64(1); offset < window; offset++ {
		last.partition.progress.begin(&kgo.Record{Offset: offset})
		last.partition.progress.open[offset].done = true
	}
	if w.room() != 0 {
		t.Fatal("there is room")
	}
	return w, last
}

// told says whether the loop has been told that there may be room.
func told(w *Worker) bool { return len(w.freed) > 0 }

func TestTheLoopIsToldWhenACrowdedWindowEmpties(t *testing.T) {
	w, last := crowded(t)
	w.finish(last, true)
	if !told(w) || w.room() == 0 {
		t.Errorf("told: %v, room for %d", told(w), w.room())
	}
}

func TestTheLoopIsToldWhenACrowdedPartitionGoes(t *testing.T) {
	w, cut := crowded(t)
	leaving, _ := w.closeDoors([]int32{0})
	w.finish(cut, false)
	<-w.freed // the partition is still on the books
	w.forget(leaving)
	if !told(w) || w.room() == 0 {
		t.Errorf("told: %v, room for %d", told(w), w.room())
	}
}

// A rebalance takes a partition away that a stop is letting go of: it waits until the stop has committed.
func TestARebalanceWaitsForAStop(t *testing.T) {
	for name, take := range map[string]func(*Worker, map[string][]int32){"revoked": (*Worker).leave, "lost": (*Worker).drop} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, slow := idle(t)
				stopped, taken := make(chan time.Time, 1), make(chan time.Time, 1)
				go func() { w.release(w.owned()); stopped <- time.Now() }()
				synctest.Wait()
				go func() {
					take(w, map[string][]int32{w.cfg.Topics.PaymentRequests.Name: {0}})
					taken <- time.Now()
				}()
				synctest.Wait()
				if len(stopped) > 0 || len(taken) > 0 {
					t.Error("a step runs and the partition has left")
				}
				cut := slow.partition.ctx.Err() != nil
				if want := name == "lost"; cut != want {
					t.Errorf("cut off: %v, want %v", cut, want)
				}
				time.Sleep(w.cfg.Drain / 2) // of the bubble's clock
				w.finish(slow, false)
				if a, b := <-stopped, <-taken; !a.Equal(b) {
					t.Errorf("the stop took until %v, the rebalance until %v", a, b)
				}
				if len(w.partitions) > 0 {
					t.Error("still on the books")
				}
			})
		})
	}
}
