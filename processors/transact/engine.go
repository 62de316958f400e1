package transact

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
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
	awaited     atomic.Bool // a rebalance waits for the transaction's end

	// The open transaction.
	open   int // records that it consumes
	began  time.Time
	passed time.Time // when the first marker since the last commit was passed; zero: there is none
	alone  *kgo.Record
	cut    bool                           // nothing more may be handed out
	gather bool                           // it began with what had been fetched before: the broker may have more by now
	held   map[topicPartition]*kgo.Record // first record of a partition that was polled and is left to the next transaction

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
	defer context.AfterFunc(ctx, i.stopReading)()
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
		moved, err := e.follow(ctx)
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

// hurry makes a stop quick: callbacks that have not begun are left to the next life, and what runs, or a broker that is
// away, is waited for no longer than stopWait. That a table is not read on is startSession's doing.
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

// poll answers what has arrived. While a transaction is open it waits for more only as long as callbacks run and the
// interval is not over, and once, at its beginning, for gatherWait, whether they run or not; then due tells whether it is
// time to commit. While only markers were passed, it waits until their offsets are due.
//
// franz-go fetches again only when what it fetched was taken. What a transaction finds there when it begins is therefore
// as old as the transaction before it, and what came since, if anything, is still at the broker: it gets gatherWait to
// arrive. Without, each record would wait for one transaction more; with it, the markers of the last one are written
// meanwhile.
func (e *engine) poll(ctx context.Context) kgo.Fetches {
	if e.open > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, e.began.Add(e.cfg.CommitInterval))
		defer cancel()
		if !e.room(ctx) {
			return nil
		}
	} else if !e.passed.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, e.passed.Add(markersWait))
		defer cancel()
	}
	//lint:ignore SA1012 nil asks for what is there, without waiting
	if fetches := e.gts.PollRecords(nil, e.appetite); len(fetches) > 0 {
		e.gather = e.open == 0
		return fetches
	}
	if e.gather {
		e.gather = false
		ctx, cancel := context.WithTimeout(ctx, gatherWait)
		defer cancel()
		return e.gts.PollRecords(ctx, e.appetite)
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
			e.cut = true // drain says so
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
