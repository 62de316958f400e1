package transact

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// sizeLimits are the bytes that topics take at most, as their brokers say. Knowing them, an emit that is too large is
// found in its callback, where it is clear whose it is; a broker refuses whole batches.
type sizeLimits struct {
	learning sync.Mutex
	known    atomic.Pointer[map[string]int32]
}

// of is the limit of a topic that was learned before anything is produced to it.
func (l *sizeLimits) of(topic string) int32 {
	if known := l.known.Load(); known != nil {
		if n, ok := (*known)[topic]; ok {
			return n
		}
	}
	return defaultBatchBytes
}

func (l *sizeLimits) knows(topic string) bool {
	known := l.known.Load()
	if known == nil {
		return false
	}
	_, ok := (*known)[topic]
	return ok
}

func (l *sizeLimits) learn(ctx context.Context, cl *kgo.Client, topics ...string) error {
	for _, topic := range topics {
		if !l.knows(topic) {
			return l.ask(ctx, cl, topics)
		}
	}
	return nil
}

func (l *sizeLimits) ask(ctx context.Context, cl *kgo.Client, topics []string) error {
	l.learning.Lock()
	defer l.learning.Unlock()
	m := &topicManager{logReader: logReaderOn(cl)}
	learned, err := m.maxRecordBytes(ctx, topics)
	if err != nil {
		return err
	}
	if known := l.known.Load(); known != nil {
		for topic, n := range *known {
			learned[topic] = n
		}
	}
	learned = maps.Clone(learned)
	l.known.Store(&learned)
	return nil
}
