package processors

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/processors/order"
)

// The longest texts that an order takes, in bytes: what the catalogue and the API allow, so that no event of an order of
// 100 lines comes near topics.MaxRecordBytes.
const (
	maxNameBytes    = 512 // IDs of people and products
	maxSKUBytes     = 64
	maxTitleBytes   = 1200
	maxMethodBytes  = 128
	maxContactBytes = 254
	maxGatewayBytes = 255 // the gateway's IDs and codes
)

// clientsCommand is the door for what clients ask. What a line may be is the rule's to say.
func clientsCommand(m *orderv1.OrderCommand) (order.Input, error) {
	c := order.Command{RequestID: m.RequestId, ActorID: m.ActorId}
	switch {
	case !canonical(m.OrderId) || !canonical(m.RequestId):
		return nil, invalid("order_id or request_id is no UUID in its usual spelling")
	case !named(m.UserId, maxNameBytes) || !named(m.ActorId, maxNameBytes):
		return nil, invalid("user_id or actor_id is empty or too long")
	case len(m.Fingerprint) != len(c.Fingerprint):
		return nil, invalid(fmt.Sprintf("the fingerprint has %d bytes, not %d", len(m.Fingerprint), len(c.Fingerprint)))
	}
	c.Fingerprint = order.Fingerprint(m.Fingerprint)
	switch what := m.Command.(type) {
	case *orderv1.OrderCommand_Place:
		return place(m, c, what.Place)
	case *orderv1.OrderCommand_RepeatPlace:
		return order.RepeatPlace{Command: c}, nil
	case *orderv1.OrderCommand_Cancel:
		return order.Cancel{Command: c}, nil
	}
	return nil, invalid("no command")
}

func place(m *orderv1.OrderCommand, c order.Command, p *orderv1.PlaceOrder) (order.Input, error) {
	contact := order.Contact{Email: p.GetContact().GetEmail(), Phone: p.GetContact().GetPhone()}
	switch {
	case !isCurrency(p.CurrencyCode):
		return nil, invalid("currency_code is not three capital letters")
	case !named(p.PaymentMethod, maxMethodBytes):
		return nil, invalid("payment_method is empty or too long")
	case !text(contact.Email, maxContactBytes) || !text(contact.Phone, maxContactBytes):
		return nil, invalid("the contact is too long")
	}
	out := order.Place{Command: c, OrderID: m.OrderId, UserID: m.UserId, Currency: p.CurrencyCode, Method: p.PaymentMethod, Contact: contact}
	for i, l := range p.Lines {
		if !isSKU(l.Sku) || !text(l.ProductId, maxNameBytes) || !text(l.SellerId, maxNameBytes) || !text(l.Title, maxTitleBytes) {
			return nil, invalid(fmt.Sprintf("line %d: the SKU is none, or a text too long", i+1))
		}
		out.Lines = append(out.Lines, order.PlacedLine{
			SKU: l.Sku, ProductID: l.ProductId, SellerID: l.SellerId, Title: l.Title, Quantity: l.Quantity, UnitPriceMinor: l.UnitPriceMinor,
		})
	}
	return out, nil
}

// lineAnswer is the door for what SKUs answer.
func lineAnswer(m *inventoryv1.InventoryAnswer) (order.Input, error) {
	a := order.LineAnswer{Line: m.Line, SKU: m.Sku, Quantity: m.Quantity, Available: m.Available}
	if m.Line < 1 || m.Quantity < 1 || m.Available < 0 || !isSKU(m.Sku) {
		return nil, invalid("an answer needs a SKU, a line and a quantity from 1, and what is available from 0")
	}
	switch m.Refused {
	case inventoryv1.InventoryReason_INVENTORY_REASON_UNSPECIFIED:
		return a, nil
	case inventoryv1.InventoryReason_INVENTORY_REASON_OUT_OF_STOCK:
		a.Refused = order.OutOfStock
		return a, nil
	case inventoryv1.InventoryReason_INVENTORY_REASON_UNKNOWN_SKU:
		a.Refused = order.UnknownSKU
		return a, nil
	}
	return nil, invalid(fmt.Sprintf("%v is no reason to refuse a hold", m.Refused))
}

// paymentResult is the door for what the gateway answers.
func paymentResult(m *paymentv1.PaymentResult) (order.Input, error) {
	switch {
	case m.StepNumber < 1 || m.AmountMinor < 0:
		return nil, invalid("step_number is not positive, or amount_minor is negative")
	case m.Step < paymentv1.PaymentStep_PAYMENT_STEP_CREATE || m.Step > paymentv1.PaymentStep_PAYMENT_STEP_REFUND:
		return nil, invalid(fmt.Sprintf("step %d is not one", m.Step))
	case m.Outcome < paymentv1.PaymentOutcome_PAYMENT_OUTCOME_CREATED || m.Outcome > paymentv1.PaymentOutcome_PAYMENT_OUTCOME_REFUSED:
		return nil, invalid(fmt.Sprintf("outcome %d is not one", m.Outcome))
	case !text(m.IntentId, maxGatewayBytes) || !text(m.DeclineCode, maxGatewayBytes):
		return nil, invalid("intent_id or decline_code is too long")
	}
	return order.PaymentResult{
		Number: m.StepNumber, Step: order.Step(m.Step), Outcome: order.Outcome(m.Outcome), IntentID: m.IntentId,
		DeclineCode: m.DeclineCode, AmountMinor: m.AmountMinor, Currency: m.CurrencyCode,
	}, nil
}

// timeout is the door for what is due. HOLD is for carts, and has no topic yet.
func timeout(m *orderv1.OrderTimer) (order.Input, error) {
	if m.Delay < orderv1.OrderDelay_ORDER_DELAY_PAYMENT || m.Delay > orderv1.OrderDelay_ORDER_DELAY_FORGET || m.Generation < 1 {
		return nil, invalid("no such delay, or a generation that is not positive")
	}
	return order.Timeout{Delay: order.Delay(m.Delay), Generation: m.Generation}, nil
}

// canonical says that s is a UUID in the one spelling that makes it a key.
func canonical(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

func named(s string, most int) bool { return s != "" && text(s, most) }

// text says that s can be kept: not too long, and without the NUL that Postgres has no place for.
func text(s string, most int) bool { return len(s) <= most && !strings.Contains(s, "\x00") }

const (
	skuMarks = "._-" // not in front
	skuSigns = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" + skuMarks
	noSKU    = "the SKU is not 1 to 64 letters, digits, dots, underscores and hyphens, beginning with a letter or digit"
)

// isSKU says that s has the shape that the API and the catalogue demand of a SKU. Whatever an order asks a SKU for must
// pass the SKU's door, or the order waits in vain.
func isSKU(s string) bool {
	return s != "" && len(s) <= maxSKUBytes && !strings.ContainsRune(skuMarks, rune(s[0])) && strings.Trim(s, skuSigns) == ""
}

func isCurrency(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}
