package payment

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// crowded is a worker whose window is full behind one task that runs. Nothing else will ever end.
func crowded(t *testing.T) (*Worker, task) {
	t.Helper()
	w, err := New(Config{Brokers: []string{"nowhere"}, Topics: topics.New(topics.Options{Partitions: 2}), Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Key: "sk_test"})
	if err != nil {
		t.Fatal(err)
	}
	p := w.partitionOf(0)
	for offset := range int64(window) {
		p.progress.begin(&kgo.Record{Offset: offset})
	}
	for offset := int64(1); offset < window; offset++ {
		p.progress.open[offset].done = true
	}
	w.unfinished, p.running = 1, 1
	if w.room() != 0 {
		t.Fatal("there is room")
	}
	return w, task{record: &kgo.Record{Offset: 0}, partition: p}
}

// When the loop is told that there may be room, there is: nobody would tell it again.
func TestTheLoopIsToldWhenThereIsRoom(t *testing.T) {
	w, last := crowded(t)
	entered := make(chan int, 1)
	w.mu.Lock()
	go w.finish(last, true)
	time.Sleep(5 * time.Millisecond)
	go func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		<-w.freed
		entered <- len(last.partition.progress.open)
	}()
	time.Sleep(5 * time.Millisecond)
	w.mu.Unlock()
	w.mu.Lock() // a lock that is taken from under who waited so long for it is then handed on in turn: to finish, to the loop
	time.Sleep(5 * time.Millisecond)
	w.mu.Unlock()
	if n := <-entered; n != 0 {
		t.Errorf("the loop is told while %d records are on the books, and waits for ever", n)
	}
}

func TestTheLoopIsToldWhenACrowdedPartitionGoes(t *testing.T) {
	w, cut := crowded(t)
	leaving := w.closeDoors([]int32{0})
	w.finish(cut, false)
	<-w.freed // the partition is still on the books
	w.forget(leaving)
	if len(w.freed) == 0 || w.room() == 0 {
		t.Errorf("room for %d, and the loop is told %d times", w.room(), len(w.freed))
	}
}
