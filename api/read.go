package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

const (
	// catchUpWait bounds how long a read that finds nothing waits for the Postgres sink.
	catchUpWait = 5 * time.Second
	// versionWait bounds how long a read waits for min_version. In that time, Postgres is asked again every storeLook:
	// the tail may have begun after the event that is waited for.
	versionWait = 10 * time.Second
	storeLook   = time.Second
	// The pauses between two looks at the sink's place.
	firstLook, longestLook = 5 * time.Millisecond, 100 * time.Millisecond
)

// reader answers reads from Postgres and from the tail, whichever knows the newer version.
type reader struct {
	store     store
	tail      *tail
	recall    *recall
	sinkGroup string // with the prefix
}

// placing is what PlaceOrder needs to know of an order that may be there already. It refuses to say that there is none
// while Postgres may not have caught up with what the processor has forgotten.
func (r reader) placing(ctx context.Context, orderID string, skus []string) (placing, error) {
	partition, floor, err := r.recall.floor(orderID)
	if err != nil {
		return placing{}, readBehind(ctx, err)
	}
	p, err := r.store.placing(ctx, orderID, skus, r.sinkPartition(partition))
	if err == nil && p.stored == nil && p.nextSunk < floor {
		err = readBehind(ctx, fmt.Errorf("the sink is at %d of partition %d, and what it has not written yet may be forgotten up to %d", p.nextSunk, partition, floor))
	}
	return p, err
}

func (r reader) sinkPartition(n int32) sinkPartition {
	return sinkPartition{r.sinkGroup, r.tail.orders.topic.Name, n}
}

// order is the order's newest state. If none is known, it waits until every event that the log had when it was
// called is in Postgres, and only then says NOT_FOUND.
func (r reader) order(ctx context.Context, id string) (*orderv1.Order, error) {
	found, err := r.newestOrder(ctx, id)
	if found != nil || err != nil {
		return found, err
	}
	if err := r.catchUp(ctx, id); err != nil {
		return nil, err
	}
	found, err = r.newestOrder(ctx, id)
	if found == nil && err == nil {
		err = orderNotFound(id)
	}
	return found, err
}

func orderNotFound(id string) *refusal {
	return refuse(NotFound, "there is no such order").at("order_id").with("order_id", id)
}

// newestOrder is nil when neither the tail nor Postgres has the order.
func (r reader) newestOrder(ctx context.Context, id string) (*orderv1.Order, error) {
	stored, err := r.store.order(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.newer(stored, id), nil
}

// newer is what the tail has, if it is newer than what is stored; nil if both have nothing.
func (r reader) newer(stored *storedOrder, id string) *orderv1.Order {
	var order *orderv1.Order
	if stored != nil {
		order = stored.order
	}
	watch := r.tail.orders.watch(id)
	defer watch.stop()
	if s, ok := watch.poll(); ok && s.event.GetOrder().GetVersion() > order.GetVersion() {
		order = s.event.GetOrder()
	}
	return order
}

// catchUp waits until the sink has written all of the order's partition that the log has now.
func (r reader) catchUp(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	partition, end, err := r.tail.passOrders(ctx, id)
	if err != nil {
		return readBehind(ctx, fmt.Errorf("the end of %s: %w", r.tail.orders.topic.Name, err))
	}
	for pause := firstLook; ; pause = min(2*pause, longestLook) {
		next, err := r.store.sinkAt(ctx, r.sinkPartition(partition))
		switch {
		case err == nil && next >= end:
			return nil
		case ctx.Err() != nil:
			return readBehind(ctx, fmt.Errorf("the sink does not come to %d of partition %d in time", end, partition))
		case err != nil:
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func readBehind(ctx context.Context, cause error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	return refuse(ReadBehind, "whether it exists could not be found out in time; try again").because(cause)
}

// orderAt is the order with at least this version, waited for on the tail and in Postgres.
func (r reader) orderAt(ctx context.Context, order *orderv1.Order, version int64) (*orderv1.Order, error) {
	id := order.GetId() // a row may go while Postgres is rebuilt
	wanted := func(o *orderv1.Order) bool { return o.GetVersion() >= version }
	for until := time.Now().Add(versionWait); ; {
		latest, err := r.follow(ctx, order, storeLook, wanted)
		if !notReached(err) || ctx.Err() != nil || time.Now().After(until) {
			return latest, err
		}
		if order, err = r.newestOrder(ctx, id); err != nil {
			return nil, err
		}
	}
}

func notReached(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.reason == VersionNotReached
}

// orderReached is the order when its status is reached, or as it stands when the time is up.
func (r reader) orderReached(ctx context.Context, order *orderv1.Order, status orderv1.OrderStatus) (*orderv1.Order, error) {
	latest, err := r.follow(ctx, order, outcomeWait, func(o *orderv1.Order) bool { return reached(o.GetStatus(), status) })
	if notReached(err) {
		return latest, nil
	}
	return latest, err
}

// follow watches an order until it is as wanted. The refusal VERSION_NOT_REACHED comes with the order as it stands.
func (r reader) follow(ctx context.Context, order *orderv1.Order, wait time.Duration, wanted func(*orderv1.Order) bool) (*orderv1.Order, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	watch := r.tail.orders.watch(order.GetId())
	defer watch.stop()
	for !wanted(order) {
		s, err := watch.next(ctx)
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		if err != nil {
			return order, refuse(VersionNotReached, "the order is at version %d", order.GetVersion()).with("version", order.GetVersion())
		}
		if s.event.GetOrder().GetVersion() > order.GetVersion() {
			order = s.event.GetOrder()
		}
	}
	return order, nil
}

// reached says whether an order has this status or has gone past it.
func reached(is, want orderv1.OrderStatus) bool {
	return is == want || final(is) || progress(is) > progress(want)
}

// progress orders the statuses; an order that ends without a sale has gone past everything when it is final.
func progress(s orderv1.OrderStatus) int {
	switch s {
	case orderv1.OrderStatus_ORDER_STATUS_UNSPECIFIED:
		return 0
	case orderv1.OrderStatus_ORDER_STATUS_DRAFT:
		return 1
	case orderv1.OrderStatus_ORDER_STATUS_RESERVING:
		return 2
	case orderv1.OrderStatus_ORDER_STATUS_PAYMENT_PENDING:
		return 3
	case orderv1.OrderStatus_ORDER_STATUS_CANCELLING:
		return 4
	case orderv1.OrderStatus_ORDER_STATUS_PAID:
		return 5
	case orderv1.OrderStatus_ORDER_STATUS_REFUNDING:
		return 6
	case orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		orderv1.OrderStatus_ORDER_STATUS_PAYMENT_FAILED, orderv1.OrderStatus_ORDER_STATUS_REFUNDED:
		return 7
	}
	panic(fmt.Sprintf("api: no progress for %v", s))
}

// final statuses never change again. PAID is one of them until refunds come.
func final(s orderv1.OrderStatus) bool {
	return s == orderv1.OrderStatus_ORDER_STATUS_PAID || progress(s) == progress(orderv1.OrderStatus_ORDER_STATUS_REJECTED)
}

// stockOf is the ledger that an event shows.
func stockOf(s seen[*inventoryv1.InventoryEvent]) *inventoryv1.Stock {
	e := s.event
	return &inventoryv1.Stock{
		Sku: e.GetSku(), OnHand: e.GetOnHand(), Reserved: e.GetReserved(), Available: e.GetOnHand() - e.GetReserved(),
		Version: e.GetVersion(), StockVersion: e.GetStockVersion(), UpdateTime: timestamppb.New(s.time),
	}
}

// newerStock is what the tail has, if it is newer.
func (r reader) newerStock(stock *inventoryv1.Stock) *inventoryv1.Stock {
	watch := r.tail.inventory.watch(stock.GetSku())
	defer watch.stop()
	if s, ok := watch.poll(); ok && s.event.GetVersion() > stock.GetVersion() {
		return stockOf(s)
	}
	return stock
}

// stockAt is the stock with at least this version, waited for on the tail and in Postgres.
func (r reader) stockAt(ctx context.Context, stock *inventoryv1.Stock, version int64) (*inventoryv1.Stock, error) {
	for until := time.Now().Add(versionWait); ; {
		latest, err := r.followStock(ctx, stock, version)
		if !notReached(err) || ctx.Err() != nil || time.Now().After(until) {
			return latest, err
		}
		stored, err := r.store.stock(ctx, stock.GetSku())
		if err != nil {
			return nil, err
		}
		if s := stored[stock.GetSku()].stock; s.GetVersion() > stock.GetVersion() {
			stock = s
		}
		stock = r.newerStock(stock)
	}
}

// followStock watches the tail for storeLook.
func (r reader) followStock(ctx context.Context, stock *inventoryv1.Stock, version int64) (*inventoryv1.Stock, error) {
	ctx, cancel := context.WithTimeout(ctx, storeLook)
	defer cancel()
	watch := r.tail.inventory.watch(stock.GetSku())
	defer watch.stop()
	for stock.GetVersion() < version {
		s, err := watch.next(ctx)
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		if err != nil {
			return nil, refuse(VersionNotReached, "the SKU is at version %d", stock.GetVersion()).with("version", stock.GetVersion())
		}
		if s.event.GetVersion() > stock.GetVersion() {
			stock = stockOf(s)
		}
	}
	return stock, nil
}
