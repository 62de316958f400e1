package payment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v85"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
)

const (
	// spellings is how many idempotency keys a step goes through when the gateway has stored a 5xx under them.
	spellings = 3
	// maxRefunds is how many refunds of one intent are looked at; an order never has that many.
	maxRefunds = 1000
)

// A gateway makes single calls and repeats those that may be repeated. stripe-go's own retries are off: they would
// hide from us what a key is used for, and how long a step takes.
type gateway struct {
	stripe  *stripe.Client
	timeout time.Duration
	tries   int
	backoff time.Duration
	seen    func(call string, err error, took time.Duration)
}

func newGateway(c Config, seen func(string, error, time.Duration)) *gateway {
	backend := &stripe.BackendConfig{
		EnableTelemetry:   stripe.Bool(false),
		MaxNetworkRetries: stripe.Int64(0),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull}, // errors are returned, and logged once
		HTTPClient:        &http.Client{Timeout: c.Timeout, Transport: transport(c.InFlight)},
	}
	if c.URL != "" {
		backend.URL = stripe.String(c.URL)
	}
	client := stripe.NewClient(c.Key, stripe.WithBackends(stripe.NewBackendsWithConfig(backend)))
	return &gateway{stripe: client, timeout: c.Timeout, tries: c.Tries, backoff: c.Backoff, seen: seen}
}

func transport(connections int) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = connections, connections
	return t
}

// read repeats a call that changes nothing.
func (g *gateway) read(ctx context.Context, name string, call func(context.Context) error) error {
	for try := 1; ; try++ {
		err := g.once(ctx, name, call)
		if troubleOf(err) < passing || try >= g.tries {
			return err
		}
		if err := g.pause(ctx, try); err != nil {
			return err
		}
	}
}

// write repeats a call under its idempotency key. A key that has a stored 5xx is given up for its next spelling, when
// happened (if there is a way to look) says that the call had no effect.
func (g *gateway) write(ctx context.Context, name, key string, happened func() (bool, error), call func(context.Context, *string) error) error {
	spelling := 1
	for try := 1; ; try++ {
		spelled := spell(key, spelling)
		err := g.once(ctx, name, func(ctx context.Context) error { return call(ctx, &spelled) })
		t := troubleOf(err)
		if t < passing || try >= g.tries {
			return err
		}
		if t == burned && spelling < spellings {
			if done, lookErr := happened(); done || lookErr != nil {
				return err
			}
			spelling++
			try-- // a new key has all its tries
			continue
		}
		if err := g.pause(ctx, try); err != nil {
			return err
		}
	}
}

func spell(key string, n int) string {
	if n == 1 {
		return key
	}
	return key + "/" + strconv.Itoa(n)
}

func (g *gateway) once(ctx context.Context, name string, call func(context.Context) error) error {
	began := time.Now()
	err := call(ctx)
	g.seen(name, err, time.Since(began))
	if stopped := ctx.Err(); stopped != nil {
		return stopped // whatever the answer was, nobody waits for it
	}
	return err
}

func (g *gateway) pause(ctx context.Context, try int) error {
	t := time.NewTimer(g.backoff << min(try-1, 6))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (g *gateway) create(ctx context.Context, r *paymentv1.PaymentRequest) (pi *stripe.PaymentIntent, err error) {
	// An intent that a failed call may have left behind stays unconfirmed, so there is nothing to look for.
	nothing := func() (bool, error) { return false, nil }
	err = g.write(ctx, "create", r.OrderId+"/create", nothing, func(ctx context.Context, key *string) error {
		pi, err = g.stripe.V1PaymentIntents.Create(ctx, createParams(r, key))
		return err
	})
	return pi, err
}

func createParams(r *paymentv1.PaymentRequest, key *string) *stripe.PaymentIntentCreateParams {
	p := &stripe.PaymentIntentCreateParams{
		Params:   stripe.Params{IdempotencyKey: key},
		Amount:   stripe.Int64(r.AmountMinor),
		Currency: stripe.String(strings.ToLower(r.CurrencyCode)),
		AutomaticPaymentMethods: &stripe.PaymentIntentCreateAutomaticPaymentMethodsParams{
			Enabled: stripe.Bool(true), AllowRedirects: stripe.String("never"), // the buyer's browser is not here
		},
		PaymentMethod: stripe.String(r.PaymentMethod),
		Metadata:      map[string]string{"order_id": r.OrderId, "step": "create"},
	}
	if r.Email != "" {
		p.ReceiptEmail = stripe.String(r.Email)
	}
	return p
}

func (g *gateway) confirm(ctx context.Context, r *paymentv1.PaymentRequest) (pi *stripe.PaymentIntent, err error) {
	key := fmt.Sprintf("%s/confirm/%d", r.OrderId, r.StepNumber)
	err = g.write(ctx, "confirm", key, g.moved(ctx, r.IntentId, untouched), func(ctx context.Context, key *string) error {
		pi, err = g.stripe.V1PaymentIntents.Confirm(ctx, r.IntentId, &stripe.PaymentIntentConfirmParams{
			Params: stripe.Params{IdempotencyKey: key}, ErrorOnRequiresAction: stripe.Bool(true),
		})
		return err
	})
	return pi, err
}

func (g *gateway) cancel(ctx context.Context, r *paymentv1.PaymentRequest, intent string) (pi *stripe.PaymentIntent, err error) {
	key := fmt.Sprintf("%s/cancel/%d", r.OrderId, r.StepNumber)
	err = g.write(ctx, "cancel", key, g.moved(ctx, intent, untouched, declined, processing), func(ctx context.Context, key *string) error {
		pi, err = g.stripe.V1PaymentIntents.Cancel(ctx, intent, &stripe.PaymentIntentCancelParams{Params: stripe.Params{IdempotencyKey: key}})
		return err
	})
	return pi, err
}

// moved asks whether an intent has left the standings that it had before a call.
func (g *gateway) moved(ctx context.Context, intent string, before ...standing) func() (bool, error) {
	return func() (bool, error) {
		pi, err := g.intent(ctx, intent)
		if err != nil {
			return false, err
		}
		for _, s := range before {
			if standingOf(pi) == s {
				return false, nil
			}
		}
		return true, nil
	}
}

func (g *gateway) intent(ctx context.Context, id string) (pi *stripe.PaymentIntent, err error) {
	err = g.read(ctx, "retrieve", func(ctx context.Context) error {
		pi, err = g.stripe.V1PaymentIntents.Retrieve(ctx, id, nil)
		return err
	})
	return pi, err
}

func (g *gateway) refund(ctx context.Context, r *paymentv1.PaymentRequest) (re *stripe.Refund, err error) {
	number := strconv.Itoa(int(r.RefundNumber))
	happened := func() (bool, error) {
		found, err := g.findRefund(ctx, r)
		return found != nil, err
	}
	err = g.write(ctx, "refund", r.OrderId+"/refund/"+number, happened, func(ctx context.Context, key *string) error {
		re, err = g.stripe.V1Refunds.Create(ctx, &stripe.RefundCreateParams{
			Params: stripe.Params{IdempotencyKey: key}, PaymentIntent: stripe.String(r.IntentId), Amount: stripe.Int64(r.AmountMinor),
			Metadata: map[string]string{"order_id": r.OrderId, "step": "refund", "refund_number": number},
		})
		return err
	})
	return re, err
}

var errManyRefunds = errors.New("the intent has more refunds than an order can ask for")

// findRefund is the intent's refund with the request's number, or nil.
func (g *gateway) findRefund(ctx context.Context, r *paymentv1.PaymentRequest) (*stripe.Refund, error) {
	all, err := g.refunds(ctx, r.IntentId)
	return ours(all, r), err
}

// ours is the refund with the request's number, or nil.
func ours(all []*stripe.Refund, r *paymentv1.PaymentRequest) *stripe.Refund {
	number := strconv.Itoa(int(r.RefundNumber))
	for _, re := range all {
		if re.Metadata["refund_number"] == number && re.Metadata["order_id"] == r.OrderId {
			return re
		}
	}
	return nil
}

// refunds are all of an intent's, whoever made them.
func (g *gateway) refunds(ctx context.Context, intent string) (all []*stripe.Refund, err error) {
	err = g.read(ctx, "refunds", func(ctx context.Context) error {
		all = nil
		list := &stripe.RefundListParams{PaymentIntent: stripe.String(intent)}
		list.Limit = stripe.Int64(100)
		for re, err := range g.stripe.V1Refunds.List(ctx, list).All(ctx) {
			if err != nil {
				return err
			}
			if all = append(all, re); len(all) > maxRefunds {
				return errManyRefunds
			}
		}
		return nil
	})
	return all, err
}
