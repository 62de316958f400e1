package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/sinks/postgres"
	"github.com/millrace/millrace/topics"
)

func TestTheSampleLeavesSellersAlone(t *testing.T) {
	url := localtest.Postgres(t)
	if err := postgres.Setup(t.Context(), url, topics.New(topics.Options{})); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := loadSample(t.Context(), url, &out); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "UPDATE offers SET price_minor = 999 WHERE sku = $1", sampleSKU); err != nil {
		t.Fatal(err)
	}
	if err := loadSample(t.Context(), url, &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasSuffix(got, "sample: 0 products and 0 offers added\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("it said %q", got)
	}
	var price, unoffered int64
	if err := conn.QueryRow(t.Context(), "SELECT price_minor FROM offers WHERE sku = $1", sampleSKU).Scan(&price); err != nil || price != 999 {
		t.Errorf("the seller's price is %d, %v", price, err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM products p WHERE NOT EXISTS (SELECT FROM offers o WHERE o.product_id = p.id)").Scan(&unoffered); err != nil || unoffered != 0 {
		t.Errorf("%d products without an offer, %v", unoffered, err)
	}
}
