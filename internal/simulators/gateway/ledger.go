package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
)

// A LedgerLine is what the gateway holds true about one payment intent. Amounts are minor units.
type LedgerLine struct {
	PaymentIntent string            `json:"payment_intent"`
	Status        string            `json:"status"`
	Currency      string            `json:"currency"`
	Amount        int64             `json:"amount_minor"`
	Captured      int64             `json:"captured_minor"`
	Refunded      int64             `json:"refunded_minor"`
	Attempts      int               `json:"attempts"` // confirms that reached the card
	Created       int64             `json:"created"`  // unix seconds
	Metadata      map[string]string `json:"metadata"`
}

// A LedgerTotal sums the lines of one currency.
type LedgerTotal struct {
	Intents  int   `json:"payment_intents"`
	Captured int64 `json:"captured_minor"`
	Refunded int64 `json:"refunded_minor"`
}

// A Ledger is what /_simulator/ledger answers: every intent, oldest first, and the totals by currency.
type Ledger struct {
	PaymentIntents []LedgerLine           `json:"payment_intents"`
	Totals         map[string]LedgerTotal `json:"totals"`
}

// Ledger is the gateway's own account of all money, to compare with.
func (g *Gateway) Ledger() Ledger {
	l := Ledger{PaymentIntents: []LedgerLine{}, Totals: map[string]LedgerTotal{}}
	g.eachLine(l.Totals, func(line LedgerLine) { l.PaymentIntents = append(l.PaymentIntents, line) })
	return l
}

func (g *Gateway) eachLine(totals map[string]LedgerTotal, do func(LedgerLine)) {
	for _, a := range g.books.all() {
		i := a.now.Load()
		do(LedgerLine{
			PaymentIntent: i.ID, Status: string(i.Status), Currency: i.Currency, Amount: i.Amount, Captured: i.Received,
			Refunded: i.Refunded, Attempts: i.Attempts, Created: i.Created, Metadata: orEmpty(i.Metadata),
		})
		t := totals[i.Currency]
		totals[i.Currency] = LedgerTotal{t.Intents + 1, t.Captured + i.Received, t.Refunded + i.Refunded}
	}
}

// counts are requests by route and how they ended.
type counts struct {
	mu       sync.Mutex
	byRoute  map[string]map[string]int64
	replayed int64
}

func (c *counts) add(route string, out reply) {
	ended := fmt.Sprint(out.status)
	if out.drop {
		ended = "unanswered"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byRoute == nil {
		c.byRoute = map[string]map[string]int64{}
	}
	if c.byRoute[route] == nil {
		c.byRoute[route] = map[string]int64{}
	}
	c.byRoute[route][ended]++
	if out.original != "" {
		c.replayed++
	}
}

func (g *Gateway) simulatorRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /_simulator/health", g.health)
	mux.HandleFunc("GET /_simulator/ledger", g.ledger)
	mux.HandleFunc("GET /_simulator/requests", g.requests)
	settle := g.post(readSettle)
	mux.HandleFunc("POST /_simulator/payment_intents/{id}/settle", func(w http.ResponseWriter, r *http.Request) {
		c := call{r, newID("req_", 14)}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		settle(c).write(w, c)
	})
}

func (g *Gateway) health(w http.ResponseWriter, _ *http.Request) {
	status, says := http.StatusOK, "ok"
	if err := g.journal.health(); err != nil {
		status, says = http.StatusServiceUnavailable, err.Error()
	}
	writeJSON(w, status, map[string]any{"status": says, "durable": g.journal != nil, "payment_intents": len(g.books.all())})
}

// ledger writes line by line: a million of them are too much for an answer that is built first.
func (g *Gateway) ledger(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(w, 64<<10)
	defer out.Flush()
	totals := map[string]LedgerTotal{}
	out.WriteString(`{"payment_intents":[`)
	separator := ""
	g.eachLine(totals, func(line LedgerLine) {
		out.WriteString(separator)
		out.Write(encode(line))
		separator = ",\n"
	})
	out.WriteString(`],"totals":`)
	out.Write(encode(totals))
	out.WriteString("}\n")
}

func (g *Gateway) requests(w http.ResponseWriter, _ *http.Request) {
	g.counts.mu.Lock()
	body := encode(map[string]any{"by_route": g.counts.byRoute, "replayed": g.counts.replayed, "webhooks": map[string]int64{
		"delivered": g.webhooks.delivered.Load(), "retried": g.webhooks.retried.Load(), "dropped": g.webhooks.dropped.Load(),
	}})
	g.counts.mu.Unlock()
	writeJSON(w, http.StatusOK, json.RawMessage(body))
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(encode(body), '\n'))
}
