package sinks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// The loop's settings, when Config leaves them out.
const (
	DefaultMaxRecords     = 5000
	DefaultPace           = 20 * time.Millisecond
	DefaultSessionTimeout = 10 * time.Second

	// A turn lasts for writeShare times as long as its batch took to write, but no longer than paceMax times Pace.
	writeShare = 4
	paceMax    = 10

	// gatherWait is for a fetch that brings what has come since the one before it.
	gatherWait = 5 * time.Millisecond

	fetchMaxBytes = 16 << 20
	// tellInterval is how often positions are committed to Kafka, for people who look at lag there.
	tellInterval = time.Second
)

// Config is what a sink needs.
type Config struct {
	Brokers []string
	Topics  *topics.Table
	Store   Store
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: nobody looks

	MaxRecords int // written at once at most
	// Pace is how long a turn (wait, fetch, write) lasts at least, so that a busy log is written in large batches. A turn
	// whose batch took long to write lasts longer, up to ten times that: a batch has one row per key, so the versions
	// of an order that come meanwhile are one write. A full batch is followed by the next one at once.
	Pace           time.Duration
	SessionTimeout time.Duration // after which the group gives a silent instance's partitions away
}

// Sink brings topics into one store.
type Sink struct {
	Config
	inputs  map[string]Input
	metrics *metrics
}

// New checks the configuration. It connects to nothing.
func New(c Config) (*Sink, error) {
	if c.MaxRecords == 0 {
		c.MaxRecords = DefaultMaxRecords
	}
	if c.Pace == 0 {
		c.Pace = DefaultPace
	}
	if c.SessionTimeout == 0 {
		c.SessionTimeout = DefaultSessionTimeout
	}
	c.Log = c.Log.With("sink", c.Topics.Group(c.Store.Group()))
	s := &Sink{Config: c, inputs: map[string]Input{}}
	for _, in := range c.Store.Inputs() {
		s.inputs[in.Topic.Name] = in
	}
	var err error
	s.metrics, err = newMetrics(c.Metrics, c.Store.Group())
	return s, err
}

// Run writes until ctx ends, and then returns nil. It waits for a store or a cluster that is away. What it returns
// needs a person: a store that is another log's, a position that the log does not have, or one that was never set up.
func (s *Sink) Run(ctx context.Context) error {
	for {
		err := s.follow(ctx) // each time: topics may have been made anew meanwhile
		if err == nil {
			err = s.member(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, ErrMoved) && !errors.Is(err, errLetGo):
			return fmt.Errorf("%s: %w", s.Topics.Group(s.Store.Group()), err)
		}
		// Others may have our partitions, or nobody. Leaving and joining again reads the positions anew.
		s.Log.Warn("joining again", "err", err)
		s.metrics.moved.Inc()
		if err := pause(ctx, s.Pace); err != nil {
			return nil
		}
	}
}

// names are the topics that it reads.
func (s *Sink) names() []string { return slices.Collect(maps.Keys(s.inputs)) }

// membership is one stay in the consumer group.
type membership struct {
	*Sink
	writer *Writer
	client *kgo.Client
	leave  context.CancelCauseFunc
	told   time.Time

	mu sync.Mutex
	at map[Place]int64 // where each of our partitions goes on
}

func (s *Sink) member(ctx context.Context) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	m := &membership{Sink: s, leave: leave, at: map[Place]int64{}}
	m.writer = &Writer{Store: s.Store, DeadLetter: m.deadLetter, Log: s.Log, Wrote: s.metrics.wrote}
	if err := m.join(ctx); err != nil {
		return err
	}
	defer m.client.CloseAllowingRebalance()
	defer m.sayGoodbye()
	for {
		began := time.Now()
		length, err := m.turn(ctx)
		if err != nil {
			return err
		}
		m.client.AllowRebalance()
		m.tell()
		if err := pause(ctx, length-time.Since(began)); err != nil {
			return context.Cause(ctx)
		}
	}
}

// turn fetches and writes once. It returns how long the turn is to last.
func (m *membership) turn(ctx context.Context) (time.Duration, error) {
	fetches := m.poll(ctx)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err := m.faults(fetches); err != nil {
		return 0, err
	}
	batch, err := m.read(ctx, fetches)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := m.writer.Write(ctx, batch); err != nil {
		return 0, err
	}
	m.advance(batch)
	m.metrics.seen(fetches)
	return m.length(fetches.NumRecords(), time.Since(began)), nil
}

// poll waits for records. What has been fetched already is as old as the turn before, because the client fetches again
// only when that is taken: what has come since then gets gatherWait to arrive.
func (m *membership) poll(ctx context.Context) kgo.Fetches {
	//lint:ignore SA1012 nil asks for what is there, without waiting
	fetched := m.client.PollRecords(nil, m.MaxRecords)
	room, wait := m.MaxRecords-fetched.NumRecords(), tellInterval
	if room <= 0 {
		return fetched
	}
	if len(fetched) > 0 {
		wait = gatherWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return append(fetched, m.client.PollRecords(ctx, room)...)
}

// length is how long a turn lasts whose batch took so long to write.
func (s *Sink) length(records int, took time.Duration) time.Duration {
	if records >= s.MaxRecords {
		return 0
	}
	return max(s.Pace, min(writeShare*took, paceMax*s.Pace))
}

func (m *membership) join(ctx context.Context) (err error) {
	m.client, err = kgo.NewClient(
		kgo.SeedBrokers(m.Brokers...),
		kgo.ConsumerGroup(m.Topics.Group(m.Store.Group())),
		kgo.ConsumeTopics(m.names()...),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Transaction markers take offsets too. With them, "everything below End" is true to the end of the log.
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(fetchMaxBytes),
		kgo.SessionTimeout(m.SessionTimeout),
		kgo.HeartbeatInterval(m.SessionTimeout/5),
		kgo.BlockRebalanceOnPoll(),
		kgo.AdjustFetchOffsetsFn(func(session context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			return m.assigned(ctx, session, offsets)
		}),
		kgo.OnPartitionsRevoked(m.revoked),
		kgo.OnPartitionsLost(m.revoked),
		kgo.DisableAutoCommit(),
		// For dead letters.
		kgo.RecordPartitioner(topics.Partitioner()),
		kgo.ProducerBatchMaxBytes(topics.MaxDeadLetterBytes),
	)
	return err
}

// assigned reads from the store where new partitions go on. What Kafka has is ignored.
func (m *membership) assigned(ctx, session context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(session, cancel)()
	var places []Place
	for topic, partitions := range offsets {
		for p := range partitions {
			places = append(places, Place{topic, p})
		}
	}
	at, err := positions(ctx, m.Store, places, m.Log)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range places {
		next, ok := at[p]
		if !ok {
			err := fmt.Errorf("the store has no position for %s: it was never set up for this table of topics", p)
			m.leave(err)
			return nil, err
		}
		m.at[p] = next
		offsets[p.Topic][p.Partition] = kgo.NewOffset().At(next).WithEpoch(-1)
	}
	m.Log.Info("assigned", "partitions", len(places))
	return offsets, nil
}

func (m *membership) revoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, ps := range partitions {
		for _, p := range ps {
			delete(m.at, Place{topic, p})
			m.metrics.gone(Place{topic, p})
		}
	}
}

// errLetGo: the client goes on without a partition of which it has reported an error; only a new one reads it again.
var errLetGo = errors.New("the client has let a partition go")

// faults returns what only a person, or a new client, can mend; the rest passes by itself.
func (m *membership) faults(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		var joining *kgo.ErrGroupSession
		var protocol *kerr.Error
		switch {
		case errors.Is(e.Err, context.DeadlineExceeded): // nothing new
		case errors.Is(e.Err, kerr.OffsetOutOfRange):
			p := Place{e.Topic, e.Partition}
			at, _ := m.position(p)
			return fmt.Errorf("position %d of %s is not in the log: its records were deleted, or the store belongs to another cluster", at, p)
		case errors.As(e.Err, &protocol) && protocol.Retriable && e.Topic != "":
			return fmt.Errorf("%w: %s: %w", errLetGo, Place{e.Topic, e.Partition}, e.Err)
		case errors.As(e.Err, &joining), errors.As(e.Err, &protocol) && protocol.Retriable:
			m.Log.Warn("the cluster does not answer as it should; waiting for it", "err", e.Err)
		default:
			return fmt.Errorf("fetch %s: %w", Place{e.Topic, e.Partition}, e.Err)
		}
	}
	return nil
}

func (m *membership) position(p Place) (next int64, ours bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next, ours = m.at[p]
	return next, ours
}

// read decodes what was fetched. What cannot be read goes to the dead letters.
func (m *membership) read(ctx context.Context, fetches kgo.Fetches) (Batch, error) {
	var places []Place
	fetched := map[Place][]*kgo.Record{}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) { // one that was fetched twice is there twice, at first perhaps without records
		place := Place{p.Topic, p.Partition}
		if len(fetched[place]) == 0 && len(p.Records) > 0 {
			places = append(places, place)
		}
		fetched[place] = append(fetched[place], p.Records...)
	})
	var batch Batch
	for _, place := range places {
		first, ours := m.position(place)
		records := fetched[place]
		if !ours || records[len(records)-1].Offset < first {
			continue
		}
		s, err := m.stretch(ctx, place, first, records)
		if err != nil {
			return nil, err
		}
		batch = append(batch, s)
	}
	return batch, nil
}

func (m *membership) stretch(ctx context.Context, place Place, first int64, records []*kgo.Record) (Stretch, error) {
	s := Stretch{Place: place, First: first, End: records[len(records)-1].Offset + 1, Records: make([]Record, 0, len(records))}
	for _, r := range records {
		if r.Attrs.IsControl() || r.Offset < first {
			continue
		}
		rec, err := m.inputs[place.Topic].decode(r)
		var rejection topics.Rejection
		switch {
		case errors.As(err, &rejection):
			if err := m.deadLetter(ctx, place, rec, rejection); err != nil {
				return s, err
			}
		case err != nil:
			return s, err
		case rec.Value != nil:
			s.Records = append(s.Records, rec)
		}
	}
	return s, nil
}

// deadLetter returns when the record is safe among the dead letters.
func (m *membership) deadLetter(ctx context.Context, p Place, r Record, why topics.Rejection) error {
	d := m.Topics.DeadLetter(m.Store.Group(), r.source, why)
	if err := m.client.ProduceSync(ctx, d).FirstErr(); err != nil {
		return fmt.Errorf("dead letter of %s at %d: %w", p, r.Offset, err)
	}
	m.Log.Warn("dead letter", "from", p.String(), "offset", r.Offset, "reason", why.Reason, "detail", why.Detail)
	m.metrics.dead.WithLabelValues(string(why.Reason)).Inc()
	return nil
}

func (m *membership) advance(b Batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range b {
		m.at[s.Place] = s.End
	}
}

// tell commits our positions to Kafka when it is time again, also those that we only found in the store. Nothing
// depends on it, so an error is nobody's business.
func (m *membership) tell() {
	if time.Since(m.told) < tellInterval {
		return
	}
	m.told = time.Now()
	m.client.CommitOffsets(context.Background(), m.offsets(), nil)
}

// sayGoodbye is the last tell, within its time.
func (m *membership) sayGoodbye() {
	ctx, cancel := context.WithTimeout(context.Background(), tellInterval)
	defer cancel()
	m.client.CommitOffsetsSync(ctx, m.offsets(), nil)
}

func (m *membership) offsets() map[string]map[int32]kgo.EpochOffset {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]map[int32]kgo.EpochOffset{}
	for p, next := range m.at {
		if all[p.Topic] == nil {
			all[p.Topic] = map[int32]kgo.EpochOffset{}
		}
		all[p.Topic][p.Partition] = kgo.EpochOffset{Epoch: -1, Offset: next}
	}
	return all
}
