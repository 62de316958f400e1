package transact

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"
)

// session is what goka takes for a sarama consumer group session: the time between two rebalances. Goka's partition
// processors live as long, and their tables.
type session struct {
	engine     *engine
	generation int64
	claims     map[string][]int32
	parts      map[topicPartition]*claim
	handler    sarama.ConsumerGroupHandler

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	left   chan struct{} // closed when a claim is left before the session ends
	once   sync.Once
}

type topicPartition struct {
	topic     string
	partition int32
}

func (t topicPartition) String() string { return fmt.Sprintf("%s/%d", t.topic, t.partition) }

// claimBatches is how many batches may wait for one partition of one input.
const claimBatches = 64

// startSession lets goka read its tables back, unless ctx ends before, and stand by for records.
func startSession(ctx context.Context, e *engine, generation int64, claims map[string][]int32, h sarama.ConsumerGroupHandler) (*session, error) {
	s := &session{engine: e, generation: generation, claims: claims, handler: h, parts: map[topicPartition]*claim{}, left: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	untie := context.AfterFunc(ctx, s.cancel)
	err := h.Setup(s)
	if !untie() { // goka takes a table that it was told not to read on for one that is read back
		err = errors.Join(err, ctx.Err())
	}
	if err == nil {
		err = e.inst.readBack()
	}
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	for topic, partitions := range claims {
		for _, p := range partitions {
			s.add(topic, p)
		}
	}
	return s, nil
}

func (s *session) add(topic string, partition int32) {
	c := &claim{
		topicPartition: topicPartition{topic, partition},
		session:        s,
		in:             s.engine.plan.inputs[topic],
		table:          s.engine.inst.table(partition),
		queue:          make(chan []*kgo.Record, claimBatches),
		messages:       make(chan *sarama.ConsumerMessage, claimBatches),
	}
	c.signal = &sarama.ConsumerMessage{Topic: topic, Partition: partition}
	c.context = callbackContext{engine: s.engine, claim: c}
	s.parts[c.topicPartition] = c
	s.wg.Go(func() {
		err := s.handler.ConsumeClaim(s, c)
		if s.ctx.Err() == nil {
			s.engine.inst.cfg.Logger.Error("transact: goka left a claim", "claim", c.topicPartition.String(), "err", err)
			s.once.Do(func() { close(s.left) })
		}
	})
}

// stop ends goka's partition processors and closes their tables.
func (s *session) stop() error {
	s.cancel()
	s.wg.Wait()
	return s.handler.Cleanup(s)
}

func (s *session) Claims() map[string][]int32 { return s.claims }
func (s *session) MemberID() string           { id, _ := s.engine.cl.GroupMetadata(); return id }
func (s *session) GenerationID() int32        { _, g := s.engine.cl.GroupMetadata(); return g }
func (s *session) Context() context.Context   { return s.ctx }

// Offsets are those of the transaction, not what goka marks.
func (s *session) MarkOffset(string, int32, int64, string)     {}
func (s *session) ResetOffset(string, int32, int64, string)    {}
func (s *session) MarkMessage(*sarama.ConsumerMessage, string) {}
func (s *session) Commit()                                     {}

// claim is one partition of one input. What goka gets as its messages are signals that a batch waits in the queue: one
// passage through goka's channels, and one of its contexts, for many records.
type claim struct {
	topicPartition
	session  *session
	in       input
	table    *table
	queue    chan []*kgo.Record
	messages chan *sarama.ConsumerMessage
	signal   *sarama.ConsumerMessage
	context  callbackContext

	// What callbacks have left to the next transaction: the first record, and how many there are.
	left        *kgo.Record
	leftRecords int
}

func (c *claim) Topic() string                            { return c.topic }
func (c *claim) Partition() int32                         { return c.partition }
func (c *claim) InitialOffset() int64                     { return noOffset }
func (c *claim) HighWaterMarkOffset() int64               { return 0 }
func (c *claim) Messages() <-chan *sarama.ConsumerMessage { return c.messages }

// hand gives a batch to goka. It waits while there are too many, unless goka has left.
func (c *claim) hand(batch []*kgo.Record) error {
	if err := push(c.session, c.queue, batch); err != nil {
		return err
	}
	return push(c.session, c.messages, c.signal)
}

// push waits for room. When the transaction has lasted long enough, callbacks leave what they have not begun to the next one,
// which makes room at once.
func push[T any](s *session, to chan<- T, what T) error {
	select {
	case to <- what:
		return nil
	default:
	}
	patience := time.NewTimer(s.engine.cfg.CommitInterval - time.Since(s.engine.began))
	defer patience.Stop()
	for {
		select {
		case to <- what:
			return nil
		case <-patience.C:
			s.engine.over.Store(true)
		case <-s.left:
			return errLeft
		case <-s.engine.late:
			return errLate
		}
	}
}

// callback is what goka runs when it is told of a batch.
func (i *Instance) callback(in input) goka.ProcessCallback {
	return func(gctx goka.Context, _ any) {
		e := i.current.Load()
		e.session.parts[topicPartition{in.topic, gctx.Partition()}].work(gctx)
	}
}

// work runs the graph's callback for each record of a batch, until one fails: then the transaction is lost, and with it
// the rest.
func (c *claim) work(gctx goka.Context) {
	batch := <-c.queue
	e := c.session.engine
	if _, ours := gctx.(batchContext); !ours {
		e.fail(&failure{err: fmt.Errorf("%w: goka.WithContextWrapper", ErrUnsupported)})
	}
	c.context.startBatch(gctx, batch)
	for n, r := range batch {
		if e.failed.Load() != nil {
			break
		}
		if e.over.Load() {
			c.leave(batch[n:])
			break
		}
		if f := c.run(r); f != nil {
			e.fail(f)
			break
		}
	}
	e.processed(len(batch))
}

func (c *claim) leave(records []*kgo.Record) {
	if c.left == nil {
		c.left = records[0]
	}
	c.leftRecords += len(records)
}

func (s *session) forgetLeft() {
	for _, c := range s.parts {
		c.left, c.leftRecords = nil, 0
	}
}

func (c *claim) run(r *kgo.Record) (f *failure) {
	defer func() {
		if p := recover(); p != nil {
			f = recovered(r, p)
		}
	}()
	if accept := c.session.engine.cfg.Accept; accept != nil {
		if refusal := accept(r); refusal != nil {
			return c.session.engine.refuseRecord(r, refusal)
		}
	}
	c.context.startRecord(r)
	var msg any
	if r.Value != nil {
		var err error
		if msg, err = c.in.codec.Decode(r.Value); err != nil {
			return stopFailure(r, &CallbackError{Cause: fmt.Errorf("decode: %w", err)})
		}
	}
	c.in.callback(&c.context, msg)
	if c.context.stopped != nil { // the callback recovered, which it must not
		return stopFailure(r, c.context.stopped)
	}
	return nil
}
