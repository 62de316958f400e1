package processors

import (
	"time"

	"github.com/google/uuid"
	"github.com/lovoo/goka"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/processors/inventory"
	"github.com/millrace/millrace/topics"
)

// InventoryGraph decides, one SKU at a time, who gets the stock.
func InventoryGraph(t *topics.Table) *goka.GroupGraph {
	return inventoryGroup(newShell(t, topics.InventoryGroup))
}

func inventoryGroup(s *shell) *goka.GroupGraph {
	return goka.DefineGroup(goka.Group(s.topics.Group(s.group)),
		input(s, s.topics.InventoryCommands, decideSellers), // from sellers
		input(s, s.topics.Reservations, decideOrders),       // from orders
		output(s.topics.InventoryEvents.Topic),              // by SKU, for the sinks
		output(s.topics.InventoryAnswers.Topic),             // by order, for the order processor
		output(s.topics.DeadLetters(s.group)),               // what could not be taken
		goka.Persist(stockTable{}),
	)
}

func decideSellers(in *incoming, m *inventoryv1.InventoryCommand) error {
	cmd, err := sellersCommand(m, in.cause.Time)
	if err != nil {
		return err
	}
	state, what, err := decideStock(in, cmd)
	if err != nil {
		return err
	}
	event := inventoryEvent(m.Sku, state, what)
	event.RequestId = m.RequestId
	send(in, in.topics.InventoryEvents, event)
	return nil
}

func decideOrders(in *incoming, m *inventoryv1.Reservation) error {
	cmd, err := ordersCommand(m)
	if err != nil {
		return err
	}
	state, what, err := decideStock(in, cmd)
	if err != nil {
		return err
	}
	event := inventoryEvent(m.Sku, state, what)
	event.OrderId, event.Line = m.OrderId, m.Line
	send(in, in.topics.InventoryEvents, event)
	if m.Step == inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE {
		send(in, in.topics.InventoryAnswers, inventoryAnswer(m, state, what))
	}
	return nil
}

// decideStock keeps what the rule decides about the SKU at hand.
func decideStock(in *incoming, cmd inventory.Command) (inventory.State, inventory.Outcome, error) {
	before, _ := in.ctx.Value().(inventory.State) // none: a SKU that nobody has heard of
	after, what, err := inventory.Decide(before, cmd)
	if err != nil {
		return before, what, topics.Rejection{Reason: topics.Impossible, Detail: err.Error()}
	}
	in.ctx.SetValue(after)
	return after, what, nil
}

// sellersCommand is the door for what sellers ask.
func sellersCommand(m *inventoryv1.InventoryCommand, logged time.Time) (inventory.Command, error) {
	if !isSKU(m.Sku) {
		return nil, invalid(noSKU)
	}
	id, err := uuid.Parse(m.RequestId)
	if err != nil || id.Version() != 7 {
		return nil, invalid("request_id is no UUIDv7")
	}
	r := inventory.Request{ID: inventory.RequestID(id), LoggedAt: logged.UnixMilli()}
	switch c := m.Command.(type) {
	case *inventoryv1.InventoryCommand_Receive:
		if c.Receive.GetQuantity() >= 1 {
			return inventory.Receive{Request: r, Quantity: c.Receive.Quantity}, nil
		}
		return nil, invalid("receive: the quantity is not positive")
	case *inventoryv1.InventoryCommand_Adjust:
		if c.Adjust.GetDelta() != 0 {
			return inventory.Adjust{Request: r, Delta: c.Adjust.Delta, Note: c.Adjust.Note}, nil
		}
		return nil, invalid("adjust: the delta is 0")
	case *inventoryv1.InventoryCommand_Set:
		if c.Set.GetQuantity() >= 0 && c.Set.GetIfVersion() >= 0 {
			return inventory.SetQuantity{Request: r, Quantity: c.Set.GetQuantity(), Guarded: c.Set.IfVersion != nil, IfVersion: c.Set.GetIfVersion()}, nil
		}
		return nil, invalid("set: the quantity or if_version is negative")
	}
	return nil, invalid("no command")
}

// ordersCommand is the door for what orders ask.
func ordersCommand(m *inventoryv1.Reservation) (inventory.Command, error) {
	switch {
	case !isSKU(m.Sku):
		return nil, invalid(noSKU)
	case uuid.Validate(m.OrderId) != nil:
		return nil, invalid("order_id is no UUID")
	case m.Line < 1:
		return nil, invalid("the line is not positive")
	case m.Quantity < 1:
		return nil, invalid("the quantity is not positive")
	}
	switch m.Step {
	case inventoryv1.ReservationStep_RESERVATION_STEP_RESERVE:
		return inventory.Reserve{Quantity: m.Quantity}, nil
	case inventoryv1.ReservationStep_RESERVATION_STEP_RELEASE:
		return inventory.Release{Quantity: m.Quantity}, nil
	case inventoryv1.ReservationStep_RESERVATION_STEP_SHIP:
		return inventory.Ship{Quantity: m.Quantity}, nil
	case inventoryv1.ReservationStep_RESERVATION_STEP_RESTOCK:
		return inventory.Restock{Quantity: m.Quantity}, nil
	}
	return nil, invalid("no step")
}

func inventoryEvent(sku string, s inventory.State, o inventory.Outcome) *inventoryv1.InventoryEvent {
	return &inventoryv1.InventoryEvent{
		Sku: sku, Version: s.Version, StockVersion: s.StockVersion, OnHand: s.OnHand, Reserved: s.Reserved,
		Change: inventoryv1.InventoryChange(o.Change), Quantity: o.Quantity, Reason: inventoryv1.InventoryReason(o.Reason),
	}
}

func inventoryAnswer(m *inventoryv1.Reservation, s inventory.State, o inventory.Outcome) *inventoryv1.InventoryAnswer {
	return &inventoryv1.InventoryAnswer{
		OrderId: m.OrderId, Sku: m.Sku, Line: m.Line, Quantity: m.Quantity,
		Refused: inventoryv1.InventoryReason(o.Reason), Available: s.Available(),
	}
}
