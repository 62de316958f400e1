package api_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
)

func TestStock(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	sue, olga, ada, sam := d.as("sue", auth.Seller), d.as("olga", auth.Operator), d.as("ada", auth.Customer), d.as("sam", auth.Seller, connect.WithGRPC())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	ask := receive("CUP-BLUE", 10)
	first, err := sue.Receive(ctx, connect.NewRequest(ask))
	must(t, err)
	if got := first.Msg.GetStock(); got.GetOnHand() != 10 || got.GetAvailable() != 10 || got.GetStockVersion() != 1 || got.GetUpdateTime() == nil || first.Msg.GetReplayed() {
		t.Fatalf("received %v", first.Msg)
	}
	r := d.played.last()
	must(t, d.table.InventoryCommands.Check(r))
	c, err := d.table.InventoryCommands.Decode(r.Key, r.Value)
	must(t, err)
	if string(r.Key) != "CUP-BLUE" || c.GetActorId() != "sue" || c.GetReceive().GetQuantity() != 10 || c.GetRequestId() != ask.GetRequestId() {
		t.Errorf("the command is %v", c)
	}
	again, err := sue.Receive(ctx, connect.NewRequest(ask))
	must(t, err)
	if !again.Msg.GetReplayed() || again.Msg.GetStock().GetOnHand() != 10 {
		t.Fatalf("repeated %v", again.Msg)
	}
	adjusted, err := olga.Adjust(ctx, connect.NewRequest(&inventoryv1.AdjustRequest{RequestId: v7At(time.Now()), Sku: "CUP-BLUE", Delta: -3, Note: "broken"}))
	must(t, err)
	seen := adjusted.Msg.GetStock().GetStockVersion()
	set, err := sue.SetQuantity(ctx, connect.NewRequest(&inventoryv1.SetQuantityRequest{RequestId: v7At(time.Now()), Sku: "CUP-BLUE", Quantity: 20, IfVersion: &seen}))
	must(t, err)
	if got := set.Msg.GetStock(); got.GetOnHand() != 20 || got.GetStockVersion() != 3 {
		t.Fatalf("set to %v", got)
	}

	get := func(c client, sku string, version int64) *inventoryv1.Stock {
		t.Helper()
		res, err := c.GetStock(ctx, connect.NewRequest(&inventoryv1.GetStockRequest{Sku: sku, MinVersion: version}))
		must(t, err)
		return res.Msg.GetStock()
	}
	go s.played.reserve("CUP-BLUE", 5)
	if got := get(sue, "CUP-BLUE", set.Msg.GetStock().GetVersion()+1); got.GetOnHand() != 20 || got.GetReserved() != 5 || got.GetAvailable() != 15 {
		t.Errorf("its seller sees %v", got)
	}
	for name, c := range map[string]client{"a customer": ada, "another seller": sam} {
		if got := get(c, "CUP-BLUE", 0); got.GetOnHand() != 0 || got.GetReserved() != 0 || got.GetAvailable() != 15 {
			t.Errorf("%s sees %v", name, got)
		}
	}
	if got := get(sam, "CUP-RED", 0); got.GetVersion() != 0 || got.GetAvailable() != 0 {
		t.Errorf("never received: %v", got)
	}

	var skus []string
	list := &inventoryv1.ListStockRequest{PageSize: 2, SkuPrefix: "CUP-"}
	for {
		res, err := ada.ListStock(ctx, connect.NewRequest(list))
		must(t, err)
		for _, s := range res.Msg.GetStocks() {
			skus = append(skus, s.GetSku())
		}
		if list.PageToken = res.Msg.GetNextPageToken(); list.GetPageToken() == "" {
			break
		}
	}
	if len(skus) != 5 || skus[0] != "CUP-BLUE" || skus[4] != "CUP-RED" {
		t.Errorf("listed %v", skus)
	}
}
