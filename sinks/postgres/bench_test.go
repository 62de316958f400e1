package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/sinks/postgres"
)

// BenchmarkWrite is the database's share of the sink: events of orders with up to three lines, six events each, in
// batches as a busy log gives them.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{50, 500, 5000} {
		b.Run(fmt.Sprint(size, " records"), func(b *testing.B) {
			_, pool := database(b, table)
			store := postgres.New(pool, table)
			place := sinks.Place{Topic: table.OrderEvents.Name}
			var at, order int64
			b.ResetTimer()
			began := time.Now()
			for b.Loop() {
				s := sinks.Stretch{Place: place, First: at}
				for len(s.Records) < size {
					// An order's six events come in two batches or three.
					id := orderID(fmt.Sprint(order / 2))
					for version := 1 + 3*(order%2); version <= 3+3*(order%2); version++ {
						s.Records = append(s.Records, sinks.Record{Offset: at, ID: fmt.Sprint(at), Time: began, Value: orderEvent(id, version)})
						at++
					}
					order++
				}
				s.End = at
				if err := store.Write(b.Context(), sinks.Batch{s}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(at)/time.Since(began).Seconds(), "events/s")
		})
	}
}
