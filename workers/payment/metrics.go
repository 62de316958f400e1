package payment

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	steps       *prometheus.CounterVec
	deadLetters *prometheus.CounterVec
	calls       *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	lag         *prometheus.GaugeVec
}

func newMetrics() *metrics {
	return &metrics{
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_payment_steps_total", Help: "Payment steps carried out, by step and outcome."}, []string{"step", "outcome"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_payment_dead_letters_total", Help: "Requests that could not be read, by reason."}, []string{"reason"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_payment_gateway_seconds", Help: "Time of one call at the gateway, by call and how it ended.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"call", "ended"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_payment_steps_in_flight", Help: "Steps at the gateway now."}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_payment_lag_records", Help: "Requests not yet read, by partition, as of the last fetch."}, []string{"partition"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.steps, m.deadLetters, m.calls, m.inFlight, m.lag} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) called(call string, err error, took time.Duration) {
	m.calls.WithLabelValues(call, endings[troubleOf(err)]).Observe(took.Seconds())
}

var endings = map[trouble]string{
	none: "ok", issuerNo: "declined", requestNo: "refused", misdirected: "misdirected", passing: "unavailable", burned: "stored_error",
}

func (m *metrics) behind(partition int32, records int64) {
	m.lag.WithLabelValues(strconv.Itoa(int(partition))).Set(float64(records))
}

func (m *metrics) gone(partition int32) { m.lag.DeleteLabelValues(strconv.Itoa(int(partition))) }
