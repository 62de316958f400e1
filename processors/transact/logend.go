package transact

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// logReader finds where a transactional log begins and ends for a reader.
//
// The end is not the high watermark: the last offsets of such a log are markers, or records of aborted transactions, that
// no reader ever sees, and somebody who waits for them (goka does) waits for ever. It is the offset after the last visible
// record, and it is known only once every transaction below the high watermark is decided.
type logReader struct {
	cl      *kgo.Client
	adm     *kadm.Client
	timeout time.Duration // for open transactions to end
}

const (
	decidedPoll    = 10 * time.Millisecond
	firstLookBack  = 64 // offsets; eight times more at each try
	rawFetchBytes  = 1 << 20
	rawFetchWaitMs = 500
)

func newLogReader(brokers []string, timeout time.Duration, opts []kgo.Opt) (*logReader, error) {
	// kadm answers from what the client has cached for as long as this, errors included.
	fresh := kgo.MetadataMinAge(topicPoll)
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...), fresh}, opts...)...)
	if err != nil {
		return nil, err
	}
	return &logReader{cl: cl, adm: kadm.NewClient(cl), timeout: timeout}, nil
}

func (r *logReader) close() { r.cl.Close() }

func (r *logReader) start(ctx context.Context, topic string, partition int32) (int64, error) {
	return offsetOf(topic, partition)(r.adm.ListStartOffsets(ctx, topic))
}

// end waits until everything below the high watermark is decided, and answers the offset after the last visible record;
// start if there is none. The high watermark comes with it.
func (r *logReader) end(ctx context.Context, topic string, partition int32) (end, high int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout+adminTimeout)
	defer cancel()
	return r.decidedEnd(ctx, topic, partition)
}

func (r *logReader) decidedEnd(ctx context.Context, topic string, partition int32) (end, high int64, err error) {
	start, err := r.start(ctx, topic, partition)
	if err != nil {
		return 0, 0, err
	}
	high, err = offsetOf(topic, partition)(r.adm.ListEndOffsets(ctx, topic))
	if err != nil {
		return 0, 0, err
	}
	if err := r.awaitDecided(ctx, topic, partition, high); err != nil {
		return 0, 0, err
	}
	end, err = r.lastVisible(ctx, topic, partition, start, high)
	return end, high, err
}

func offsetOf(topic string, partition int32) func(kadm.ListedOffsets, error) (int64, error) {
	return func(listed kadm.ListedOffsets, err error) (int64, error) {
		if err != nil {
			return 0, fmt.Errorf("list offsets of %s: %w", topic, err)
		}
		o, ok := listed.Lookup(topic, partition)
		if !ok {
			return 0, fmt.Errorf("list offsets of %s: %w", topic, kerr.UnknownTopicOrPartition)
		}
		return o.Offset, o.Err
	}
}

// awaitDecided returns when no transaction that began below high is open. That its time is over is told apart from a
// broker that cannot be asked: only the former is final.
func (r *logReader) awaitDecided(ctx context.Context, topic string, partition int32, high int64) error {
	for late := time.Now().Add(r.timeout); ; {
		stable, err := offsetOf(topic, partition)(r.adm.ListCommittedOffsets(ctx, topic))
		switch {
		case err != nil:
			return err
		case stable >= high:
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%w: %s/%d is stable to %d of %d after %v, because of %s",
				ErrRecoveryTimeout, topic, partition, stable, high, r.timeout, r.holders(ctx, topic, partition))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(decidedPoll):
		}
	}
}

// holders names the producers whose transactions are open, for a person, and for Kafka's kafka-transactions tool.
func (r *logReader) holders(ctx context.Context, topic string, partition int32) string {
	var set kadm.TopicsSet
	set.Add(topic, partition)
	described, err := r.adm.DescribeProducers(ctx, set)
	if err != nil {
		return "producers that cannot be described: " + err.Error()
	}
	var open []string
	for _, p := range described[topic].Partitions[partition].ActiveProducers {
		if p.CurrentTxnStartOffset >= 0 {
			open = append(open, fmt.Sprintf("producer %d, epoch %d, since offset %d", p.ProducerID, p.ProducerEpoch, p.CurrentTxnStartOffset))
		}
	}
	return strings.Join(open, "; ")
}

// lastVisible looks back from high, further each time, for the last record that a read-committed reader sees.
func (r *logReader) lastVisible(ctx context.Context, topic string, partition int32, start, high int64) (int64, error) {
	for back := int64(firstLookBack); ; back *= 8 {
		from := max(start, high-back)
		last, err := r.lastVisibleFrom(ctx, topic, partition, from, high)
		if err != nil {
			return 0, err
		}
		if last >= 0 {
			return last + 1, nil
		}
		if from == start {
			return start, nil
		}
	}
}

func (r *logReader) lastVisibleFrom(ctx context.Context, topic string, partition int32, from, high int64) (int64, error) {
	last := int64(-1)
	for at := from; at < high; {
		fetched, next, err := r.fetch(ctx, topic, partition, at)
		if err != nil {
			return 0, err
		}
		for _, rec := range fetched.Records {
			if rec.Offset < high {
				last = rec.Offset
			}
		}
		if next <= at { // nothing came: the broker holds back what it is not sure of
			if err := ctx.Err(); err != nil {
				return 0, fmt.Errorf("fetch at %d of %d: %w", at, high, err)
			}
			continue
		}
		at = next
	}
	return last, nil
}

// fetch asks the leader for the batches at an offset. Its second answer is the offset after them, of whatever kind they
// are and whether or not anything in them is left or visible: the batches' own headers say it.
func (r *logReader) fetch(ctx context.Context, topic string, partition int32, at int64) (kgo.FetchPartition, int64, error) {
	none := kgo.FetchPartition{}
	meta, err := r.adm.Metadata(ctx, topic)
	if err != nil {
		return none, 0, err
	}
	leader := meta.Topics[topic].Partitions[partition].Leader
	resp, err := r.cl.Broker(int(leader)).RetriableRequest(ctx, fetchRequest(topic, meta.Topics[topic].ID, partition, at))
	if err != nil {
		return none, 0, fmt.Errorf("fetch %s/%d: %w", topic, partition, err)
	}
	f := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(f.ErrorCode); err != nil {
		return none, 0, fmt.Errorf("fetch %s/%d: %w", topic, partition, err)
	}
	if len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		return none, at, nil
	}
	opts := kgo.ProcessFetchPartitionOpts{Topic: topic, Partition: partition, Offset: at, IsolationLevel: kgo.ReadCommitted()}
	got, next := kgo.ProcessFetchPartition(opts, &f.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	if got.Err != nil {
		return none, 0, fmt.Errorf("fetch %s/%d: %w", topic, partition, got.Err)
	}
	return got, next, nil
}

func fetchRequest(topic string, id kadm.TopicID, partition int32, at int64) *kmsg.FetchRequest {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, at, rawFetchBytes, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	t.Partitions = append(t.Partitions, p)
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = rawFetchWaitMs, 1, rawFetchBytes, 1
	req.SessionEpoch = -1
	req.Topics = append(req.Topics, t)
	return req
}

// logReaderOn uses a client that exists.
func logReaderOn(cl *kgo.Client) *logReader { return &logReader{cl: cl, adm: kadm.NewClient(cl)} }
