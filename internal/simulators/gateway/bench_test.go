package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stripe/stripe-go/v85"
)

// One order as the payment worker pays it: create, confirm, look; client and gateway on the same cores.
func BenchmarkOrder(b *testing.B) {
	for _, folder := range []string{"", b.TempDir()} {
		b.Run(map[bool]string{true: "memory", false: "journal"}[folder == ""], func(b *testing.B) { benchOrders(b, folder) })
	}
}

func benchOrders(b *testing.B, folder string) {
	settings := Defaults()
	settings.Folder = folder
	g, err := Open(settings)
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(g)
	defer func() { server.Close(); g.Close() }()
	client := stripe.NewClient("sk_test_bench", stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		URL:           stripe.String(server.URL),
		HTTPClient:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull}, EnableTelemetry: stripe.Bool(false),
	})))
	s := &shop{url: server.URL, client: client}
	var orders atomic.Int64
	b.SetParallelism(64)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := orders.Add(1)
			made, err := client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", fmt.Sprint(folder, "make-", n)))
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := s.confirm(made.ID, fmt.Sprint(folder, "pay-", n)); err != nil {
				b.Error(err)
				return
			}
			if _, err := client.V1PaymentIntents.Retrieve(context.Background(), made.ID, nil); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
}
