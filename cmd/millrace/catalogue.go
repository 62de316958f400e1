package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/schemas"
)

// sampleSKU is what `up` and the replay order.
const sampleSKU = schemas.SampleCD

// loadSample puts the sample catalogue into Postgres. What is there already stays as its seller left it.
func loadSample(ctx context.Context, url string, out io.Writer) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var products, offers int64
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		if products, err = loadProducts(ctx, tx); err == nil {
			offers, err = loadOffers(ctx, tx)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	fmt.Fprintf(out, "sample: %d products and %d offers added\n", products, offers)
	return nil
}

func loadProducts(ctx context.Context, tx pgx.Tx) (added int64, err error) {
	products, err := schemas.SampleProducts()
	if err != nil {
		return 0, err
	}
	n := len(products)
	ids, titles, descriptions, categories, attributes := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, p := range products {
		ids[i], titles[i], descriptions[i], categories[i], attributes[i] = p.ID, p.Title, p.Description, p.Category, p.Attributes
	}
	tag, err := tx.Exec(ctx, `INSERT INTO products (id, title, description, category, attributes)
		SELECT i, t, d, c, a::jsonb FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS p (i, t, d, c, a)
		ON CONFLICT DO NOTHING`, ids, titles, descriptions, categories, attributes)
	return tag.RowsAffected(), err
}

func loadOffers(ctx context.Context, tx pgx.Tx) (added int64, err error) {
	offers, err := schemas.SampleOffers()
	if err != nil {
		return 0, err
	}
	n := len(offers)
	skus, products, sellers, prices, currencies := make([]string, n), make([]string, n), make([]string, n), make([]int64, n), make([]string, n)
	for i, o := range offers {
		skus[i], products[i], sellers[i], prices[i], currencies[i] = o.SKU, o.ProductID, o.SellerID, o.PriceMinor, o.Currency
	}
	tag, err := tx.Exec(ctx, `INSERT INTO offers (sku, product_id, seller_id, price_minor, currency)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])
		ON CONFLICT DO NOTHING`, skus, products, sellers, prices, currencies)
	return tag.RowsAffected(), err
}

// sampleStock is how much of each SKU a new shop receives, through the API as any other.
func sampleStock() (map[string]int64, error) {
	offers, err := schemas.SampleOffers()
	if err != nil {
		return nil, err
	}
	stock := make(map[string]int64, len(offers))
	for _, o := range offers {
		stock[o.SKU] = o.Stock
	}
	return stock, nil
}
