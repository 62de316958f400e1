package payment

import (
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/stripe/stripe-go/v85"
)

// standing is what an intent's status and last error mean to an order.
type standing int

const (
	untouched     standing = iota // never confirmed, so nothing can have happened
	processing                    // the gateway or the bank is at it
	succeeded                     // charged
	declined                      // the issuer said no, but another card could still pay: to be cancelled
	canceled                      // can never succeed
	declinedFinal                 // canceled after the issuer's no
)

func standingOf(pi *stripe.PaymentIntent) standing {
	refused := pi.LastPaymentError != nil
	switch pi.Status {
	case stripe.PaymentIntentStatusSucceeded:
		return succeeded
	case stripe.PaymentIntentStatusCanceled:
		if refused {
			return declinedFinal
		}
		return canceled
	case stripe.PaymentIntentStatusRequiresAction: // the buyer is not here to prove who they are
		return declined
	case stripe.PaymentIntentStatusRequiresConfirmation:
		return untouched
	case stripe.PaymentIntentStatusRequiresPaymentMethod:
		if refused {
			return declined
		}
		return untouched
	}
	return processing // also requires_capture, which we never ask for, and what Stripe may add: the deadline cancels it
}

// trouble is what an error of a call means.
type trouble int

const (
	none        trouble = iota
	issuerNo            // 402: the card was refused
	requestNo           // 400 and the like: this request, as it is, will never be taken
	misdirected         // 401, 403, 404: a wrong key, or an account that does not know the intent
	passing             // no answer, 409, 429, 5xx: try again
	burned              // a stored 5xx: under this key it is all one will ever hear
)

func troubleOf(err error) trouble {
	if err == nil {
		return none
	}
	var e *stripe.Error
	if !errors.As(err, &e) {
		return passing
	}
	switch code := e.HTTPStatusCode; {
	case code >= http.StatusInternalServerError && replayed(e):
		return burned
	case code >= http.StatusInternalServerError, code == http.StatusConflict, code == http.StatusTooManyRequests:
		return passing
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound:
		return misdirected
	case code == http.StatusPaymentRequired, e.Type == stripe.ErrorTypeCard:
		return issuerNo
	case code >= http.StatusBadRequest:
		return requestNo
	}
	return passing // an answer that is none
}

func replayed(e *stripe.Error) bool {
	return e.LastResponse != nil && e.LastResponse.Header.Get("Idempotent-Replayed") == "true"
}

// codeAndWords are the gateway's reason, for machines and for people.
func codeAndWords(err error) (code, words string) {
	var e *stripe.Error
	switch {
	case err == nil:
		return "", ""
	case !errors.As(err, &e):
		return "", err.Error()
	case e.DeclineCode != "":
		return string(e.DeclineCode), e.Msg
	case e.Code != "":
		return string(e.Code), e.Msg
	}
	return string(e.Type), e.Msg
}

// clip shortens what the gateway says to n bytes of valid UTF-8.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
