package transact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// engine is one life of an instance's client, which is both the group's consumer and its transactional producer. It ends
// with the first error whose outcome is not known; the next one fences it and reads everything back.
//
// One goroutine runs it. Callbacks run in goka's, one per partition; engine and callbacks take turns: between drain and
// the next hand-out no callback runs, and only there are transactions ended.
type engine struct {
	inst    *Instance
	cfg     Config
	plan    *plan
	gts     *kgo.GroupTransactSession
	cl      *kgo.Client
	handler sarama.ConsumerGroupHandler
	session *session
	pid     producerID
	limits  sizeLimits

	// Given by franz-go's callbacks.
	mu         sync.Mutex
	generation int64
	assigned   map[string][]int32
	joined     bool
	refusal    error // a missing committed offset

	// Shared with callbacks.
	outstanding atomic.Int64 // records handed out whose callbacks have not returned
	progress    chan struct{}
	over        atomic.Bool // callbacks leave the rest to the next transaction
	failed      atomic.Pointer[failure]
	wake        atomic.Pointer[context.CancelFunc]

	// The open transaction.
	open  int // records that it consumes
	began time.Time
	alone *kgo.Record
	cut   bool                           // nothing more may be handed out
	held  map[topicPartition]*kgo.Record // first record of a partition that was polled and is left to the next transaction

	appetite int           // how many records may be outstanding
	stopping chan struct{} // closed when the instance is told to stop
	late     chan struct{} // closed some time later
}

type producerID struct {
	id    int64
	epoch int16
}

var (
	errLeft    = errors.New("goka left the session")
	errLate    = errors.New("callbacks or broker take too long to stop")
	errUnowned = errors.New("record of a partition that is not assigned")
)

// consume runs engines until ctx ends or one finds an error that another would find too.
func (i *Instance) consume(ctx context.Context, h sarama.ConsumerGroupHandler) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, restartWaitMax) {
		began := time.Now()
		err := i.runEngine(ctx, h)
		i.ready.Store(false)
		i.meters.state.Set(stateStopped)
		switch {
		case isTerminal(err):
			i.report(err)
			return err
		case ctx.Err() != nil:
			return nil
		}
		i.cfg.Logger.Warn("transact: begin again", "group", i.plan.group, "ordinal", i.cfg.Ordinal, "err", err)
		i.meters.restarts.Inc()
		if time.Since(began) > 10*restartWaitMax {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (i *Instance) runEngine(ctx context.Context, h sarama.ConsumerGroupHandler) error {
	e, err := i.newEngine(h)
	if err != nil {
		return err
	}
	err = e.run(ctx)
	return errors.Join(err, e.close(err))
}

func (i *Instance) newEngine(h sarama.ConsumerGroupHandler) (*engine, error) {
	e := &engine{
		inst: i, cfg: i.cfg, plan: i.plan, handler: h,
		progress: make(chan struct{}, 1),
		held:     map[topicPartition]*kgo.Record{},
		appetite: maxOutstanding,
		stopping: make(chan struct{}),
		late:     make(chan struct{}),
	}
	gts, err := kgo.NewGroupTransactSession(e.clientOptions()...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	e.gts, e.cl = gts, gts.Client()
	i.current.Store(e)
	i.meters.state.Set(stateJoining)
	return e, nil
}

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
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(e.cfg.Compression...),
		kgo.ProducerBatchMaxBytesFn(e.limits.of),
		kgo.MaxBufferedRecords(maxBufferedEmits),
		kgo.RecordPartitioner(pinned{e.cfg.Partitioner, e.plan.table}),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { e.rebalanced(m, true) }),
		kgo.OnPartitionsRevoked(func(context.Context, *kgo.Client, map[string][]int32) { e.rebalanced(nil, false) }),
		kgo.OnPartitionsLost(func(context.Context, *kgo.Client, map[string][]int32) { e.rebalanced(nil, false) }),
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

func (e *engine) wakeUp() {
	if cancel := e.wake.Load(); cancel != nil {
		(*cancel)()
	}
}

// run is the loop: poll, follow rebalances, hand out, commit.
func (e *engine) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, e.hurry)()
	if err := e.start(ctx); err != nil {
		return err
	}
	for {
		fetches := e.poll(ctx)
		if err := e.refused(fetches); err != nil {
			return err
		}
		moved, err := e.follow()
		if err != nil {
			return err
		}
		if !moved {
			if err := e.handOut(fetches); err != nil {
				return err
			}
		}
		if e.due() || ctx.Err() != nil {
			if err := e.end(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if e.open == 0 {
			e.gts.AllowRebalance()
		}
	}
}

// hurry makes a stop quick: callbacks that have not begun are left to the next life, and a broker that is away is not
// waited for.
func (e *engine) hurry() {
	e.over.Store(true)
	close(e.stopping)
	time.AfterFunc(stopWait, func() { close(e.late) })
}

func (e *engine) isStopping() bool {
	select {
	case <-e.stopping:
		return true
	default:
		return false
	}
}

// start fences the instance's previous life and ends what that left open, before anything is joined or read.
func (e *engine) start(ctx context.Context) error {
	if _, _, err := e.cl.ProducerID(ctx); err != nil {
		return fmt.Errorf("init producer: %w", err)
	}
	e.cfg.failPoint(BeforeBegin)
	if err := e.limits.learn(ctx, e.cl, e.plan.written...); err != nil {
		return err
	}
	if err := e.learnRetention(ctx); err != nil {
		return err
	}
	if err := e.begin(); err != nil {
		return err
	}
	e.cl.AddConsumeTopics(e.plan.streams...)
	return nil
}

// learnRetention asks how old a local store may be.
func (e *engine) learnRetention(ctx context.Context) error {
	if e.plan.table == "" {
		return nil
	}
	m := &topicManager{logReader: logReaderOn(e.cl)}
	ms, err := m.number(ctx, e.plan.table, "delete.retention.ms")
	e.inst.deletions = time.Duration(ms) * time.Millisecond
	return err
}

func (e *engine) begin() error {
	if err := e.gts.Begin(); err != nil {
		return e.broken(err)
	}
	id, epoch, err := e.cl.ProducerID(context.Background())
	if err != nil {
		return e.broken(err)
	}
	e.pid = producerID{id, epoch}
	e.open, e.alone, e.cut = 0, nil, false
	clear(e.held)
	e.over.Store(e.isStopping())
	if e.session != nil {
		e.session.forgetLeft()
	}
	return nil
}

// poll answers what has arrived. While a transaction is open it waits for more only as long as callbacks run and the
// interval is not over; an empty answer means that it is time to commit.
func (e *engine) poll(ctx context.Context) kgo.Fetches {
	if e.open > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, e.began.Add(e.cfg.CommitInterval))
		defer cancel()
		if !e.room(ctx) {
			return nil
		}
	}
	if fetches := e.gts.PollRecords(nil, e.appetite); len(fetches) > 0 { //nolint:staticcheck // nil: what is there, without waiting
		return fetches
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.wake.Store(&cancel)
	if e.idle() || e.isMoved() {
		cancel()
	}
	return e.gts.PollRecords(ctx, e.appetite)
}

// room waits until few enough records are outstanding.
func (e *engine) room(ctx context.Context) bool {
	for e.outstanding.Load() >= int64(e.appetite) {
		select {
		case <-ctx.Done():
			return false
		case <-e.progress:
		case <-e.session.left:
			return false
		}
	}
	return true
}

func (e *engine) idle() bool { return e.open > 0 && e.outstanding.Load() == 0 }

// processed is called by callbacks' goroutines.
func (e *engine) processed(records int) {
	left := e.outstanding.Add(-int64(records))
	select {
	case e.progress <- struct{}{}:
	default:
	}
	if left == 0 {
		e.wakeUp()
	}
}

func (e *engine) fail(f *failure) { e.failed.CompareAndSwap(nil, f) }

// drain waits for the callbacks of all that is handed out. If they take longer than the interval, those that have not
// begun are left to the next transaction: one that outlasts Kafka's patience would be aborted, and repeated, for ever.
func (e *engine) drain() error {
	patience := time.NewTimer(e.cfg.CommitInterval)
	defer patience.Stop()
	for e.outstanding.Load() > 0 {
		select {
		case <-e.progress:
		case <-patience.C:
			e.over.Store(true)
		case <-e.session.left:
			return errLeft
		case <-e.late:
			return errLate
		}
	}
	e.takeLeft()
	return nil
}

// takeLeft holds back what callbacks have left, and asks for less, or for more, the next time.
func (e *engine) takeLeft() {
	left := 0
	for tp, c := range e.session.parts {
		if c.left != nil {
			e.held[tp] = c.left
			left += c.leftRecords
		}
	}
	e.open -= left
	if left > 0 {
		e.appetite = max(minAppetite, min(e.open, e.appetite))
	} else {
		e.appetite = min(2*e.appetite, maxOutstanding)
	}
}

func (e *engine) refused(fetches kgo.Fetches) error {
	e.mu.Lock()
	refusal := e.refusal
	e.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	for _, fe := range fetches.Errors() {
		if errors.Is(fe.Err, context.Canceled) || errors.Is(fe.Err, context.DeadlineExceeded) {
			continue
		}
		if err := fetchError(fe.Topic, fe.Partition, fe.Err); err != nil {
			return err
		}
		e.cfg.Logger.Warn("transact: fetch", "topic", fe.Topic, "partition", fe.Partition, "err", fe.Err)
	}
	return nil
}

func (e *engine) isMoved() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session != nil && e.session.generation != e.generation || e.session == nil && len(e.assigned) > 0
}

// follow gives goka a new session when the assignment has changed. franz-go lets that happen only between AllowRebalance
// and the end of a poll, where no transaction is open; but a member that was given up for dead has lost what it had. What
// the last poll brought is read again.
func (e *engine) follow() (moved bool, err error) {
	if !e.isMoved() {
		e.inst.ready.Store(e.session != nil || e.joinedIdle())
		return false, nil
	}
	e.inst.ready.Store(false)
	if err := e.leaveSession(); err != nil {
		return true, err
	}
	e.mu.Lock()
	generation, assigned := e.generation, e.assigned
	e.mu.Unlock()
	if len(assigned) == 0 {
		return true, nil
	}
	return true, e.enterSession(generation, assigned)
}

// joinedIdle: a member of the group to whom others leave nothing to do.
func (e *engine) joinedIdle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.joined && len(e.assigned) == 0
}

func (e *engine) leaveSession() error {
	if e.session != nil {
		if err := e.drain(); err != nil {
			return err
		}
	}
	if err := e.giveUp(abortRebalance); err != nil {
		return err
	}
	if e.session == nil {
		return nil
	}
	s := e.session
	e.session = nil
	if err := s.stop(); err != nil {
		return fmt.Errorf("stop session: %w", err)
	}
	return nil
}

func (e *engine) enterSession(generation int64, assigned map[string][]int32) error {
	e.inst.meters.state.Set(stateRecovering)
	e.inst.own(assigned)
	began := time.Now()
	s, err := startSession(e, generation, assigned, e.handler)
	if err != nil {
		return e.inst.cause(fmt.Errorf("start session: %w", err))
	}
	e.session = s
	e.inst.meters.recovery.Observe(time.Since(began).Seconds())
	e.inst.meters.state.Set(stateRunning)
	e.inst.ready.Store(true)
	e.inst.suspects = suspects{}
	e.cfg.failPoint(Recovered)
	return nil
}

// handOut gives records to their callbacks, or to the dead letters.
func (e *engine) handOut(fetches kgo.Fetches) error {
	if len(fetches) == 0 || fetches.NumRecords() == 0 {
		return nil
	}
	if e.open == 0 {
		e.began = time.Now()
	}
	var fetched [][]*kgo.Record
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) > 0 {
			fetched = append(fetched, p.Records)
		}
	})
	if len(e.inst.suspects) > 0 {
		return e.handOutPortion(e.inst.suspects.portion(fetched, e.open == 0))
	}
	return e.handOutAll(fetched)
}

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

func (e *engine) due() bool {
	return e.open > 0 && (e.cut || e.idle() || e.failed.Load() != nil || e.open >= e.cfg.txnRecords() ||
		time.Since(e.began) >= e.cfg.CommitInterval)
}

// end commits the open transaction, or aborts it if a callback or an emit has failed.
func (e *engine) end() error {
	if e.open == 0 {
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

// close ends the open transaction if it can, so that readers need not wait for its time-out; then the client, so that no
// callback waits for it; then the session.
func (e *engine) close(cause error) error {
	e.fail(&failure{err: kgo.ErrClientClosed})
	if e.open > 0 && e.outstanding.Load() == 0 && cause != nil && !errors.Is(cause, ErrFenced) {
		ctx, cancel := context.WithTimeout(context.Background(), abortWait)
		defer cancel()
		_, _ = e.gts.End(ctx, kgo.TryAbort) // the next life, or the time-out, does it else
	}
	e.gts.CloseAllowingRebalance()
	if e.session == nil {
		return nil
	}
	return e.session.stop()
}
