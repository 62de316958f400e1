package gateway

import (
	"crypto/sha256"
	"net/url"
	"sync"
	"time"
)

// An answer is what a request was told. It points at the version of the intent it was told about, so that it reads the
// same when it is given again.
type answer struct {
	refusal *refusal
	intent  *intent
	refund  *refund
}

// A fingerprint stands for an endpoint and its parameters, in any order.
type fingerprint [16]byte

func printOf(path string, values url.Values) (p fingerprint) {
	sum := sha256.Sum256([]byte(path + "\n" + values.Encode()))
	copy(p[:], sum[:])
	return p
}

// A claim is one request's right to run under its idempotency key. Without a key everybody may run.
type claim struct {
	key     string
	print   fingerprint
	request string // the ID of the request, which a replay names as the original
}

// A kept key is running, or has its answer.
type kept struct {
	print   fingerprint
	running bool
	request string
	answer  answer
}

type aged struct {
	key string
	at  int64 // unix milliseconds
}

// keys is what Stripe remembers of Idempotency-Key headers.
type keys struct {
	keptFor time.Duration
	max     int

	mu     sync.Mutex
	byKey  map[string]*kept
	oldest []aged // the keys with an answer, oldest first
}

func newKeys(keptFor time.Duration, max int) *keys {
	return &keys{keptFor: keptFor, max: max, byKey: map[string]*kept{}}
}

// claim lets a request run (nil, nil), gives it the answer kept earlier, or refuses it.
func (k *keys) claim(c claim, now time.Time) (earlier *kept, refused *refusal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(now)
	before, known := k.byKey[c.key]
	switch {
	case known && before.print != c.print:
		return nil, keyMismatch(c.key)
	case known && before.running:
		return nil, keyInUse(c.key)
	case known:
		return before, nil
	case len(k.byKey) >= k.max:
		return nil, full("idempotency keys", "MaxKeys")
	}
	k.byKey[c.key] = &kept{print: c.print, running: true}
	return nil, nil
}

// keep ends a claim with its answer.
func (k *keys) keep(c claim, a answer, at int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byKey[c.key] = &kept{print: c.print, request: c.request, answer: a}
	k.oldest = append(k.oldest, aged{c.key, at})
}

// release ends a claim that kept no answer; after keep it does nothing.
func (k *keys) release(c claim) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if held, ok := k.byKey[c.key]; ok && held.running {
		delete(k.byKey, c.key)
	}
}

func (k *keys) forget(now time.Time) {
	limit := now.Add(-k.keptFor).UnixMilli()
	for len(k.oldest) > 0 && k.oldest[0].at <= limit {
		delete(k.byKey, k.oldest[0].key)
		k.oldest = k.oldest[1:]
	}
}
