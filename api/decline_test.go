package api

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

const byCard = orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED

// TestEveryAnswerIsDiscreet fills every field of every answer that can hold an order.
func TestEveryAnswerIsDiscreet(t *testing.T) {
	n := 0
	for _, file := range []protoreflect.FileDescriptor{orderv1.File_shop_order_v1_order_service_proto, inventoryv1.File_shop_inventory_v1_inventory_service_proto} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			n += mustBeDiscreet(t, methods.Get(i).Output())
		}
	}
	if n != 5 {
		t.Errorf("%d answers hold orders, this test knew of 5", n)
	}
}

func mustBeDiscreet(t *testing.T, answer protoreflect.MessageDescriptor) (orders int) {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(answer.FullName())
	if err != nil {
		t.Fatal(err)
	}
	for i := range answer.Fields().Len() {
		f := answer.Fields().Get(i)
		if f.Message() == nil || f.Message().FullName() != "shop.order.v1.Order" {
			continue
		}
		shared := &orderv1.Order{Reason: byCard, Payment: &orderv1.Payment{DeclineCode: "stolen_card"}}
		m := kind.New()
		if f.IsList() {
			m.Mutable(f).List().Append(protoreflect.ValueOfMessage(shared.ProtoReflect()))
		} else {
			m.Set(f, protoreflect.ValueOfMessage(shared.ProtoReflect()))
		}
		discreet(m.Interface())
		if got := ordersOf(m, f)[0]; got.GetPayment().GetDeclineCode() != declined {
			t.Errorf("%s.%s tells %v", answer.Name(), f.Name(), got)
		}
		if shared.GetPayment().GetDeclineCode() != "stolen_card" {
			t.Errorf("%s.%s: an order that others read was changed", answer.Name(), f.Name())
		}
		orders++
	}
	return orders
}

func ordersOf(m protoreflect.Message, f protoreflect.FieldDescriptor) (orders []*orderv1.Order) {
	if !f.IsList() {
		return []*orderv1.Order{m.Get(f).Message().Interface().(*orderv1.Order)}
	}
	for i := range m.Get(f).List().Len() {
		orders = append(orders, m.Get(f).List().Get(i).Message().Interface().(*orderv1.Order))
	}
	return orders
}

func TestCodesThatCustomersMayRead(t *testing.T) {
	for code, want := range map[string]string{
		"": "", "insufficient_funds": "insufficient_funds", "expired_card": "expired_card", "incorrect_cvc": "incorrect_cvc",
		"processing_error": "processing_error", "stolen_card": declined, "fraudulent": declined, "generic_decline": declined,
	} {
		for why := range orderv1.OrderReason_name {
			hears := ""
			if orderv1.OrderReason(why) == byCard {
				hears = want
			}
			o := &orderv1.Order{Id: "o1", Reason: orderv1.OrderReason(why), Payment: &orderv1.Payment{IntentId: "pi_1", DeclineCode: code}}
			wants := proto.CloneOf(o)
			wants.Payment.DeclineCode = hears
			if got := withoutCode(o); !proto.Equal(got, wants) {
				t.Errorf("%v, %q: %v", o.Reason, code, got)
			}
		}
	}
	if withoutCode(nil) != nil || withoutCode(&orderv1.Order{}).Payment != nil {
		t.Error("an order came from none")
	}
}
