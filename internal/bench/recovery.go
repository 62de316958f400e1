package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/topics"
)

// recovery measures how long an instance takes until it decides again: with its local store gone, and with it kept.
func recovery(ctx context.Context, b *bench) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*sideTimeout)
	defer cancel()
	s, err := b.kafka(ctx)
	if err != nil {
		return result{}, err
	}
	defer s.Stop(context.WithoutCancel(ctx))
	t := topics.New(topics.Options{Prefix: "recovery-", Partitions: benchPartitions})
	adm, err := topics.NewAdmin(s.Kafka())
	if err != nil {
		return result{}, err
	}
	defer adm.Close()
	if _, err := topics.Apply(ctx, adm, t, topics.Cluster{}); err != nil {
		return result{}, err
	}
	if err := stockUp(ctx, s.Kafka(), t, b.commands, 200*b.commands); err != nil {
		return result{}, err
	}
	c := childConfig{Side: "millrace", Brokers: s.Kafka(), Prefix: t.Prefix, Dir: filepath.Join(b.dir, "recovery"), Profile: b.profile}
	first, err := b.spawn(c)
	if err != nil {
		return result{}, err
	}
	if err := first.until(ctx, func() (bool, error) { return done(ctx, adm, t, c.Side) }); err != nil {
		return result{}, err
	}
	first.stop()
	r := result{Figures: map[string]float64{"skus": float64(b.commands)}, Ratios: map[string]float64{}}
	for _, how := range []string{"warm", "cold"} {
		var seconds, memory []float64
		for range b.runs {
			if how == "cold" {
				if err := os.RemoveAll(c.Dir); err != nil {
					return r, err
				}
			}
			took, mb, err := b.readyAfter(ctx, c)
			if err != nil {
				return r, fmt.Errorf("%s: %w", how, err)
			}
			seconds, memory = append(seconds, took.Seconds()), append(memory, mb)
		}
		r.Figures[how+"_seconds"], r.Figures[how+"_rss_mb"] = median(seconds), median(memory)
	}
	r.Ratios["cold_vs_warm"] = r.Figures["cold_seconds"] / r.Figures["warm_seconds"]
	return r, nil
}

func (b *bench) readyAfter(ctx context.Context, cfg childConfig) (time.Duration, float64, error) {
	began := time.Now()
	c, err := b.spawn(cfg)
	if err != nil {
		return 0, 0, err
	}
	defer c.stop()
	select {
	case <-c.ready:
		return time.Since(began), residentMB(c.cmd.Process.Pid), nil
	case err := <-c.ended:
		c.ended <- err
		return 0, 0, fmt.Errorf("it ended before it was ready: %w", err)
	case <-ctx.Done():
		return 0, 0, errors.New("it was not ready in time")
	}
}
