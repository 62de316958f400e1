package transact

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What ends an instance for good. Each is found with errors.Is in what Run returns; none goes away by trying again, so a
// supervisor that restarts the process should tell a person.
var (
	// ErrFenced: another instance runs with the same group and ordinal, and has taken over.
	ErrFenced = errors.New("fenced: another instance runs with the same group and ordinal")
	// ErrFolderInUse: another process holds the data folder.
	ErrFolderInUse = errors.New("the data folder is in use by another process")
	// ErrWrongFolder: the data folder belongs to another group or ordinal.
	ErrWrongFolder = errors.New("the data folder belongs to another group or ordinal")
	// ErrNoCommittedOffset: the group has no committed offset for a partition. Whoever creates topics and groups commits
	// the first one; guessing would redo or skip work.
	ErrNoCommittedOffset = errors.New("no committed offset")
	// ErrOffsetOutOfRange: the log no longer holds, or has lost, the offset the group stands at.
	ErrOffsetOutOfRange = errors.New("committed offset is out of the log's range")
	// ErrTopic: a topic is missing, or is not what the group needs (partitions, compaction).
	ErrTopic = errors.New("topic does not fit")
	// ErrUnsupported: the graph or a callback uses something of goka that is not proven inside transactions.
	ErrUnsupported = errors.New("not supported inside transactions")
	// ErrRecoveryTimeout: a table's log did not become readable to its end in Config.RecoveryTimeout.
	ErrRecoveryTimeout = errors.New("table not recovered in time")
	// ErrStoreAhead: the local store stands for a changelog that is not this one (deleted, truncated or recreated).
	ErrStoreAhead = errors.New("the local store does not belong to this changelog")
	// ErrStore: the local store cannot be read or written, or the table holds a value that its codec cannot read.
	ErrStore = errors.New("local store")
	// ErrPoisoned: a record cannot be processed and could not be handed to a dead letter topic. See PoisonError.
	ErrPoisoned = errors.New("record cannot be processed")
	// ErrConfig: the configuration contradicts itself.
	ErrConfig = errors.New("configuration")
)

// PoisonError says which record stopped the instance, and why. It is an ErrPoisoned.
type PoisonError struct {
	Topic     string
	Partition int32
	Offset    int64
	Reason    error
}

func (e *PoisonError) Error() string {
	return fmt.Sprintf("%v: %s/%d@%d: %v", ErrPoisoned, e.Topic, e.Partition, e.Offset, e.Reason)
}

func (e *PoisonError) Unwrap() []error { return []error{ErrPoisoned, e.Reason} }

// CallbackError is the reason given to Config.DeadLetter when a callback panicked or failed (ctx.Fail), or when its input
// or an emit could not be decoded or encoded.
type CallbackError struct {
	Cause error
	Stack string // of a panic; empty for ctx.Fail and codecs
}

func (e *CallbackError) Error() string { return "callback: " + e.Cause.Error() }
func (e *CallbackError) Unwrap() error { return e.Cause }

var terminal = []error{
	ErrFenced, ErrFolderInUse, ErrWrongFolder, ErrNoCommittedOffset, ErrOffsetOutOfRange, ErrTopic, ErrUnsupported,
	ErrRecoveryTimeout, ErrStoreAhead, ErrStore, ErrPoisoned, ErrConfig,
}

// isTerminal tells what ends the instance from what a new client and a replay can heal.
func isTerminal(err error) bool {
	for _, t := range terminal {
		if errors.Is(err, t) {
			return true
		}
	}
	return errors.Is(err, kerr.TransactionalIDAuthorizationFailed) || errors.Is(err, kerr.GroupAuthorizationFailed) ||
		errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed)
}

// isRecordsFault tells an emit that will never be accepted from a broker that is away. Only the former may ever lead to a
// dead letter.
func isRecordsFault(err error) bool {
	for _, e := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isFenced(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) ||
		errors.Is(err, kerr.InvalidProducerIDMapping)
}

// fetchError gives what a poll reports its meaning for the group. A nil answer is one that franz-go heals by itself: that of
// the group as a whole. What it reports of a partition is what it does not try again, the partition's committed offset that
// it could not fetch, say: it goes on without that partition, so somebody has to begin again.
func fetchError(topic string, partition int32, err error) error {
	var lost *kgo.ErrDataLoss
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange), errors.As(err, &lost):
		return fmt.Errorf("%w: %s/%d: %w", ErrOffsetOutOfRange, topic, partition, err)
	case errors.Is(err, kerr.FencedInstanceID):
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case isTerminal(err), errors.Is(err, kgo.ErrClientClosed):
		return err
	case topic != "":
		return fmt.Errorf("fetch %s/%d: %w", topic, partition, err)
	}
	return nil
}
