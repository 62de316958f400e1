package processors

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/processors/inventory"
	"github.com/millrace/millrace/topics"
)

// TestStockTableIsTheSchemas holds the hand-written codec to the generated one, in both directions.
func TestStockTableIsTheSchemas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state, message := drawState(t)
		written, _ := stockTable{}.Encode(state)
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(written, want) {
			t.Fatalf("%+v\n written:   %x\n generated: %x", state, written, want)
		}
		read, err := stockTable{}.Decode(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(state, read); diff != "" {
			t.Fatal(diff)
		}
	})
}

func drawState(t *rapid.T) (inventory.State, *inventoryv1.InventoryState) {
	number := rapid.Int64Range(0, inventory.MaxOnHand)
	s := inventory.State{
		OnHand: number.Draw(t, "on hand"), Reserved: number.Draw(t, "reserved"), Version: number.Draw(t, "version"),
		StockVersion: number.Draw(t, "stock version"), Forgotten: number.Draw(t, "forgotten"),
	}
	m := &inventoryv1.InventoryState{OnHand: s.OnHand, Reserved: s.Reserved, Version: s.Version, StockVersion: s.StockVersion, ForgottenUnixMs: s.Forgotten}
	for range rapid.IntRange(0, inventory.MaxRemembered).Draw(t, "remembered") {
		r := inventory.Remembered{Fingerprint: rapid.Uint64().Draw(t, "print"), Refused: inventory.Reason(rapid.IntRange(0, 7).Draw(t, "refused"))}
		copy(r.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		s.Remembered = append(s.Remembered, r)
		m.Commands = append(m.Commands, &inventoryv1.RememberedCommand{RequestId: r.ID[:], Fingerprint: r.Fingerprint, Refused: inventoryv1.InventoryReason(r.Refused)})
	}
	return s, m
}

// TestStockTableReadsWhatALaterVersionWrites: fields that it does not know, and bytes that are no message.
func TestStockTableReadsWhatALaterVersionWrites(t *testing.T) {
	b, _ := stockTable{}.Encode(inventory.State{OnHand: 7})
	later := append(b, 0x78, 1, 0x82, 1, 2, 'h', 'i', 0x8d, 1, 0, 0, 0, 0) // fields 15, 16, 17
	if s, err := (stockTable{}).Decode(later); err != nil || s.(inventory.State).OnHand != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := (stockTable{}).Decode(append(b, 0x2a, 9)); err == nil {
		t.Errorf("cut short: %+v", s)
	}
}

// TestRuleAndSchemaNumberAlike, because the one is converted into the other by number.
func TestRuleAndSchemaNumberAlike(t *testing.T) {
	changes := map[inventory.Change]string{
		inventory.Received: "RECEIVED", inventory.Adjusted: "ADJUSTED", inventory.Set: "SET", inventory.Held: "RESERVED",
		inventory.Released: "RELEASED", inventory.Shipped: "SHIPPED", inventory.Restocked: "RESTOCKED",
		inventory.ReserveRefused: "RESERVE_REFUSED", inventory.CommandRefused: "COMMAND_REFUSED", inventory.CommandRepeated: "COMMAND_REPEATED",
	}
	for n, name := range inventoryv1.InventoryChange_name {
		if got := changes[inventory.Change(n)]; n != 0 && "INVENTORY_CHANGE_"+got != name {
			t.Errorf("change %d is %q in the rule, %s in the schema", n, got, name)
		}
	}
	reasons := map[inventory.Reason]string{
		inventory.None: "UNSPECIFIED", inventory.OutOfStock: "OUT_OF_STOCK", inventory.UnknownSKU: "UNKNOWN_SKU",
		inventory.StaleVersion: "STALE_VERSION", inventory.BelowReserved: "BELOW_RESERVED", inventory.RequestTooOld: "REQUEST_TOO_OLD",
		inventory.IdempotencyMismatch: "IDEMPOTENCY_MISMATCH", inventory.TooMuchStock: "TOO_MUCH_STOCK",
	}
	for n, name := range inventoryv1.InventoryReason_name {
		if got := reasons[inventory.Reason(n)]; "INVENTORY_REASON_"+got != name {
			t.Errorf("reason %d is %q in the rule, %s in the schema", n, got, name)
		}
	}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// TestSellersCommandsRoundTrip: what a command says on the wire is what the rule is asked.
func TestSellersCommandsRoundTrip(t *testing.T) {
	row := topics.New(topics.Options{}).InventoryCommands
	rapid.Check(t, func(t *rapid.T) {
		m, want := drawSellersCommand(t)
		read, err := row.Decode([]byte(m.Sku), row.Encode(m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, read, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
		got, err := sellersCommand(read, noon)
		if err != nil || got != want {
			t.Fatalf("%v\n asks: %#v, %v\n expected: %#v", m, got, err, want)
		}
	})
}

func drawSellersCommand(t *rapid.T) (*inventoryv1.InventoryCommand, inventory.Command) {
	id := uuid.Must(uuid.NewV7())
	m := &inventoryv1.InventoryCommand{Sku: rapid.StringMatching("[A-Z0-9][A-Z0-9._-]{0,63}").Draw(t, "sku"), RequestId: id.String(), ActorId: "seller"}
	r := inventory.Request{ID: inventory.RequestID(id), LoggedAt: noon.UnixMilli()}
	n := rapid.Int64Range(1, 1<<40).Draw(t, "n")
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		m.Command = &inventoryv1.InventoryCommand_Receive{Receive: &inventoryv1.ReceiveStock{Quantity: n}}
		return m, inventory.Receive{Request: r, Quantity: n}
	case 1:
		note := rapid.String().Draw(t, "note")
		m.Command = &inventoryv1.InventoryCommand_Adjust{Adjust: &inventoryv1.AdjustStock{Delta: -n, Note: note}}
		return m, inventory.Adjust{Request: r, Delta: -n, Note: note}
	}
	set := &inventoryv1.SetStock{Quantity: n - 1}
	if rapid.Bool().Draw(t, "guarded") {
		set.IfVersion = proto.Int64(rapid.Int64Range(0, 9).Draw(t, "if"))
	}
	m.Command = &inventoryv1.InventoryCommand_Set{Set: set}
	return m, inventory.SetQuantity{Request: r, Quantity: n - 1, Guarded: set.IfVersion != nil, IfVersion: set.GetIfVersion()}
}

func TestOrdersCommandsRoundTrip(t *testing.T) {
	row := topics.New(topics.Options{}).Reservations
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1<<62).Draw(t, "n")
		c := rapid.SampledFrom([]struct {
			step inventoryv1.ReservationStep
			want inventory.Command
		}{
			{inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE, inventory.Reserve{Quantity: n}},
			{inventoryv1.ReservationStep_RESERVATION_STEP_RELEASE, inventory.Release{Quantity: n}},
			{inventoryv1.ReservationStep_RESERVATION_STEP_SHIP, inventory.Ship{Quantity: n}},
			{inventoryv1.ReservationStep_RESERVATION_STEP_RESTOCK, inventory.Restock{Quantity: n}},
		}).Draw(t, "step")
		m := &inventoryv1.Reservation{Sku: "LAMP", OrderId: uuid.NewString(), Line: rapid.Int32Range(1, 100).Draw(t, "line"), Quantity: n, Step: c.step}
		read, err := row.Decode([]byte("LAMP"), row.Encode(m))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ordersCommand(read)
		if diff := cmp.Diff(m, read, protocmp.Transform()); diff != "" || err != nil || got != c.want {
			t.Fatalf("%v asks: %#v, %v; %s", m, got, err, diff)
		}
	})
}

// TestTheDoorLetsInNothingMalformed: whatever is in a message, it is refused as INVALID, or the rule can answer it.
func TestTheDoorLetsInNothingMalformed(t *testing.T) {
	any64 := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-2, 2))
	rapid.Check(t, func(t *rapid.T) {
		n, version := any64.Draw(t, "n"), any64.Draw(t, "version")
		seller := &inventoryv1.InventoryCommand{Sku: "LAMP", RequestId: rapid.SampledFrom([]string{
			"", "x", "00000000-0000-0000-0000-000000000000", uuid.NewString(), uuid.Must(uuid.NewV7()).String(),
		}).Draw(t, "id")}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			seller.Command = &inventoryv1.InventoryCommand_Receive{Receive: &inventoryv1.ReceiveStock{Quantity: n}}
		case 1:
			seller.Command = &inventoryv1.InventoryCommand_Adjust{Adjust: &inventoryv1.AdjustStock{Delta: n}}
		case 2:
			seller.Command = &inventoryv1.InventoryCommand_Set{Set: &inventoryv1.SetStock{Quantity: n, IfVersion: &version}}
		}
		cmd, err := sellersCommand(seller, noon)
		mustAnswer(t, cmd, err)
		cmd, err = ordersCommand(&inventoryv1.Reservation{
			Sku: "LAMP", OrderId: rapid.SampledFrom([]string{"", "42", uuid.NewString()}).Draw(t, "order"),
			Line: rapid.Int32Range(-1, 2).Draw(t, "line"), Quantity: n, Step: inventoryv1.ReservationStep(rapid.Int32Range(-1, 1).Draw(t, "step")),
		})
		mustAnswer(t, cmd, err)
	})
}

func mustAnswer(t *rapid.T, cmd inventory.Command, err error) {
	if why, ok := errors.AsType[topics.Rejection](err); ok && why.Reason == topics.Invalid && strings.TrimSpace(why.Detail) != "" {
		return
	}
	if err == nil {
		_, _, err = inventory.Decide(inventory.State{}, cmd)
	}
	if err != nil {
		t.Fatalf("%#v: %v", cmd, err)
	}
}

// TestTheDoorsKnowASKU: as the schema's pattern has it, by which the API and the catalogue go.
func TestTheDoorsKnowASKU(t *testing.T) {
	rules := (&inventoryv1.GetStockRequest{}).ProtoReflect().Descriptor().Fields().ByName("sku").Options()
	pattern := regexp.MustCompile(proto.GetExtension(rules, validate.E_Field).(*validate.FieldRules).GetString().GetPattern())
	drawn := rapid.OneOf(rapid.String(), rapid.StringMatching("[._-]?[A-Za-z0-9._-]{0,70}\\PL?"))
	rapid.Check(t, func(t *rapid.T) {
		if s := drawn.Draw(t, "sku"); isSKU(s) != pattern.MatchString(s) {
			t.Fatalf("%q is a SKU here: %v", s, isSKU(s))
		}
	})
}

// TestNoSKUPassesTheInventorysDoors, of a producer that is not ours.
func TestNoSKUPassesTheInventorysDoors(t *testing.T) {
	for _, sku := range []string{"", "TEA\x00", "TEA\n", ".TEA", "TEA 1", "TÉA", strings.Repeat("X", maxSKUBytes+1), strings.Repeat("X", 128)} {
		receive := &inventoryv1.InventoryCommand_Receive{Receive: &inventoryv1.ReceiveStock{Quantity: 1}}
		_, sellers := sellersCommand(&inventoryv1.InventoryCommand{Sku: sku, RequestId: uuid.Must(uuid.NewV7()).String(), Command: receive}, noon)
		_, orders := ordersCommand(&inventoryv1.Reservation{
			Sku: sku, OrderId: uuid.NewString(), Line: 1, Quantity: 1, Step: inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE,
		})
		for door, err := range map[string]error{"sellers": sellers, "orders": orders} {
			if why, ok := errors.AsType[topics.Rejection](err); !ok || why.Reason != topics.Invalid || why.Detail != noSKU {
				t.Errorf("%q at the door of the %s: %v", sku, door, err)
			}
		}
	}
}
