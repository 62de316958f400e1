package topics_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

var (
	table = topics.New(topics.Options{Prefix: "p."})
	when  = time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
)

func headers(r *kgo.Record) map[string]string {
	m := map[string]string{}
	for _, h := range r.Headers {
		if _, twice := m[h.Key]; twice {
			m[h.Key] += " and again"
		}
		m[h.Key] += string(h.Value)
	}
	return m
}

func TestRecordsSayWhatTheyAreAndWhy(t *testing.T) {
	command := &orderv1.OrderCommand{OrderId: "o-1", RequestId: "r"}
	first := table.OrderCommands.Record(command, topics.Fresh("/api", "00-trace"))
	first.Topic, first.Partition, first.Offset, first.Timestamp = table.OrderCommands.Name, 4, 17, when

	caused := table.OrderEvents.Record(&orderv1.OrderEvent{OrderId: "o-1", Version: 1}, topics.By("/processors/order", topics.CauseOf(first), "o-1", 0))
	got := headers(caused)
	for key, want := range map[string]string{
		"ce_specversion": "1.0", "ce_type": "shop.order.v1.OrderEvent", "ce_source": "/processors/order", "ce_subject": "o-1",
		"ce_time": "2026-03-04T05:06:07.008Z", "content-type": "application/protobuf", "traceparent": "00-trace",
		"ce_causationid": headers(first)["ce_id"], "ce_causetopic": "p.order.commands.v1", "ce_causepartition": "4", "ce_causeoffset": "17",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	if string(caused.Key) != "o-1" || caused.Topic != "p.order.events.v1" {
		t.Errorf("key %q, topic %s", caused.Key, caused.Topic)
	}
	if _, has := headers(first)["ce_causationid"]; has {
		t.Error("what nothing caused names a cause")
	}
}

// TestLongHeadersStayApart: the values share memory, also when it does not suffice.
func TestLongHeadersStayApart(t *testing.T) {
	long := func(c string) string { return strings.Repeat(c, 150) }
	cause := topics.Cause{ID: long("i"), Topic: long("t"), Time: when, TraceParent: long("p")}
	r := table.OrderEvents.Record(&orderv1.OrderEvent{OrderId: long("o")}, topics.By(long("s"), cause, "a", 0))
	got := headers(r)
	r.Headers[0].Value = append(r.Headers[0].Value, "spilt"...)
	for key, want := range map[string]string{
		"ce_source": long("s"), "ce_subject": long("o"), "traceparent": long("p"), "ce_causationid": long("i"), "ce_causetopic": long("t"),
		"ce_specversion": "1.0", "ce_id": topics.By("", cause, "a", 0).ID, "ce_causeoffset": "0",
	} {
		if got[key] != want || key != "ce_specversion" && topics.Header(r, key) != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
}

func TestIDsAreTheSameForTheSameCause(t *testing.T) {
	cause := topics.Cause{ID: "c"}
	id := func(s topics.Stamp) string { return s.ID }
	one := id(topics.By("/x", cause, "a", 0))
	if parsed, err := uuid.Parse(one); err != nil || parsed.Version() != 5 {
		t.Fatalf("%s: %v", one, err)
	}
	if want := uuid.NewSHA1(uuid.NameSpaceOID, []byte("a\x00c\x00\x00\x00\x00\x00")).String(); one != want {
		t.Errorf("%s is not the UUIDv5 of the three, %s", one, want)
	}
	if again := id(topics.By("/x", cause, "a", 0)); again != one {
		t.Errorf("decided again: %s, then %s", one, again)
	}
	for name, other := range map[string]string{
		"index":                   id(topics.By("/x", cause, "a", 1)),
		"aggregate":               id(topics.By("/x", cause, "b", 0)),
		"cause":                   id(topics.By("/x", topics.Cause{ID: "d"}, "a", 0)),
		"border of the two":       id(topics.By("/x", topics.Cause{ID: ""}, "ac", 0)),
		"a record without ce_id":  id(topics.By("/x", topics.CauseOf(&kgo.Record{Topic: "t", Offset: 1}), "a", 0)),
		"another one without any": id(topics.By("/x", topics.CauseOf(&kgo.Record{Topic: "t", Offset: 2}), "a", 0)),
	} {
		if other == one {
			t.Errorf("another %s gives the same ID", name)
		}
	}
	if a, b := topics.Fresh("/x", ""), topics.Fresh("/x", ""); a.ID == b.ID {
		t.Error("two fresh IDs are the same")
	}
}

func TestCheckRefusesWithReason(t *testing.T) {
	good := func() *kgo.Record {
		r := table.OrderCommands.Record(&orderv1.OrderCommand{OrderId: "o-1"}, topics.Fresh("/api", ""))
		r.Partition = topics.Partition(r.Key, table.OrderCommands.Partitions)
		return r
	}
	if err := table.OrderCommands.Check(good()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want  topics.Reason
		spoil func(*kgo.Record)
	}{
		{topics.WrongPartition, func(r *kgo.Record) { r.Partition = (r.Partition + 1) % 12 }},
		{topics.KeyTooLong, func(r *kgo.Record) { r.Key = []byte(strings.Repeat("k", 129)) }},
		{topics.MissingHeaders, func(r *kgo.Record) { r.Headers = nil }},
		{topics.WrongType, func(r *kgo.Record) { r.Headers = table.OrderEvents.Headers("o-1", topics.Fresh("/api", "")) }},
	} {
		r := good()
		c.spoil(r)
		var rejection topics.Rejection
		if err := table.OrderCommands.Check(r); !errors.As(err, &rejection) || rejection.Reason != c.want {
			t.Errorf("want %s, got %v", c.want, err)
		}
	}
}

func TestDecodeRefusesWithReason(t *testing.T) {
	value, err := proto.Marshal(&orderv1.OrderCommand{OrderId: "o-1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want       topics.Reason
		key, value string
	}{
		{topics.Empty, "o-1", ""},
		{topics.DecodeFailed, "o-1", "\xff\xff\xff"},
		{topics.WrongKey, "o-2", string(value)},
	} {
		var rejection topics.Rejection
		if _, err := table.OrderCommands.Decode([]byte(c.key), []byte(c.value)); !errors.As(err, &rejection) || rejection.Reason != c.want {
			t.Errorf("want %s, got %v", c.want, err)
		}
	}
	if m, err := table.OrderCommands.Decode([]byte("o-1"), value); err != nil || m.OrderId != "o-1" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestDeadLettersKeepTheRecordAndSayWhy(t *testing.T) {
	r := &kgo.Record{Topic: "p.order.commands.v1", Partition: 3, Offset: 9, Timestamp: when, Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "own", Value: []byte("x")}}}
	d := table.DeadLetter(topics.OrderGroup, r, topics.Rejection{Reason: topics.Empty, Detail: strings.Repeat("ä", 1000)})
	got := headers(d)
	if d.Topic != "p.order.dlq.v1" || string(d.Key) != "k" || string(d.Value) != "v" || got["own"] != "x" {
		t.Errorf("not the original: %+v", d)
	}
	for key, want := range map[string]string{
		"dlq.original.topic": r.Topic, "dlq.original.partition": "3", "dlq.original.offset": "9", "dlq.consumer.group": "p.order", "dlq.disposition": "EMPTY",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	if again := table.DeadLetter(topics.OrderGroup, r, topics.Rejection{Reason: topics.Empty}); headers(again)["dlq.id"] != got["dlq.id"] {
		t.Error("the ID of a dead letter changes when it is written again")
	}
	if n := len(got["dlq.error.message"]); n > 1<<10+3 {
		t.Errorf("the message has %d bytes", n)
	}
}

func TestTopicsAreFoundByAnyName(t *testing.T) {
	for _, name := range []string{"p.order.events.v1", "order.events.v1", "order.events", "sink-postgres.dlq", "order-table"} {
		if _, ok := table.Find(name); !ok {
			t.Errorf("%s is not found", name)
		}
	}
	if _, ok := table.Find("orders"); ok {
		t.Error("orders is found")
	}
}
