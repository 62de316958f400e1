package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Settings are what can be chosen about a gateway. Start from Defaults.
type Settings struct {
	Folder string // where the journal lies; "": nothing outlives the process

	Latency time.Duration // added to every request under /v1
	Slow    time.Duration // how long pm_sim_slow takes
	Pending time.Duration // how long pm_sim_pending and pm_sim_pending_declined stay in processing
	Hang    time.Duration // how long pm_sim_charge_then_timeout is silent before the connection closes

	FaultRate float64 // share of requests under /v1 that go wrong: half with a 500 before, half with a lost answer after
	Seed      uint64  // which of them

	WebhookURL    string        // "": no webhooks
	WebhookSecret string        // whsec_...
	WebhookPause  time.Duration // before the second attempt; doubles after each

	KeepKeys   time.Duration // how long an idempotency key is remembered
	MaxKeys    int
	MaxIntents int // an intent and its two keys take about 1.4 kB
}

// Defaults are Stripe's numbers where it has them.
func Defaults() Settings {
	return Settings{
		Slow: 5 * time.Second, Pending: 3 * time.Second, Hang: 2 * time.Second, Seed: 1, WebhookPause: 500 * time.Millisecond,
		KeepKeys: 24 * time.Hour, MaxKeys: 4_000_000, MaxIntents: 1_000_000,
	}
}

func (s Settings) check() error {
	if s.FaultRate < 0 || s.FaultRate > 1 {
		return fmt.Errorf("gateway: fault rate %v is not between 0 and 1", s.FaultRate)
	}
	if s.MaxIntents < 1 || s.MaxKeys < 1 || s.KeepKeys <= 0 {
		return errors.New("gateway: the limits on intents and keys and the age of keys must be above 0")
	}
	if min(s.Latency, s.Slow, s.Pending, s.Hang, s.WebhookPause) < 0 {
		return errors.New("gateway: a duration is below 0")
	}
	return s.checkWebhook()
}

func (s Settings) checkWebhook() error {
	if s.WebhookURL == "" {
		return nil
	}
	if u, err := url.Parse(s.WebhookURL); err != nil || u.Host == "" {
		return fmt.Errorf("gateway: webhook URL %q is not a URL", s.WebhookURL)
	}
	if s.WebhookSecret == "" {
		return errors.New("gateway: a webhook URL needs a webhook secret to sign with")
	}
	return nil
}

// A Gateway is one simulated account at Stripe. It is an http.Handler.
type Gateway struct {
	settings Settings
	handler  http.Handler
	books    *books
	keys     *keys
	journal  *journal
	webhooks *webhooks
	faults   faults
	counts   counts
	closing  chan struct{}
	once     sync.Once
}

// Open starts a gateway, as its folder remembers it. A folder belongs to one gateway at a time.
func Open(s Settings) (*Gateway, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	g := &Gateway{
		settings: s,
		books:    newBooks(s.MaxIntents),
		keys:     newKeys(s.KeepKeys, s.MaxKeys),
		faults:   faults{rate: s.FaultRate, seed: s.Seed},
		closing:  make(chan struct{}),
	}
	if s.Folder != "" {
		var err error
		if g.journal, err = openJournal(s.Folder, g.replay); err != nil {
			return nil, err
		}
	}
	g.webhooks = startWebhooks(s.WebhookURL, s.WebhookSecret, s.WebhookPause)
	g.handler = g.routes()
	for _, a := range g.books.all() {
		g.settleInTime(a)
	}
	return g, nil
}

// ServeHTTP answers as api.stripe.com would.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

// Interrupt ends the waiting of requests that wait or hang, so that a server can stop; the others go on as before.
func (g *Gateway) Interrupt() { g.once.Do(func() { close(g.closing) }) }

// Close interrupts, writes the journal's last lines and stops webhooks. What is asked after it is answered 500.
func (g *Gateway) Close() error {
	g.Interrupt()
	g.webhooks.close()
	return g.journal.close()
}

// replay takes one line of the journal back.
func (g *Gateway) replay(r record) error {
	id := ""
	switch {
	case r.Intent != nil:
		id = r.Intent.ID
	case r.Key != nil:
		id = r.Key.Intent
	}
	a := g.books.account(id)
	if r.Intent != nil {
		if a == nil {
			if !g.books.reserve() {
				return fmt.Errorf("more than %d intents (MaxIntents)", g.settings.MaxIntents)
			}
			a = &account{}
		}
		g.books.enter(a, r.Intent, r.Refund)
	}
	if r.Key == nil {
		return nil
	}
	if a == nil && r.Key.Intent != "" {
		return fmt.Errorf("a key names intent %s, which no line before it opens", r.Key.Intent)
	}
	g.replayKey(a, r)
	return nil
}

func (g *Gateway) replayKey(a *account, r record) {
	c := claim{key: r.Key.Key, request: r.Key.Request}
	copy(c.print[:], r.Key.Print)
	told := answer{refusal: r.Key.Refusal, refund: r.Refund}
	if r.Key.Intent != "" {
		told.intent = a.now.Load()
	}
	g.keys.keep(c, told, r.Key.At)
}

// carryOut does what a command asks, under its claim.
func (g *Gateway) carryOut(c command, by claim) (answer, error) {
	now := time.Now()
	switch c := c.(type) {
	case createIntent:
		return g.open(c, by, now)
	case confirmIntent:
		return g.step(c.ID, "intent", by, func(i *intent) change { return confirm(i, c.Method, now, g.settings.Pending) })
	case cancelIntent:
		return g.step(c.ID, "intent", by, func(i *intent) change { return cancel(i, c.Reason, now) })
	case settleIntent:
		return g.step(c.ID, "intent", by, func(i *intent) change { return settle(i, c.Approved) })
	case createRefund:
		return g.step(c.Intent, "payment_intent", by, func(i *intent) change { return giveBack(i, c, newID("re_3", 23), now) })
	}
	panic(fmt.Sprintf("gateway: unknown command %T", c))
}

func (g *Gateway) open(c createIntent, by claim, now time.Time) (answer, error) {
	if !g.books.reserve() {
		return answer{refusal: full("payment intents", "MaxIntents")}, nil
	}
	a := &account{}
	told, err := g.decide(a, by, func(*intent) change {
		ch := create(c, newID("pi_3", 23), now)
		if c.Confirm {
			ch = confirm(ch.intent, "", now, g.settings.Pending)
		}
		return ch
	})
	if err != nil {
		g.books.giveUp()
	}
	return told, err
}

func (g *Gateway) step(id, param string, by claim, rule func(*intent) change) (answer, error) {
	a := g.books.account(id)
	if a == nil {
		return answer{refusal: missing("payment_intent", id, param)}, nil
	}
	return g.decide(a, by, rule)
}

// decide runs the rule on one account: decided, written, seen, in this order, so that nobody sees what a crash could
// take back.
func (g *Gateway) decide(a *account, by claim, rule func(*intent) change) (answer, error) {
	a.step.Lock()
	defer a.step.Unlock()
	before := a.now.Load()
	ch := rule(before)
	told := ch.answer()
	at := time.Now()
	if line := recordOf(before, ch, by, told, at); line != (record{}) {
		if err := g.journal.commit(line); err != nil {
			return answer{}, err
		}
	}
	g.books.enter(a, ch.intent, ch.refund)
	if by.key != "" {
		g.keys.keep(by, told, at.UnixMilli())
	}
	if ch.event != "" {
		g.webhooks.tell(eventOnWire(ch.intent, ch.event, by.request, by.key, at.Unix()), 1+g.extraCopies(before, ch.intent))
	}
	if ch.intent != before {
		g.settleInTime(a)
	}
	return told, nil
}

// answer says what the caller hears. Refunds are answered with the refund, or the bare refusal; all else with the intent.
func (c change) answer() answer {
	if c.refund != nil {
		return answer{refund: c.refund}
	}
	return answer{refusal: c.refusal, intent: c.intent}
}

func recordOf(before *intent, ch change, by claim, told answer, at time.Time) record {
	line := record{Refund: ch.refund}
	if ch.intent != before {
		line.Intent = ch.intent
	}
	if by.key != "" {
		line.Key = &keptLine{Key: by.key, Print: by.print[:], At: at.UnixMilli(), Request: by.request, Refusal: told.refusal}
		if told.intent != nil {
			line.Key.Intent = told.intent.ID
		}
	}
	return line
}

// extraCopies looks at the card as it was before the step: a decline takes it away.
func (g *Gateway) extraCopies(before, after *intent) int {
	card := after.Method
	if card == "" && before != nil {
		card = before.Method
	}
	return cards[card].webhookCopies
}

// settleInTime brings a pending payment to its end when its time has come.
func (g *Gateway) settleInTime(a *account) {
	i := a.now.Load()
	if i.SettlesAt == 0 {
		return
	}
	time.AfterFunc(time.Until(time.UnixMilli(i.SettlesAt)), func() {
		select {
		case <-g.closing: // the next start settles it
		default:
			// An error here is a broken journal; every request says so.
			_, _ = g.decide(a, claim{}, func(i *intent) change {
				if i.SettlesAt == 0 {
					return change{intent: i}
				}
				return settle(i, cards[i.Method].decline == nil)
			})
		}
	})
}
