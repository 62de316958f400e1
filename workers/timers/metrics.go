package timers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	lateness    *prometheus.HistogramVec
	behind      *prometheus.GaugeVec
	deadLetters *prometheus.CounterVec
	aborts      prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		lateness: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_timers_lateness_seconds", Help: "How long after they were due timers went off, by delay.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 18)}, []string{"delay"}),
		behind: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_timers_behind_seconds", Help: "For how long the oldest timer has been due that has not gone off, by delay."}, []string{"delay"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_timers_dead_letters_total", Help: "Records that are no timers of their topic, by reason."}, []string{"reason"}),
		aborts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_timers_aborts_total", Help: "Transactions that were aborted, to be done again."}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.lateness, m.behind, m.deadLetters, m.aborts} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) fired(b batchOf, kinds map[string]kind, now time.Time) {
	for _, w := range b.records {
		if w.timer == nil {
			m.deadLetters.WithLabelValues(string(w.rejection.Reason)).Inc()
			continue
		}
		m.lateness.WithLabelValues(kinds[w.record.Topic].name).Observe(now.Sub(w.due).Seconds())
	}
}

func (m *metrics) heads(ls lines, kinds map[string]kind, now time.Time) {
	oldest := map[string]float64{}
	for _, k := range kinds {
		oldest[k.name] = 0
	}
	for p, l := range ls {
		if len(l.waiting) > 0 && l.waiting[0].timer != nil {
			name := kinds[p.topic].name
			oldest[name] = max(oldest[name], now.Sub(l.waiting[0].due).Seconds())
		}
	}
	for name, seconds := range oldest {
		m.behind.WithLabelValues(name).Set(seconds)
	}
}
