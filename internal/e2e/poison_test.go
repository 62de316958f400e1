package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/audit"
	"github.com/millrace/millrace/topics"
)

func asConnect(err error, target **connect.Error) bool { return errors.As(err, target) }

// poison writes what nobody should into four topics. Each record is dead-lettered with its reason, and the group goes
// on: the order placed afterwards goes through.
func (w *world) poison(t *testing.T) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	want := map[string]map[topics.Reason]int{}
	for _, c := range []struct {
		group string
		topic topics.Topic
	}{
		{topics.OrderGroup, w.table.OrderCommands.Topic},
		{topics.InventoryGroup, w.table.InventoryCommands.Topic},
		{topics.InventoryGroup, w.table.Reservations.Topic},
		{topics.OrderGroup, w.table.PaymentResults.Topic},
	} {
		if want[c.group] == nil {
			want[c.group] = map[topics.Reason]int{}
		}
		for why, r := range bad(c.topic) {
			want[c.group][why]++
			if err := cl.ProduceSync(context.Background(), r).FirstErr(); err != nil {
				t.Fatalf("%s in %s: %v", why, c.topic.Name, err)
			}
		}
	}
	for group, reasons := range want {
		w.deadLetters(t, group, reasons)
	}
	w.catalogue("AFTER-POISON")
	w.receive("AFTER-POISON", 1)
	res, err := w.as("ada").orders.PlaceOrder(within(30*time.Second), connect.NewRequest(order("AFTER-POISON", "pm_card_visa")))
	if err != nil || res.Msg.GetOrder().GetStatus() != paid {
		t.Fatalf("the order after the poison: %v, %v", res, err)
	}
}

// bad is one record of each kind, by the reason it is to be refused for.
func bad(to topics.Topic) map[topics.Reason]*kgo.Record {
	key := uuid.NewString()
	record := func(key string, value []byte, headers bool) *kgo.Record {
		r := &kgo.Record{Topic: to.Name, Key: []byte(key), Value: value, Partition: topics.Partition([]byte(key), to.Partitions)}
		if headers {
			r.Headers = to.Headers(key, topics.Fresh("/test", ""))
		}
		return r
	}
	noise := make([]byte, 200)
	for i := range noise {
		noise[i] = byte(rand.Uint32()) | 0x80 // never a valid field number
	}
	// Field 1 holds the key in all four; field 15 is nobody's. No command is set.
	nonsense := append([]byte{0x0a, byte(len(key))}, key...)
	wrong := record(key, nonsense, true)
	wrong.Partition = (wrong.Partition + 1) % to.Partitions
	return map[topics.Reason]*kgo.Record{
		topics.DecodeFailed:   record(key, noise, true),
		topics.Invalid:        record(key, nonsense, true),
		topics.Empty:          record(key, nil, true),
		topics.WrongPartition: wrong,
		topics.MissingHeaders: record(key, nonsense, false),
		topics.KeyTooLong:     record(string(bytes.Repeat([]byte("k"), 900<<10)), nonsense, false),
	}
}

// deadLetters waits until the group's dead letters hold each reason as often as it was caused.
func (w *world) deadLetters(t *testing.T, group string, want map[topics.Reason]int) {
	t.Helper()
	w.eventually(60*time.Second, "the dead letters of "+group, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		l, err := audit.Read(ctx, w.kafka, w.table.DeadLetters(group))
		if err != nil {
			return err
		}
		got := map[topics.Reason]int{}
		for _, r := range l.All(w.table.DeadLetters(group)) {
			got[topics.Reason(topics.Header(r, topics.HeaderDLQReason))]++
		}
		for why, n := range want {
			if got[why] < n {
				return fmt.Errorf("%s: %d of %d, all: %v", why, got[why], n, got)
			}
		}
		return nil
	})
}
