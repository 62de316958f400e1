package api

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/google/uuid"

	"github.com/millrace/millrace/api/auth"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

const (
	// quantityMax is the most units of a SKU in one order, whatever the number of lines that ask for it.
	quantityMax = 10_000
	// totalMinorMax is the gateway's: eight digits of the currency's smallest unit.
	totalMinorMax = 99_999_999
)

// ask is a PlaceOrderRequest as it is understood: for whom, and each SKU once.
type ask struct {
	requestID, orderID string
	userID, actorID    string
	lines              []askedLine
	req                *orderv1.PlaceOrderRequest
}

type askedLine struct {
	index    int // of the first line of the request that has this SKU
	sku      string
	quantity int64
}

func (l askedLine) at(field string) string { return fmt.Sprintf("lines[%d].%s", l.index, field) }

// askOf understands a request whose fields are valid.
func askOf(caller auth.Caller, req *orderv1.PlaceOrderRequest) (*ask, error) {
	a := &ask{requestID: canonicalUUID(req.GetRequestId()), userID: caller.User, actorID: caller.User, req: req}
	if req.GetUserId() != "" && req.GetUserId() != caller.User {
		if !caller.Is(auth.Operator) {
			return nil, refuse(NotYourUser, "only an operator places orders for somebody else").at("user_id")
		}
		a.userID = req.GetUserId()
	}
	a.orderID = orderID(a.userID, a.requestID)
	first := map[string]int{}
	for i, l := range req.GetLines() {
		at, again := first[l.GetSku()]
		if !again {
			at = len(a.lines)
			first[l.GetSku()] = at
			a.lines = append(a.lines, askedLine{index: i, sku: l.GetSku()})
		}
		a.lines[at].quantity += l.GetQuantity()
	}
	for _, l := range a.lines {
		if l.quantity > quantityMax {
			return nil, refuse(InvalidArgument, "the lines of %s add up to %d units, at most %d are allowed", l.sku, l.quantity, quantityMax).at(l.at("quantity"))
		}
	}
	return a, nil
}

// orderID makes the ID of the order that a request of a user places: the same for every repeat, on every instance.
func orderID(user, requestID string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(user+"\x00order\x00"+requestID)).String()
}

// canonicalUUID is the one spelling of a UUID that was validated.
func canonicalUUID(s string) string { return uuid.MustParse(s).String() }

func (a *ask) skus() []string {
	skus := make([]string, len(a.lines))
	for i, l := range a.lines {
		skus[i] = l.sku
	}
	return skus
}

// command is what every OrderCommand of this request has.
func (a *ask) command() *orderv1.OrderCommand {
	return &orderv1.OrderCommand{OrderId: a.orderID, RequestId: a.requestID, UserId: a.userID, ActorId: a.actorID, Fingerprint: a.fingerprint()}
}

// repeat asks for the stored answer, and for nothing else.
func (a *ask) repeat() *orderv1.OrderCommand {
	c := a.command()
	c.Command = &orderv1.OrderCommand_RepeatPlace{RepeatPlace: &orderv1.RepeatPlace{}}
	return c
}

// place is the command at the catalogue's prices, or why these offers do not allow it.
func (a *ask) place(offers map[string]offer) (*orderv1.OrderCommand, *refusal) {
	if r := a.sold(offers); r != nil {
		return nil, r
	}
	if r := a.affordable(offers); r != nil {
		return nil, r
	}
	p := &orderv1.PlaceOrder{CurrencyCode: offers[a.lines[0].sku].currency, PaymentMethod: a.req.GetPaymentMethod(), Contact: a.req.GetContact()}
	for _, l := range a.lines {
		f := offers[l.sku]
		p.Lines = append(p.Lines, &orderv1.PlacedLine{
			Sku: l.sku, ProductId: f.productID, SellerId: f.sellerID, Title: f.title, Quantity: l.quantity, UnitPriceMinor: f.priceMinor,
		})
	}
	c := a.command()
	c.Command = &orderv1.OrderCommand_Place{Place: p}
	return c, nil
}

// sold checks that every line is on sale, in one currency.
func (a *ask) sold(offers map[string]offer) *refusal {
	unknown := refuse(UnknownSKU, "the catalogue does not have the SKU")
	inactive := refuse(OfferInactive, "the offer is not on sale")
	mixed := refuse(MixedCurrencies, "an order has one currency")
	for _, l := range a.lines {
		f, known := offers[l.sku]
		switch {
		case !known:
			unknown.at(l.at("sku")).with("sku", l.sku)
		case !f.active:
			inactive.at(l.at("sku")).with("sku", l.sku)
		case f.currency != offers[a.lines[0].sku].currency:
			mixed.at(l.at("sku")).with("sku", l.sku, "currency", f.currency)
		}
	}
	for _, r := range []*refusal{unknown, inactive, mixed} {
		if len(r.fields) > 0 {
			return r
		}
	}
	return nil
}

// affordable checks the sum: that it exists, and that it is the one the client expects.
func (a *ask) affordable(offers map[string]offer) *refusal {
	var total int64
	for _, l := range a.lines {
		price := offers[l.sku].priceMinor
		if price > (totalMinorMax-total)/l.quantity { // divided, because the product may not fit
			return refuse(AmountTooLarge, "an order is at most %d in the currency's smallest unit", totalMinorMax).
				at(l.at("quantity")).with("total_minor_max", totalMinorMax)
		}
		total += price * l.quantity
	}
	currency := offers[a.lines[0].sku].currency
	want := a.req.GetExpectedTotal()
	if want != nil && (want.GetMinorUnits() != total || want.GetCurrencyCode() != currency) {
		return refuse(PriceChanged, "the total is %d %s, the request expects %d %s", total, currency, want.GetMinorUnits(), want.GetCurrencyCode()).
			at("expected_total").with("total_minor", total, "currency", currency, "expected_minor", want.GetMinorUnits(), "expected_currency", want.GetCurrencyCode())
	}
	return nil
}

// fingerprint covers what the client sent: not the request_id, which names it, nor how long the client wants to wait,
// and nothing that was looked up.
func (a *ask) fingerprint() []byte {
	f := newFingerprint("place")
	f.text(a.userID)
	f.number(int64(len(a.lines)))
	for _, l := range a.lines {
		f.text(l.sku)
		f.number(l.quantity)
	}
	f.text(a.req.GetPaymentMethod())
	f.text(a.req.GetContact().GetEmail())
	f.text(a.req.GetContact().GetPhone())
	want := a.req.GetExpectedTotal()
	f.text(want.GetCurrencyCode())
	f.number(want.GetMinorUnits())
	return f.Sum(nil)
}

// fingerprint hashes fields so that no two sequences of them are the same bytes.
type fingerprint struct{ hash.Hash }

func newFingerprint(kind string) fingerprint {
	f := fingerprint{sha256.New()}
	f.text(kind)
	return f
}

func (f fingerprint) text(s string) {
	f.number(int64(len(s)))
	f.Write([]byte(s))
}

func (f fingerprint) number(n int64) {
	f.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}
