package transact

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// handOut gives records to their callbacks, or to the dead letters.
func (e *engine) handOut(fetches kgo.Fetches) error {
	fetched := e.passMarkers(fetches)
	if len(fetched) == 0 {
		return nil
	}
	if e.open == 0 {
		e.began = time.Now()
	}
	if len(e.inst.suspects) > 0 {
		return e.handOutPortion(e.inst.suspects.portion(fetched, e.open == 0))
	}
	return e.handOutAll(fetched)
}

// passMarkers answers the records of each partition that has any. Markers of transactions are not handed out, but they
// have offsets, which are committed with the next transaction.
func (e *engine) passMarkers(fetches kgo.Fetches) (fetched [][]*kgo.Record) {
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		records := slices.DeleteFunc(p.Records, isMarker)
		if len(records) < len(p.Records) && e.passed.IsZero() && e.session != nil {
			e.passed = time.Now()
		}
		if len(records) > 0 {
			fetched = join(fetched, records)
		}
	})
	return fetched
}

// join puts the records of a partition that was fetched twice behind those that it has: what one of them holds back holds
// back all after it.
func join(fetched [][]*kgo.Record, records []*kgo.Record) [][]*kgo.Record {
	for i, f := range fetched {
		if f[0].Partition == records[0].Partition && f[0].Topic == records[0].Topic {
			fetched[i] = append(f, records...)
			return fetched
		}
	}
	return append(fetched, records)
}

func isMarker(r *kgo.Record) bool { return r.Attrs.IsControl() }

func (e *engine) handOutAll(fetched [][]*kgo.Record) error {
	for _, records := range fetched {
		if err := e.handPartition(records); err != nil {
			return err
		}
	}
	e.cfg.failPoint(Delivered)
	return nil
}

// handOutPortion ends the transaction after what may be handed out now.
func (e *engine) handOutPortion(p portion) error {
	e.cut, e.held = len(p.held) > 0 || p.alone != nil, p.held
	if p.alone == nil {
		return e.handOutAll(p.hand)
	}
	e.alone = p.alone
	if s := e.inst.suspects.of(p.alone); s.failures >= e.cfg.Attempts {
		e.open++
		return e.deadLetter(p.alone, s.reason)
	}
	return e.handOutAll([][]*kgo.Record{{p.alone}})
}

func (e *engine) handPartition(records []*kgo.Record) error {
	tp := topicPartition{records[0].Topic, records[0].Partition}
	if e.session == nil || e.session.parts[tp] == nil {
		return fmt.Errorf("%w: %v", errUnowned, tp)
	}
	e.open += len(records)
	for batch := range slices.Chunk(records, batchRecords) {
		e.outstanding.Add(int64(len(batch)))
		if err := e.session.parts[tp].hand(batch); err != nil {
			return err
		}
	}
	return nil
}

// refuseRecord dead-letters what Accept has refused, in the transaction of its neighbours.
func (e *engine) refuseRecord(r *kgo.Record, refusal error) *failure {
	if err := e.deadLetter(r, refusal); err != nil {
		return &failure{err: err}
	}
	return nil
}

// deadLetter writes the record that stands for one that is not processed.
func (e *engine) deadLetter(r *kgo.Record, reason error) error {
	poison := &PoisonError{r.Topic, r.Partition, r.Offset, reason}
	if e.cfg.DeadLetter == nil {
		return poison
	}
	letter := e.cfg.DeadLetter(r, reason)
	if letter == nil {
		return poison
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	if err := e.limits.learn(ctx, e.cl, letter.Topic); err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	e.inst.meters.deadLetters.Inc()
	e.gts.Produce(context.Background(), letter, func(_ *kgo.Record, err error) {
		switch {
		case err == nil:
			e.cfg.failPoint(DeadLettered)
		case isRecordsFault(err):
			poison.Reason = fmt.Errorf("%w; its dead letter: %w", reason, err)
			e.fail(&failure{err: poison})
		default:
			e.fail(&failure{err: fmt.Errorf("dead letter: %w", err)})
		}
	})
	return nil
}

// produce buffers an emit into the open transaction. It waits when too much is buffered.
func (e *engine) produce(r *kgo.Record, done func(*kgo.Record, error)) {
	e.gts.Produce(r.Context, r, done)
}

func (e *engine) emitted(r *kgo.Record, err error) {
	if err == nil {
		return
	}
	f := &failure{err: fmt.Errorf("emit to %s: %w", r.Topic, err)}
	if isRecordsFault(err) {
		f.records = r.Context.(*cause).batch
	}
	e.fail(f)
}

func (e *engine) changed(r *kgo.Record, err error) {
	if err == nil {
		r.Context.(*cause).table.produced(r.Offset)
		return
	}
	e.emitted(r, err)
}
