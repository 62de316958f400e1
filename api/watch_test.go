package api_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

func upper(s string) string { return strings.ToUpper(s) }

// waiting waits until the API has this many calls whose outcome is awaited.
func waiting(t *testing.T, d *door, n float64) {
	t.Helper()
	eventually(t, "calls wait for their outcome", func() bool { return gauge(t, d, "millrace_api_waiting_calls") == n })
}

func gauge(t *testing.T, d *door, name string) float64 {
	t.Helper()
	families, err := d.metrics.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}

func TestWatchOrder(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{Heartbeat: 20 * time.Millisecond, StreamAge: 10 * time.Second}).ready()
	ada := d.as("ada", auth.Customer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	placed, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
	must(t, err)
	id := placed.Msg.GetOrder().GetId()
	stream, err := ada.WatchOrder(ctx, connect.NewRequest(&orderv1.WatchOrderRequest{OrderId: id}))
	must(t, err)
	next := func() *orderv1.WatchOrderResponse {
		t.Helper()
		for stream.Receive() {
			if stream.Msg().GetOrder() != nil {
				return stream.Msg()
			}
		}
		t.Fatalf("the stream ended: %v", stream.Err())
		return nil
	}
	if m := next(); m.GetOrder().GetVersion() != 1 {
		t.Fatalf("began with %v", m)
	}
	if !stream.Receive() || stream.Msg().GetHeartbeatTime() == nil || stream.Msg().GetResumeToken() == "" {
		t.Fatalf("no heartbeat: %v", stream.Msg())
	}
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING)
	resume := next().GetResumeToken()
	must(t, stream.Close())

	// What is missed while nobody listens comes with the resumed stream; what was seen does not come again.
	stream, err = ada.WatchOrder(ctx, connect.NewRequest(&orderv1.WatchOrderRequest{OrderId: id, ResumeToken: resume}))
	must(t, err)
	if !stream.Receive() || stream.Msg().GetHeartbeatTime() == nil {
		t.Fatalf("a resumed stream began with %v, %v", stream.Msg(), stream.Err())
	}
	must(t, stream.Close())
	s.played.move(id, orderv1.OrderStatus_ORDER_STATUS_PAID)
	stream, err = ada.WatchOrder(ctx, connect.NewRequest(&orderv1.WatchOrderRequest{OrderId: id, ResumeToken: resume}))
	must(t, err)
	if m := next(); m.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_PAID || stream.Receive() || stream.Err() != nil {
		t.Fatalf("ended with %v, %v", stream.Msg(), stream.Err())
	}
	eventually(t, "nothing is watched any more", func() bool { return gauge(t, d, "millrace_api_watched_aggregates") == 0 })
}

// TestStreamsEnd: by age, and when the server stops, both without an error.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	young := s.open(api.Limits{StreamAge: 50 * time.Millisecond}).ready()
	old := s.open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	placed, err := young.as("ada", auth.Customer).PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
	must(t, err)
	watch := &orderv1.WatchOrderRequest{OrderId: placed.Msg.GetOrder().GetId()}
	stream, err := young.as("ada", auth.Customer).WatchOrder(ctx, connect.NewRequest(watch))
	must(t, err)
	for stream.Receive() {
	}
	must(t, stream.Err())
	stream, err = old.as("ada", auth.Customer).WatchOrder(ctx, connect.NewRequest(watch))
	must(t, err)
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	must(t, old.stop())
	if stream.Receive() || stream.Err() != nil {
		t.Fatalf("the stopped server's stream gave %v, %v", stream.Msg(), stream.Err())
	}
}

func TestWatchAvailability(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{Heartbeat: 20 * time.Millisecond}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ada, sue := d.as("ada", auth.Customer), d.as("sue", auth.Seller)
	_, err := sue.Receive(ctx, connect.NewRequest(receive("CUP-BLUE", 10)))
	must(t, err)
	watch := &inventoryv1.WatchAvailabilityRequest{Skus: []string{"CUP-RED", "CUP-BLUE", "CUP-RED"}}
	stream, err := ada.WatchAvailability(ctx, connect.NewRequest(watch))
	must(t, err)
	next := func() *inventoryv1.Stock {
		t.Helper()
		for stream.Receive() {
			watch.ResumeToken = stream.Msg().GetResumeToken()
			if stream.Msg().GetStock() != nil {
				return stream.Msg().GetStock()
			}
		}
		t.Fatalf("the stream ended: %v", stream.Err())
		return nil
	}
	blue, red := next(), next()
	if blue.GetSku() != "CUP-BLUE" || blue.GetAvailable() != 10 || blue.GetOnHand() != 0 || red.GetVersion() != 0 {
		t.Fatalf("began with %v and %v", blue, red)
	}
	s.played.reserve("CUP-BLUE", 4)
	if blue = next(); blue.GetAvailable() != 6 || blue.GetReserved() != 0 {
		t.Fatalf("then %v", blue)
	}
	must(t, stream.Close())
	s.played.reserve("CUP-BLUE", 1)
	stream, err = ada.WatchAvailability(ctx, connect.NewRequest(watch))
	must(t, err)
	if blue = next(); blue.GetAvailable() != 5 {
		t.Fatalf("resumed with %v", blue)
	}
	must(t, stream.Close())
	watch.Skus = []string{"CUP-RED"}
	stream, err = ada.WatchAvailability(ctx, connect.NewRequest(watch))
	must(t, err)
	if stream.Receive() || refusalOf(stream.Err()).reason != "INVALID_RESUME_TOKEN" {
		t.Fatalf("another question's token gave %v, %v", stream.Msg(), stream.Err())
	}
}

func receive(sku string, n int64) *inventoryv1.ReceiveRequest {
	return &inventoryv1.ReceiveRequest{RequestId: uuid.Must(uuid.NewV7()).String(), Sku: sku, Quantity: n}
}
