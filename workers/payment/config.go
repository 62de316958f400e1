package payment

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/topics"
)

// Config is a worker's. Zero values of the second part take the defaults given.
type Config struct {
	Brokers []string
	Topics  *topics.Table
	Ordinal int // of this instance among the group's, from 0; two running instances never share one
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Key     string // the account's secret key
	URL     string // of the API; "" is Stripe's own

	InFlight       int           // steps at the gateway at a time; 64
	Timeout        time.Duration // of one call; 20 s
	Tries          int           // calls before a step is UNAVAILABLE; 3
	Backoff        time.Duration // after the first try, doubling; 250 ms
	KeyLife        time.Duration // how long after its append a request may rely on its idempotency key; 23 h
	SessionTimeout time.Duration // after which Kafka takes a silent instance for dead; 10 s
	Drain          time.Duration // how long steps that run may take to end when their partition is taken away; 5 s
}

// Limits that nobody needs to choose.
const (
	// backlog is how many requests may wait for their turn, for every one at the gateway.
	backlog = 16
	// window is how many requests may be read beyond the oldest unfinished one; a crash redoes at most that many.
	window = 1 << 16
	// commitEvery is how often finished work is committed.
	commitEvery = 100 * time.Millisecond
	// rest is the pause before a new session.
	rest = 500 * time.Millisecond
	// patience is how long a commit may take before it is left to the next one.
	patience = 5 * time.Second
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case len(c.Brokers) == 0 || c.Topics == nil || c.Log == nil || c.Metrics == nil:
		return c, errors.New("payment: brokers, topics, log and metrics are required")
	case c.Key == "":
		return c, errors.New("payment: the gateway's secret key is missing")
	case c.Ordinal < 0 || c.InFlight < 0 || c.Tries < 0:
		return c, errors.New("payment: a number is negative")
	case min(c.Timeout, c.Backoff, c.KeyLife, c.SessionTimeout, c.Drain) < 0:
		return c, errors.New("payment: a duration is negative")
	}
	orElse(&c.InFlight, 64)
	orElse(&c.Tries, 3)
	orElse(&c.Timeout, 20*time.Second)
	orElse(&c.Backoff, 250*time.Millisecond)
	orElse(&c.KeyLife, 23*time.Hour)
	orElse(&c.SessionTimeout, 10*time.Second)
	orElse(&c.Drain, 5*time.Second)
	return c, nil
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

func (c Config) instance() string {
	return fmt.Sprintf("%s-%d", c.Topics.Group(topics.PaymentGroup), c.Ordinal)
}
