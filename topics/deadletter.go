package topics

import (
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Reason is why a record was refused, in one word.
type Reason string

const (
	Empty          Reason = "EMPTY"
	DecodeFailed   Reason = "DECODE_FAILED"
	MissingHeaders Reason = "MISSING_HEADERS"
	WrongType      Reason = "WRONG_TYPE"
	WrongKey       Reason = "WRONG_KEY"
	WrongPartition Reason = "WRONG_PARTITION"
	KeyTooLong     Reason = "KEY_TOO_LONG"
	Invalid        Reason = "INVALID"
	UnknownOrder   Reason = "UNKNOWN_ORDER"
	Impossible     Reason = "IMPOSSIBLE" // an invariant would break; never applied
	CannotSucceed  Reason = "CANNOT_SUCCEED"
	SinkRejected   Reason = "SINK_REJECTED"
)

// Rejection is an error that is the record's own fault: it is dead-lettered, and the partition moves on.
type Rejection struct {
	Reason Reason
	Detail string // one sentence; cut at 1 KiB in the header
}

func (r Rejection) Error() string { return string(r.Reason) + ": " + r.Detail }

const maxDetail = 1 << 10

// Headers that a dead letter has besides the original ones.
const (
	HeaderDLQTopic     = "dlq.original.topic"
	HeaderDLQPartition = "dlq.original.partition"
	HeaderDLQOffset    = "dlq.original.offset"
	HeaderDLQTimestamp = "dlq.original.timestamp"
	HeaderDLQGroup     = "dlq.consumer.group"
	HeaderDLQReason    = "dlq.disposition"
	HeaderDLQMessage   = "dlq.error.message"
	HeaderDLQID        = "dlq.id"
)

// DeadLetter is the record with its original key, bytes and headers, and why the group refused it. Its ID is
// deterministic, so that a redelivery can be told from a second refusal.
func (t *Table) DeadLetter(group string, r *kgo.Record, rej Rejection) *kgo.Record {
	place := fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)
	d := &kgo.Record{Topic: t.DeadLetters(group).Name, Key: r.Key, Value: r.Value}
	d.Headers = append(make([]kgo.RecordHeader, 0, len(r.Headers)+8), r.Headers...)
	add := func(k, v string) { d.Headers = append(d.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)}) }
	add(HeaderDLQID, id(t.Group(group), place, 0))
	add(HeaderDLQTopic, r.Topic)
	add(HeaderDLQPartition, strconv.Itoa(int(r.Partition)))
	add(HeaderDLQOffset, strconv.FormatInt(r.Offset, 10))
	add(HeaderDLQTimestamp, r.Timestamp.UTC().Format(time.RFC3339Nano))
	add(HeaderDLQGroup, t.Group(group))
	add(HeaderDLQReason, string(rej.Reason))
	add(HeaderDLQMessage, clipTo(rej.Detail, maxDetail))
	return d
}

// Check says whether a record may be decided at all: its key, its partition and its headers. It looks at no value.
func (t Topic) Check(r *kgo.Record) error {
	switch {
	case len(r.Key) > MaxKeyBytes:
		return Rejection{KeyTooLong, fmt.Sprintf("the key has %d bytes, at most %d are allowed", len(r.Key), MaxKeyBytes)}
	case Partition(r.Key, t.Partitions) != r.Partition:
		return Rejection{WrongPartition, fmt.Sprintf("partition %d, but the key %q belongs on %d", r.Partition, clip(string(r.Key)), Partition(r.Key, t.Partitions))}
	}
	id, typ := headerValue(r, HeaderID), headerValue(r, HeaderType)
	switch {
	case len(id) == 0 || len(typ) == 0:
		return Rejection{MissingHeaders, HeaderID + " and " + HeaderType + " are required"}
	case string(typ) != t.Type():
		return Rejection{WrongType, fmt.Sprintf("%s is %q, this topic carries %s", HeaderType, clip(string(typ)), t.Type())}
	}
	return nil
}

func clip(s string) string { return clipTo(s, 100) }

func clipTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
