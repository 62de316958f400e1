package api

import (
	"bytes"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/api/auth"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
)

const someRequest = "0198f0b2-7c1e-7a3b-9d4e-5f60718293a4"

// drawRequest is from so few values that two draws are often nearly the same.
func drawRequest(t *rapid.T) *orderv1.PlaceOrderRequest {
	text := rapid.SampledFrom([]string{"", "a", "b", "ab"})
	req := &orderv1.PlaceOrderRequest{RequestId: someRequest, PaymentMethod: text.Draw(t, "method")}
	for range rapid.IntRange(1, 3).Draw(t, "lines") {
		req.Lines = append(req.Lines, &orderv1.PlaceOrderLine{Sku: rapid.SampledFrom([]string{"A", "B", "AB"}).Draw(t, "sku"), Quantity: rapid.Int64Range(1, 2).Draw(t, "quantity")})
	}
	if rapid.Bool().Draw(t, "contact") {
		req.Contact = &orderv1.Contact{Email: text.Draw(t, "email"), Phone: text.Draw(t, "phone")}
	}
	if rapid.Bool().Draw(t, "expected") {
		req.ExpectedTotal = &typev1.Money{MinorUnits: rapid.Int64Range(0, 1).Draw(t, "total"), CurrencyCode: "USD"}
	}
	return req
}

// meaning is a request without what does not count: how the lines of a SKU are split, an empty contact.
func meaning(t *rapid.T, req *orderv1.PlaceOrderRequest) (*ask, *orderv1.PlaceOrderRequest) {
	asked, err := askOf(auth.Caller{User: "ada"}, req)
	if err != nil {
		t.Fatal(err)
	}
	m := proto.CloneOf(req)
	m.Lines = nil
	for _, l := range asked.lines {
		m.Lines = append(m.Lines, &orderv1.PlaceOrderLine{Sku: l.sku, Quantity: l.quantity})
	}
	if m.GetContact().GetEmail() == "" && m.GetContact().GetPhone() == "" {
		m.Contact = nil
	}
	return asked, m
}

// TestFingerprintIsTheMeaning: two requests have the same fingerprint exactly if they mean the same.
func TestFingerprintIsTheMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, oneMeans := meaning(t, drawRequest(t))
		two, twoMeans := meaning(t, drawRequest(t))
		if bytes.Equal(one.fingerprint(), two.fingerprint()) != proto.Equal(oneMeans, twoMeans) {
			t.Fatalf("%v\n%v", oneMeans, twoMeans)
		}
		waits := proto.CloneOf(one.req)
		waits.WaitForStatus = orderv1.OrderStatus_ORDER_STATUS_PAID
		patient, _ := meaning(t, waits)
		if !bytes.Equal(patient.fingerprint(), one.fingerprint()) || patient.orderID != one.orderID {
			t.Fatal("how long the client waits is no part of what it asks for")
		}
	})
}

// TestFingerprintsStay: a stored fingerprint is compared with one made years later, so its encoding never changes.
func TestFingerprintsStay(t *testing.T) {
	asked, err := askOf(auth.Caller{User: "ada"}, &orderv1.PlaceOrderRequest{
		RequestId: someRequest, PaymentMethod: "pm_card_visa", Lines: []*orderv1.PlaceOrderLine{{Sku: "A", Quantity: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const wantOrder, wantPrint = "12b63a6f-4138-577b-ae49-01b3f5d1249d", "0ba516f50d9f0c32bf512ec4f35ceea081b77191ed8152d6b7bc1a59638e2af7"
	if got := asked.orderID; got != wantOrder {
		t.Errorf("the order's ID is %s", got)
	}
	if got := asked.fingerprint(); hex.EncodeToString(got) != wantPrint {
		t.Errorf("the fingerprint is %x", got)
	}
}

func TestReached(t *testing.T) {
	const (
		reserving  = orderv1.OrderStatus_ORDER_STATUS_RESERVING
		pending    = orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING
		cancelling = orderv1.OrderStatus_ORDER_STATUS_CANCELLING
		paid       = orderv1.OrderStatus_ORDER_STATUS_PAID
		rejected   = orderv1.OrderStatus_ORDER_STATUS_REJECTED
		cancelled  = orderv1.OrderStatus_ORDER_STATUS_CANCELLED
	)
	for _, c := range []struct {
		is, want orderv1.OrderStatus
		reached  bool
	}{
		{reserving, orderv1.OrderStatus_ORDER_STATUS_UNSPECIFIED, true}, {reserving, reserving, true}, {reserving, pending, false}, {reserving, paid, false},
		{pending, reserving, true}, {pending, pending, true}, {pending, paid, false}, {pending, cancelled, false},
		{cancelling, paid, false}, {cancelling, pending, true}, {pending, cancelling, false}, {cancelling, cancelling, true}, {cancelling, reserving, true},
		{paid, paid, true}, {paid, pending, true}, {paid, cancelled, true},
		{rejected, paid, true}, {cancelled, paid, true}, {rejected, cancelled, true},
	} {
		if got := reached(c.is, c.want); got != c.reached {
			t.Errorf("%v has reached %v: %t", c.is, c.want, got)
		}
	}
	for n := range orderv1.OrderStatus_name {
		progress(orderv1.OrderStatus(n)) // panics for a status that was forgotten
	}
}
