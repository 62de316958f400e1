// Package payment carries out the order's payment steps at the gateway, which is Stripe's API: it reads
// payment.requests.v1, calls, and answers each request in payment.results.v1: at least once, and always with the same
// ce_id. It decides nothing about orders; that other half is processors/order. The local gateway is
// internal/simulators/gateway, on the same wire.
//
// # What a step needs, and what it answers
//
//	step     needs                                              may answer
//	CREATE   amount_minor, currency_code, payment_method        CREATED, REFUSED, UNAVAILABLE
//	CONFIRM  intent_id                                          SUCCEEDED, PENDING, DECLINED, CANCELED, UNAVAILABLE
//	POLL     intent_id                                          SUCCEEDED, PENDING, DECLINED, CANCELED, UNAVAILABLE
//	CANCEL   intent_id; or none, and then all that CREATE had   CANCELED, SUCCEEDED, PENDING, UNAVAILABLE
//	REFUND   intent_id, amount_minor, refund_number             REFUNDED, PENDING, REFUSED, UNAVAILABLE
//
// Every step needs order_id and step_number (from 1). A request without what it needs is a bug of its writer: it is
// dead-lettered as INVALID and gets no result.
//
// What the outcomes promise:
//
//	CREATED      the intent exists, intent_id is in the result; no money has moved and none will before a CONFIRM
//	PENDING      the gateway has not decided; ask again with POLL (or CANCEL), a REFUND with the same refund_number. Also:
//	             the gateway refuses to cancel just now
//	SUCCEEDED    charged, amount_minor is what was received. Also the answer of a CONFIRM that comes twice, and of a
//	             CANCEL that comes too late: then only a REFUND gives the money back
//	DECLINED     the issuer said no, the intent is cancelled as well: this is final. decline_code says why
//	CANCELED     the intent can never succeed: this is final
//	REFUNDED     the refund with this refund_number has succeeded; refund_id, amount_minor are the refund's. Or others
//	             have given back the whole charge that was to be refunded; refund_id is empty if they did it in parts
//	REFUSED      CREATE, REFUND: the gateway does not take the request as it is, the refund failed, or it is too late for a
//	             CREATE (see Idempotency keys); no money has moved;
//	             decline_code and message say why; repeating it (a REFUND: under this refund_number) will not help
//	UNAVAILABLE  no answer worth the name (network, time-out, 5xx, 429, a key that is not let in, an intent it does not
//	             know) after a few tries. The step may have happened or may still happen: repeat the same step, with the
//	             next step_number, until it answers something else
//
// A step may be repeated at any time: it never charges, refunds or creates twice, and an answer that was final stays, but
// for one: Stripe may let a refund fail days after it has succeeded, when the card's account is closed. The order has
// ended by then and does not ask again (docs/ARCHITECTURE.md, "A refund is final too early").
//
// # From the gateway's answer to the outcome
//
//	gateway                                       CREATE       CONFIRM, POLL        CANCEL               REFUND
//	2xx, or a look at the intent or its refunds:
//	  requires_confirmation,
//	  requires_payment_method without an error    CREATED      PENDING (1)          (cancels)            -
//	  requires_payment_method after an error,
//	  requires_action                             CREATED      cancel, DECLINED     (cancels)            -
//	  processing, requires_capture                -            PENDING              PENDING              -
//	  succeeded                                   -            SUCCEEDED            SUCCEEDED            -
//	  canceled after an error                     -            DECLINED             CANCELED             -
//	  canceled                                    -            CANCELED             CANCELED             -
//	  a refund of this number: succeeded          -            -                    -                    REFUNDED
//	    pending, requires_action                  -            -                    -                    PENDING
//	    failed, canceled                          -            -                    -                    REFUSED
//	  none of this number, the gateway refuses
//	  to make it, others gave all back:
//	    all of theirs succeeded                   -            -                    -                    REFUNDED
//	    one is pending                            -            -                    -                    PENDING
//	402 card_error                                REFUSED      cancel, DECLINED     look                 look, REFUSED
//	400 unexpected state, or any other 400        REFUSED      look                 look                 look, REFUSED
//	404, 401, 403                                 UNAVAILABLE (the worker talks to the wrong account or with a wrong key)
//	409 key in use, 429, 5xx, network, time-out   tried again a few times, then look, then UNAVAILABLE
//
// (1) For CONFIRM this means that it did not happen: UNAVAILABLE. "look" reads the intent (for REFUND, its refunds) and
// answers what it finds there; what it finds is never older than what the gateway has done.
//
// # Idempotency keys
//
// Keys are the order's ID and the step, so that they are the same after a crash, in another instance and in a zombie:
//
//	<order_id>/create                   one intent per order, however often CREATE is asked
//	<order_id>/confirm/<step_number>    an intent charges once whatever the keys; the step's number keeps a repeat from
//	<order_id>/cancel/<step_number>     being answered with a stored failure
//	<order_id>/refund/<refund_number>   one refund per number, however often REFUND is asked
//
// When the gateway replays a stored 5xx, the key is used up: the worker looks, and if nothing happened it goes on with
// the key's next spelling ("/2", "/3").
//
// Stripe forgets keys after 24 hours. A request whose append time is longer ago than Config.KeyLife (23 h) therefore
// begins nothing. For the one key that requests share, CREATE's, the time counts from the order's first CREATE
// (first_create_unix_ms): a young request may repeat one that the gateway has forgotten, and make a second intent. So
// past it CREATE answers REFUSED without a call, and the order ends without money; CANCEL without an intent_id answers
// CANCELED; what the first CREATE may have left is not confirmed, and never will be. An old CONFIRM only looks. CANCEL of
// an intent and POLL depend on no key, and REFUND looks at the intent's refunds by metadata every time. The metadata of an intent is order_id and step, that of
// a refund order_id, step and refund_number.
//
// CANCEL without an intent_id is for an order whose CREATE was never answered: no CONFIRM was ever sent, so nothing can
// be charged. The worker repeats the CREATE under its own key, which finds the intent if there is one, and cancels that.
// It needs CREATE's fields for this; without an amount_minor it answers CANCELED and leaves the unconfirmed intent.
//
// # Order, restarts, zombies
//
// Steps of one order run one after the other, different orders side by side, at most Config.InFlight. A result is in
// the log (acks=all) before its request's offset is committed, and only a partition's finished prefix is committed. So
// a request may be carried out again after a crash or a rebalance: same keys, same outcome, and a result with the same
// ce_id. The order knows the number of the step it waits for and ignores other results. An instance that was stopped
// and wakes up after its partitions moved does the same harmless thing.
//
// Stripe's webhooks are not received: a result answers a request, and POLL by the order's delay asks for what a webhook
// would tell.
package payment
