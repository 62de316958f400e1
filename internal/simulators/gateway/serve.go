package gateway

import (
	"net/http"
	"strings"
	"time"
)

// maxBody is what one request may carry; the largest that passes the other limits is below it.
const maxBody = 64 << 10

// A reply is what goes back over the wire, or the decision that nothing does.
type reply struct {
	status   int
	body     any
	again    bool   // Stripe-Should-Retry
	original string // the request whose answer this is, given again
	hang     bool   // wait first, then close the connection instead
	drop     bool   // close the connection instead
}

func refuse(r *refusal) reply { return tell(answer{refusal: r}) }

func tell(a answer) reply {
	status, body := a.onWire()
	return reply{status: status, body: body, again: a.refusal != nil && a.refusal.again}
}

// A call is one request under /v1 that was let in.
type call struct {
	*http.Request
	id string // Request-Id
}

func (g *Gateway) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(call) reply{
		"POST /v1/payment_intents":              g.post(func(_ string, f *form) command { return readCreateIntent(f) }),
		"POST /v1/payment_intents/{id}/confirm": g.post(readConfirm),
		"POST /v1/payment_intents/{id}/cancel":  g.post(readCancel),
		"GET /v1/payment_intents/{id}":          g.getIntent,
		"GET /v1/payment_intents/search":        g.nowhere, // not an intent called search
		"GET /v1/payment_intents":               g.listIntents,
		"POST /v1/refunds":                      g.post(func(_ string, f *form) command { return readCreateRefund(f) }),
		"GET /v1/refunds/{id}":                  g.getRefund,
		"GET /v1/refunds":                       g.listRefunds,
		"/v1/":                                  g.nowhere,
	} {
		mux.HandleFunc(pattern, g.v1(serve))
	}
	g.simulatorRoutes(mux)
	return mux
}

// v1 is the way in and out of every request under /v1: latency, key, faults, counting, headers.
func (g *Gateway) v1(serve func(call) reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := call{r, newID("req_", 14)}
		g.wait(r, g.settings.Latency)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		out := g.faulty(c, serve)
		if out.hang {
			g.wait(r, g.settings.Hang)
			out.drop = true
		}
		g.counts.add(r.Pattern, out)
		if out.drop {
			panic(http.ErrAbortHandler) // net/http closes the connection and says nothing
		}
		out.write(w, c)
	}
}

func (g *Gateway) faulty(c call, serve func(call) reply) reply {
	if !authorized(c.Request) {
		return refuse(unauthorized())
	}
	switch g.faults.next() {
	case failEarly:
		return refuse(brokenBefore("a fault by chance"))
	case dropLate:
		out := serve(c)
		out.drop = true
		return out
	case noFault:
	}
	return serve(c)
}

// authorized accepts any test key, as bearer or, as Stripe also does, as the user name of basic authentication.
func authorized(r *http.Request) bool {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		key, _, _ = r.BasicAuth()
	}
	return strings.HasPrefix(key, "sk_test_") && len(key) > len("sk_test_")
}

func (out reply) write(w http.ResponseWriter, c call) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Request-Id", c.id)
	if v := c.Header.Get("Stripe-Version"); v != "" {
		h.Set("Stripe-Version", v)
	}
	if key := c.Header.Get("Idempotency-Key"); key != "" {
		h.Set("Idempotency-Key", key)
	}
	if out.original != "" {
		h.Set("Idempotent-Replayed", "true")
		h.Set("Original-Request", out.original)
	}
	switch {
	case out.again:
		h.Set("Stripe-Should-Retry", "true")
	case out.status >= 500:
		h.Set("Stripe-Should-Retry", "false")
	}
	w.WriteHeader(out.status)
	w.Write(encode(out.body))
}

// post makes a handler of what reads a command: its parameters, its idempotency key, its card's manners.
func (g *Gateway) post(read func(id string, f *form) command) func(call) reply {
	return func(c call) reply {
		if err := c.ParseForm(); err != nil {
			return refuse(invalid("", "", "The request cannot be read: %s", err))
		}
		by := claim{key: c.Header.Get("Idempotency-Key"), print: printOf(c.URL.Path, c.Form), request: c.id}
		if len(by.key) > maxKeyChars {
			return refuse(keyTooLong())
		}
		if by.key != "" {
			earlier, refused := g.keys.claim(by, time.Now())
			if refused != nil {
				return refuse(refused)
			}
			if earlier != nil {
				out := tell(earlier.answer)
				out.original = earlier.request
				return out
			}
			defer g.keys.release(by)
		}
		f := newForm(c.Form)
		cmd := read(c.PathValue("id"), f)
		if refused := f.done(); refused != nil {
			return refuse(refused)
		}
		return g.run(c, cmd, by)
	}
}

// run carries a command out in the manner of its card.
func (g *Gateway) run(c call, cmd command, by claim) reply {
	card := g.cardOf(cmd)
	if card.ending == fails500Early && g.failsOnceMore(cmd) {
		return refuse(brokenBefore("pm_sim_sporadic_500"))
	}
	if card.manner == travelsSlowly && !g.pass(g.settings.Slow) {
		return refuse(brokenBefore("closing"))
	}
	told, err := g.carryOut(cmd, by)
	if err != nil {
		return refuse(brokenBefore(err.Error()))
	}
	out := tell(told)
	out.hang = card.manner == travelsNever && told.refusal == nil
	return out
}

// cardOf is the card that a command is about to use; the zero Card when it uses none.
func (g *Gateway) cardOf(cmd command) Card {
	switch c := cmd.(type) {
	case createIntent:
		if c.Confirm {
			return cards[c.Method]
		}
	case confirmIntent:
		if c.Method != "" {
			return cards[c.Method]
		}
		if a := g.books.account(c.ID); a != nil {
			return cards[a.now.Load().Method]
		}
	case cancelIntent, createRefund, settleIntent:
	}
	return Card{}
}

// failsOnceMore lets the first one or two confirms of an intent fail; which of both follows from its ID.
func (g *Gateway) failsOnceMore(cmd command) bool {
	c, confirms := cmd.(confirmIntent)
	if !confirms {
		return false
	}
	a := g.books.account(c.ID)
	return a != nil && a.early.Add(1) <= int32(1+c.ID[len(c.ID)-1]%2)
}

// wait passes time while somebody waits for the answer.
func (g *Gateway) wait(r *http.Request, d time.Duration) {
	if d == 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	case <-g.closing:
	}
}

// pass passes time whether or not somebody waits; false when the gateway closes.
func (g *Gateway) pass(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-g.closing:
		return false
	}
}

func (g *Gateway) getIntent(c call) reply {
	if refused := readNothing(c); refused != nil {
		return refuse(refused)
	}
	a := g.books.account(c.PathValue("id"))
	if a == nil {
		return refuse(missing("payment_intent", c.PathValue("id"), "intent"))
	}
	return tell(answer{intent: a.now.Load()})
}

func (g *Gateway) getRefund(c call) reply {
	if refused := readNothing(c); refused != nil {
		return refuse(refused)
	}
	r := g.books.refund(c.PathValue("id"))
	if r == nil {
		return refuse(missing("refund", c.PathValue("id"), "id"))
	}
	return tell(answer{refund: r})
}

// readNothing refuses every parameter but the client secret, which a secret key does not need.
func readNothing(c call) *refusal {
	f := newForm(c.URL.Query())
	f.text("client_secret")
	return f.done()
}

func (g *Gateway) listIntents(c call) reply {
	f := newForm(c.URL.Query())
	p := readPage(f)
	if refused := f.done(); refused != nil {
		return refuse(refused)
	}
	items, more, refused := g.books.pageOfIntents(p)
	if refused != nil {
		return refuse(refused)
	}
	return reply{status: 200, body: listOnWire(items, more, intentOnWire, "/v1/payment_intents")}
}

func (g *Gateway) listRefunds(c call) reply {
	f := newForm(c.URL.Query())
	p := readRefundPage(f)
	if refused := f.done(); refused != nil {
		return refuse(refused)
	}
	items, more, refused := g.books.pageOfRefunds(p)
	if refused != nil {
		return refuse(refused)
	}
	return reply{status: 200, body: listOnWire(items, more, refundOnWire, "/v1/refunds")}
}

func (g *Gateway) nowhere(c call) reply { return refuse(unrecognized(c.Method, c.URL.Path)) }
