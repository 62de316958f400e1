package api

import (
	"context"
	"encoding/binary"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/topics"
)

const (
	stockPageDefault = 100
	// requestAgeMax is how old a stock command's request_id may be, and requestAheadMax how far the caller's clock may
	// be ahead of ours: one from the future would push all honest ones out of the SKU's memory.
	requestAgeMax   = 24 * time.Hour
	requestAheadMax = 5 * time.Minute
)

// inventory serves shop.inventory.v1.InventoryService.
type inventory struct {
	client   *kgo.Client
	commands topics.Of[*inventoryv1.InventoryCommand]
	read     reader
	streams  streams
	now      func() time.Time
}

// Receive adds goods.
func (s *inventory) Receive(ctx context.Context, req *connect.Request[inventoryv1.ReceiveRequest]) (*connect.Response[inventoryv1.ReceiveResponse], error) {
	m := req.Msg
	stock, replayed, err := s.move(ctx, m.GetRequestId(), &inventoryv1.InventoryCommand{
		Sku: m.GetSku(), Command: &inventoryv1.InventoryCommand_Receive{Receive: &inventoryv1.ReceiveStock{Quantity: m.GetQuantity()}},
	})
	if err != nil {
		return nil, err
	}
	return replay(connect.NewResponse(&inventoryv1.ReceiveResponse{Stock: stock, Replayed: replayed}), replayed), nil
}

// Adjust corrects a count.
func (s *inventory) Adjust(ctx context.Context, req *connect.Request[inventoryv1.AdjustRequest]) (*connect.Response[inventoryv1.AdjustResponse], error) {
	m := req.Msg
	stock, replayed, err := s.move(ctx, m.GetRequestId(), &inventoryv1.InventoryCommand{
		Sku: m.GetSku(), Command: &inventoryv1.InventoryCommand_Adjust{Adjust: &inventoryv1.AdjustStock{Delta: m.GetDelta(), Note: m.GetNote()}},
	})
	if err != nil {
		return nil, err
	}
	return replay(connect.NewResponse(&inventoryv1.AdjustResponse{Stock: stock, Replayed: replayed}), replayed), nil
}

// SetQuantity sets a count.
func (s *inventory) SetQuantity(ctx context.Context, req *connect.Request[inventoryv1.SetQuantityRequest]) (*connect.Response[inventoryv1.SetQuantityResponse], error) {
	m := req.Msg
	set := &inventoryv1.SetStock{Quantity: m.GetQuantity(), IfVersion: m.IfVersion}
	stock, replayed, err := s.move(ctx, m.GetRequestId(), &inventoryv1.InventoryCommand{
		Sku: m.GetSku(), Command: &inventoryv1.InventoryCommand_Set{Set: set},
	})
	if err != nil {
		return nil, err
	}
	return replay(connect.NewResponse(&inventoryv1.SetQuantityResponse{Stock: stock, Replayed: replayed}), replayed), nil
}

// move publishes a seller's command and gives its outcome.
func (s *inventory) move(ctx context.Context, requestID string, command *inventoryv1.InventoryCommand) (*inventoryv1.Stock, bool, error) {
	caller, err := require(ctx, auth.Seller)
	if err != nil {
		return nil, false, err
	}
	if err := s.fresh(requestID); err != nil {
		return nil, false, err
	}
	if err := s.mayMove(ctx, caller, command.GetSku()); err != nil {
		return nil, false, err
	}
	command.RequestId, command.ActorId = canonicalUUID(requestID), caller.User
	event, at, err := decide(ctx, s.client, s.commands, s.read.tail.inventory, command)
	if err != nil {
		return nil, false, err
	}
	stock := stockOf(seen[*inventoryv1.InventoryEvent]{event: event, time: at})
	replayed := event.GetChange() == inventoryv1.InventoryChange_INVENTORY_CHANGE_COMMAND_REPEATED
	if event.GetReason() != inventoryv1.InventoryReason_INVENTORY_REASON_UNSPECIFIED {
		return nil, replayed, stockRefused(event.GetReason(), command, stock, replayed)
	}
	return stock, replayed, nil
}

// fresh checks a request_id's kind and age; it has the time in its first 48 bits.
func (s *inventory) fresh(requestID string) error {
	id := uuid.MustParse(requestID)
	if id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		return refuse(RequestIDNotV7, "the request_id of a stock command is a UUIDv7, not a UUIDv%d", id.Version()).at("request_id")
	}
	age := s.now().Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)))
	switch {
	case age > requestAgeMax:
		return requestTooOld()
	case age < -requestAheadMax:
		return refuse(RequestFromFuture, "the request_id is from the future; the caller's clock is wrong").at("request_id")
	}
	return nil
}

func requestTooOld() *refusal {
	return refuse(RequestTooOld, "the request_id is older than 24 h, or than what the SKU remembers: whether it was decided is not known any more; look, and use a new one").at("request_id")
}

func (s *inventory) mayMove(ctx context.Context, caller auth.Caller, sku string) error {
	offers, err := s.read.store.offers(ctx, sku)
	if err != nil {
		return err
	}
	f, known := offers[sku]
	switch {
	case !known:
		return unknownSKU(sku)
	case f.sellerID != caller.User && !caller.Is(auth.Operator):
		return refuse(NotYourSKU, "the SKU is another seller's").at("sku").with("sku", sku)
	}
	return nil
}

func unknownSKU(sku string) *refusal {
	return refuse(UnknownSKU, "the catalogue does not have the SKU").at("sku").with("sku", sku)
}

// stockRefused is the SKU's no as an error, with the current numbers.
func stockRefused(why inventoryv1.InventoryReason, command *inventoryv1.InventoryCommand, stock *inventoryv1.Stock, replayed bool) *refusal {
	var r *refusal
	number := "quantity"
	if command.GetAdjust() != nil {
		number = "delta"
	}
	switch why {
	case inventoryv1.InventoryReason_INVENTORY_REASON_STALE_VERSION:
		r = refuse(StaleVersion, "the stock_version is %d by now", stock.GetStockVersion()).at("if_version")
	case inventoryv1.InventoryReason_INVENTORY_REASON_BELOW_RESERVED:
		r = refuse(BelowReserved, "%d units are reserved", stock.GetReserved()).at(number)
	case inventoryv1.InventoryReason_INVENTORY_REASON_REQUEST_TOO_OLD:
		r = requestTooOld()
	case inventoryv1.InventoryReason_INVENTORY_REASON_IDEMPOTENCY_MISMATCH:
		r = refuse(IdempotencyMismatch, "the request_id was used before, with other content").at("request_id")
	case inventoryv1.InventoryReason_INVENTORY_REASON_TOO_MUCH_STOCK:
		r = refuse(TooMuchStock, "the count would be more than the ledger can hold").at(number)
	case inventoryv1.InventoryReason_INVENTORY_REASON_UNKNOWN_SKU:
		r = refuse(UnknownSKU, "nothing was ever received for the SKU").at("sku")
	default:
		r = refuse(StateConflict, "the SKU refused the command: %v", why)
	}
	if replayed {
		r.with("replayed", true)
	}
	return r.with("sku", stock.GetSku(), "on_hand", stock.GetOnHand(), "reserved", stock.GetReserved(),
		"available", stock.GetAvailable(), "stock_version", stock.GetStockVersion(), "version", stock.GetVersion())
}

// GetStock reads one SKU. One that is in the catalogue and was never received is all zero.
func (s *inventory) GetStock(ctx context.Context, req *connect.Request[inventoryv1.GetStockRequest]) (*connect.Response[inventoryv1.GetStockResponse], error) {
	known, err := s.known(ctx, req.Msg.GetSku())
	if err != nil {
		return nil, err
	}
	found := known[req.Msg.GetSku()]
	stock, err := s.read.stockAt(ctx, s.read.newerStock(found.stock), req.Msg.GetMinVersion())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&inventoryv1.GetStockResponse{Stock: shown(stock, callerOf(ctx), found.sellerID)}), nil
}

// known are SKUs of the catalogue; the first that is not in it is refused.
func (s *inventory) known(ctx context.Context, skus ...string) (map[string]storedStock, error) {
	found, err := s.read.store.stock(ctx, skus...)
	if err != nil {
		return nil, err
	}
	for _, sku := range skus {
		if _, ok := found[sku]; !ok {
			return nil, unknownSKU(sku)
		}
	}
	return found, nil
}

// ListStock reads a page of SKUs.
func (s *inventory) ListStock(ctx context.Context, req *connect.Request[inventoryv1.ListStockRequest]) (*connect.Response[inventoryv1.ListStockResponse], error) {
	m, size, after := req.Msg, stockPageDefault, ""
	if m.GetPageSize() > 0 {
		size = int(m.GetPageSize())
	}
	if m.GetPageToken() != "" {
		var ok bool
		if after, ok = readToken[string](m.GetPageToken(), "stock", m.GetSkuPrefix()); !ok || strings.ContainsRune(after, 0) {
			return nil, badPageToken()
		}
	}
	found, err := s.read.store.stockPage(ctx, after, m.GetSkuPrefix(), size+1)
	if err != nil {
		return nil, err
	}
	res := &inventoryv1.ListStockResponse{}
	for _, f := range found[:min(size, len(found))] {
		res.Stocks = append(res.Stocks, shown(s.read.newerStock(f.stock), callerOf(ctx), f.sellerID))
	}
	if len(found) > size {
		res.NextPageToken = writeToken(found[size-1].stock.GetSku(), "stock", m.GetSkuPrefix())
	}
	return connect.NewResponse(res), nil
}

// shown is what a caller may see of a SKU: all of it its seller, analysts and operators, others what is available.
func shown(stock *inventoryv1.Stock, caller auth.Caller, sellerID string) *inventoryv1.Stock {
	if caller.Is(auth.Analyst, auth.Operator) || caller.Is(auth.Seller) && caller.User == sellerID {
		return stock
	}
	less := proto.CloneOf(stock)
	less.OnHand, less.Reserved = 0, 0
	return less
}
