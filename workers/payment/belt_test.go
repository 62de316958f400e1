package payment

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/topics"
	"github.com/millrace/millrace/workers/workertest"
)

var subject = workertest.Subject{
	Group: topics.PaymentGroup,
	New:   func(s workertest.Seat) (workertest.Worker, error) { return New(quick(s)) },
}

func TestMain(m *testing.M) { workertest.Main(m, subject) }

func quick(s workertest.Seat) Config {
	return Config{
		Brokers: s.Brokers, Topics: s.Topics, Ordinal: s.Ordinal, Log: s.Log, Metrics: s.Metrics, Key: testKey, URL: s.Outside,
		InFlight: 16, Timeout: 2 * time.Second, Backoff: 5 * time.Millisecond, SessionTimeout: workertest.SessionTimeout, Drain: time.Second,
	}
}

// A belt has a till at the far side, and the test as the order processor.
type belt struct {
	*workertest.Belt
	*till
}

func newBelt(t *testing.T, till *till, brokers ...string) *belt {
	t.Helper()
	b := &belt{workertest.New(t, subject, brokers...), till}
	b.Outside = till.url
	return b
}

func (b *belt) ask(requests ...*paymentv1.PaymentRequest) {
	b.T.Helper()
	var records []*kgo.Record
	for _, r := range requests {
		records = append(records, b.Table.PaymentRequests.Record(r, topics.Fresh("/test", "")))
	}
	b.Write(records...)
}

func (b *belt) result(r *kgo.Record) *paymentv1.PaymentResult {
	b.T.Helper()
	return workertest.Decoded(b.Belt, b.Table.PaymentResults, r)
}

// settled waits until the group has nothing left to do.
func (b *belt) settled() {
	b.T.Helper()
	b.Settled(b.Table.PaymentRequests.Name)
}
