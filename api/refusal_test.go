package api_test

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
)

// v7At is a UUIDv7 of a time.
func v7At(at time.Time) string {
	id := uuid.Must(uuid.NewV7())
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16|uint64(binary.BigEndian.Uint16(id[6:8])))
	return id.String()
}

// refused is what a call must be answered with; no field means that none is named.
type refused struct {
	name  string
	err   error
	code  connect.Code
	why   string
	field string
}

func check(t *testing.T, cases []refused) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := refusalOf(c.err)
			if got.code != c.code || got.reason != c.why || c.field != "" && !slices.Contains(got.fields, c.field) || c.field == "" && len(got.fields) != 0 {
				t.Errorf("answered %v with %+v; want %v %s at %q", c.err, got, c.code, c.why, c.field)
			}
		})
	}
}

// visited is a shop with one order of ada's, and sue's stock of which some is reserved.
type visited struct {
	*door
	ctx                      context.Context
	ada, bob, sue, olga, ann client
	order                    string
	received                 *inventoryv1.ReceiveRequest
}

func visit(t *testing.T) visited {
	t.Helper()
	d := openShop(t).open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	v := visited{
		door: d, ctx: ctx, ada: d.as("ada", auth.Customer), bob: d.as("bob", auth.Customer), sue: d.as("sue", auth.Seller),
		olga: d.as("olga", auth.Operator), ann: d.as("ann", auth.Analyst), received: receive("CUP-BLUE", 10),
	}
	placed, err := v.ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
	must(t, err)
	v.order = placed.Msg.GetOrder().GetId()
	_, err = v.sue.Receive(ctx, connect.NewRequest(v.received))
	must(t, err)
	d.played.reserve("CUP-BLUE", 4)
	return v
}

func TestPlacingIsRefused(t *testing.T) {
	t.Parallel()
	v := visit(t)
	place := func(c client, change func(*orderv1.PlaceOrderRequest)) error {
		ask := buy(line("CUP-BLUE", 1))
		change(ask)
		_, err := c.PlaceOrder(v.ctx, connect.NewRequest(ask))
		return err
	}
	lines := func(l ...*orderv1.PlaceOrderLine) error {
		return place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.Lines = l })
	}
	long := make([]*orderv1.PlaceOrderLine, 101)
	for i := range long {
		long[i] = line("CUP-BLUE", 1)
	}
	check(t, []refused{
		{"unknown SKU", lines(line("CUP-BLUE", 1), line("CUP-PINK", 1)), connect.CodeNotFound, "UNKNOWN_SKU", "lines[1].sku"},
		{"offer that is not active", lines(line("CUP-OLD", 1)), connect.CodeFailedPrecondition, "OFFER_INACTIVE", "lines[0].sku"},
		{"offer of a deleted product", lines(line("CUP-GONE", 1)), connect.CodeFailedPrecondition, "OFFER_INACTIVE", "lines[0].sku"},
		{"malformed SKU", lines(line("CUP BLUE", 1)), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "lines[0].sku"},
		{"quantity 0", lines(line("CUP-BLUE", 0)), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "lines[0].quantity"},
		{"quantity above the limit", lines(line("CUP-RED", 1), line("CUP-BLUE", 10_001)), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "lines[1].quantity"},
		{"quantity above the limit in two lines", lines(line("CUP-RED", 1), line("CUP-BLUE", 6000), line("CUP-BLUE", 4001)), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "lines[1].quantity"},
		{"no lines", lines(), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "lines"},
		{"101 lines", lines(long...), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "lines"},
		{"an amount that overflows", lines(line("YACHT", 10_000)), connect.CodeFailedPrecondition, "AMOUNT_TOO_LARGE", "lines[0].quantity"},
		{"a sum that overflows", lines(line("CUP-BLUE", 1), line("YACHT", 1)), connect.CodeFailedPrecondition, "AMOUNT_TOO_LARGE", "lines[1].quantity"},
		{"more than the gateway takes", lines(line("BOAT", 2)), connect.CodeFailedPrecondition, "AMOUNT_TOO_LARGE", "lines[0].quantity"},
		{"two currencies", lines(line("CUP-BLUE", 1), line("CUP-EURO", 1)), connect.CodeFailedPrecondition, "MIXED_CURRENCIES", "lines[1].sku"},
		{"another price", place(v.ada, func(r *orderv1.PlaceOrderRequest) {
			r.ExpectedTotal = &typev1.Money{MinorUnits: 1000, CurrencyCode: "USD"}
		}), connect.CodeFailedPrecondition, "PRICE_CHANGED", "expected_total"},
		{"another currency", place(v.ada, func(r *orderv1.PlaceOrderRequest) {
			r.ExpectedTotal = &typev1.Money{MinorUnits: 1250, CurrencyCode: "EUR"}
		}), connect.CodeFailedPrecondition, "PRICE_CHANGED", "expected_total"},
		{"no currency", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.ExpectedTotal = &typev1.Money{MinorUnits: 1250} }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "expected_total.currency_code"},
		{"no request_id", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.RequestId = "" }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "request_id"},
		{"no payment method", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.PaymentMethod = "" }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "payment_method"},
		{"an odd email", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.Contact = &orderv1.Contact{Email: "ada"} }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "contact.email"},
		{"an odd phone", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.Contact = &orderv1.Contact{Phone: "0123"} }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "contact.phone"},
		{"an unknown status", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.WaitForStatus = 99 }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "wait_for_status"},
		{"for somebody else", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.UserId = "bob" }), connect.CodePermissionDenied, "NOT_YOUR_USER", "user_id"},
		{"other content", place(v.ada, func(r *orderv1.PlaceOrderRequest) {
			r.RequestId, r.Lines = requestOf(v.door, v.order), nil
			r.Lines = append(r.Lines, line("CUP-RED", 1))
		}), connect.CodeAlreadyExists, "IDEMPOTENCY_MISMATCH", "request_id"},
		{"bytes that are no request", place(v.as("ada", auth.Customer, connect.WithCodec(noise{})), func(*orderv1.PlaceOrderRequest) {}), connect.CodeInvalidArgument, "INVALID_ARGUMENT", ""},
		{"bytes that are no request, in gRPC", place(v.as("ada", auth.Customer, connect.WithCodec(noise{}), connect.WithGRPC()), func(*orderv1.PlaceOrderRequest) {}), connect.CodeInvalidArgument, "INVALID_ARGUMENT", ""},
		{"too large", place(v.ada, func(r *orderv1.PlaceOrderRequest) { r.PaymentMethod = strings.Repeat("a", 1<<20) }), connect.CodeResourceExhausted, "REQUEST_TOO_LARGE", ""},
		{"a seller buys", place(v.sue, func(*orderv1.PlaceOrderRequest) {}), connect.CodePermissionDenied, "ROLE_REQUIRED", ""},
	})
	price := refusalOf(place(v.ada, func(r *orderv1.PlaceOrderRequest) {
		r.ExpectedTotal = &typev1.Money{MinorUnits: 1000, CurrencyCode: "USD"}
	}))
	if price.metadata["total_minor"] != "1250" || price.metadata["currency"] != "USD" {
		t.Errorf("another price is answered with %v", price.metadata)
	}
}

func TestReadingAndCancellingIsRefused(t *testing.T) {
	t.Parallel()
	v := visit(t)
	get := func(c client, id string) error {
		_, err := c.GetOrder(v.ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: id}))
		return err
	}
	list := func(c client, r *orderv1.ListOrdersRequest) error {
		_, err := c.ListOrders(v.ctx, connect.NewRequest(r))
		return err
	}
	watch := func(c client, r *orderv1.WatchOrderRequest) error {
		stream, err := c.WatchOrder(v.ctx, connect.NewRequest(r))
		must(t, err)
		for stream.Receive() {
		}
		return stream.Err()
	}
	check(t, []refused{
		{"another's order", get(v.bob, v.order), connect.CodeNotFound, "NOT_FOUND", "order_id"},
		{"an order that is none", get(v.ada, uuid.NewString()), connect.CodeNotFound, "NOT_FOUND", "order_id"},
		{"an order ID that is none", get(v.ada, "42"), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "order_id"},
		{"watching another's order", watch(v.bob, &orderv1.WatchOrderRequest{OrderId: v.order}), connect.CodeNotFound, "NOT_FOUND", "order_id"},
		{"watching without an ID", watch(v.ada, &orderv1.WatchOrderRequest{}), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "order_id"},
		{"a made-up resume token", watch(v.ada, &orderv1.WatchOrderRequest{OrderId: v.order, ResumeToken: "eyJh"}), connect.CodeInvalidArgument, "INVALID_RESUME_TOKEN", "resume_token"},
		{"listing another's orders", list(v.ada, &orderv1.ListOrdersRequest{UserId: "bob"}), connect.CodePermissionDenied, "NOT_YOUR_USER", "user_id"},
		{"listing everybody's orders", list(v.ada, &orderv1.ListOrdersRequest{UserId: "-"}), connect.CodePermissionDenied, "NOT_YOUR_USER", "user_id"},
		{"a page that is too large", list(v.ada, &orderv1.ListOrdersRequest{PageSize: 101}), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "page_size"},
		{"a made-up page token", list(v.ada, &orderv1.ListOrdersRequest{PageToken: "bm9uZQ"}), connect.CodeInvalidArgument, "INVALID_PAGE_TOKEN", "page_token"},
		{"cancelling another's order", func() error {
			_, err := v.bob.CancelOrder(v.ctx, connect.NewRequest(&orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: v.order}))
			return err
		}(), connect.CodeNotFound, "NOT_FOUND", "order_id"},
		{"an analyst reads an order", get(v.ann, v.order), connect.CodePermissionDenied, "ROLE_REQUIRED", ""},

		{"no token", get(v.with(""), v.order), connect.CodeUnauthenticated, "TOKEN_MISSING", ""},
		{"a malformed token", get(v.with("Bearer abc"), v.order), connect.CodeUnauthenticated, "TOKEN_MALFORMED", ""},
		{"no token in gRPC", get(v.with("", connect.WithGRPC()), v.order), connect.CodeUnauthenticated, "TOKEN_MISSING", ""},
		{"an expired token", get(v.with("Bearer "+expired(t, v.door)), v.order), connect.CodeUnauthenticated, "TOKEN_EXPIRED", ""},
		{"a token of another shop", get(v.with("Bearer "+foreign(t)), v.order), connect.CodeUnauthenticated, "TOKEN_INVALID", ""},
	})
}

func TestMovingStockIsRefused(t *testing.T) {
	t.Parallel()
	v := visit(t)
	give := func(c client, change func(*inventoryv1.ReceiveRequest)) error {
		ask := receive("CUP-BLUE", 1)
		change(ask)
		_, err := c.Receive(v.ctx, connect.NewRequest(ask))
		return err
	}
	set := func(n int64, version *int64) error {
		_, err := v.sue.SetQuantity(v.ctx, connect.NewRequest(&inventoryv1.SetQuantityRequest{RequestId: v7At(time.Now()), Sku: "CUP-BLUE", Quantity: n, IfVersion: version}))
		return err
	}
	none := int64(0)
	check(t, []refused{
		{"a customer moves stock", give(v.ada, func(*inventoryv1.ReceiveRequest) {}), connect.CodePermissionDenied, "ROLE_REQUIRED", ""},
		{"another's SKU", give(v.sue, func(r *inventoryv1.ReceiveRequest) { r.Sku = "CUP-RED" }), connect.CodePermissionDenied, "NOT_YOUR_SKU", "sku"},
		{"a SKU that is none", give(v.olga, func(r *inventoryv1.ReceiveRequest) { r.Sku = "CUP-PINK" }), connect.CodeNotFound, "UNKNOWN_SKU", "sku"},
		{"nothing received", give(v.sue, func(r *inventoryv1.ReceiveRequest) { r.Quantity = 0 }), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "quantity"},
		{"a request_id of another kind", give(v.sue, func(r *inventoryv1.ReceiveRequest) { r.RequestId = uuid.NewString() }), connect.CodeInvalidArgument, "REQUEST_ID_NOT_V7", "request_id"},
		{"a request_id that is too old", give(v.sue, func(r *inventoryv1.ReceiveRequest) { r.RequestId = v7At(time.Now().Add(-25 * time.Hour)) }), connect.CodeFailedPrecondition, "REQUEST_TOO_OLD", "request_id"},
		{"a request_id from the future", give(v.sue, func(r *inventoryv1.ReceiveRequest) { r.RequestId = v7At(time.Now().Add(time.Hour)) }), connect.CodeInvalidArgument, "REQUEST_FROM_FUTURE", "request_id"},
		{"other stock content", give(v.sue, func(r *inventoryv1.ReceiveRequest) { r.RequestId = v.received.GetRequestId() }), connect.CodeAlreadyExists, "IDEMPOTENCY_MISMATCH", "request_id"},
		{"a stale version", set(5, &none), connect.CodeAborted, "STALE_VERSION", "if_version"},
		{"less than is reserved", set(3, nil), connect.CodeFailedPrecondition, "BELOW_RESERVED", "quantity"},
		{"the stock of a SKU that is none", func() error {
			_, err := v.ada.GetStock(v.ctx, connect.NewRequest(&inventoryv1.GetStockRequest{Sku: "CUP-PINK"}))
			return err
		}(), connect.CodeNotFound, "UNKNOWN_SKU", "sku"},
		{"a page of stock of another question", func() error {
			first, err := v.ada.ListStock(v.ctx, connect.NewRequest(&inventoryv1.ListStockRequest{PageSize: 1}))
			must(t, err)
			_, err = v.ada.ListStock(v.ctx, connect.NewRequest(&inventoryv1.ListStockRequest{PageToken: first.Msg.GetNextPageToken(), SkuPrefix: "CUP"}))
			return err
		}(), connect.CodeInvalidArgument, "INVALID_PAGE_TOKEN", "page_token"},
		{"a prefix that cannot be", func() error {
			_, err := v.ada.ListStock(v.ctx, connect.NewRequest(&inventoryv1.ListStockRequest{SkuPrefix: "\x00"}))
			return err
		}(), connect.CodeInvalidArgument, "INVALID_ARGUMENT", "sku_prefix"},
	})
	stale := refusalOf(set(5, &none))
	if stale.metadata["stock_version"] != "1" || stale.metadata["on_hand"] != "10" || stale.metadata["reserved"] != "4" {
		t.Errorf("a stale version is answered with %v", stale.metadata)
	}
}

// requestOf is the request_id that placed an order.
func requestOf(d *door, orderID string) string {
	return d.played.commands(orderID)[0].GetRequestId()
}

func foreign(t *testing.T) string {
	t.Helper()
	keys, err := auth.Open(t.TempDir())
	must(t, err)
	token, err := keys.Sign(auth.Caller{User: "ada", Roles: []auth.Role{auth.Operator}}, time.Hour)
	must(t, err)
	return token
}

// expired waits out a token's life, counted in whole seconds.
func expired(t *testing.T, d *door) string {
	t.Helper()
	token, err := d.keys.Sign(auth.Caller{User: "ada", Roles: []auth.Role{auth.Customer}}, time.Nanosecond)
	must(t, err)
	eventually(t, "the token expires", func() bool {
		_, err := d.keys.Verify(token)
		return err != nil
	})
	return token
}

// noise sends bytes that no message begins with, and says that they are protobuf.
type noise struct{}

func (noise) Name() string                    { return "proto" }
func (noise) Marshal(any) ([]byte, error)     { return []byte{0xff, 0xff, 0xff}, nil }
func (noise) Unmarshal(b []byte, m any) error { return proto.Unmarshal(b, m.(proto.Message)) }
