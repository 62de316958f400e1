package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
)

// This file is Stripe's JSON. Everything is made from the values alone, so that an answer given again has the same bytes.

// APIVersion is the version of Stripe's API that webhooks are written in: the one of stripe-go v85.
const APIVersion = "2026-03-25.dahlia"

type wireIntent struct {
	ID                      string            `json:"id"`
	Object                  string            `json:"object"`
	Amount                  int64             `json:"amount"`
	AmountCapturable        int64             `json:"amount_capturable"`
	AmountReceived          int64             `json:"amount_received"`
	Application             *string           `json:"application"`
	ApplicationFeeAmount    *int64            `json:"application_fee_amount"`
	AutomaticPaymentMethods *struct{}         `json:"automatic_payment_methods"`
	CanceledAt              *int64            `json:"canceled_at"`
	CancellationReason      *string           `json:"cancellation_reason"`
	CaptureMethod           string            `json:"capture_method"`
	ClientSecret            string            `json:"client_secret"`
	ConfirmationMethod      string            `json:"confirmation_method"`
	Created                 int64             `json:"created"`
	Currency                string            `json:"currency"`
	Customer                *string           `json:"customer"`
	Description             *string           `json:"description"`
	LastPaymentError        *wireError        `json:"last_payment_error"`
	LatestCharge            *string           `json:"latest_charge"`
	Livemode                bool              `json:"livemode"`
	Metadata                map[string]string `json:"metadata"`
	NextAction              *struct{}         `json:"next_action"`
	OnBehalfOf              *string           `json:"on_behalf_of"`
	PaymentMethod           *string           `json:"payment_method"`
	PaymentMethodOptions    struct{}          `json:"payment_method_options"`
	PaymentMethodTypes      []string          `json:"payment_method_types"`
	Processing              *struct{}         `json:"processing"`
	ReceiptEmail            *string           `json:"receipt_email"`
	Review                  *string           `json:"review"`
	SetupFutureUsage        *string           `json:"setup_future_usage"`
	Shipping                *struct{}         `json:"shipping"`
	Source                  *string           `json:"source"`
	StatementDescriptor     *string           `json:"statement_descriptor"`
	Status                  status            `json:"status"`
	TransferData            *struct{}         `json:"transfer_data"`
	TransferGroup           *string           `json:"transfer_group"`
}

type wireRefund struct {
	ID                     string            `json:"id"`
	Object                 string            `json:"object"`
	Amount                 int64             `json:"amount"`
	BalanceTransaction     *string           `json:"balance_transaction"`
	Charge                 string            `json:"charge"`
	Created                int64             `json:"created"`
	Currency               string            `json:"currency"`
	Metadata               map[string]string `json:"metadata"`
	PaymentIntent          string            `json:"payment_intent"`
	Reason                 *string           `json:"reason"`
	ReceiptNumber          *string           `json:"receipt_number"`
	SourceTransferReversal *string           `json:"source_transfer_reversal"`
	Status                 string            `json:"status"`
	TransferReversal       *string           `json:"transfer_reversal"`
}

type wireError struct {
	Code          string      `json:"code,omitempty"`
	DeclineCode   string      `json:"decline_code,omitempty"`
	DocURL        string      `json:"doc_url,omitempty"`
	Message       string      `json:"message"`
	Param         string      `json:"param,omitempty"`
	PaymentIntent *wireIntent `json:"payment_intent,omitempty"`
	Type          string      `json:"type"`
}

type wireList[T any] struct {
	Object  string `json:"object"`
	Data    []T    `json:"data"`
	HasMore bool   `json:"has_more"`
	URL     string `json:"url"`
}

type wireEvent struct {
	ID              string          `json:"id"`
	Object          string          `json:"object"`
	APIVersion      string          `json:"api_version"`
	Created         int64           `json:"created"`
	Data            wireEventData   `json:"data"`
	Livemode        bool            `json:"livemode"`
	PendingWebhooks int             `json:"pending_webhooks"`
	Request         wireEventSource `json:"request"`
	Type            string          `json:"type"`
}

type wireEventData struct {
	Object *wireIntent `json:"object"`
}

type wireEventSource struct {
	ID             *string `json:"id"`
	IdempotencyKey *string `json:"idempotency_key"`
}

var cardOnly = []string{"card"}

func intentOnWire(i *intent) *wireIntent {
	w := &wireIntent{
		ID: i.ID, Object: "payment_intent", Amount: i.Amount, AmountReceived: i.Received,
		CancellationReason: orNull(i.CancelReason), CaptureMethod: "automatic", ClientSecret: clientSecret(i.ID),
		ConfirmationMethod: "automatic", Created: i.Created, Currency: i.Currency, Description: orNull(i.Description),
		Metadata: orEmpty(i.Metadata), PaymentMethod: orNull(i.Method), PaymentMethodTypes: cardOnly,
		ReceiptEmail: orNull(i.Receipt), Status: i.Status,
	}
	if i.CanceledAt != 0 {
		w.CanceledAt = &i.CanceledAt
	}
	if i.Status == succeeded {
		w.LatestCharge = orNull(chargeID(i.ID))
	}
	if i.LastError != nil {
		w.LastPaymentError = errorOnWire(i.LastError, nil)
	}
	return w
}

func refundOnWire(r *refund) *wireRefund {
	return &wireRefund{
		ID: r.ID, Object: "refund", Amount: r.Amount, Charge: chargeID(r.Intent), Created: r.Created, Currency: r.Currency,
		Metadata: orEmpty(r.Metadata), PaymentIntent: r.Intent, Reason: orNull(r.Reason), Status: "succeeded",
	}
}

func errorOnWire(r *refusal, i *intent) *wireError {
	w := &wireError{Code: r.Code, DeclineCode: r.DeclineCode, Message: r.Message, Param: r.Param, Type: r.Type}
	if r.Code != "" {
		w.DocURL = "https://stripe.com/docs/error-codes/" + r.Code
	}
	if i != nil && r.showsIntent() {
		w.PaymentIntent = intentOnWire(i)
	}
	return w
}

func eventOnWire(i *intent, kind, request, key string, at int64) wireEvent {
	return wireEvent{
		ID: eventID(i, kind), Object: "event", APIVersion: APIVersion, Created: at, Data: wireEventData{intentOnWire(i)},
		PendingWebhooks: 1, Request: wireEventSource{orNull(request), orNull(key)}, Type: kind,
	}
}

// onWire is the status and the body of an answer.
func (a answer) onWire() (int, any) {
	switch {
	case a.refusal != nil:
		return a.refusal.Status, map[string]any{"error": errorOnWire(a.refusal, a.intent)}
	case a.refund != nil:
		return 200, refundOnWire(a.refund)
	}
	return 200, intentOnWire(a.intent)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func clientSecret(id string) string {
	sum := sha256.Sum256([]byte("client secret of " + id))
	return id + "_secret_" + hex.EncodeToString(sum[:12])
}

// eventID is the same for every delivery of one event: that is how a shop knows a repeat.
func eventID(i *intent, kind string) string {
	sum := sha256.Sum256(append([]byte(i.ID+kind), byte(i.Attempts), byte(i.Attempts>>8)))
	return "evt_" + hex.EncodeToString(sum[:12])
}

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newID draws an ID in Stripe's form. 24 characters hold 142 bits: no two are alike.
func newID(prefix string, chars int) string {
	id := make([]byte, len(prefix)+chars)
	for n := copy(id, prefix); n < len(id); n++ {
		id[n] = alphabet[rand.IntN(len(alphabet))]
	}
	return string(id)
}

func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic("gateway: " + err.Error()) // our own structs always encode
	}
	return body
}

func listOnWire[T, W any](items []T, more bool, each func(T) W, url string) wireList[W] {
	list := wireList[W]{Object: "list", Data: make([]W, 0, len(items)), HasMore: more, URL: url}
	for _, item := range items {
		list.Data = append(list.Data, each(item))
	}
	return list
}
