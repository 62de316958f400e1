package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/topics"
)

const (
	benchPartitions = 6
	benchSKUs       = 1000
	benchHeapMB     = 1024
	// sideTimeout bounds one side of one run.
	sideTimeout = 10 * time.Minute
)

// benchJVM gives the broker Java's full compiler, and a collector and a young generation for a server: the local stack's
// start sooner and stay small, but stop the broker three times a second for 10 ms, which p99 would show.
var benchJVM = []string{"-XX:TieredStopAtLevel=4", "-XX:-UseSerialGC", "-XX:+UseParallelGC", "-XX:-UseAdaptiveSizePolicy", "-Xms1024m", "-Xmn600m"}

// kafka starts a broker of the bench's own.
func (b *bench) kafka(ctx context.Context) (*local.Stack, error) {
	return local.Start(ctx, local.Options{
		Dir:      filepath.Join(b.dir, fmt.Sprint("kafka-", time.Now().UnixNano())),
		Log:      b.out,
		Kafka:    local.KafkaOptions{Port: 19092, HeapMB: benchHeapMB, JVM: benchJVM},
		Postgres: local.PostgresOptions{Off: true},
	})
}

// reserve measures the inventory processor. The commands are in the log before a side starts; what counts is the log's
// own clock, from the first outcome to the last commit.
func reserve(ctx context.Context, b *bench) (result, error) {
	s, err := b.kafka(ctx)
	if err != nil {
		return result{}, err
	}
	defer s.Stop(context.WithoutCancel(ctx))
	rates := map[string][]float64{}
	for i := range b.runs + 1 { // the first warms the broker's JVM and does not count
		n := b.commands
		if i == 0 {
			n = min(n, 100_000)
		}
		for _, skus := range []int{benchSKUs, 1} {
			for _, side := range []string{"millrace", "goka", "passthrough"} {
				if side == "passthrough" && skus == 1 {
					continue
				}
				r, err := b.reserveOnce(ctx, s.Kafka(), side, skus, n, i)
				if err != nil {
					return result{}, fmt.Errorf("%s on %d SKUs: %w", side, skus, err)
				}
				if i > 0 {
					key := side + map[bool]string{true: "_hot", false: "_uniform"}[skus == 1]
					rates[key] = append(rates[key], r)
					fmt.Fprintf(b.out, "  run %d  %-22s %9.0f commands/s\n", i, key, r)
				}
			}
		}
	}
	return reserveResult(rates), nil
}

func reserveResult(rates map[string][]float64) result {
	r := result{Figures: map[string]float64{}, Ratios: map[string]float64{}}
	for k, v := range rates {
		r.Figures[k+"_per_second"] = math.Round(median(v))
	}
	r.Ratios["uniform_vs_goka"] = median(rates["millrace_uniform"]) / median(rates["goka_uniform"])
	r.Ratios["hot_vs_goka"] = median(rates["millrace_hot"]) / median(rates["goka_hot"])
	r.Ratios["uniform_vs_passthrough"] = median(rates["millrace_uniform"]) / median(rates["passthrough_uniform"])
	return r
}

// reserveOnce runs one side over topics of its own and checks every outcome.
func (b *bench) reserveOnce(ctx context.Context, brokers []string, side string, skus, n, run int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	t := topics.New(topics.Options{Prefix: fmt.Sprintf("%s-%d-%d-", side, skus, run), Partitions: benchPartitions})
	adm, err := topics.NewAdmin(brokers)
	if err != nil {
		return 0, err
	}
	defer adm.Close()
	if _, err := topics.Apply(ctx, adm, t, topics.Cluster{}); err != nil {
		return 0, err
	}
	cfg := childConfig{Side: side, Brokers: brokers, Prefix: t.Prefix, Dir: filepath.Join(b.dir, t.Prefix)}
	if side != "passthrough" {
		if err := stockUp(ctx, brokers, t, skus, n); err != nil {
			return 0, err
		}
		if err := b.runUntilDone(ctx, adm, t, cfg); err != nil {
			return 0, err
		}
	}
	if err := preload(ctx, brokers, t, skus, n); err != nil {
		return 0, err
	}
	cfg.Profile = b.profile
	if err := b.runUntilDone(ctx, adm, t, cfg); err != nil {
		return 0, err
	}
	rate, err := outcomes(ctx, brokers, t, side, skus, n)
	if err == nil {
		err = forget(ctx, adm, t)
	}
	return rate, err
}

func (b *bench) runUntilDone(ctx context.Context, adm *kadm.Client, t *topics.Table, cfg childConfig) error {
	c, err := b.spawn(cfg)
	if err != nil {
		return err
	}
	defer c.stop()
	return c.until(ctx, func() (bool, error) { return done(ctx, adm, t, cfg.Side) })
}

// stockUp receives stock for half of the commands.
func stockUp(ctx context.Context, brokers []string, t *topics.Table, skus, n int) error {
	return produce(ctx, brokers, skus, func(i int) *kgo.Record {
		cmd := &inventoryv1.InventoryCommand{
			Sku: benchSKU(i), RequestId: uuid.Must(uuid.NewV7()).String(), ActorId: "bench",
			Command: &inventoryv1.InventoryCommand_Receive{Receive: &inventoryv1.ReceiveStock{Quantity: int64(n / skus / 2)}},
		}
		return t.InventoryCommands.Record(cmd, topics.Fresh("/bench", ""))
	})
}

// preload writes the commands.
func preload(ctx context.Context, brokers []string, t *topics.Table, skus, n int) error {
	order := uuid.New()
	return produce(ctx, brokers, n, func(i int) *kgo.Record {
		order[15], order[14], order[13] = byte(i), byte(i>>8), byte(i>>16)
		m := &inventoryv1.Reservation{Sku: benchSKU(i % skus), OrderId: order.String(), Line: 1, Quantity: 1, Step: inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE}
		return t.Reservations.Record(m, topics.Fresh("/bench", ""))
	})
}

// produce writes n records and waits until all are acknowledged.
func produce(ctx context.Context, brokers []string, n int, record func(i int) *kgo.Record) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(topics.Partitioner()),
		kgo.MaxBufferedRecords(200_000), kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	var firstErr error
	for i := range n {
		cl.Produce(ctx, record(i), func(_ *kgo.Record, err error) {
			if err != nil && firstErr == nil { // callbacks of one client come one at a time
				firstErr = err
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	return firstErr
}

func benchSKU(i int) string { return fmt.Sprintf("SKU-%07d", i) }

// done says whether the side has committed all it was given.
func done(ctx context.Context, adm *kadm.Client, t *topics.Table, side string) (bool, error) {
	group := t.Group(topics.InventoryGroup)
	inputs := []string{t.Reservations.Name, t.InventoryCommands.Name}
	if side == "passthrough" {
		inputs = inputs[:1]
	}
	ends, err := adm.ListEndOffsets(ctx, inputs...)
	if err != nil {
		return false, err
	}
	offsets, err := adm.FetchOffsets(ctx, group)
	if err != nil {
		return false, err
	}
	all := true
	ends.Each(func(o kadm.ListedOffset) {
		at, ok := offsets.Lookup(o.Topic, o.Partition)
		all = all && ok && at.At >= o.Offset
	})
	return all, ends.Error()
}

// outcomes reads what the side committed: each command must have exactly one outcome, and half of them the stock. The
// rate is by the log's clock.
func outcomes(ctx context.Context, brokers []string, t *topics.Table, side string, skus, n int) (float64, error) {
	var first, last time.Time
	var count, held int
	seen := make(map[string]struct{}, n)
	err := readAll(ctx, brokers, t.InventoryEvents.Topic, func(r *kgo.Record) error {
		if r.Timestamp.After(last) {
			last = r.Timestamp
		}
		if r.Attrs.IsControl() {
			return nil
		}
		if topics.Header(r, topics.HeaderCauseTopic) != t.Reservations.Name {
			return nil
		}
		if first.IsZero() || r.Timestamp.Before(first) {
			first = r.Timestamp
		}
		count++
		seen[topics.Header(r, topics.HeaderCausePartition)+"/"+topics.Header(r, topics.HeaderCauseOffset)] = struct{}{}
		e := &inventoryv1.InventoryEvent{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return err
		}
		if e.GetChange() == inventoryv1.InventoryChange_INVENTORY_CHANGE_RESERVED {
			held++
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case count != n || len(seen) != n:
		return 0, fmt.Errorf("%d commands have %d outcomes, of %d commands", n, count, len(seen))
	case side != "passthrough" && held != n/skus/2*skus:
		return 0, fmt.Errorf("%d were held, there was stock for %d", held, n/skus/2*skus)
	case !last.After(first):
		return 0, errors.New("it took no time")
	}
	return float64(n) / last.Sub(first).Seconds(), nil
}

// readAll gives every committed record of a topic, and the markers.
func readAll(ctx context.Context, brokers []string, topic topics.Topic, each func(*kgo.Record) error) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic.Name)
	if err != nil {
		return err
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return err
		}
		for it := fs.RecordIter(); !it.Done(); {
			r := it.Next()
			if err := each(r); err != nil {
				return err
			}
			if r.Offset >= left[r.Partition]-1 {
				delete(left, r.Partition)
			}
		}
	}
	return nil
}

// forget deletes a run's topics, so that the next one finds the disk as this one did.
func forget(ctx context.Context, adm *kadm.Client, t *topics.Table) error {
	var all []string
	for _, topic := range t.All() {
		all = append(all, topic.Name)
	}
	_, err := adm.DeleteTopics(ctx, all...)
	return err
}
