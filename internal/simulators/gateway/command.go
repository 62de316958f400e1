package gateway

import (
	"slices"
	"strconv"
	"strings"
)

// A command is a request that passed the door: what is to be done, with everything checked that does not depend on a state.
type command interface{ isCommand() }

type createIntent struct {
	Amount      int64
	Currency    string
	Method      string
	Metadata    map[string]string
	Description string
	Receipt     string
	Confirm     bool
}

type confirmIntent struct{ ID, Method string }

type cancelIntent struct{ ID, Reason string }

type createRefund struct {
	Intent   string
	Amount   int64 // 0: all that is left
	Reason   string
	Metadata map[string]string
}

type settleIntent struct {
	ID       string
	Approved bool
}

func (createIntent) isCommand()  {}
func (confirmIntent) isCommand() {}
func (cancelIntent) isCommand()  {}
func (createRefund) isCommand()  {}
func (settleIntent) isCommand()  {}

func readCreateIntent(f *form) command {
	c := createIntent{
		Currency:    strings.ToLower(f.required("currency")),
		Method:      f.method(),
		Metadata:    f.metadata(),
		Description: f.text("description"),
		Receipt:     f.text("receipt_email"),
		Confirm:     f.oneOf("confirm", "true", "false") == "true",
	}
	f.required("amount")
	c.Amount = f.amount()
	if c.Currency != "" && !slices.Contains(currencies, c.Currency) {
		f.refuse(invalid("currency", "", "Invalid currency: %s. Stripe currently supports these currencies: %s", c.Currency, strings.Join(currencies, ", ")))
	}
	f.readKinds()
	f.withoutEffect()
	return c
}

// readKinds accepts the one way of paying that is simulated: a card, captured by itself.
func (f *form) readKinds() {
	for _, kind := range f.list("payment_method_types") {
		if kind != "card" {
			f.refuse(invalid("payment_method_types", "payment_intent_invalid_parameter", "The payment method type \"%s\" is invalid. simulator: only card", kind))
		}
	}
	f.oneOf("automatic_payment_methods[enabled]", "true")
	f.oneOf("automatic_payment_methods[allow_redirects]", "always", "never")
	f.oneOf("capture_method", "automatic", "automatic_async")
	f.oneOf("confirmation_method", "automatic")
}

// withoutEffect accepts what only matters where a buyer is sent to their bank first: no simulated card does that.
func (f *form) withoutEffect() {
	f.text("return_url")
	f.oneOf("off_session", "true", "false")
	f.oneOf("error_on_requires_action", "true", "false")
}

func (f *form) method() string {
	id := f.word("payment_method")
	if id == "" {
		return ""
	}
	if _, known := cards[id]; !known {
		f.refuse(invalid("payment_method", "resource_missing", "No such PaymentMethod: '%s'", id))
	}
	return id
}

func readConfirm(id string, f *form) command {
	c := confirmIntent{ID: id, Method: f.method()}
	f.withoutEffect()
	return c
}

func readCancel(id string, f *form) command {
	return cancelIntent{ID: id, Reason: f.oneOf("cancellation_reason", "duplicate", "fraudulent", "requested_by_customer", "abandoned")}
}

func readSettle(id string, f *form) command {
	f.required("outcome")
	return settleIntent{ID: id, Approved: f.oneOf("outcome", "succeeded", "declined") == "succeeded"}
}

func readCreateRefund(f *form) command {
	c := createRefund{
		Intent:   f.intentOrCharge(),
		Amount:   f.amount(),
		Reason:   f.oneOf("reason", "duplicate", "fraudulent", "requested_by_customer"),
		Metadata: f.metadata(),
	}
	if c.Intent == "" {
		f.refuse(invalid("", "parameter_missing", "One of the following params should be provided for this request: payment_intent or charge."))
	}
	return c
}

// intentOrCharge reads either name of the same payment.
func (f *form) intentOrCharge() string {
	id, charge := f.word("payment_intent"), f.word("charge")
	switch {
	case id != "" && charge != "":
		f.refuse(invalid("charge", "parameters_exclusive", "You may only specify one of these parameters: charge, payment_intent."))
	case strings.HasPrefix(charge, "ch_"):
		return intentOfCharge(charge)
	case charge != "":
		f.refuse(invalid("charge", "resource_missing", "No such charge: '%s'", charge))
	}
	return id
}

// A page says which part of a list is asked for, newest first.
type page struct {
	Limit         int
	After, Before string // IDs: the page after one, or before one
	From, To      int64  // created, unix seconds, both inclusive
	Intent        string // refunds of one intent only
}

func readPage(f *form) page {
	p := page{Limit: defaultPage, After: f.word("starting_after"), Before: f.word("ending_before"), To: 1<<63 - 1}
	if n, given := f.integer("limit"); given {
		if n < 1 || n > maxPage {
			f.refuse(invalid("limit", "parameter_invalid_integer", "This value must be between 1 and %d (was %s).", maxPage, strconv.FormatInt(n, 10)))
		}
		p.Limit = int(n)
	}
	if p.After != "" && p.Before != "" {
		f.refuse(invalid("ending_before", "parameters_exclusive", "You may only specify one of these parameters: ending_before, starting_after."))
	}
	f.created(&p)
	return p
}

func (f *form) created(p *page) {
	if at, given := f.integer("created"); given {
		p.From, p.To = at, at
	}
	for name, narrow := range map[string]func(int64){
		"created[gte]": func(at int64) { p.From = max(p.From, at) },
		"created[gt]":  func(at int64) { p.From = max(p.From, at+1) },
		"created[lte]": func(at int64) { p.To = min(p.To, at) },
		"created[lt]":  func(at int64) { p.To = min(p.To, at-1) },
	} {
		if at, given := f.integer(name); given {
			narrow(at)
		}
	}
}

func readRefundPage(f *form) page {
	p := readPage(f)
	p.Intent = f.intentOrCharge()
	return p
}

// currencies that Stripe charges in.
var currencies = strings.Fields(`usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad
	cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl hrk htg huf idr
	ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn
	myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd
	std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw`)
