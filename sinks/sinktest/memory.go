package sinktest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/sinks"
)

// Memory is the smallest store that keeps the promises. It takes Events, and shows what a store has to do and no more.
type Memory struct {
	mu     sync.Mutex
	at     map[sinks.Place]int64
	newest map[string]int64 // version by key
	logs   map[string]string
	gone   bool
}

// Event is the version-th event of a key.
type Event struct {
	Key     string
	Version int64
	Bad     bool // Memory refuses it
}

// NewMemory is a store whose partitions begin at 0.
func NewMemory(places ...sinks.Place) *Memory {
	m := &Memory{at: map[sinks.Place]int64{}, newest: map[string]int64{}, logs: map[string]string{}}
	for _, p := range places {
		m.at[p] = 0
	}
	return m
}

// Group is the name of a test's group.
func (m *Memory) Group() string { return "sink-memory" }

// Inputs are none: Memory is tried without Kafka.
func (m *Memory) Inputs() []sinks.Input { return nil }

var errGone = errors.New("memory is gone")

// Follow keeps the first ID of each topic.
func (m *Memory) Follow(_ context.Context, ids map[string]string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return errGone
	}
	for topic, id := range ids {
		if m.logs[topic] != "" && m.logs[topic] != id {
			return sinks.ErrOtherLog
		}
		m.logs[topic] = id
	}
	return nil
}

// Positions are where each partition goes on.
func (m *Memory) Positions(context.Context, []sinks.Place) (map[sinks.Place]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return nil, errGone
	}
	return maps.Clone(m.at), nil
}

// Write takes a batch, all or nothing.
func (m *Memory) Write(_ context.Context, b sinks.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return errGone
	}
	at, newest := maps.Clone(m.at), maps.Clone(m.newest)
	for _, s := range b {
		if at[s.Place] != s.First {
			return sinks.ErrMoved
		}
		at[s.Place] = s.End
		for _, r := range s.Records {
			e := r.Value.(Event)
			if e.Bad {
				return sinks.Refused{Err: fmt.Errorf("%s is bad", e.Key)}
			}
			newest[e.Key] = max(newest[e.Key], e.Version)
		}
	}
	m.at, m.newest = at, newest
	return nil
}

// Contents is each key with its version.
func (m *Memory) Contents() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m.newest)) {
		fmt.Fprintf(&b, "%s %d\n", k, m.newest[k])
	}
	return b.String()
}

// SetGone takes the store away, or gives it back.
func (m *Memory) SetGone(gone bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = gone
}
