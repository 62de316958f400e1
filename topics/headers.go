package topics

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Headers of every record: the CloudEvents Kafka binding in binary mode, W3C trace context, and the cause.
const (
	HeaderSpecVersion    = "ce_specversion"
	HeaderID             = "ce_id"
	HeaderType           = "ce_type"
	HeaderSource         = "ce_source"
	HeaderSubject        = "ce_subject"
	HeaderTime           = "ce_time"
	HeaderContentType    = "content-type"
	HeaderTraceParent    = "traceparent"
	HeaderCauseID        = "ce_causationid"
	HeaderCauseTopic     = "ce_causetopic"
	HeaderCausePartition = "ce_causepartition"
	HeaderCauseOffset    = "ce_causeoffset"
)

// Cause is the record that made us write another one.
type Cause struct {
	ID          string
	Topic       string
	Partition   int32
	Offset      int64
	Time        time.Time // when the log took it
	TraceParent string
}

// Stamp is what the headers of a record say about where it comes from.
type Stamp struct {
	ID          string
	Source      string // e.g. "/api", "/processors/order"
	Time        time.Time
	Cause       Cause // zero for what a person or a clock began
	TraceParent string
}

// Fresh stamps a record that nothing in the log caused. Its ID is a new UUIDv7.
func Fresh(source, traceParent string) Stamp {
	return Stamp{ID: uuid.Must(uuid.NewV7()).String(), Source: source, Time: time.Now(), TraceParent: traceParent}
}

// By stamps the index-th record that a cause led to for an aggregate. The ID is a UUIDv5 of the three, so that
// deciding again writes the same ID, and two answers to two causes never share one. The time is the cause's.
func By(source string, c Cause, aggregate string, index int) Stamp {
	return Stamp{ID: id(aggregate, c.ID, index), Source: source, Time: c.Time, Cause: c, TraceParent: c.TraceParent}
}

func id(aggregate, cause string, index int) string {
	b := make([]byte, 0, 160)
	b = append(b, aggregate...)
	b = append(b, 0)
	b = append(b, cause...)
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(index))
	return uuid.NewSHA1(uuid.NameSpaceOID, b).String()
}

// CauseOf reads a record's headers. One without a ce_id is named by its place in the log.
func CauseOf(r *kgo.Record) Cause {
	c := Cause{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp}
	for _, h := range r.Headers {
		switch h.Key {
		case HeaderID:
			c.ID = string(h.Value)
		case HeaderTraceParent:
			c.TraceParent = string(h.Value)
		}
	}
	if c.ID == "" {
		c.ID = fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)
	}
	return c
}

// Headers are the headers of a record of this topic about the aggregate `subject`.
func (t Topic) Headers(subject string, s Stamp) []kgo.RecordHeader {
	h := make([]kgo.RecordHeader, 0, 12)
	add := func(k, v string) { h = append(h, kgo.RecordHeader{Key: k, Value: []byte(v)}) }
	add(HeaderSpecVersion, "1.0")
	add(HeaderID, s.ID)
	add(HeaderType, t.Type())
	add(HeaderSource, s.Source)
	add(HeaderSubject, subject)
	add(HeaderTime, s.Time.UTC().Format(time.RFC3339Nano))
	add(HeaderContentType, "application/protobuf")
	if s.TraceParent != "" {
		add(HeaderTraceParent, s.TraceParent)
	}
	if s.Cause.ID != "" {
		add(HeaderCauseID, s.Cause.ID)
		add(HeaderCauseTopic, s.Cause.Topic)
		add(HeaderCausePartition, strconv.Itoa(int(s.Cause.Partition)))
		add(HeaderCauseOffset, strconv.FormatInt(s.Cause.Offset, 10))
	}
	return h
}

// Header is the value of the first header with this key, or "".
func Header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}
