package api

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/topics"
)

const (
	source = "/api"
	// publishWait bounds how long a call waits for the log to take its command.
	publishWait = 10 * time.Second
	// bufferedCommandsMax bounds the commands that wait for a broker; more are refused at once.
	bufferedCommandsMax = 4096
)

// producerOptions are acks from all replicas and idempotence (franz-go's defaults, said aloud), the one partitioner
// and bounded waiting.
func producerOptions(brokers []string) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(topics.Partitioner()),
		kgo.ProducerBatchMaxBytes(topics.MaxRecordBytes),
		kgo.MaxBufferedRecords(bufferedCommandsMax),
		kgo.RecordDeliveryTimeout(publishWait),
		kgo.ProducerLinger(0),
		kgo.RetryTimeout(publishWait),
	}
}

// publish returns when the log has the record on all replicas in sync. After an error the record may still get
// there: the same request again is safe.
func publish(ctx context.Context, client *kgo.Client, r *kgo.Record) error {
	acknowledged := make(chan error, 1)
	client.TryProduce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { acknowledged <- err })
	timeout := time.NewTimer(publishWait)
	defer timeout.Stop()
	var err error
	select {
	case err = <-acknowledged:
	case <-timeout.C:
		err = fmt.Errorf("no acknowledgement within %v", publishWait)
	case <-ctx.Done():
		err = fmt.Errorf("no acknowledgement: %w", ctx.Err())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	return refuse(KafkaUnavailable, "the log did not confirm the command, and may take it yet; repeat it with the same request_id for its outcome").because(fmt.Errorf("produce to %s: %w", r.Topic, err))
}

// decide publishes a command and waits for its outcome, which names the command in its cause. The waiter is there
// before the command is, so that no outcome is missed.
func decide[C, E proto.Message](ctx context.Context, client *kgo.Client, to topics.Of[C], from *feed[E], command C) (E, time.Time, error) {
	stamp := topics.Fresh(source, traceParentOf(ctx))
	outcome, stop := from.await(stamp.ID)
	defer stop()
	var none E
	if err := publish(ctx, client, to.Record(command, stamp)); err != nil {
		return none, time.Time{}, err
	}
	select {
	case s := <-outcome:
		return s.event, s.time, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return none, time.Time{}, context.Canceled
		}
		return none, time.Time{}, refuse(OutcomePending, "the log has the command and it will be decided, but not within this call; repeat it with the same request_id for its outcome")
	}
}

type traceParentKey struct{}

var traceParentPattern = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// withTraceParent keeps the caller's trace for the records that the call publishes. What is no W3C traceparent is
// left out.
func withTraceParent(ctx context.Context, header string) context.Context {
	if !traceParentPattern.MatchString(header) {
		return ctx
	}
	return context.WithValue(ctx, traceParentKey{}, header)
}

func traceParentOf(ctx context.Context) string {
	s, _ := ctx.Value(traceParentKey{}).(string)
	return s
}
