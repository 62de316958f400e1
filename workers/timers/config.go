package timers

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

	SessionTimeout time.Duration // after which Kafka takes a silent instance for dead; 10 s
}

// Limits that nobody needs to choose.
const (
	// ahead is how many records of a partition are read before the head is due; reading goes on below half of it.
	ahead = 512
	// aheadBytes is the same in bytes, for records that are none of ours and large.
	aheadBytes = 1 << 20
	// batch is the most records in one transaction.
	batch = 2000
	// pace is the time from one transaction to the next, so that timers that are due close together share one.
	pace = 20 * time.Millisecond
	// longestWait is how long the worker looks at nothing but its sockets.
	longestWait = time.Second
	// idle is how long commit markers with no timer behind them wait to be committed, just so that the lag is zero.
	idle = time.Second
	// transactionTimeout is when the broker gives up the transaction of an instance that is gone.
	transactionTimeout = 10 * time.Second
	// patience is how long we try; less, so that it is never the broker who gives up first while we are awake.
	patience = 8 * time.Second
	// rest is the pause after a transaction that was aborted, or a session that broke.
	rest = 500 * time.Millisecond
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case len(c.Brokers) == 0 || c.Topics == nil || c.Log == nil || c.Metrics == nil:
		return c, errors.New("timers: brokers, topics, log and metrics are required")
	case c.Ordinal < 0:
		return c, errors.New("timers: the ordinal is negative")
	case c.SessionTimeout < 0:
		return c, errors.New("timers: the session time-out is negative")
	case c.SessionTimeout == 0:
		c.SessionTimeout = 10 * time.Second
	}
	return c, nil
}

// instance is the transactional ID, too.
func (c Config) instance() string {
	return fmt.Sprintf("%s-%d", c.Topics.Group(topics.TimersGroup), c.Ordinal)
}
