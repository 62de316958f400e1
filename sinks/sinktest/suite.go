// Package sinktest holds every store to the promises of package sinks, with the body of the loop and without Kafka.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/topics"
)

// Subject is a store to be tried, set up and empty, and what the suite must know of it.
type Subject struct {
	Store sinks.Store
	// Place is a partition that the store takes, with position 0.
	Place sinks.Place
	// Value is what Input.Decode makes of the version-th event of one key; keys are "a", "b", ...
	Value func(key string, version int64) any
	// Refused is a value that decodes, and that the store can never take.
	Refused func(key string, version int64) any
	// Contents is all that the store holds, positions apart, in an order of its own.
	Contents func(testing.TB) string
	// Break takes the store away and Mend gives it back.
	Break, Mend func(testing.TB)
}

// Run holds the store to every promise. Each gets a subject of its own.
func Run(t *testing.T, open func(*testing.T) Subject) {
	for _, promise := range []struct {
		name string
		hold func(*testing.T, *trial)
	}{
		{"the same batch twice", sameTwice},
		{"old after new", oldAfterNew},
		{"an empty batch", empty},
		{"offsets without records", gaps},
		{"poison", poison},
		{"half a batch", halfABatch},
		{"store gone and back", goneAndBack},
		{"answer of the commit lost", answerLost},
		{"another log", anotherLog},
	} {
		t.Run(promise.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			promise.hold(t, &trial{Subject: open(t), open: open, ctx: ctx})
		})
	}
}

// trial is one subject on trial.
type trial struct {
	Subject
	open func(*testing.T) Subject
	ctx  context.Context
	dead []int64 // offsets of its dead letters
}

func (tr *trial) writer() *sinks.Writer {
	return &sinks.Writer{
		Store: tr.Store,
		DeadLetter: func(_ context.Context, _ sinks.Place, r sinks.Record, _ topics.Rejection) error {
			tr.dead = append(tr.dead, r.Offset)
			return nil
		},
		Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
		Wrote: func(sinks.Batch, time.Duration) {},
	}
}

// events is a batch from First on, one offset per value.
func (tr *trial) events(first int64, values ...any) sinks.Batch {
	s := sinks.Stretch{Place: tr.Place, First: first, End: first + int64(len(values))}
	for i, v := range values {
		at := first + int64(i)
		s.Records = append(s.Records, sinks.Record{Offset: at, ID: fmt.Sprintf("event-%d", at), Time: time.UnixMilli(at), Value: v})
	}
	return sinks.Batch{s}
}

func (tr *trial) mustWrite(t *testing.T, b sinks.Batch) {
	t.Helper()
	if err := tr.writer().Write(tr.ctx, b); err != nil {
		t.Fatal(err)
	}
}

func (tr *trial) position(t *testing.T) int64 {
	t.Helper()
	at, err := tr.Store.Positions(tr.ctx, []sinks.Place{tr.Place})
	if err != nil {
		t.Fatal(err)
	}
	next, ok := at[tr.Place]
	if !ok {
		t.Fatalf("no position for %s", tr.Place)
	}
	return next
}

func (tr *trial) mustBeAt(t *testing.T, want int64) {
	t.Helper()
	if got := tr.position(t); got != want {
		t.Errorf("the position is %d, want %d", got, want)
	}
}

func (tr *trial) mustHold(t *testing.T, want string) {
	t.Helper()
	if got := tr.Contents(t); got != want {
		t.Errorf("the store holds\n%s\nwant\n%s", got, want)
	}
}

func sameTwice(t *testing.T, tr *trial) {
	first := tr.events(0, tr.Value("a", 1), tr.Value("b", 1), tr.Value("a", 2))
	tr.mustWrite(t, first)
	once := tr.Contents(t)
	if once == "" {
		t.Fatal("nothing was written")
	}
	if err := tr.Store.Write(tr.ctx, first); !errors.Is(err, sinks.ErrMoved) {
		t.Errorf("the store takes a batch a second time: %v", err)
	}
	tr.mustHold(t, once)
	// The same events again at later offsets, as an at-least-once writer gives them.
	again := tr.events(3, tr.Value("a", 1), tr.Value("b", 1), tr.Value("a", 2))
	for i := range again[0].Records {
		again[0].Records[i].ID, again[0].Records[i].Time = first[0].Records[i].ID, first[0].Records[i].Time
	}
	tr.mustWrite(t, again)
	tr.mustHold(t, once)
	tr.mustBeAt(t, 6)
}

func oldAfterNew(t *testing.T, tr *trial) {
	tr.mustWrite(t, tr.events(0, tr.Value("a", 3), tr.Value("b", 1)))
	newest := tr.Contents(t)
	tr.mustWrite(t, tr.events(2, tr.Value("a", 2)))
	tr.mustHold(t, newest)
	tr.mustWrite(t, tr.events(3, tr.Value("a", 4), tr.Value("a", 1)))
	if tr.Contents(t) == newest {
		t.Error("a newer version changed nothing")
	}
	tr.mustBeAt(t, 5)
}

func empty(t *testing.T, tr *trial) {
	tr.mustWrite(t, sinks.Batch{})
	tr.mustBeAt(t, 0)
	tr.mustHold(t, "")
}

func gaps(t *testing.T, tr *trial) {
	tr.mustWrite(t, sinks.Batch{{Place: tr.Place, First: 0, End: 7}})
	tr.mustBeAt(t, 7)
	tr.mustHold(t, "")
}

func poison(t *testing.T, tr *trial) {
	good := func(b sinks.Batch) sinks.Batch {
		b[0].Records = slices.DeleteFunc(b[0].Records, func(r sinks.Record) bool { return r.Offset == 1 || r.Offset == 4 || r.Offset == 6 })
		return b
	}
	values := []any{tr.Value("a", 1), tr.Refused("b", 1), tr.Value("c", 1), tr.Value("a", 2), tr.Refused("d", 1), tr.Value("e", 1), tr.Refused("f", 1)}
	tr.mustWrite(t, tr.events(0, values...))
	if got := fmt.Sprint(tr.dead); got != "[1 4 6]" {
		t.Errorf("dead letters %s, want [1 4 6]", got)
	}
	tr.mustBeAt(t, 7)

	clean := &trial{Subject: tr.open(t), ctx: tr.ctx}
	clean.mustWrite(t, good(clean.events(0, values...)))
	tr.mustHold(t, clean.Contents(t))
}

func halfABatch(t *testing.T, tr *trial) {
	tr.mustWrite(t, tr.events(0, tr.Value("a", 1), tr.Value("b", 1)))
	half := tr.Contents(t)
	whole := tr.events(0, tr.Value("a", 1), tr.Value("b", 1), tr.Value("a", 2), tr.Value("c", 1))
	if err := tr.writer().Write(tr.ctx, whole); !errors.Is(err, sinks.ErrMoved) {
		t.Errorf("a batch of which half was written is taken: %v", err)
	}
	tr.mustHold(t, half)
	tr.mustBeAt(t, 2)
	tr.mustWrite(t, tr.events(2, tr.Value("a", 2), tr.Value("c", 1)))
	tr.mustBeAt(t, 4)
}

func goneAndBack(t *testing.T, tr *trial) {
	tr.mustWrite(t, tr.events(0, tr.Value("a", 1)))
	before := tr.Contents(t)
	tr.Break(t)
	done := make(chan error, 1)
	tried := make(chan struct{})
	w := tr.writer()
	w.Log = slog.New(tells{tried})
	go func() { done <- w.Write(tr.ctx, tr.events(1, tr.Value("a", 2))) }()
	select {
	case <-tried: // it has met the broken store
	case err := <-done:
		t.Fatalf("a store that is gone is not waited for: %v", err)
	}
	tr.Mend(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if tr.Contents(t) == before || len(tr.dead) > 0 {
		t.Errorf("lost, or put aside (%v), because the store was away", tr.dead)
	}
	tr.mustBeAt(t, 2)
}

// answerLost writes a batch whose commit succeeded unnoticed.
func answerLost(t *testing.T, tr *trial) {
	b := tr.events(0, tr.Value("a", 1), tr.Value("b", 2))
	if err := tr.Store.Write(tr.ctx, b); err != nil {
		t.Fatal(err)
	}
	before := tr.Contents(t)
	tr.mustWrite(t, b)
	tr.mustHold(t, before)
	tr.mustBeAt(t, 2)
}

// tells is a log that closes a channel at its first warning.
type tells struct{ warned chan struct{} }

func (h tells) Enabled(context.Context, slog.Level) bool { return true }
func (h tells) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h tells) WithGroup(string) slog.Handler            { return h }

func (h tells) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		close(h.warned)
	}
	return nil
}

// anotherLog: a store that has followed one log refuses every other, and knows its own again.
func anotherLog(t *testing.T, tr *trial) {
	follow := func(id string) error { return tr.Store.Follow(tr.ctx, map[string]string{tr.Place.Topic: id}) }
	for range 2 {
		if err := follow("first"); err != nil {
			t.Fatal(err)
		}
	}
	if err := follow("second"); !errors.Is(err, sinks.ErrOtherLog) {
		t.Fatalf("the topic was made anew: %v", err)
	}
	if err := follow("first"); err != nil {
		t.Fatal(err)
	}
}
