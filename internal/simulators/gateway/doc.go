// Package gateway simulates the part of Stripe's API that a shop needs to take a payment: payment intents and refunds
// over Stripe's own wire (form-encoded requests, JSON objects, error objects, idempotency keys, signed webhooks), so
// that an unmodified stripe-go talks to it. The other half is workers/payment.
//
// What it answers:
//
//	POST /v1/payment_intents               create; with confirm=true also confirm
//	GET  /v1/payment_intents/{id}          retrieve
//	POST /v1/payment_intents/{id}/confirm  confirm
//	POST /v1/payment_intents/{id}/cancel   cancel
//	GET  /v1/payment_intents               list, newest first; limit, starting_after, ending_before, created
//	POST /v1/refunds                       refund a part or the rest of an intent
//	GET  /v1/refunds/{id}                  retrieve
//	GET  /v1/refunds                       list, newest first; payment_intent, charge, created and paging as above
//
//	GET  /_simulator/health                is it up, does it remember, how many intents
//	GET  /_simulator/ledger                what was charged and refunded, intent by intent, and in all
//	GET  /_simulator/requests              how many requests came, by route and status; replays, faults, webhooks
//	POST /_simulator/payment_intents/{id}/settle   the last word on an intent that is processing: outcome=succeeded|declined
//
// Any secret key of test mode (sk_test_...) is let in, and all of them are one account. A parameter that is not
// simulated is refused as unknown, never ignored. Search is left out on purpose: Stripe's lags behind, so nothing that
// moves money may rely on it.
//
// # Cards
//
// The payment method decides what happens. The first part are Stripe's own test cards; those beginning with pm_sim_
// exist only here.
//
//	pm_card_visa                                approved
//	pm_card_visa_debit                          approved
//	pm_card_mastercard                          approved
//	pm_card_amex                                approved
//	pm_card_chargeDeclined                      declined: generic_decline
//	pm_card_visa_chargeDeclined                 declined: generic_decline
//	pm_card_chargeDeclinedInsufficientFunds     declined: insufficient_funds
//	pm_card_visa_chargeDeclinedInsufficientFunds declined: insufficient_funds
//	pm_card_visa_chargeDeclinedLostCard         declined: lost_card
//	pm_card_visa_chargeDeclinedStolenCard       declined: stolen_card
//	pm_card_chargeDeclinedExpiredCard           declined: expired_card
//	pm_card_chargeDeclinedIncorrectCvc          declined: incorrect_cvc
//	pm_card_chargeDeclinedProcessingError       declined: processing_error
//	pm_sim_slow                                 approved, but decided and answered only after --slow
//	pm_sim_pending                              processing for --pending, then succeeded
//	pm_sim_pending_declined                     processing for --pending, then declined: generic_decline
//	pm_sim_pending_forever                      processing until it is cancelled or told otherwise by settle
//	pm_sim_pending_stuck                        processing until told otherwise by settle; refuses to be cancelled
//	pm_sim_late_success                         processing; being cancelled makes it succeed, and the cancel is refused
//	pm_sim_charge_then_timeout                  charged; then the connection hangs for --hang and closes unanswered
//	pm_sim_sporadic_500                         the first one or two confirms (by the intent's ID) answer 500, nothing stored; then approved
//	pm_sim_stored_500                           the first confirm answers 500 and its key keeps that answer; another key is approved
//	pm_sim_duplicate_webhook                    approved; its webhook comes twice
//
// # Idempotency keys
//
// As Stripe documents them: the first answer to a key is kept for 24 hours and given again, with
// "Idempotent-Replayed: true", to whoever sends the same request with it; another request with the key is an
// idempotency_error, and one that comes while the first still runs is 409 idempotency_key_in_use. What is kept begins
// where execution begins: parameters that do not pass, an intent that does not exist, 401, 409, 429 and a 500 before
// anything happened leave the key free; a decline, a refusal by the intent's state and a 500 after that are kept.
//
// # What it remembers
//
// With a folder, every change is in an append-only journal, together with the key that asked for it, and on disk before
// it is answered or can be seen; changes that come together share one fsync. A simulator that is killed forgets no
// charge and no answer. Webhooks that were waiting are forgotten: polling is the truth, a webhook only comes sooner.
//
// # Where it differs from Stripe
//
// Any amount from 1 to 99999999 minor units is taken (Stripe's minimum depends on the currency), capture is automatic,
// two requests on one intent wait for each other instead of 429 lock_timeout, refunds succeed at once, and nothing can
// be expanded.
package gateway
