package processors

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/topics"
)

// BenchmarkOrder is what one order of two lines costs from its placing to PAID, between Goka and Kafka: five inputs, with
// their doors, the table's codec, the rule, and the fourteen records that they lead to.
func BenchmarkOrder(b *testing.B) {
	t := topics.New(topics.Options{})
	r, err := NewReplay(t, topics.OrderGroup)
	if err != nil {
		b.Fatal(err)
	}
	inputs := soldOrder(t)
	for i, in := range inputs {
		in.Timestamp, in.Partition, in.Offset = time.Now(), topics.Partition(in.Key, t.Partitions), int64(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		var state []byte
		written := 0
		for _, in := range inputs {
			after, out, err := r.Decide(state, in)
			if err != nil {
				b.Fatal(err)
			}
			state, written = after, written+len(out)
		}
		if written != 14 {
			b.Fatalf("%d records", written)
		}
	}
}

func soldOrder(t *topics.Table) []*kgo.Record {
	id := uuid.NewString()
	place := &orderv1.OrderCommand{
		OrderId: id, RequestId: uuid.NewString(), UserId: "ann", ActorId: "ann", Fingerprint: bytes.Repeat([]byte{1}, 32),
		Command: &orderv1.OrderCommand_Place{Place: &orderv1.PlaceOrder{CurrencyCode: "EUR", PaymentMethod: "pm_card_visa", Lines: []*orderv1.PlacedLine{
			{Sku: "TEA-00042", ProductId: "tea", SellerId: "leaf", Title: "Tea, loose, 100 g", Quantity: 2, UnitPriceMinor: 350},
			{Sku: "CUP-00042", ProductId: "cup", SellerId: "clay", Title: "Cup, blue", Quantity: 1, UnitPriceMinor: 900},
		}}},
	}
	by := topics.Fresh("/bench", "")
	result := func(step, number, outcome int32, amount int64) *kgo.Record {
		return t.PaymentResults.Record(&paymentv1.PaymentResult{
			OrderId: id, Step: paymentv1.PaymentStep(step), StepNumber: number, Outcome: paymentv1.PaymentOutcome(outcome), IntentId: "pi_1",
			AmountMinor: amount, CurrencyCode: "EUR",
		}, by)
	}
	return []*kgo.Record{
		t.OrderCommands.Record(place, by),
		t.InventoryAnswers.Record(&inventoryv1.InventoryAnswer{OrderId: id, Sku: "TEA-00042", Line: 1, Quantity: 2}, by),
		t.InventoryAnswers.Record(&inventoryv1.InventoryAnswer{OrderId: id, Sku: "CUP-00042", Line: 2, Quantity: 1}, by),
		result(1, 1, 1, 0),
		result(2, 2, 3, 1600),
	}
}
