package api

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

// streams is how long server streams live. They end before the proxies on the way would cut them, and go on with a
// resume token.
type streams struct {
	stopping  <-chan struct{} // closed when the server stops
	heartbeat time.Duration
	age       time.Duration
}

// follow gives each event to change until that says it was the last, the stream is old, the caller has gone or the
// server stops. In between it beats. A reader that is too slow misses superseded states, never the newest.
func follow[M proto.Message](ctx context.Context, s streams, w *watch[M], beat func() error, change func(seen[M]) (last bool, err error)) error {
	old := time.NewTimer(s.age)
	defer old.Stop()
	beats := time.NewTicker(s.heartbeat)
	defer beats.Stop()
	for {
		if event, ok := w.poll(); ok {
			if last, err := change(event); last || err != nil {
				return err
			}
			w.again() // there may be more, but a stream that never catches up has to end, too
		}
		select {
		case <-w.wake:
		case <-beats.C:
			if err := beat(); err != nil {
				return err
			}
		case <-old.C:
			return nil
		case <-s.stopping:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WatchOrder sends an order and its changes. It watches before it looks, so that nothing falls in between.
func (s *orders) WatchOrder(ctx context.Context, req *connect.Request[orderv1.WatchOrderRequest], stream *connect.ServerStream[orderv1.WatchOrderResponse]) error {
	id := canonicalUUID(req.Msg.GetOrderId())
	sent := int64(0)
	if t := req.Msg.GetResumeToken(); t != "" {
		var ok bool
		if sent, ok = readToken[int64](t, "order", id); !ok {
			return badResumeToken()
		}
	}
	w := s.read.tail.orders.watch(id)
	defer w.stop()
	order, err := s.visible(ctx, id)
	if err != nil {
		return err
	}
	send := func(o *orderv1.Order) (last bool, err error) {
		sent = o.GetVersion()
		return final(o.GetStatus()), stream.Send(&orderv1.WatchOrderResponse{Order: o, ResumeToken: writeToken(sent, "order", id)})
	}
	if order.GetVersion() > sent || final(order.GetStatus()) {
		if last, err := send(order); last || err != nil {
			return err
		}
	}
	beat := func() error {
		return stream.Send(&orderv1.WatchOrderResponse{ResumeToken: writeToken(sent, "order", id), HeartbeatTime: timestamppb.Now()})
	}
	return follow(ctx, s.streams, w, beat, func(e seen[*orderv1.OrderEvent]) (bool, error) {
		if e.event.GetOrder().GetVersion() <= sent {
			return false, nil
		}
		return send(e.event.GetOrder())
	})
}

// WatchAvailability sends SKUs and their changes.
func (s *inventory) WatchAvailability(ctx context.Context, req *connect.Request[inventoryv1.WatchAvailabilityRequest], stream *connect.ServerStream[inventoryv1.WatchAvailabilityResponse]) error {
	skus := slices.Compact(slices.Sorted(slices.Values(req.Msg.GetSkus())))
	sent, err := versionsSent(req.Msg.GetResumeToken(), skus)
	if err != nil {
		return err
	}
	w := s.read.tail.inventory.watch(skus...)
	defer w.stop()
	known, err := s.known(ctx, skus...)
	if err != nil {
		return err
	}
	caller := callerOf(ctx)
	asked := append([]string{"stock"}, skus...)
	send := func(stock *inventoryv1.Stock) error {
		at, _ := slices.BinarySearch(skus, stock.GetSku())
		if stock.GetVersion() <= sent[at] {
			return nil
		}
		sent[at] = stock.GetVersion()
		visible := shown(stock, caller, known[stock.GetSku()].sellerID)
		return stream.Send(&inventoryv1.WatchAvailabilityResponse{Stock: visible, ResumeToken: writeToken(sent, asked...)})
	}
	for _, sku := range skus {
		if err := send(s.read.newerStock(known[sku].stock)); err != nil {
			return err
		}
	}
	beat := func() error {
		return stream.Send(&inventoryv1.WatchAvailabilityResponse{ResumeToken: writeToken(sent, asked...), HeartbeatTime: timestamppb.Now()})
	}
	return follow(ctx, s.streams, w, beat, func(e seen[*inventoryv1.InventoryEvent]) (bool, error) { return false, send(stockOf(e)) })
}

// versionsSent are the versions that the caller has, in the order of the SKUs; -1 for none, because a SKU that was
// never received has version 0.
func versionsSent(resume string, skus []string) ([]int64, error) {
	if resume == "" {
		return slices.Repeat([]int64{-1}, len(skus)), nil
	}
	sent, ok := readToken[[]int64](resume, append([]string{"stock"}, skus...)...)
	if !ok || len(sent) != len(skus) {
		return nil, badResumeToken()
	}
	return sent, nil
}
