package transact

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (e *engine) clientOptions() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(e.cfg.Brokers...),
		kgo.ClientID(e.inst.transactionalID()),
		kgo.TransactionalID(e.inst.transactionalID()),
		kgo.TransactionTimeout(e.cfg.TransactionTimeout),
		kgo.ConsumerGroup(e.plan.group),
		kgo.InstanceID(e.inst.transactionalID()),
		kgo.SessionTimeout(e.cfg.SessionTimeout),
		kgo.HeartbeatInterval(e.cfg.SessionTimeout / 4),
		kgo.Balancers(kgo.RangeBalancer()), // eager, and co-partitioned as goka needs it
		kgo.BlockRebalanceOnPoll(),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.ConcurrentTransactionsBackoff(endedBackoff),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // to pass them: see passMarkers
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(emitLinger),
		kgo.ProducerBatchCompression(e.cfg.Compression...),
		kgo.ProducerBatchMaxBytesFn(e.limits.of),
		kgo.MaxBufferedRecords(maxBufferedEmits),
		kgo.MaxBufferedBytes(maxBufferedBytes),
		kgo.RecordPartitioner(pinned{e.cfg.Partitioner, e.plan.table}),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { e.rebalanced(m, true) }),
		kgo.OnPartitionsRevoked(func(context.Context, *kgo.Client, map[string][]int32) { e.rebalanced(nil, false) }),
		kgo.OnPartitionsLost(func(context.Context, *kgo.Client, map[string][]int32) { e.rebalanced(nil, false) }),
		kgo.OnPartitionsCallbackBlocked(func(context.Context, *kgo.Client) { e.awaited.Store(true) }),
		kgo.OnOffsetsFetched(e.offsetsFetched),
	}
	if e.cfg.FailPoint != nil {
		opts = append(opts, kgo.WithHooks(pointHook{e.cfg.FailPoint}))
	}
	return append(opts, e.cfg.Client...)
}

// pointHook finds the failure points inside franz-go's End.
type pointHook struct{ point func(string) }

func (h pointHook) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == int16(kmsg.EndTxn) && err == nil {
		h.point(EndSent)
	}
}

func (h pointHook) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key == int16(kmsg.TxnOffsetCommit) && e2e.Err() == nil {
		h.point(OffsetsAdded)
	}
}

func (e *engine) rebalanced(assigned map[string][]int32, joined bool) {
	e.mu.Lock()
	e.generation++
	e.assigned, e.joined = assigned, joined
	e.mu.Unlock()
	e.wakeUp()
}

// offsetsFetched looks for partitions that the group has never committed. franz-go would start those somewhere.
func (e *engine) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 && p.Offset < 0 {
					return e.refuse(fmt.Errorf("%w: group %s, %s/%d", ErrNoCommittedOffset, g.Group, t.Topic, p.Partition))
				}
			}
		}
	}
	return nil
}

func (e *engine) refuse(err error) error {
	e.mu.Lock()
	e.refusal = err
	e.mu.Unlock()
	e.wakeUp()
	return err
}
