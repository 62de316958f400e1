package gateway

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	webhookSenders  = 4
	webhookWaiting  = 10_000 // deliveries under way; a further one is dropped and counted
	webhookAttempts = 8
	webhookTimeout  = 10 * time.Second
	webhookSlowest  = 30 * time.Second // the longest pause between two attempts
)

// webhooks tells the shop's endpoint what happened, signed as Stripe signs. An endpoint that does not answer 2xx is
// tried again, with pauses that double, webhookAttempts times in all.
type webhooks struct {
	url, secret string
	pause       time.Duration // before the second attempt
	client      *http.Client

	queue    chan delivery // has room for every delivery under way, so that putting never waits
	underway atomic.Int64
	senders  sync.WaitGroup
	ctx      context.Context // ends when the gateway closes
	stop     context.CancelFunc

	delivered, retried, dropped atomic.Int64
}

type delivery struct {
	body    []byte
	attempt int
}

func startWebhooks(url, secret string, pause time.Duration) *webhooks {
	h := &webhooks{url: url, secret: secret, pause: pause, client: &http.Client{Timeout: webhookTimeout}}
	h.ctx, h.stop = context.WithCancel(context.Background())
	if url == "" {
		return h
	}
	h.queue = make(chan delivery, webhookWaiting)
	for range webhookSenders {
		h.senders.Go(h.send)
	}
	return h
}

// tell queues one event as often as asked.
func (h *webhooks) tell(event wireEvent, copies int) {
	if h.url == "" {
		return
	}
	body := encode(event)
	for range copies {
		if h.underway.Add(1) > webhookWaiting {
			h.underway.Add(-1)
			h.dropped.Add(1)
			continue
		}
		h.queue <- delivery{body: body}
	}
}

func (h *webhooks) send() {
	for {
		select {
		case <-h.ctx.Done():
			return
		case d := <-h.queue:
			h.attempt(d)
		}
	}
}

func (h *webhooks) attempt(d delivery) {
	d.attempt++
	switch {
	case h.post(d.body, time.Now()):
		h.delivered.Add(1)
		h.underway.Add(-1)
	case d.attempt == webhookAttempts:
		h.dropped.Add(1)
		h.underway.Add(-1)
	default:
		h.retried.Add(1)
		time.AfterFunc(min(h.pause<<(d.attempt-1), webhookSlowest), func() { h.queue <- d })
	}
}

func (h *webhooks) post(body []byte, now time.Time) bool {
	request, err := http.NewRequestWithContext(h.ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return false
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("User-Agent", "Stripe/1.0 (millrace gateway simulator)")
	request.Header.Set("Stripe-Signature", sign(body, h.secret, now))
	response, err := h.client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode/100 == 2
}

// sign makes the header Stripe-Signature: HMAC-SHA256 over "<unix seconds>.<body>".
func sign(body []byte, secret string, now time.Time) string {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(at + "."))
	mac.Write(body)
	return "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

func (h *webhooks) close() {
	h.stop()
	h.senders.Wait()
}
