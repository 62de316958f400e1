package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/topics"
)

const (
	latencyRate    = 500 // commands a second
	latencySeconds = 20
	latencyWarmup  = 5 // of them, not counted
)

// latency measures one hop at a steady low load: from producing a command until a read-committed reader has its outcome.
func latency(ctx context.Context, b *bench) (result, error) {
	s, err := b.kafka(ctx)
	if err != nil {
		return result{}, err
	}
	defer s.Stop(context.WithoutCancel(ctx))
	r := result{Figures: map[string]float64{}, Ratios: map[string]float64{}}
	for _, side := range []string{"millrace", "goka"} {
		var p50, p99 []float64
		for i := range b.runs + 1 { // the first warms the broker's JVM and does not count
			ms, err := b.latencyOnce(ctx, s.Kafka(), side, i)
			if err != nil {
				return r, fmt.Errorf("%s: %w", side, err)
			}
			if i > 0 {
				p50, p99 = append(p50, quantile(ms, 0.5)), append(p99, quantile(ms, 0.99))
			}
			fmt.Fprintf(b.out, "  run %d  %-9s p50 %6.1f ms  p99 %6.1f ms\n", i, side, quantile(ms, 0.5), quantile(ms, 0.99))
		}
		r.Figures[side+"_p50_ms"], r.Figures[side+"_p99_ms"] = median(p50), median(p99)
	}
	r.Ratios["goka_p50_vs_millrace"] = r.Figures["goka_p50_ms"] / r.Figures["millrace_p50_ms"]
	r.Ratios["goka_p99_vs_millrace"] = r.Figures["goka_p99_ms"] / r.Figures["millrace_p99_ms"]
	return r, nil
}

func (b *bench) latencyOnce(ctx context.Context, brokers []string, side string, run int) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	t := topics.New(topics.Options{Prefix: fmt.Sprintf("latency-%s-%d-", side, run), Partitions: benchPartitions})
	adm, err := topics.NewAdmin(brokers)
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	if _, err := topics.Apply(ctx, adm, t, topics.Cluster{}); err != nil {
		return nil, err
	}
	if err := stockUp(ctx, brokers, t, benchSKUs, 1000*benchSKUs); err != nil {
		return nil, err
	}
	c, err := b.spawn(childConfig{Side: side, Brokers: brokers, Prefix: t.Prefix, Dir: filepath.Join(b.dir, t.Prefix)})
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := c.until(ctx, func() (bool, error) { return done(ctx, adm, t, side) }); err != nil {
		return nil, err
	}
	ms, err := pace(ctx, brokers, t)
	if err == nil {
		c.stop()
		err = forget(ctx, adm, t)
	}
	return ms, err
}

// pace produces at a fixed rate and returns the milliseconds until each outcome was seen.
func pace(ctx context.Context, brokers []string, t *topics.Table) ([]float64, error) {
	reader, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(t.InventoryEvents.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	writer, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(topics.Partitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	var mu sync.Mutex
	sent := map[string]time.Time{}
	const total, counted = latencyRate * latencySeconds, latencyRate * (latencySeconds - latencyWarmup)
	go func() {
		for i := range total {
			if ctx.Err() != nil {
				return
			}
			if i > 0 {
				time.Sleep(time.Until(startOf(sent, &mu).Add(time.Duration(i) * time.Second / latencyRate)))
			}
			stamp := topics.Fresh("/bench", "")
			m := &inventoryv1.Reservation{Sku: benchSKU(i % benchSKUs), OrderId: uuid.NewString(), Line: 1, Quantity: 1, Step: inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE}
			now := time.Now()
			mu.Lock()
			if i == 0 {
				sent[""] = now
			}
			if i >= total-counted {
				sent[stamp.ID] = now
			}
			mu.Unlock()
			writer.Produce(ctx, t.Reservations.Record(m, stamp), nil)
		}
	}()
	ms := make([]float64, 0, counted)
	for len(ms) < counted {
		fs := reader.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return nil, err
		}
		now := time.Now()
		mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			id := topics.Header(r, topics.HeaderCauseID)
			if at, ok := sent[id]; ok {
				ms = append(ms, float64(now.Sub(at).Microseconds())/1000)
				delete(sent, id)
			}
		})
		mu.Unlock()
	}
	return ms, nil
}

func startOf(sent map[string]time.Time, mu *sync.Mutex) time.Time {
	mu.Lock()
	defer mu.Unlock()
	return sent[""]
}
