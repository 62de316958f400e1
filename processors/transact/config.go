package transact

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config says how an instance of a goka group runs. Only Brokers is required.
type Config struct {
	Brokers []string
	// Client options for every connection to Kafka (TLS, SASL, a dialer). They must not touch groups, transactions or
	// offsets.
	Client []kgo.Opt

	// Dir holds the local store of the group's table, and the instance's identity. One process at a time. Empty: the
	// table is kept in memory, and read back from Kafka at each start.
	Dir string
	// Ordinal tells the instances of a group apart (0, 1, 2, ...) and must be the same after a restart: it is part of
	// the transactional ID, by which a restarted instance ends what its predecessor left open.
	Ordinal int

	// CommitInterval is the longest a transaction stays open (default 100 ms). A transaction is committed sooner when
	// all that has arrived is processed, so low load has low latency and high load has large transactions.
	CommitInterval time.Duration
	// SessionTimeout is how long an instance may be silent before its partitions go to others (default 10 s).
	SessionTimeout time.Duration
	// TransactionTimeout is how long Kafka keeps the transaction of a silent instance open (default 10 s).
	TransactionTimeout time.Duration
	// RecoveryTimeout bounds the wait for other producers' open transactions on a table's log (default 60 s).
	RecoveryTimeout time.Duration

	// Partitioner places emitted records (default Partitioner()).
	Partitioner kgo.Partitioner
	// Compression of emitted batches, best first (default snappy).
	Compression []kgo.CompressionCodec
	// CacheBytes bounds the committed values kept in memory, per partition of the table (default 16 MiB).
	CacheBytes int

	// Accept is asked about each record before its value is decoded. One that it refuses goes to DeadLetter. Like
	// callbacks and DeadLetter, it is called from one goroutine for each partition.
	Accept func(*kgo.Record) error
	// DeadLetter makes the record that stands for one that was refused, or that failed Attempts times by its own fault.
	// It is written in a transaction with the offset; the table is untouched. Without it, or when it answers nil, such
	// a record stops the instance with a PoisonError. It may be called again for the same record after a crash.
	DeadLetter func(record *kgo.Record, reason error) *kgo.Record
	// Attempts is how often a record may fail by its own fault (default 3, at least 2). After the first, it is tried
	// alone: a broker refuses whole batches, so the first failure may be that of any record that was handed out with it.
	Attempts int

	// CreateTable, if set, creates the table's topic when it is missing. Otherwise topics are only verified.
	CreateTable *NewTable

	Registerer prometheus.Registerer // metrics; nil: none
	Logger     *slog.Logger          // default slog.Default()
	// FailPoint is called at the moments named by the constants BeforeBegin and following. For tests.
	FailPoint func(point string)
}

// NewTable is how a missing table topic is created.
type NewTable struct {
	ReplicationFactor int16
	MinInSyncReplicas int16
}

const (
	defaultCommitInterval     = 100 * time.Millisecond
	defaultSessionTimeout     = 10 * time.Second
	defaultTransactionTimeout = 10 * time.Second
	defaultRecoveryTimeout    = 60 * time.Second
	defaultCacheBytes         = 16 << 20
	defaultAttempts           = 3

	// The cap on a transaction's records grows with the interval: at half a million a second the interval decides.
	recordsPerInterval = 500_000 // a second
	minTxnRecords      = 1_000
	maxTxnRecords      = 100_000

	// Records handed out and not yet processed. Beyond, nothing more is polled, so that the interval means something.
	maxOutstanding = 16_384
	// Records handed to a partition at once.
	batchRecords = 256
	// Bytes fetched per partition at once: several times batchRecords, small enough to interleave partitions.
	fetchPartitionBytes = 512 << 10

	// For how long a changelog keeps deletions (Kafka's default). A store may be half as old: reading back takes time.
	defaultDeleteRetention = 24 * time.Hour

	// For how long a transaction waits for the fetch that follows what it began with: more than a round trip. At high load
	// that brings something; at medium load it may bring nothing, and then costs all of this.
	gatherWait = 2 * time.Millisecond

	// Emits wait this long for others, unless the transaction ends sooner, which it does at low load: then all go in one
	// request, and the coordinator is told once of their partitions.
	emitLinger = 5 * time.Millisecond

	maxBufferedEmits  = 100_000
	maxBufferedBytes  = 256 << 20
	defaultBatchBytes = 1_000_012 // what brokers take by default
	// franz-go looks for moved leaders and new topics no more often than this (its default: 5 s).
	metadataMinAge = 250 * time.Millisecond
	// A transaction asks again this soon while the markers of the one before are being written (its default: 20 ms).
	endedBackoff = 2 * time.Millisecond

	// For how long offsets of markers wait for a transaction that consumes something, before they get one of their own.
	markersWait = time.Second

	minAppetite    = 64               // records outstanding, however slow callbacks are
	stopWait       = 10 * time.Second // for callbacks that run, and for the last commit
	abortWait      = time.Second      // for the courtesy of an abort before a client is given up
	maxCommitWait  = 30 * time.Second // a transaction that cannot be ended in this time ends its client
	restartWaitMax = 2 * time.Second
)

func (c Config) withDefaults() Config {
	setDuration(&c.CommitInterval, defaultCommitInterval)
	setDuration(&c.SessionTimeout, defaultSessionTimeout)
	setDuration(&c.TransactionTimeout, defaultTransactionTimeout)
	setDuration(&c.RecoveryTimeout, defaultRecoveryTimeout)
	if c.Partitioner == nil {
		c.Partitioner = Partitioner()
	}
	if c.Compression == nil {
		c.Compression = []kgo.CompressionCodec{kgo.SnappyCompression()}
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.Attempts == 0 {
		c.Attempts = defaultAttempts
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func setDuration(d *time.Duration, byDefault time.Duration) {
	if *d == 0 {
		*d = byDefault
	}
}

func (c Config) validate() error {
	switch {
	case len(c.Brokers) == 0:
		return fmt.Errorf("%w: no brokers", ErrConfig)
	case c.Ordinal < 0:
		return fmt.Errorf("%w: ordinal %d is negative", ErrConfig, c.Ordinal)
	case c.CommitInterval < time.Millisecond:
		return fmt.Errorf("%w: commit interval %v is below 1ms", ErrConfig, c.CommitInterval)
	case c.CommitInterval*2 > c.TransactionTimeout:
		return fmt.Errorf("%w: transaction timeout %v is not twice the commit interval %v", ErrConfig, c.TransactionTimeout, c.CommitInterval)
	case c.Attempts < 2:
		return fmt.Errorf("%w: attempts %d are not 2 or more: the first may fail by another record's fault", ErrConfig, c.Attempts)
	case c.CacheBytes < 0:
		return fmt.Errorf("%w: cache bytes %d must be positive", ErrConfig, c.CacheBytes)
	}
	return nil
}

// txnRecords is the record cap of a transaction.
func (c Config) txnRecords() int {
	n := int(c.CommitInterval.Seconds() * recordsPerInterval)
	return min(max(n, minTxnRecords), maxTxnRecords)
}

func (c Config) failPoint(point string) {
	if c.FailPoint != nil {
		c.FailPoint(point)
	}
}
