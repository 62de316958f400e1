package schemas

import (
	"embed"
	"encoding/csv"
	"fmt"
	"strconv"
)

//go:embed sample/*.csv
var sample embed.FS

// Product is a row of the sample catalogue, as the table products has it.
type Product struct {
	ID          string
	Title       string
	Description string
	Category    string
	Attributes  string // a JSON object
}

// Offer is a row of the sample catalogue, as the table offers has it, and how much stock a new shop receives of it.
type Offer struct {
	SKU        string
	ProductID  string
	SellerID   string
	PriceMinor int64
	Currency   string
	Stock      int64
}

// The two SKUs of the sample that others name.
const (
	SampleCD   = "CD-CLASSIC" // a compact disc, a million of them: what `millrace order replay` sells
	SampleLast = "LAST-ONE"   // of which there is one
)

// SampleProducts is a few hundred products to begin with.
func SampleProducts() ([]Product, error) {
	return rows("sample/products.csv", func(f []string) (Product, error) {
		return Product{ID: f[0], Title: f[1], Description: f[2], Category: f[3], Attributes: f[4]}, nil
	})
}

// SampleOffers is one or two offers of each product, by several sellers.
func SampleOffers() ([]Offer, error) {
	return rows("sample/offers.csv", func(f []string) (Offer, error) {
		o := Offer{SKU: f[0], ProductID: f[1], SellerID: f[2], Currency: f[4]}
		var err error
		if o.PriceMinor, err = strconv.ParseInt(f[3], 10, 64); err != nil {
			return o, err
		}
		o.Stock, err = strconv.ParseInt(f[5], 10, 64)
		return o, err
	})
}

// rows reads a file under its heading.
func rows[R any](name string, read func(fields []string) (R, error)) ([]R, error) {
	f, err := sample.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var all []R
	for i, fields := range lines[1:] {
		r, err := read(fields)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+2, err)
		}
		all = append(all, r)
	}
	return all, nil
}
