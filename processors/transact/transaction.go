package transact

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (e *engine) begin() error {
	if err := e.gts.Begin(); err != nil {
		return e.broken(err)
	}
	id, epoch, err := e.cl.ProducerID(context.Background())
	if err != nil {
		return e.broken(err)
	}
	e.pid = producerID{id, epoch}
	e.open, e.passed, e.alone, e.cut, e.gather = 0, time.Time{}, nil, false, false
	clear(e.held)
	e.over.Store(e.isStopping())
	e.awaited.Store(false)
	if e.session != nil {
		e.session.forgetLeft()
	}
	return nil
}

func (e *engine) due() bool {
	if e.open == 0 {
		return !e.passed.IsZero() && time.Since(e.passed) >= markersWait
	}
	return e.cut || e.idle() && !e.gather || e.failed.Load() != nil || e.open >= e.cfg.txnRecords() ||
		time.Since(e.began) >= e.cfg.CommitInterval
}

// end commits the open transaction, or aborts it if a callback or an emit has failed. One that has only passed markers
// writes offsets and nothing else, so it leaves no marker in anybody's input.
func (e *engine) end() error {
	if e.open == 0 && e.passed.IsZero() {
		return nil
	}
	if err := e.drain(); err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), e.commitWait())
	defer cancel()
	if e.failed.Load() == nil {
		if err := e.cl.Flush(ctx); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	if f := e.failed.Load(); f != nil {
		return e.abort(ctx, f)
	}
	if e.givenUp(ctx) {
		return e.giveUp(abortRebalance)
	}
	e.cfg.failPoint(Drained)
	committed, err := e.gts.End(kgo.PreTxnCommitFnContext(ctx, e.holdBack), kgo.TryCommit)
	switch {
	case err != nil:
		return e.broken(err)
	case !committed:
		e.rollback(abortRebalance)
		return e.begin()
	}
	return e.committed(began)
}

func (e *engine) commitWait() time.Duration {
	if e.isStopping() {
		return stopWait
	}
	return maxCommitWait
}

// holdBack takes from the offsets to commit what was polled but not handed out.
func (e *engine) holdBack(req *kmsg.TxnOffsetCommitRequest) error {
	for ti := range req.Topics {
		t := &req.Topics[ti]
		for pi := range t.Partitions {
			p := &t.Partitions[pi]
			if r := e.held[topicPartition{t.Topic, p.Partition}]; r != nil {
				p.Offset, p.LeaderEpoch = r.Offset, r.LeaderEpoch
			}
		}
	}
	return nil
}

func (e *engine) committed(began time.Time) error {
	e.cfg.failPoint(Committed)
	if err := e.flushTables(); err != nil {
		return err
	}
	e.cfg.failPoint(Flushed)
	if e.alone != nil && e.held[topicPartition{e.alone.Topic, e.alone.Partition}] != e.alone {
		e.inst.suspects.passed(topicPartition{e.alone.Topic, e.alone.Partition}, e.alone.Offset+1)
	}
	back := map[string]map[int32]kgo.EpochOffset{}
	for tp, r := range e.held {
		if back[tp.topic] == nil {
			back[tp.topic] = map[int32]kgo.EpochOffset{}
		}
		back[tp.topic][tp.partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset}
	}
	e.cl.SetOffsets(back)
	e.inst.meters.committed(e.open, time.Since(began))
	return e.begin()
}

func (e *engine) flushTables() error {
	e.inst.mu.Lock()
	defer e.inst.mu.Unlock()
	for _, t := range e.inst.tables {
		if err := t.commit(); err != nil {
			return err
		}
		e.cfg.failPoint(Flushing)
	}
	return nil
}

// abort undoes the open transaction. Records that are to blame are tried alone next; without any, the client is done.
func (e *engine) abort(ctx context.Context, f *failure) error {
	if len(f.records) == 0 {
		if isFenced(f.err) {
			return e.broken(f.err)
		}
		return f.err
	}
	e.cfg.failPoint(Aborting)
	if _, err := e.gts.End(ctx, kgo.TryAbort); err != nil {
		return e.broken(err)
	}
	records := f.records
	if e.alone != nil {
		records = []*kgo.Record{e.alone}
	}
	e.rollback(abortFailed)
	e.cfg.failPoint(Aborted)
	for _, r := range records {
		s := e.inst.suspects.blame(r, f.err)
		e.cfg.Logger.Warn("transact: record failed", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
			"failures", s.failures, "err", f.err)
	}
	return e.begin()
}

// giveUp aborts whatever is open, and clears what franz-go remembers of a revocation: it would abort the next transaction
// for it.
func (e *engine) giveUp(reason string) error {
	ctx, cancel := context.WithTimeout(context.Background(), maxCommitWait)
	defer cancel()
	if _, err := e.gts.End(ctx, kgo.TryAbort); err != nil {
		return e.broken(err)
	}
	if e.open > 0 {
		e.rollback(reason)
	}
	e.failed.Store(nil)
	return e.begin()
}

// givenUp asks the group, if a rebalance waits for us, whether we are still a member. One that is not has no heartbeat, for
// which franz-go would wait before it ends the transaction, while the loss of the partitions waits for that end.
func (e *engine) givenUp(ctx context.Context) bool {
	if !e.awaited.Load() {
		return false
	}
	id := e.inst.transactionalID()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.InstanceID = e.plan.group, &id
	req.MemberID, req.Generation = e.cl.GroupMetadata()
	resp, err := req.RequestWith(ctx, e.cl)
	return err == nil && resp.ErrorCode != 0 && resp.ErrorCode != kerr.RebalanceInProgress.Code
}

func (e *engine) rollback(reason string) {
	e.inst.mu.Lock()
	defer e.inst.mu.Unlock()
	for _, t := range e.inst.tables {
		t.rollback()
	}
	e.failed.Store(nil)
	e.inst.meters.aborts.WithLabelValues(reason).Inc()
}

// broken gives an error of the transaction's own machinery its meaning. Being fenced may be the coordinator's doing, who
// has given up on a transaction that lasted too long, or that of another instance with our ID. Only the latter is final.
func (e *engine) broken(err error) error {
	if !isFenced(err) {
		return err
	}
	if e.stillOurs() {
		return fmt.Errorf("transaction timed out: %v", err)
	}
	return fmt.Errorf("%w: transactional ID %s: %w", ErrFenced, e.inst.transactionalID(), err)
}

// stillOurs asks the coordinator for a new epoch of the producer that we were: it is granted unless somebody else has
// taken the transactional ID since (KIP-360). A coordinator that cannot be asked is no reason to stop for ever.
func (e *engine) stillOurs() bool {
	ctx, cancel := context.WithTimeout(context.Background(), maxCommitWait)
	defer cancel()
	id := e.inst.transactionalID()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = &id, int32(e.cfg.TransactionTimeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = e.pid.id, e.pid.epoch
	for {
		resp, err := req.RequestWith(ctx, e.cl)
		if err != nil {
			return true
		}
		err = kerr.ErrorForCode(resp.ErrorCode)
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			return !isFenced(err) || errors.Is(err, kerr.InvalidProducerIDMapping) // forgotten after days without a word
		}
		select {
		case <-ctx.Done():
			return true
		case <-time.After(decidedPoll):
		}
	}
}
