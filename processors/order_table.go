package processors

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
	"github.com/millrace/millrace/processors/order"
)

// orderTable is the codec of the order group's table: an OrderState on the wire, an order.State in the rule.
type orderTable struct{}

func (orderTable) Encode(value any) ([]byte, error) {
	return kept[*orderv1.OrderState]{}.Encode(wireState(value.(order.State)))
}

func (orderTable) Decode(data []byte) (any, error) {
	m, err := kept[*orderv1.OrderState]{}.Decode(data)
	if err != nil {
		return nil, err
	}
	return ruleState(m.(*orderv1.OrderState)), nil
}

func wireState(s order.State) *orderv1.OrderState {
	m := &orderv1.OrderState{
		Order: wireOrder(s), PaymentSteps: s.Steps, OpenStep: int32(s.OpenStep), EndsAs: orderv1.OrderStatus(s.EndsAs),
		RefundNumber: s.Refunds, Generations: map[int32]int32{}, Asks: s.Asks, FirstCreateUnixMs: s.FirstCreateMS,
	}
	for _, a := range s.Commands {
		m.Commands = append(m.Commands, &orderv1.AnsweredCommand{
			RequestId: a.RequestID, Fingerprint: a.Fingerprint[:], Refused: orderv1.OrderReason(a.Refused),
		})
	}
	for delay, w := range s.Waits {
		if w.Generation != 0 {
			m.Generations[int32(delay)] = w.Generation
		}
		if w.Running {
			m.Running = append(m.Running, int32(delay))
		}
	}
	return m
}

// wireOrder is the order as everybody sees it; nil when there is none.
func wireOrder(s order.State) *orderv1.Order {
	if !s.Exists() {
		return nil
	}
	m := &orderv1.Order{
		Id: s.ID, UserId: s.UserID, Status: orderv1.OrderStatus(s.Status), Total: money(s, s.TotalMinor), Payment: wirePayment(s),
		Reason: orderv1.OrderReason(s.Reason), PlaceTime: when(s.PlacedAtMS), UpdateTime: when(s.UpdatedAtMS),
		Version: s.Version, Contact: &orderv1.Contact{Email: s.Contact.Email, Phone: s.Contact.Phone},
	}
	for _, l := range s.Lines {
		m.Lines = append(m.Lines, &orderv1.OrderLine{
			Line: l.Number, Sku: l.SKU, ProductId: l.ProductID, SellerId: l.SellerID, Title: l.Title, Quantity: l.Quantity,
			UnitPrice: money(s, l.UnitPriceMinor), Amount: money(s, l.AmountMinor), Status: orderv1.LineStatus(l.Status),
			Reason: orderv1.OrderReason(l.Reason), Available: l.Available,
		})
	}
	return m
}

func wirePayment(s order.State) *orderv1.Payment {
	p := s.Payment
	return &orderv1.Payment{
		IntentId: p.IntentID, Status: orderv1.PaymentStatus(p.Status), Method: p.Method, DeclineCode: p.DeclineCode,
		Charged: money(s, p.ChargedMinor), Refunded: money(s, p.RefundedMinor),
	}
}

func money(s order.State, minor int64) *typev1.Money {
	return &typev1.Money{MinorUnits: minor, CurrencyCode: s.Currency}
}

func when(ms int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(ms)) }

// ruleState reads what wireState wrote.
func ruleState(m *orderv1.OrderState) order.State {
	o := m.GetOrder()
	s := order.State{
		ID: o.GetId(), UserID: o.GetUserId(), Status: order.Status(o.GetStatus()), Currency: o.GetTotal().GetCurrencyCode(),
		TotalMinor: o.GetTotal().GetMinorUnits(), Contact: order.Contact{Email: o.GetContact().GetEmail(), Phone: o.GetContact().GetPhone()},
		Payment: rulePayment(o.GetPayment()), Reason: order.Reason(o.GetReason()), EndsAs: order.Status(m.EndsAs),
		PlacedAtMS: o.GetPlaceTime().AsTime().UnixMilli(), UpdatedAtMS: o.GetUpdateTime().AsTime().UnixMilli(), Version: o.GetVersion(),
		Steps: m.PaymentSteps, OpenStep: order.Step(m.OpenStep), Refunds: m.RefundNumber,
		Asks: m.Asks, FirstCreateMS: m.FirstCreateUnixMs,
	}
	for _, l := range o.GetLines() {
		s.Lines = append(s.Lines, order.Line{
			Number: l.Line, SKU: l.Sku, ProductID: l.ProductId, SellerID: l.SellerId, Title: l.Title, Quantity: l.Quantity,
			UnitPriceMinor: l.GetUnitPrice().GetMinorUnits(), AmountMinor: l.GetAmount().GetMinorUnits(),
			Status: order.LineStatus(l.Status), Reason: order.Reason(l.Reason), Available: l.Available,
		})
	}
	for _, c := range m.Commands {
		s.Commands = append(s.Commands, order.Answered{
			RequestID: c.RequestId, Fingerprint: order.Fingerprint(c.Fingerprint), Refused: order.Reason(c.Refused),
		})
	}
	for delay, generation := range m.Generations {
		s.Waits[delay].Generation = generation
	}
	for _, delay := range m.Running {
		s.Waits[delay].Running = true
	}
	return s
}

func rulePayment(p *orderv1.Payment) order.Payment {
	return order.Payment{
		IntentID: p.GetIntentId(), Status: order.PaymentStatus(p.GetStatus()), Method: p.GetMethod(), DeclineCode: p.GetDeclineCode(),
		ChargedMinor: p.GetCharged().GetMinorUnits(), RefundedMinor: p.GetRefunded().GetMinorUnits(),
	}
}

func orderEvent(id string, s order.State, e order.Event) *orderv1.OrderEvent {
	m := &orderv1.OrderEvent{OrderId: id, Version: e.Version, RequestId: e.RequestID, ActorId: e.ActorID, Order: wireOrder(s)}
	if s.Exists() {
		m.PlaceFingerprint = s.Commands[0].Fingerprint[:]
	}
	tell(m, e.Change)
	return m
}

func tell(m *orderv1.OrderEvent, c order.Change) {
	switch c := c.(type) {
	case order.Placed:
		m.Change = &orderv1.OrderEvent_Placed{Placed: &orderv1.OrderPlaced{}}
	case order.LineHeld:
		m.Change = &orderv1.OrderEvent_LineHeld{LineHeld: &orderv1.LineHeld{Line: c.Line}}
	case order.LineRefused:
		m.Change = &orderv1.OrderEvent_LineRefused{LineRefused: &orderv1.LineRefused{Line: c.Line}}
	case order.PaymentAdvanced:
		m.Change = &orderv1.OrderEvent_PaymentAdvanced{PaymentAdvanced: &orderv1.PaymentAdvanced{StepNumber: c.Number}}
	case order.CancelAccepted:
		m.Change = &orderv1.OrderEvent_CancelAccepted{CancelAccepted: &orderv1.CancelAccepted{}}
	case order.DeadlinePassed:
		m.Change = &orderv1.OrderEvent_DeadlinePassed{DeadlinePassed: &orderv1.DeadlinePassed{}}
	case order.RetryDue:
		m.Change = &orderv1.OrderEvent_RetryDue{RetryDue: &orderv1.RetryDue{}}
	case order.CommandRepeated:
		m.Change = &orderv1.OrderEvent_CommandRepeated{CommandRepeated: &orderv1.CommandRepeated{Refused: orderv1.OrderReason(c.Refused)}}
	case order.CommandRefused:
		m.Change = &orderv1.OrderEvent_CommandRefused{CommandRefused: &orderv1.CommandRefused{Reason: orderv1.OrderReason(c.Reason)}}
	default:
		panic(fmt.Sprintf("processors: no case for %T", c))
	}
}
