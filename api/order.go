package api

import (
	"bytes"
	"context"
	"errors"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/api/auth"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/topics"
)

const (
	// everybody is the user_id by which an operator lists all orders.
	everybody           = "-"
	ordersPageDefault   = 20
	headerReplayed      = "Idempotent-Replayed"
	orderStatusNameHead = "ORDER_STATUS_"
)

// orders serves shop.order.v1.OrderService.
type orders struct {
	client   *kgo.Client
	commands topics.Of[*orderv1.OrderCommand]
	read     reader
	streams  streams
}

// PlaceOrder publishes one command and answers with its outcome. The order processor alone decides what is a repeat;
// Postgres is asked first, because it remembers the orders that have left the processor's table.
func (s *orders) PlaceOrder(ctx context.Context, req *connect.Request[orderv1.PlaceOrderRequest]) (*connect.Response[orderv1.PlaceOrderResponse], error) {
	caller, err := require(ctx, auth.Customer)
	if err != nil {
		return nil, err
	}
	asked, err := askOf(caller, req.Msg)
	if err != nil {
		return nil, err
	}
	known, err := s.read.placing(ctx, asked.orderID, asked.skus())
	if err != nil {
		return nil, err
	}
	order, replayed, err := s.placed(ctx, asked, known)
	if err != nil {
		return nil, err
	}
	if order, err = s.read.orderReached(ctx, order, req.Msg.GetWaitForStatus()); err != nil {
		return nil, err
	}
	return replay(connect.NewResponse(&orderv1.PlaceOrderResponse{Order: order, Replayed: replayed}), replayed), nil
}

// placed is the order that a request leads to, and whether it was there before.
func (s *orders) placed(ctx context.Context, asked *ask, known placing) (*orderv1.Order, bool, error) {
	if stored := known.stored; stored != nil {
		if stored.fingerprint != nil && !bytes.Equal(stored.fingerprint, asked.fingerprint()) {
			return nil, false, mismatch(asked.orderID)
		}
		return s.read.newer(stored, asked.orderID), true, nil
	}
	command, refused := asked.place(known.offers)
	if refused == nil {
		return s.decide(ctx, command)
	}
	// What the catalogue refuses today may repeat an order of yesterday, even one that is not in Postgres yet.
	order, _, err := s.decide(ctx, asked.repeat())
	var said *refusal
	if errors.As(err, &said) && said.reason == NotFound {
		return nil, false, refused
	}
	return order, true, err
}

func mismatch(orderID string) *refusal {
	return refuse(IdempotencyMismatch, "the request_id was used before, with other content").at("request_id").with("order_id", orderID)
}

// decide publishes a command and gives its outcome: the order after it, and whether the answer is a stored one.
func (s *orders) decide(ctx context.Context, command *orderv1.OrderCommand) (*orderv1.Order, bool, error) {
	event, _, err := decide(ctx, s.client, s.commands, s.read.tail.orders, command)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			r.with("order_id", command.GetOrderId())
		}
		return nil, false, err
	}
	switch change := event.GetChange().(type) {
	case *orderv1.OrderEvent_CommandRefused:
		return nil, false, orderRefused(change.CommandRefused.GetReason(), event)
	case *orderv1.OrderEvent_CommandRepeated:
		if why := change.CommandRepeated.GetRefused(); why != orderv1.OrderReason_ORDER_REASON_UNSPECIFIED {
			return nil, true, orderRefused(why, event).with("replayed", true)
		}
		return event.GetOrder(), true, nil
	}
	return event.GetOrder(), false, nil
}

// orderRefused is the order processor's no as an error.
func orderRefused(why orderv1.OrderReason, event *orderv1.OrderEvent) *refusal {
	status := event.GetOrder().GetStatus()
	switch why {
	case orderv1.OrderReason_ORDER_REASON_IDEMPOTENCY_MISMATCH:
		return mismatch(event.GetOrderId())
	case orderv1.OrderReason_ORDER_REASON_NOT_FOUND:
		return orderNotFound(event.GetOrderId())
	case orderv1.OrderReason_ORDER_REASON_STATE_CONFLICT:
		return stateConflict(event.GetOrderId(), status)
	case orderv1.OrderReason_ORDER_REASON_TOO_MANY_COMMANDS:
		return refuse(TooManyCommands, "the order has answered as many commands as it remembers").with("order_id", event.GetOrderId())
	}
	return refuse(StateConflict, "the order refused the command: %v", why).with("order_id", event.GetOrderId(), "order_reason", why)
}

func stateConflict(orderID string, status orderv1.OrderStatus) *refusal {
	return refuse(StateConflict, "an order that is %s cannot be cancelled", statusName(status)).with("order_id", orderID, "status", statusName(status))
}

// GetOrder reads one order.
func (s *orders) GetOrder(ctx context.Context, req *connect.Request[orderv1.GetOrderRequest]) (*connect.Response[orderv1.GetOrderResponse], error) {
	order, err := s.visible(ctx, req.Msg.GetOrderId())
	if err != nil {
		return nil, err
	}
	if order, err = s.read.orderAt(ctx, order, req.Msg.GetMinVersion()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&orderv1.GetOrderResponse{Order: order}), nil
}

// visible is an order that the caller may see. Other people's look as if they were not there.
func (s *orders) visible(ctx context.Context, id string) (*orderv1.Order, error) {
	caller, err := require(ctx, auth.Customer)
	if err != nil {
		return nil, err
	}
	id = canonicalUUID(id)
	order, err := s.read.order(ctx, id)
	if err != nil {
		return nil, err
	}
	if order.GetUserId() != caller.User && !caller.Is(auth.Operator) {
		return nil, orderNotFound(id)
	}
	return order, nil
}

// ListOrders reads a page of orders from Postgres.
func (s *orders) ListOrders(ctx context.Context, req *connect.Request[orderv1.ListOrdersRequest]) (*connect.Response[orderv1.ListOrdersResponse], error) {
	caller, err := require(ctx, auth.Customer)
	if err != nil {
		return nil, err
	}
	page, err := pageOf(caller, req.Msg)
	if err != nil {
		return nil, err
	}
	size := page.size
	page.size++ // one more tells whether there is a next page
	found, err := s.read.store.orders(ctx, page)
	if err != nil {
		return nil, err
	}
	res := &orderv1.ListOrdersResponse{}
	for _, f := range found[:min(size, len(found))] {
		res.Orders = append(res.Orders, f.order)
	}
	if len(found) > size {
		last := res.GetOrders()[size-1]
		res.NextPageToken = writeToken(orderPlace{Time: last.GetPlaceTime().AsTime(), ID: uuid.MustParse(last.GetId())}, "orders", page.user, page.status)
	}
	return connect.NewResponse(res), nil
}

func pageOf(caller auth.Caller, req *orderv1.ListOrdersRequest) (orderPage, error) {
	page := orderPage{user: caller.User, size: ordersPageDefault}
	switch user := req.GetUserId(); {
	case user == "" || user == caller.User:
	case !caller.Is(auth.Operator):
		return orderPage{}, refuse(NotYourUser, "only an operator lists somebody else's orders").at("user_id")
	case user == everybody:
		page.user = ""
	default:
		page.user = user
	}
	if req.GetPageSize() > 0 {
		page.size = int(req.GetPageSize())
	}
	if req.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_UNSPECIFIED {
		page.status = statusName(req.GetStatus())
	}
	if req.GetPageToken() != "" {
		after, ok := readToken[orderPlace](req.GetPageToken(), "orders", page.user, page.status)
		if !ok {
			return orderPage{}, badPageToken()
		}
		page.after = &after
	}
	return page, nil
}

// CancelOrder publishes one command and answers with its outcome.
func (s *orders) CancelOrder(ctx context.Context, req *connect.Request[orderv1.CancelOrderRequest]) (*connect.Response[orderv1.CancelOrderResponse], error) {
	known, err := s.visible(ctx, req.Msg.GetOrderId())
	if err != nil {
		return nil, err
	}
	command := &orderv1.OrderCommand{
		OrderId: known.GetId(), RequestId: canonicalUUID(req.Msg.GetRequestId()), UserId: known.GetUserId(), ActorId: callerOf(ctx).User,
		Fingerprint: newFingerprint("cancel").Sum(nil), Command: &orderv1.OrderCommand_Cancel{Cancel: &orderv1.CancelOrder{}},
	}
	order, replayed, err := s.decide(ctx, command)
	var said *refusal
	if errors.As(err, &said) && said.reason == NotFound { // it has left the processor's table: it is final
		return nil, stateConflict(known.GetId(), known.GetStatus())
	}
	if err != nil {
		return nil, err
	}
	return replay(connect.NewResponse(&orderv1.CancelOrderResponse{Order: order, Replayed: replayed}), replayed), nil
}

// replay says in a header, too, that an answer is a stored one.
func replay[M any](res *connect.Response[M], replayed bool) *connect.Response[M] {
	if replayed {
		res.Header().Set(headerReplayed, "true")
	}
	return res
}

func statusName(s orderv1.OrderStatus) string { return s.String()[len(orderStatusNameHead):] }
