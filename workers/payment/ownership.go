package payment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// leave gives partitions up in good order: nothing new begins, what runs may end (for a while), and what is finished is
// committed before the next owner starts.
func (w *Worker) leave(taken map[string][]int32) {
	w.release(taken[w.cfg.Topics.PaymentRequests.Name])
}

func (w *Worker) release(numbers []int32) {
	leaving, others := w.closeDoors(numbers)
	late := time.NewTimer(w.cfg.Drain)
	defer late.Stop()
	for _, p := range leaving {
		select {
		case <-p.quiet:
		case <-late.C:
			late.Reset(0) // the others get no more time either
		}
		p.end() // a call that is cut off here may have happened: the next owner's key finds out
	}
	if len(leaving) > 0 {
		w.commit(leaving)
	}
	w.forget(leaving)
	await(others)
}

// drop forgets partitions that are another's already: committing would be refused.
func (w *Worker) drop(lost map[string][]int32) {
	leaving, others := w.closeDoors(lost[w.cfg.Topics.PaymentRequests.Name])
	for _, p := range slices.Concat(leaving, others) {
		p.end()
	}
	w.forget(leaving)
	await(others)
}

// await is for partitions that a stop and a rebalance take away at the same time. The rebalance waits for the stop's
// commit: after the next owner's first one, it would set the group back.
func await(others []*partition) {
	for _, p := range others {
		<-p.gone
	}
}

// closeDoors lets nothing more begin. It tells partitions that are leaving now from those that somebody else lets go.
func (w *Worker) closeDoors(numbers []int32) (leaving, others []*partition) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range numbers {
		p := w.partitions[n]
		switch {
		case p == nil:
			continue
		case p.leaving:
			others = append(others, p)
			continue
		}
		p.leaving = true
		if p.running == 0 {
			close(p.quiet)
		}
		leaving = append(leaving, p)
	}
	return leaving, others
}

func (w *Worker) forget(left []*partition) {
	w.settle(func() {
		for _, p := range left {
			delete(w.partitions, p.number)
			w.metrics.gone(p.number)
			close(p.gone)
		}
	})
}

func (w *Worker) owned() []int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var numbers []int32
	for n := range w.partitions {
		numbers = append(numbers, n)
	}
	return numbers
}

// commitAlong commits what is finished, now and then.
func (w *Worker) commitAlong(ctx context.Context) {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !w.commit(nil) {
				tick.Reset(patience) // Kafka is away: no need to say so ten times a second
				continue
			}
			tick.Reset(commitEvery)
		}
	}
}

// commit commits the finished prefixes of these partitions, or of all that stay, and says whether Kafka could be asked.
func (w *Worker) commit(these []*partition) bool {
	w.commits.Lock()
	defer w.commits.Unlock()
	offsets, moved := w.finished(these)
	if len(offsets) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := w.send(ctx, offsets)
	for errors.Is(err, kerr.RebalanceInProgress) && these != nil && ctx.Err() == nil {
		time.Sleep(commitEvery) // partitions that leave have no other chance
		err = w.send(ctx, offsets)
	}
	if err == nil {
		return true
	}
	w.again(moved)
	switch {
	case errors.Is(err, kerr.RebalanceInProgress):
		return true
	case errors.Is(err, kerr.FencedInstanceID):
		w.stop(fmt.Errorf("%w: %w", ErrFenced, err))
	default:
		w.cfg.Log.Warn("payment: commit", "error", err)
	}
	return false
}

func (w *Worker) send(ctx context.Context, offsets map[int32]kgo.EpochOffset) (failed error) {
	w.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{w.cfg.Topics.PaymentRequests.Name: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			failed = errors.Join(err, partitionErrors(resp))
		})
	return failed
}

func (w *Worker) finished(these []*partition) (map[int32]kgo.EpochOffset, []*partition) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if these == nil {
		for _, p := range w.partitions {
			if !p.leaving {
				these = append(these, p)
			}
		}
	}
	offsets, moved := map[int32]kgo.EpochOffset{}, these[:0:0]
	for _, p := range these {
		if next, news := p.progress.take(); news {
			offsets[p.number] = next
			moved = append(moved, p)
		}
	}
	return offsets, moved
}

// again keeps a failed commit's partitions for the next one.
func (w *Worker) again(moved []*partition) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range moved {
		p.progress.news = true
	}
}

func partitionErrors(resp *kmsg.OffsetCommitResponse) error {
	if resp == nil {
		return nil
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}
