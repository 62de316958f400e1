package gateway

// ending says how a confirmed payment comes to its end.
type ending int

const (
	endsAtOnce    ending = iota // approved or declined in the answer to confirm
	endsLater                   // processing for a while first
	endsWhenTold                // processing until settle or cancel
	endsOnlyTold                // processing until settle; cancel is refused
	endsOnCancel                // processing; a cancel finds it succeeded
	fails500Early               // some confirms answer 500 before anything happens
	fails500Kept                // the first confirm answers 500, and its key keeps that
)

// manner says how the answer to a confirm travels, whatever it is.
type manner int

const (
	travelsPlainly manner = iota
	travelsSlowly         // decided and answered after Settings.Slow
	travelsNever          // decided, then Settings.Hang of silence and a closed connection
)

// A decline is the issuer's no, in Stripe's words.
type decline struct {
	Code    string // the error's code: card_declined, expired_card, ...
	Reason  string // its decline_code
	Message string
}

var (
	declineGeneric    = &decline{"card_declined", "generic_decline", "Your card was declined."}
	declineFunds      = &decline{"card_declined", "insufficient_funds", "Your card has insufficient funds."}
	declineLost       = &decline{"card_declined", "lost_card", "Your card was declined."}
	declineStolen     = &decline{"card_declined", "stolen_card", "Your card was declined."}
	declineExpired    = &decline{"expired_card", "", "Your card has expired."}
	declineCVC        = &decline{"incorrect_cvc", "", "Your card's security code is incorrect."}
	declineProcessing = &decline{"processing_error", "", "An error occurred while processing your card. Try again in a little bit."}
)

// A Card is a payment method that the simulator knows, and what it makes of a payment.
type Card struct {
	ID   string // what a request gives as payment_method
	Does string // one line for people

	ending        ending
	manner        manner
	decline       *decline // nil: approved
	webhookCopies int      // beyond the first
}

// Cards lists every payment method the simulator knows, Stripe's own first.
func Cards() []Card {
	return []Card{
		{ID: "pm_card_visa", Does: "approved"},
		{ID: "pm_card_visa_debit", Does: "approved"},
		{ID: "pm_card_mastercard", Does: "approved"},
		{ID: "pm_card_amex", Does: "approved"},
		declined("pm_card_chargeDeclined", declineGeneric),
		declined("pm_card_visa_chargeDeclined", declineGeneric),
		declined("pm_card_chargeDeclinedInsufficientFunds", declineFunds),
		declined("pm_card_visa_chargeDeclinedInsufficientFunds", declineFunds),
		declined("pm_card_visa_chargeDeclinedLostCard", declineLost),
		declined("pm_card_visa_chargeDeclinedStolenCard", declineStolen),
		declined("pm_card_chargeDeclinedExpiredCard", declineExpired),
		declined("pm_card_chargeDeclinedIncorrectCvc", declineCVC),
		declined("pm_card_chargeDeclinedProcessingError", declineProcessing),
		{ID: "pm_sim_slow", Does: "approved, but decided and answered only after --slow", manner: travelsSlowly},
		{ID: "pm_sim_pending", Does: "processing for --pending, then succeeded", ending: endsLater},
		{ID: "pm_sim_pending_declined", Does: "processing for --pending, then declined: generic_decline", ending: endsLater, decline: declineGeneric},
		{ID: "pm_sim_pending_forever", Does: "processing until it is cancelled or told otherwise by settle", ending: endsWhenTold},
		{ID: "pm_sim_pending_stuck", Does: "processing until told otherwise by settle; refuses to be cancelled", ending: endsOnlyTold},
		{ID: "pm_sim_late_success", Does: "processing; being cancelled makes it succeed, and the cancel is refused", ending: endsOnCancel},
		{ID: "pm_sim_charge_then_timeout", Does: "charged; then the connection hangs for --hang and closes unanswered", manner: travelsNever},
		{ID: "pm_sim_sporadic_500", Does: "the first one or two confirms (by the intent's ID) answer 500, nothing stored; then approved", ending: fails500Early},
		{ID: "pm_sim_stored_500", Does: "the first confirm answers 500 and its key keeps that answer; another key is approved", ending: fails500Kept},
		{ID: "pm_sim_duplicate_webhook", Does: "approved; its webhook comes twice", webhookCopies: 1},
	}
}

func declined(id string, why *decline) Card {
	reason := why.Reason
	if reason == "" {
		reason = why.Code
	}
	return Card{ID: id, Does: "declined: " + reason, decline: why}
}

// cards finds a payment method by its ID.
var cards = func() map[string]Card {
	byID := map[string]Card{}
	for _, card := range Cards() {
		byID[card.ID] = card
	}
	return byID
}()
