package transact

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of transact_state.
const (
	stateStopped = iota
	stateJoining
	stateRecovering
	stateRunning
)

// Reasons of transact_aborts_total.
const (
	abortFailed    = "record_failed" // a callback or an emit failed by its record's fault
	abortRebalance = "rebalance"     // partitions were taken away
)

// meters are the metrics of one instance; its group and ordinal are labels.
type meters struct {
	transactions prometheus.Counter
	aborts       *prometheus.CounterVec
	records      prometheus.Counter
	deadLetters  prometheus.Counter
	restarts     prometheus.Counter
	commit       prometheus.Histogram
	recovery     prometheus.Histogram
	state        prometheus.Gauge

	registered prometheus.Registerer
	all        []prometheus.Collector
}

func newMeters(r prometheus.Registerer, group string, ordinal int) (*meters, error) {
	labels := prometheus.Labels{"group": group, "ordinal": strconv.Itoa(ordinal)}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}
	m := &meters{
		transactions: counter("transact_transactions_total", "Committed transactions."),
		records:      counter("transact_records_total", "Records consumed by committed transactions."),
		deadLetters:  counter("transact_dead_letters_total", "Dead letters written, those of transactions that were repeated included."),
		restarts:     counter("transact_restarts_total", "Times that a new client took over after an error."),
		aborts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "transact_aborts_total",
			Help: "Aborted transactions, by reason.", ConstLabels: labels}, []string{"reason"}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "transact_commit_seconds",
			Help: "Time to end a transaction and write the local store.", ConstLabels: labels,
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		recovery: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "transact_recovery_seconds",
			Help: "Time to read the tables back after a rebalance.", ConstLabels: labels,
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 16)}),
		state: prometheus.NewGauge(prometheus.GaugeOpts{Name: "transact_state",
			Help: "0 stopped, 1 joining, 2 recovering, 3 running.", ConstLabels: labels}),
		registered: r,
	}
	m.all = []prometheus.Collector{m.transactions, m.aborts, m.records, m.deadLetters, m.restarts, m.commit, m.recovery, m.state}
	if r == nil {
		return m, nil
	}
	for n, c := range m.all {
		if err := r.Register(c); err != nil {
			m.all = m.all[:n] // the rest belong to somebody else
			m.unregister()
			return nil, fmt.Errorf("%w: metrics of %s/%d: %w", ErrConfig, group, ordinal, err)
		}
	}
	return m, nil
}

func (m *meters) unregister() {
	if m.registered == nil {
		return
	}
	for _, c := range m.all {
		m.registered.Unregister(c)
	}
}

func (m *meters) committed(records int, took time.Duration) {
	m.transactions.Inc()
	m.records.Add(float64(records))
	m.commit.Observe(took.Seconds())
}
