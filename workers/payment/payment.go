package payment

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/topics"
)

// What ends a worker for good; trying again does not help, a person must.
var (
	// ErrFenced: another instance runs with the same ordinal.
	ErrFenced = errors.New("fenced: another instance runs with the same ordinal")
	// ErrOffset: a partition has no committed offset (topics apply commits the first), or one that its log does not
	// have. Guessing would charge weeks of orders again, or skip some.
	ErrOffset = errors.New("no committed offset, or one that the log does not have")
)

// errAgain ends a client: it goes on without a partition of which it has reported an error, or could not write an answer.
// The next one reads what is unfinished again.
var errAgain = errors.New("a new client is needed")

const source = "/workers/payment"

// A Worker is one instance of the group.
type Worker struct {
	cfg     Config
	client  *kgo.Client
	gateway *gateway
	metrics *metrics
	slots   chan struct{} // one for every step at the gateway
	freed   chan struct{} // tells the loop that there may be room again
	stop    context.CancelCauseFunc
	tasks   sync.WaitGroup // lanes that run

	commits sync.Mutex // one commit at a time, so that an older one never comes after a newer one

	mu         sync.Mutex
	partitions map[int32]*partition
	lanes      map[string][]task // by order: the tasks that wait behind the one that runs
	unfinished int               // tasks that wait or run
}

// A partition is what this instance owns of the topic. Taken away and given back, it is another partition.
type partition struct {
	number   int32
	ctx      context.Context // ends when its work must not go on
	end      context.CancelFunc
	progress progress
	leaving  bool          // nothing more begins
	running  int           // tasks that run
	quiet    chan struct{} // closed when it is leaving and nothing runs
	gone     chan struct{} // closed when it has left: its last commit is behind it
}

// A task is one record that needs something done.
type task struct {
	record    *kgo.Record
	partition *partition
	request   *paymentv1.PaymentRequest // nil: it is rejected
	rejection topics.Rejection
}

// New makes a worker. It joins the group when it runs.
func New(cfg Config) (*Worker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := newMetrics()
	w := &Worker{
		cfg: cfg, metrics: m, gateway: newGateway(cfg, m.called),
		slots: make(chan struct{}, cfg.InFlight), freed: make(chan struct{}, 1),
		partitions: map[int32]*partition{}, lanes: map[string][]task{},
	}
	if err := m.register(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("payment: metrics: %w", err)
	}
	return w, nil
}

// Run works until ctx ends, which is no error, or until something happens that a person must look at.
func (w *Worker) Run(ctx context.Context) error {
	for {
		err := w.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errAgain):
			return fmt.Errorf("payment: %w", err)
		}
		w.cfg.Log.Warn("payment: begin a new session", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// session is the life of one client. It returns why it ended, with nothing of it running any more.
func (w *Worker) session(ctx context.Context) error {
	client, err := kgo.NewClient(w.options()...)
	if err != nil {
		return err
	}
	w.client = client
	ctx, w.stop = context.WithCancelCause(ctx)
	var committing sync.WaitGroup
	committing.Go(func() { w.commitAlong(ctx) })
	w.stop(w.loop(ctx))
	committing.Wait()
	w.release(w.owned())
	client.CloseAllowingRebalance() // answers that the log does not take now are not waited for
	w.tasks.Wait()
	return context.Cause(ctx)
}

func (w *Worker) options() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(w.cfg.Brokers...),
		kgo.ClientID(w.cfg.instance()),
		kgo.ConsumerGroup(w.cfg.Topics.Group(topics.PaymentGroup)),
		kgo.InstanceID(w.cfg.instance()), // a restart takes its partitions back without a rebalance
		kgo.SessionTimeout(w.cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(w.cfg.SessionTimeout/3, 3*time.Second)),
		kgo.ConsumeTopics(w.cfg.Topics.PaymentRequests.Name),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // commit markers have offsets too: passing over them keeps the lag at zero when all is done
		kgo.FetchMaxWait(time.Second),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), // what was polled is entered before its partition can go
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, taken map[string][]int32) { w.leave(taken) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { w.drop(lost) }),
		kgo.RecordPartitioner(topics.Partitioner()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(topics.MaxDeadLetterBytes),
	}
}

// loop reads as much as there is room for, and hands it out.
func (w *Worker) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		room := w.room()
		if room == 0 {
			select {
			case <-ctx.Done():
			case <-w.freed:
			}
			continue
		}
		fetches := w.client.PollRecords(ctx, room)
		w.handOut(fetches)
		w.client.AllowRebalance()
		if err := w.fetchErrors(fetches); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) fetchErrors(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		var loss *kgo.ErrDataLoss
		switch {
		case errors.Is(e.Err, context.Canceled), errors.Is(e.Err, context.DeadlineExceeded):
		case errors.Is(e.Err, kerr.OffsetOutOfRange), errors.As(e.Err, &loss), isUncommitted(e.Err):
			return fmt.Errorf("%s/%d: %w: %v", e.Topic, e.Partition, ErrOffset, e.Err)
		case errors.Is(e.Err, kerr.FencedInstanceID):
			return fmt.Errorf("%w: %w", ErrFenced, e.Err)
		case errors.Is(e.Err, kgo.ErrClientClosed):
			return e.Err
		case e.Topic != "":
			return fmt.Errorf("%w: %s/%d: %w", errAgain, e.Topic, e.Partition, e.Err)
		default: // the client goes on by itself
			w.cfg.Log.Warn("payment: fetch", "error", e.Err)
		}
	}
	return nil
}

// isUncommitted knows franz-go's error for a partition without a committed offset, which has no exported name.
func isUncommitted(err error) bool { return strings.Contains(err.Error(), "no prior committed offset") }

// room is how many more records may be read.
func (w *Worker) room() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	entered := 0
	for _, p := range w.partitions {
		entered += len(p.progress.open)
	}
	return max(0, min(w.cfg.InFlight*backlog-w.unfinished, window-entered))
}

func (w *Worker) handOut(fetches kgo.Fetches) {
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		for _, r := range f.Records {
			w.enter(r)
		}
		if n := len(f.Records); n > 0 {
			w.metrics.behind(f.Partition, f.HighWatermark-f.Records[n-1].Offset-1)
		}
	})
}

// enter gives a record to its order's lane, which is running or begins to.
func (w *Worker) enter(r *kgo.Record) {
	t := w.read(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	t.partition = w.partitionOf(r.Partition)
	t.partition.progress.begin(r)
	if r.Attrs.IsControl() {
		t.partition.progress.done(r.Offset)
		return
	}
	w.unfinished++
	lane := string(r.Key)
	waiting, runs := w.lanes[lane]
	if runs {
		w.lanes[lane] = append(waiting, t)
		return
	}
	w.lanes[lane] = nil
	w.tasks.Go(func() { w.run(lane, t) })
}

func (w *Worker) partitionOf(number int32) *partition {
	p := w.partitions[number]
	if p == nil {
		ctx, end := context.WithCancel(context.Background())
		p = &partition{number: number, ctx: ctx, end: end, quiet: make(chan struct{}), gone: make(chan struct{})}
		w.partitions[number] = p
	}
	return p
}

// read is the door: behind it, a request has what its step needs.
func (w *Worker) read(r *kgo.Record) task {
	t := task{record: r}
	if r.Attrs.IsControl() {
		return t
	}
	err := w.cfg.Topics.PaymentRequests.Check(r)
	if err == nil {
		t.request, err = w.cfg.Topics.PaymentRequests.Decode(r.Key, r.Value)
	}
	if err == nil {
		err = check(t.request)
	}
	if err != nil {
		t.request, t.rejection = nil, rejectionOf(err)
	}
	return t
}

func rejectionOf(err error) topics.Rejection {
	var rej topics.Rejection
	if !errors.As(err, &rej) {
		rej = topics.Rejection{Reason: topics.Invalid, Detail: err.Error()}
	}
	return rej
}

// run carries out the tasks of one lane, one after the other, until none waits.
func (w *Worker) run(lane string, t task) {
	for {
		if w.begin(t) {
			w.finish(t, w.carryOut(t))
		} else {
			w.discard()
		}
		w.mu.Lock()
		waiting := w.lanes[lane]
		if len(waiting) == 0 {
			delete(w.lanes, lane)
			w.mu.Unlock()
			return
		}
		t, w.lanes[lane] = waiting[0], waiting[1:]
		w.mu.Unlock()
	}
}

// begin takes a slot, unless the partition is leaving.
func (w *Worker) begin(t task) bool {
	select {
	case w.slots <- struct{}{}:
	case <-t.partition.ctx.Done():
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.partition.leaving {
		<-w.slots
		return false
	}
	t.partition.running++
	w.metrics.inFlight.Inc()
	return true
}

// carryOut says whether the task is done: its answer is in the log. Otherwise its partition is going away, and the next
// owner does it. The slot is the gateway's, and free again while the log takes the answer.
func (w *Worker) carryOut(t task) bool {
	answer, err := w.answer(t)
	<-w.slots
	w.metrics.inFlight.Dec()
	if err != nil {
		return false
	}
	if err := w.write(t.partition.ctx, answer); err != nil {
		if t.partition.ctx.Err() == nil {
			w.stop(fmt.Errorf("%w: answer %s/%d@%d: %w", errAgain, t.record.Topic, t.record.Partition, t.record.Offset, err))
		}
		return false
	}
	return true
}

// write returns when the log has the answer, or ctx has ended. The record does not end with ctx: franz-go would fail with it
// all that wait behind it for the same partition of the log.
func (w *Worker) write(ctx context.Context, answer *kgo.Record) error {
	taken := make(chan error, 1)
	w.client.TryProduce(context.Background(), answer, func(_ *kgo.Record, err error) { taken <- err })
	select {
	case err := <-taken:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *Worker) answer(t task) (*kgo.Record, error) {
	if t.request == nil {
		return w.deadLetter(t), nil
	}
	res, err := w.step(t)
	if err != nil {
		return nil, err
	}
	return w.cfg.Topics.PaymentResults.Record(res, topics.By(source, topics.CauseOf(t.record), res.OrderId, 0)), nil
}

func (w *Worker) step(t task) (*paymentv1.PaymentResult, error) {
	old := time.Since(relied(t.request, t.record.Timestamp)) > w.cfg.KeyLife
	res, err := w.gateway.step(t.partition.ctx, t.request, old)
	if err != nil {
		return nil, err
	}
	w.metrics.steps.WithLabelValues(word(res.Step.String()), word(res.Outcome.String())).Inc()
	if res.Outcome == paymentv1.PaymentOutcome_PAYMENT_OUTCOME_UNAVAILABLE {
		w.cfg.Log.Warn("payment: no answer from the gateway", "order", res.OrderId, "step", word(res.Step.String()),
			"number", res.StepNumber, "code", res.DeclineCode, "message", res.Message)
	}
	return res, nil
}

// relied is since when the gateway has had to remember what a request relies on. A request that makes the intent relies
// on the order's first CREATE, which may be much older than itself.
func relied(r *paymentv1.PaymentRequest, logged time.Time) time.Time {
	first := time.UnixMilli(r.FirstCreateUnixMs)
	if r.FirstCreateUnixMs > 0 && makes(r) && first.Before(logged) {
		return first
	}
	return logged
}

// word is the last part of an enum's name, as in CREATE.
func word(enum string) string { return enum[strings.LastIndex(enum, "_")+1:] }

func (w *Worker) deadLetter(t task) *kgo.Record {
	w.metrics.deadLetters.WithLabelValues(string(t.rejection.Reason)).Inc()
	w.cfg.Log.Warn("payment: dead letter", "partition", t.record.Partition, "offset", t.record.Offset, "error", t.rejection)
	return w.cfg.Topics.DeadLetter(topics.PaymentGroup, t.record, t.rejection)
}

// finish takes a task off the books that began. Its offset comes first: a partition that has gone quiet is committed.
func (w *Worker) finish(t task, done bool) {
	w.settle(func() {
		p := t.partition
		if done {
			p.progress.done(t.record.Offset)
		}
		if p.running--; p.leaving && p.running == 0 {
			close(p.quiet)
		}
		w.unfinished--
	})
}

// discard takes a task off the books that never began.
func (w *Worker) discard() { w.settle(func() { w.unfinished-- }) }

// settle changes the books and then tells the loop that there may be room: what it finds is what it goes by, and nobody
// tells it twice.
func (w *Worker) settle(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.freed <- struct{}{}:
	default:
	}
}
