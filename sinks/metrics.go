package sinks

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

type metrics struct {
	lag   *prometheus.GaugeVec
	batch prometheus.Histogram
	write prometheus.Histogram
	dead  *prometheus.CounterVec
	moved prometheus.Counter
}

func newMetrics(r prometheus.Registerer, sink string) (*metrics, error) {
	of := prometheus.Labels{"sink": sink}
	m := &metrics{
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_sink_lag_records", ConstLabels: of,
			Help: "Offsets between what is written and the end of the log, transaction markers included."}, []string{"topic", "partition"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_sink_batch_records", ConstLabels: of,
			Help: "Records of one write.", Buckets: prometheus.ExponentialBuckets(1, 4, 8)}),
		write: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_sink_write_seconds", ConstLabels: of,
			Help: "Time the store took for one write.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_sink_dead_letters_total", ConstLabels: of,
			Help: "Records put aside, by reason."}, []string{"reason"}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_sink_positions_moved_total", ConstLabels: of,
			Help: "Times that the store was not where we left it, and the positions were read again."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.lag, m.batch, m.write, m.dead, m.moved} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) wrote(b Batch, took time.Duration) {
	m.batch.Observe(float64(b.Records()))
	m.write.Observe(took.Seconds())
}

// seen notes how much of the log was still to come when the fetches were answered.
func (m *metrics) seen(fetches kgo.Fetches) {
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if n := len(p.Records); n > 0 {
			lag := p.LastStableOffset - p.Records[n-1].Offset - 1
			m.lag.WithLabelValues(p.Topic, strconv.Itoa(int(p.Partition))).Set(float64(max(lag, 0)))
		}
	})
}

// gone forgets a partition that is somebody else's now.
func (m *metrics) gone(p Place) {
	m.lag.DeleteLabelValues(p.Topic, strconv.Itoa(int(p.Partition)))
}
