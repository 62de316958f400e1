package topics

import (
	"crypto/sha1"
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

// id is uuid.NewSHA1(uuid.NameSpaceOID, ...), without its allocations: it is computed for every record that is written.
func id(aggregate, cause string, index int) string {
	b := append(make([]byte, 0, 192), uuid.NameSpaceOID[:]...)
	b = append(b, aggregate...)
	b = append(b, 0)
	b = append(b, cause...)
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(index))
	sum := sha1.Sum(b)
	u := uuid.UUID(sum[:16])
	u[6] = u[6]&0x0f | 5<<4 // version 5
	u[8] = u[8]&0x3f | 0x80 // RFC 4122
	return u.String()
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

// Headers are the headers of a record of this topic about the aggregate `subject`. Their values share one piece of
// memory: two allocations for a dozen headers, on the way of every record.
func (t Topic) Headers(subject string, s Stamp) []kgo.RecordHeader {
	const rest = 100 // at most: version, time, content type, partition and offset
	typ := t.Type()
	n := len(s.ID) + len(typ) + len(s.Source) + len(subject) + len(s.TraceParent) + len(s.Cause.ID) + len(s.Cause.Topic) + rest
	h := headers{list: make([]kgo.RecordHeader, 0, 12), values: make([]byte, 0, n)}
	h.add(HeaderSpecVersion, "1.0")
	h.add(HeaderID, s.ID)
	h.add(HeaderType, typ)
	h.add(HeaderSource, s.Source)
	h.add(HeaderSubject, subject)
	h.values = s.Time.UTC().AppendFormat(h.values, time.RFC3339Nano)
	h.end(HeaderTime)
	h.add(HeaderContentType, "application/protobuf")
	if s.TraceParent != "" {
		h.add(HeaderTraceParent, s.TraceParent)
	}
	if s.Cause.ID != "" {
		h.add(HeaderCauseID, s.Cause.ID)
		h.add(HeaderCauseTopic, s.Cause.Topic)
		h.values = strconv.AppendInt(h.values, int64(s.Cause.Partition), 10)
		h.end(HeaderCausePartition)
		h.values = strconv.AppendInt(h.values, s.Cause.Offset, 10)
		h.end(HeaderCauseOffset)
	}
	return h.list
}

// headers is a list of headers in the making.
type headers struct {
	list   []kgo.RecordHeader
	values []byte
	begun  int // where the next value begins
}

func (h *headers) add(key, value string) {
	h.values = append(h.values, value...)
	h.end(key)
}

// end makes what was appended since the last header the value of the next.
func (h *headers) end(key string) {
	n := len(h.values)
	h.list = append(h.list, kgo.RecordHeader{Key: key, Value: h.values[h.begun:n:n]})
	h.begun = n
}

// Header is the value of the first header with this key, or "".
func Header(r *kgo.Record, key string) string { return string(headerValue(r, key)) }

func headerValue(r *kgo.Record, key string) []byte {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value
		}
	}
	return nil
}
