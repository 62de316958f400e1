package sinks

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/topics"
)

// While a store is down, tries are this far apart: doubled from the shortest to the longest, less up to half by chance.
const (
	shortestWait = 50 * time.Millisecond
	longestWait  = 5 * time.Second
	// tryTimeout ends a try that a store does not answer at all.
	tryTimeout = 30 * time.Second
)

// Writer is the body of the loop: it brings one batch into a store.
type Writer struct {
	Store Store
	// DeadLetter puts a record aside that the store refuses. When it returns, the record is safe there.
	DeadLetter func(context.Context, Place, Record, topics.Rejection) error
	Log        *slog.Logger
	// Wrote is told of every try that the store answered.
	Wrote func(Batch, time.Duration)
}

// Write returns when everything in the batch is in the store or among the dead letters. A store that is down is
// waited for, as long as ctx lasts. A batch with a record that the store refuses is cut in halves until that record
// stands alone. ErrMoved means that the store is not where the batch begins.
func (w *Writer) Write(ctx context.Context, b Batch) error {
	if len(b) == 0 {
		return nil
	}
	err := w.insist(ctx, b)
	var refused Refused
	switch {
	case errors.Is(err, ErrMoved):
		return w.settle(ctx, b)
	case !errors.As(err, &refused):
		return err
	case b.Records() > 1:
		left, right := b.split()
		if err := w.Write(ctx, left); err != nil {
			return err
		}
		return w.Write(ctx, right)
	case b.Records() == 0:
		return err // there is nobody to blame but ourselves
	}
	return w.putAside(ctx, b, refused)
}

// putAside moves on past the one record of a batch.
func (w *Writer) putAside(ctx context.Context, b Batch, why Refused) error {
	for _, s := range b {
		for _, r := range s.Records {
			if err := w.DeadLetter(ctx, s.Place, r, topics.Rejection{Reason: topics.SinkRejected, Detail: why.Err.Error()}); err != nil {
				return err
			}
		}
	}
	return w.Write(ctx, b.emptied())
}

// settle looks whether a batch that met another position is there already: a commit whose answer was lost is one.
func (w *Writer) settle(ctx context.Context, b Batch) error {
	places := make([]Place, len(b))
	for i, s := range b {
		places[i] = s.Place
	}
	at, err := positions(ctx, w.Store, places, w.Log)
	if err != nil {
		return err
	}
	for _, s := range b {
		if at[s.Place] != s.End {
			return ErrMoved
		}
	}
	return nil
}

func (w *Writer) insist(ctx context.Context, b Batch) error {
	return insist(ctx, w.Log, func(ctx context.Context) error {
		began := time.Now()
		err := w.Store.Write(ctx, b)
		if err == nil {
			w.Wrote(b, time.Since(began))
		}
		return err
	})
}

// positions asks the store until it answers.
func positions(ctx context.Context, s Store, places []Place, log *slog.Logger) (at map[Place]int64, err error) {
	err = insist(ctx, log, func(ctx context.Context) (err error) {
		at, err = s.Positions(ctx, places)
		return err
	})
	return at, err
}

// insist tries until it has an answer, good or final.
func insist(ctx context.Context, log *slog.Logger, try func(context.Context) error) error {
	for wait, tries := shortestWait, 0; ; wait, tries = min(2*wait, longestWait), tries+1 {
		err := once(ctx, try)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil || errors.Is(err, ErrMoved) || errors.Is(err, ErrOtherLog) || errors.As(err, new(Refused)):
			if tries > 0 {
				log.Info("the store answers again", "tries", tries)
			}
			return err
		case tries == 0:
			log.Warn("the store does not answer; waiting for it", "err", err)
		}
		if err := pause(ctx, wait-time.Duration(rand.Int64N(int64(wait/2)))); err != nil {
			return err
		}
	}
}

func once(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return try(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
