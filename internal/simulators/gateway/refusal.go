package gateway

import (
	"fmt"
	"net/http"
)

// A refusal is Stripe's error object without what only the answer knows (the intent, the request). It is what a
// request is told, what an idempotency key keeps, and what an intent remembers as its last payment error.
type refusal struct {
	Status      int    `json:"status"`
	Type        string `json:"type"`
	Code        string `json:"code,omitempty"`
	DeclineCode string `json:"decline_code,omitempty"`
	Message     string `json:"message"`
	Param       string `json:"param,omitempty"`

	again bool // the very same request may succeed when it is sent again
}

const (
	typeAPI         = "api_error"
	typeCard        = "card_error"
	typeIdempotency = "idempotency_error"
	typeInvalid     = "invalid_request_error"

	codeUnexpectedState = "payment_intent_unexpected_state"
)

// showsIntent tells whether the error object carries the intent it is about.
func (r *refusal) showsIntent() bool { return r.Type == typeCard || r.Code == codeUnexpectedState }

// invalid refuses parameters; execution has not begun.
func invalid(param, code, format string, args ...any) *refusal {
	return &refusal{Status: http.StatusBadRequest, Type: typeInvalid, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// unexpected refuses what an intent in this state does not allow; a key keeps it.
func unexpected(format string, args ...any) *refusal {
	return &refusal{Status: http.StatusBadRequest, Type: typeInvalid, Code: codeUnexpectedState, Message: fmt.Sprintf(format, args...)}
}

func missing(what, id, param string) *refusal {
	return &refusal{Status: http.StatusNotFound, Type: typeInvalid, Code: "resource_missing", Param: param, Message: fmt.Sprintf("No such %s: '%s'", what, id)}
}

// refused turns the issuer's no into the error a confirm answers.
func (d *decline) refused() *refusal {
	return &refusal{Status: http.StatusPaymentRequired, Type: typeCard, Code: d.Code, DeclineCode: d.Reason, Message: d.Message}
}

// brokenBefore is a 500 before anything happened: the key stays free, and the same request may simply be sent again.
func brokenBefore(why string) *refusal {
	return &refusal{Status: http.StatusInternalServerError, Type: typeAPI, Message: "simulator: " + why + ", nothing has happened", again: true}
}

// brokenAfter is a 500 that the key keeps, as Stripe does once execution has begun.
func brokenAfter() *refusal {
	return &refusal{Status: http.StatusInternalServerError, Type: typeAPI, Message: "simulator: an error during the request; this key keeps it"}
}

func full(what, limit string) *refusal {
	return &refusal{Status: http.StatusTooManyRequests, Type: typeInvalid, Code: "rate_limit", Message: fmt.Sprintf("simulator: full of %s (%s); start it over or raise the limit", what, limit)}
}

func unauthorized() *refusal {
	return &refusal{Status: http.StatusUnauthorized, Type: typeInvalid, Message: "Invalid API Key provided: the simulator wants 'Authorization: Bearer sk_test_...'"}
}

func unrecognized(method, path string) *refusal {
	return &refusal{Status: http.StatusNotFound, Type: typeInvalid, Message: fmt.Sprintf("Unrecognized request URL (%s: %s). The simulator knows payment intents and refunds only.", method, path)}
}

func keyInUse(key string) *refusal {
	return &refusal{Status: http.StatusConflict, Type: typeIdempotency, Code: "idempotency_key_in_use", again: true,
		Message: fmt.Sprintf("There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): %s. Please try again later.", key)}
}

func keyMismatch(key string) *refusal {
	return &refusal{Status: http.StatusBadRequest, Type: typeIdempotency,
		Message: fmt.Sprintf("Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '%s' if you meant to execute a different request.", key)}
}

func keyTooLong() *refusal {
	return invalid("", "", "Idempotency keys can be at most %d characters long.", maxKeyChars)
}
