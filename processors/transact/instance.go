package transact

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kadm"
)

// Instance is one member of a goka group whose processor runs inside Kafka transactions. It runs one processor, once.
type Instance struct {
	cfg    Config
	folder *folder
	plan   *plan

	meters *meters
	// deletions is for how long the changelog keeps them.
	deletions time.Duration

	current atomic.Pointer[engine]
	ready   atomic.Bool

	// Requests about a table that is read back end with reading.
	reading     context.Context
	stopReading context.CancelFunc

	mu       sync.Mutex
	tables   map[int32]*table       // of the running session
	memories map[int32]*memoryStore // when there is no folder
	claimed  map[int32]bool         // partitions of the running session
	reported error                  // the first terminal error that goka was told of
	suspects suspects
	closed   sync.Once
}

// New checks the configuration and locks the data folder, until Close.
func New(cfg Config) (*Instance, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := hasEmitHeaders(reflect.TypeFor[goka.ContextOption]()); err != nil {
		return nil, err
	}
	f, err := openFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	reading, stopReading := context.WithCancel(context.Background())
	return &Instance{
		cfg:         cfg,
		folder:      f,
		reading:     reading,
		stopReading: stopReading,
		tables:      map[int32]*table{},
		memories:    map[int32]*memoryStore{},
	}, nil
}

// Close unlocks the data folder and takes the metrics back. Call it after the processor has stopped.
func (i *Instance) Close() error {
	var err error
	i.closed.Do(func() {
		i.stopReading()
		if i.meters != nil {
			i.meters.unregister()
		}
		err = i.folder.close()
	})
	return err
}

// Processor makes the goka processor of a graph. It verifies the graph and its topics. The options may be any but
// builders, hasher, nil handling, context wrapper, default headers, hot standby and recover-ahead, which are the
// instance's business. Nil values are always handed to the callback, as nil.
func (i *Instance) Processor(graph *goka.GroupGraph, opts ...goka.ProcessorOption) (*goka.Processor, error) {
	if i.plan != nil {
		return nil, fmt.Errorf("%w: an instance runs one processor", ErrConfig)
	}
	p, err := planOf(graph)
	if err != nil {
		return nil, err
	}
	if err := i.folder.claim(fmt.Sprintf("%s/%d", p.group, i.cfg.Ordinal)); err != nil {
		return nil, err
	}
	i.plan = p
	if err := i.verifyTopics(); err != nil {
		return nil, err
	}
	if i.meters, err = newMeters(i.cfg.Registerer, p.group, i.cfg.Ordinal); err != nil {
		return nil, err
	}
	proc, err := goka.NewProcessor(i.cfg.Brokers, p.graph(i.callback), append(i.options(), append(opts, i.builders()...)...)...)
	if err != nil {
		return nil, i.cause(err)
	}
	return proc, nil
}

// Run makes the processor and runs it until ctx ends, which is no error: what was handed to callbacks is committed first.
func (i *Instance) Run(ctx context.Context, graph *goka.GroupGraph, opts ...goka.ProcessorOption) error {
	p, err := i.Processor(graph, opts...)
	if err != nil {
		return err
	}
	err = i.cause(p.Run(ctx))
	if err != nil && ctx.Err() != nil && !isTerminal(err) { // goka's words for being told to stop
		i.cfg.Logger.Info("transact: stopped", "group", i.plan.group, "ordinal", i.cfg.Ordinal, "err", err)
		return nil
	}
	return err
}

// Ready says that the tables are read back and records are being processed (or that other instances have all partitions).
func (i *Instance) Ready() bool { return i.ready.Load() }

// Err is the terminal error that ended the processor, if one did: goka's own errors have lost their types.
func (i *Instance) Err() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.reported
}

// report keeps the first terminal error.
func (i *Instance) report(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.reported == nil && isTerminal(err) {
		i.reported = err
	}
}

// cause is the typed error behind what goka made of it.
func (i *Instance) cause(err error) error {
	if typed := i.Err(); err != nil && typed != nil {
		return typed
	}
	return err
}

func (i *Instance) transactionalID() string { return fmt.Sprintf("%s-%d", i.plan.group, i.cfg.Ordinal) }

// verifyTopics finds outputs that do not exist, which would otherwise show at the first emit. Goka verifies the inputs
// and the table.
func (i *Instance) verifyTopics() error {
	m, err := i.topicManager()
	if err != nil {
		return err
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	for topic := range i.plan.codecs {
		if _, err := m.topic(ctx, topic); err != nil {
			return err
		}
	}
	return nil
}

func (i *Instance) topicManager() (*topicManager, error) {
	r, err := newLogReader(i.cfg.Brokers, i.cfg.RecoveryTimeout, i.cfg.Client)
	if err != nil {
		return nil, err
	}
	return &topicManager{logReader: r, ctx: i.reading, create: i.cfg.CreateTable, report: i.report, check: i.checkStore}, nil
}

// checkStore refuses a local store that has seen more of a changelog than there is, or has seen another one of its name.
// It answers the last offset that the store has seen.
func (i *Instance) checkStore(topic kadm.TopicDetail, partition int32, high int64) (stored int64, err error) {
	i.mu.Lock()
	t := i.tables[partition]
	i.mu.Unlock()
	if t == nil || topic.Topic != i.plan.table {
		return noOffset, nil
	}
	stored, err = t.GetOffset(noOffset)
	if err == nil && stored >= high {
		err = fmt.Errorf("%w: %s/%d ends at %d, the store has read %d", ErrStoreAhead, t.topic, partition, high, stored)
	}
	if err != nil || topic.ID == (kadm.TopicID{}) { // of brokers that know no IDs
		return stored, err
	}
	switch ours, err := t.follows(topic.ID); {
	case err != nil:
		return stored, fmt.Errorf("%w: %s/%d: %w", ErrStore, t.topic, partition, err)
	case !ours:
		return stored, fmt.Errorf("%w: %s has been made anew since the store of partition %d has read it", ErrStoreAhead, t.topic, partition)
	}
	return stored, nil
}

// options are defaults that a caller may override.
func (i *Instance) options() []goka.ProcessorOption {
	return []goka.ProcessorOption{
		goka.WithLogger(gokaLogger{i.cfg.Logger}),
		goka.WithPartitionChannelSize(claimBatches),
		goka.WithContextWrapper(func(ctx goka.Context) goka.Context { return batchContext{ctx} }),
	}
}

// batchContext marks the context of a batch. One that goka made otherwise was wrapped by the caller, for a record.
type (
	batchContext struct{ gokaContext }
	gokaContext  = goka.Context // an embedded field of its own name would hide its method Context
)

// builders put the processor on this instance.
func (i *Instance) builders() []goka.ProcessorOption {
	return []goka.ProcessorOption{
		goka.WithProducerBuilder(func([]string, string, func() hash.Hash32) (goka.Producer, error) { return noProducer{}, nil }),
		goka.WithConsumerGroupBuilder(func([]string, string, string) (sarama.ConsumerGroup, error) { return &group{i}, nil }),
		goka.WithConsumerSaramaBuilder(func(brokers []string, _ string) (sarama.Consumer, error) {
			return &tableConsumer{brokers: brokers, opts: i.cfg.Client, report: i.report, point: func() { i.cfg.failPoint(Recovering) }}, nil
		}),
		goka.WithTopicManagerBuilder(func([]string) (goka.TopicManager, error) { return i.topicManager() }),
		goka.WithStorageBuilder(i.openTable),
		goka.WithNilHandling(goka.NilProcess),
	}
}

// openTable is goka's storage builder. Partitions that this session does not own are those of a hot standby or of
// recover-ahead.
func (i *Instance) openTable(topic string, partition int32) (storage.Storage, error) {
	t, err := i.newTable(topic, partition)
	if err != nil {
		i.report(err)
		return nil, err
	}
	return t, nil
}

func (i *Instance) newTable(topic string, partition int32) (*table, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.claimed[partition] {
		return nil, fmt.Errorf("%w: goka.WithHotStandby, goka.WithRecoverAhead (partition %d is not assigned)", ErrUnsupported, partition)
	}
	b, err := i.backend(topic, partition)
	if err != nil {
		return nil, err
	}
	t := newTable(b, topic, partition, i.cfg.CacheBytes)
	t.onClose = func() { i.forgetTable(partition, t) }
	i.tables[partition] = t
	return t, nil
}

func (i *Instance) backend(topic string, partition int32) (backend, error) {
	if i.cfg.Dir != "" {
		return openFreshLevelStore(filepath.Join(i.cfg.Dir, "tables"), topic, partition, i.deletions/2)
	}
	if m := i.memories[partition]; m == nil || m.age() > i.deletions/2 {
		i.memories[partition] = newMemoryStore()
	}
	return i.memories[partition], nil
}

func (i *Instance) forgetTable(partition int32, t *table) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.tables[partition] == t {
		delete(i.tables, partition)
	}
}

// own notes which partitions the coming session has, and lets go of the memory of others.
func (i *Instance) own(claims map[string][]int32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.claimed = map[int32]bool{}
	for _, partitions := range claims {
		for _, p := range partitions {
			i.claimed[p] = true
		}
	}
	for p := range i.memories {
		if !i.claimed[p] {
			delete(i.memories, p)
		}
	}
}

// readBack notes that the tables of the session are read back to their end.
func (i *Instance) readBack() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, t := range i.tables {
		if err := t.complete(); err != nil {
			return fmt.Errorf("%w: %s/%d: %w", ErrStore, t.topic, t.partition, err)
		}
	}
	return nil
}

func (i *Instance) table(partition int32) *table {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.tables[partition]
}

// group is goka's consumer group. Everything happens in Consume.
type group struct{ i *Instance }

func (g *group) Consume(ctx context.Context, _ []string, h sarama.ConsumerGroupHandler) error {
	return g.i.consume(ctx, h)
}
func (g *group) Errors() <-chan error      { return nil }
func (g *group) Close() error              { return nil }
func (g *group) Pause(map[string][]int32)  {}
func (g *group) Resume(map[string][]int32) {}
func (g *group) PauseAll()                 {}
func (g *group) ResumeAll()                {}

// noProducer: callbacks emit through their context, into the transaction. Nothing else may.
type noProducer struct{}

var errOutside = errors.New("emit outside of a transaction")

func (noProducer) Emit(string, string, []byte) *goka.Promise { return outside() }

func (noProducer) EmitWithHeaders(string, string, []byte, goka.Headers) *goka.Promise {
	return outside()
}

func (noProducer) Close() error { return nil }

func outside() *goka.Promise {
	p, finish := goka.NewPromiseWithFinisher()
	finish(nil, errOutside)
	return p
}

// gokaLogger keeps goka's chatter at debug level.
type gokaLogger struct{ *slog.Logger }

func (l gokaLogger) Print(v ...any)                 { l.Debug(fmt.Sprint(v...)) }
func (l gokaLogger) Println(v ...any)               { l.Debug(fmt.Sprint(v...)) }
func (l gokaLogger) Printf(format string, v ...any) { l.Debug(fmt.Sprintf(format, v...)) }
