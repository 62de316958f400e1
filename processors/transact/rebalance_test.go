package transact

import (
	"context"
	"testing"

	"github.com/IBM/sarama"
)

// leaving is a goka that does nothing but take leave.
type leaving struct{ sarama.ConsumerGroupHandler }

func (leaving) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// A member that has lost its partitions and is left none is ready, even if it learns of both at once: nothing comes after
// that would tell it so.
func TestReadyWithoutPartitions(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 1, 1)
	inst, err := New(Config{Brokers: brokers(t), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	if _, err := inst.Processor(l.graph(l.decide)); err != nil {
		t.Fatal(err)
	}
	e, err := inst.newEngine(leaving{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.close(nil)
	must(t, "begin", e.begin)
	e.session = &session{engine: e, handler: e.handler, cancel: func() {}}
	e.rebalanced(nil, false)
	e.rebalanced(map[string][]int32{}, true)
	if moved, err := e.follow(context.Background()); !moved || err != nil {
		t.Fatalf("moved: %v, %v", moved, err)
	}
	if e.isMoved() || !inst.Ready() {
		t.Error("not ready, and nothing to wait for")
	}
}
