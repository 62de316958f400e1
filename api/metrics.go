package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the API counts. Procedures, codes and reasons are all from closed lists.
type metrics struct {
	calls      *prometheus.HistogramVec
	refusals   *prometheus.CounterVec
	inFlight   *prometheus.GaugeVec
	panics     prometheus.Counter
	unreadable prometheus.Counter
}

func newMetrics(r prometheus.Registerer, waiters, watched func() float64) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_api_call_seconds", Help: "How long calls took, by procedure and code; a stream counts from its start to its end.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .03, .05, .08, .12, .2, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"procedure", "code"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_api_refusals_total", Help: "Calls refused, by reason; at the door too.",
		}, []string{"reason"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_api_in_flight", Help: "Calls that are being served, by kind: command, read or stream.",
		}, []string{"kind"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_api_panics_total", Help: "Handlers that panicked: bugs.",
		}),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_api_unreadable_events_total", Help: "Events that somebody waited for and that could not be decoded.",
		}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		m.calls, m.refusals, m.inFlight, m.panics, m.unreadable,
		gauge("millrace_api_waiting_calls", "Commands whose outcome is awaited.", waiters),
		gauge("millrace_api_watched_aggregates", "Orders and SKUs that somebody watches.", watched),
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) called(procedure, code string, began time.Time) {
	m.calls.WithLabelValues(procedure, code).Observe(time.Since(began).Seconds())
}

func (m *metrics) refused(r Reason) { m.refusals.WithLabelValues(string(r)).Inc() }
