package timers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

// What ends a worker for good; trying again does not help, a person must.
var (
	// ErrFenced: another instance runs with the same ordinal.
	ErrFenced = errors.New("fenced: another instance runs with the same ordinal")
	// ErrOffset: a partition has no committed offset (topics apply commits the first), or one that its log does not
	// have. Guessing would set off old timers again, or skip some.
	ErrOffset = errors.New("no committed offset, or one that the log does not have")
)

const source = "/workers/timers"

// A Worker is one instance of the group.
type Worker struct {
	cfg     Config
	kinds   map[string]kind // by topic
	metrics *metrics

	mu    sync.Mutex // the loop's, and a rebalance's while the loop polls
	lines lines
}

// A kind is one of the delays.
type kind struct {
	name  string
	delay orderv1.OrderDelay
	topic topics.Of[*orderv1.OrderTimer]
}

// New makes a worker. It joins the group when it runs.
func New(cfg Config) (*Worker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, kinds: kindsOf(cfg.Topics), metrics: newMetrics(), lines: lines{}}
	if err := w.metrics.register(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("timers: metrics: %w", err)
	}
	return w, nil
}

func kindsOf(t *topics.Table) map[string]kind {
	kinds := map[string]kind{}
	for _, d := range []orderv1.OrderDelay{
		orderv1.OrderDelay_ORDER_DELAY_PAYMENT, orderv1.OrderDelay_ORDER_DELAY_POLL,
		orderv1.OrderDelay_ORDER_DELAY_RETRY, orderv1.OrderDelay_ORDER_DELAY_FORGET,
	} {
		topic := t.Delayed(d)
		kinds[topic.Name] = kind{name: strings.ToLower(strings.TrimPrefix(d.String(), "ORDER_DELAY_")), delay: d, topic: topic}
	}
	return kinds
}

// Run works until ctx ends, which is no error, or until something happens that a person must look at. A session that
// breaks otherwise is begun anew: what it had not committed is read again.
func (w *Worker) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := w.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrFenced) || errors.Is(err, ErrOffset) {
			return fmt.Errorf("timers: %w", err)
		}
		w.cfg.Log.Warn("timers: begin a new session", "error", err)
		pause(ctx, rest)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (w *Worker) session(ctx context.Context) error {
	w.mu.Lock()
	w.lines = lines{}
	w.mu.Unlock()
	session, err := kgo.NewGroupTransactSession(w.options()...)
	if err != nil {
		return err
	}
	defer session.CloseAllowingRebalance()
	earliest := time.Now()
	for ctx.Err() == nil {
		if err := w.read(ctx, session, earliest); err != nil {
			return err
		}
		fired, err := w.fire(ctx, session)
		session.AllowRebalance()
		if err != nil {
			return err
		}
		if fired {
			earliest = time.Now().Add(pace)
		}
	}
	return nil
}

func (w *Worker) options() []kgo.Opt {
	var names []string
	for name := range w.kinds {
		names = append(names, name)
	}
	return []kgo.Opt{
		kgo.SeedBrokers(w.cfg.Brokers...),
		kgo.ClientID(w.cfg.instance()),
		kgo.ConsumerGroup(w.cfg.Topics.Group(topics.TimersGroup)),
		kgo.InstanceID(w.cfg.instance()), // a restart takes its partitions back without a rebalance
		kgo.SessionTimeout(w.cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(w.cfg.SessionTimeout/3, 3*time.Second)),
		kgo.ConsumeTopics(names...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxPartitionBytes(256 << 10),
		kgo.FetchMaxBytes(8 << 20),
		kgo.FetchMaxWait(longestWait),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), // what was polled stays ours until its transaction has ended
		kgo.OnPartitionsRevoked(func(_ context.Context, cl *kgo.Client, taken map[string][]int32) { w.leave(cl, taken) }),
		kgo.OnPartitionsLost(func(_ context.Context, cl *kgo.Client, lost map[string][]int32) { w.leave(cl, lost) }),
		kgo.AdjustFetchOffsetsFn(w.arrive),
		kgo.TransactionalID(w.cfg.instance()),
		kgo.TransactionTimeout(transactionTimeout),
		kgo.RecordPartitioner(topics.Partitioner()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(topics.MaxDeadLetterBytes),
	}
}

func (w *Worker) leave(cl *kgo.Client, gone map[string][]int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines.drop(gone)
	cl.ResumeFetchPartitions(gone) // should they come back
}

// leaveUnsaid lets go of the partitions that went without a word: the session tells of the first rebalance after a
// transaction, and of no other before the next.
func (w *Worker) leaveUnsaid(cl *kgo.Client) {
	ours := cl.CommittedOffsets() // has an entry for every partition that is ours
	w.mu.Lock()
	gone := w.lines.except(ours)
	w.mu.Unlock()
	if len(gone) > 0 {
		w.leave(cl, gone)
	}
}

// arrive looks at the partitions that are about to be ours. One that went without a word, and is back, still has its line,
// of which another instance may have set off the beginning.
func (w *Worker) arrive(_ context.Context, committed map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	b := batchOf{offsets: map[place]kgo.EpochOffset{}}
	for topic, partitions := range committed {
		for n, at := range partitions {
			b.offsets[place{topic, n}] = at.EpochOffset()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines.gone(b)
	return committed, nil
}

// read waits until something is due, no earlier than earliest, and takes in what comes meanwhile.
func (w *Worker) read(ctx context.Context, session *kgo.GroupTransactSession, earliest time.Time) error {
	polling, cancel := context.WithDeadline(ctx, w.until(earliest))
	defer cancel()
	fetches := session.PollRecords(polling, batch)
	now := time.Now()
	w.mu.Lock()
	fetches.EachRecord(func(r *kgo.Record) { w.take(r, now) })
	stop, resume := w.lines.steer()
	w.metrics.heads(w.lines, w.kinds, now)
	w.mu.Unlock()
	if len(stop) > 0 {
		session.Client().PauseFetchPartitions(stop)
	}
	if len(resume) > 0 {
		session.Client().ResumeFetchPartitions(resume)
	}
	return w.fetchErrors(fetches)
}

// until is the end of a poll; a poll whose time has passed already would not even look.
func (w *Worker) until(earliest time.Time) time.Time {
	now := time.Now()
	w.mu.Lock()
	at := w.lines.wake(now.Add(longestWait))
	w.mu.Unlock()
	for _, t := range []time.Time{earliest, now.Add(time.Millisecond)} {
		if at.Before(t) {
			at = t
		}
	}
	return at
}

func (w *Worker) fetchErrors(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		var loss *kgo.ErrDataLoss
		switch {
		case errors.Is(e.Err, context.DeadlineExceeded), errors.Is(e.Err, context.Canceled):
		case errors.Is(e.Err, kerr.OffsetOutOfRange), errors.As(e.Err, &loss), isUncommitted(e.Err):
			return fmt.Errorf("%s/%d: %w: %v", e.Topic, e.Partition, ErrOffset, e.Err)
		case errors.Is(e.Err, kgo.ErrClientClosed):
			return e.Err
		default:
			if err := fenced(e.Err); errors.Is(err, ErrFenced) || e.Topic != "" {
				return err // what names a partition has let it go: only a new client reads it again
			}
			w.cfg.Log.Warn("timers: fetch", "error", e.Err) // the client goes on by itself
		}
	}
	return nil
}

// isUncommitted knows franz-go's error for a partition without a committed offset, which has no exported name.
func isUncommitted(err error) bool { return strings.Contains(err.Error(), "no prior committed offset") }

// fenced gives a name to the error that tells of another instance: it took our place in the group. A producer that is
// fenced may just have slept in a transaction, which the broker then ended; it begins anew, and if another instance was
// the cause, one of the two loses its place in the group.
func fenced(err error) error {
	if errors.Is(err, kerr.FencedInstanceID) {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}

// take is the door: behind it, a record is a timer of its topic, or to be dead-lettered.
func (w *Worker) take(r *kgo.Record, now time.Time) {
	if r.Attrs.IsControl() {
		w.lines.pass(r, now)
		return
	}
	k := w.kinds[r.Topic]
	timer, err := k.timer(r)
	if err != nil {
		var rej topics.Rejection
		if !errors.As(err, &rej) {
			rej = topics.Rejection{Reason: topics.Invalid, Detail: err.Error()}
		}
		w.lines.put(waiting{record: r, rejection: rej})
		return
	}
	w.lines.put(waiting{record: r, timer: timer, due: r.Timestamp.Add(k.topic.Delay)})
}

func (k kind) timer(r *kgo.Record) (*orderv1.OrderTimer, error) {
	if err := k.topic.Check(r); err != nil {
		return nil, err
	}
	t, err := k.topic.Decode(r.Key, r.Value)
	switch {
	case err != nil:
		return nil, err
	case t.OrderId == "":
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: "the timer names no order"}
	case t.Delay != k.delay:
		return nil, topics.Rejection{Reason: topics.Invalid, Detail: fmt.Sprintf("a timer of %v in the topic of %v", t.Delay, k.delay)}
	}
	return t, nil
}

// fire sets off what is due, in one transaction, and says whether there was one.
func (w *Worker) fire(ctx context.Context, session *kgo.GroupTransactSession) (bool, error) {
	w.leaveUnsaid(session.Client())
	w.mu.Lock()
	b := w.lines.due(time.Now(), batch)
	w.mu.Unlock()
	if b.empty() {
		return false, nil
	}
	committed, err := w.transact(session, b)
	if err != nil {
		return true, fenced(err)
	}
	if !committed {
		w.metrics.aborts.Inc()
		pause(ctx, rest)
		return true, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines.gone(b)
	w.metrics.fired(b, w.kinds, time.Now())
	return true, nil
}

// transact writes a batch. An abort leaves everything as it was, to be tried again; after an error the session is done.
// It does not end with the worker's context: a transaction that was begun is ended.
func (w *Worker) transact(session *kgo.GroupTransactSession, b batchOf) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := session.Begin(); err != nil {
		return false, err
	}
	var first error
	var once sync.Once
	for _, r := range b.records {
		session.Produce(ctx, w.output(r), func(_ *kgo.Record, err error) {
			if err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	if err := session.Client().Flush(ctx); err != nil {
		return false, err
	}
	if first != nil {
		w.cfg.Log.Warn("timers: abort", "error", first)
		_, err := session.End(ctx, kgo.TryAbort)
		return false, err
	}
	return session.End(kgo.PreTxnCommitFnContext(ctx, b.commits), kgo.TryCommit)
}

func (w *Worker) output(r waiting) *kgo.Record {
	if r.timer == nil {
		w.cfg.Log.Warn("timers: dead letter", "topic", r.record.Topic, "partition", r.record.Partition, "offset", r.record.Offset, "error", r.rejection)
		return w.cfg.Topics.DeadLetter(topics.TimersGroup, r.record, r.rejection)
	}
	return w.cfg.Topics.OrderTimeouts.Record(r.timer, topics.By(source, topics.CauseOf(r.record), r.timer.OrderId, 0))
}

// commits puts the batch's offsets in the place of those that were polled: what waits is not consumed.
func (b batchOf) commits(req *kmsg.TxnOffsetCommitRequest) error {
	topicsOf := map[string]*kmsg.TxnOffsetCommitRequestTopic{}
	for _, t := range req.Topics {
		t.Partitions = nil
		topicsOf[t.Topic] = &t
	}
	for p, next := range b.offsets {
		t := topicsOf[p.topic]
		if t == nil {
			fresh := kmsg.NewTxnOffsetCommitRequestTopic()
			fresh.Topic = p.topic
			t = &fresh
			topicsOf[p.topic] = t
		}
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = p.partition, next.Offset, next.Epoch, &req.MemberID
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = req.Topics[:0:0]
	for _, t := range topicsOf {
		if len(t.Partitions) > 0 {
			req.Topics = append(req.Topics, *t)
		}
	}
	return nil
}
