package schemas_test

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/millrace/millrace/schemas"
)

func TestTheSampleIsAShop(t *testing.T) {
	products, err := schemas.SampleProducts()
	if err != nil {
		t.Fatal(err)
	}
	offers, err := schemas.SampleOffers()
	if err != nil {
		t.Fatal(err)
	}
	byID, titles := map[string]bool{}, map[string]bool{}
	for _, p := range products {
		if byID[p.ID] || titles[p.Title] || p.Description == "" || p.Category == "" || json.Unmarshal([]byte(p.Attributes), &map[string]string{}) != nil {
			t.Errorf("bad product, or a second one: %+v", p)
		}
		byID[p.ID], titles[p.Title] = true, true
	}
	sku := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	bySKU, sellers, offered := map[string]schemas.Offer{}, map[string]bool{}, map[string]int{}
	for _, o := range offers {
		if _, twice := bySKU[o.SKU]; twice || !sku.MatchString(o.SKU) || !byID[o.ProductID] || o.PriceMinor <= 0 || o.Currency != "USD" || o.Stock <= 0 {
			t.Errorf("bad offer, or a second one: %+v", o)
		}
		bySKU[o.SKU], sellers[o.SellerID] = o, true
		offered[o.ProductID]++
	}
	if len(products) < 300 || len(sellers) < 3 || len(offered) != len(products) {
		t.Errorf("%d products, %d of them offered, %d sellers", len(products), len(offered), len(sellers))
	}
	if cd := bySKU[schemas.SampleCD]; cd.PriceMinor != 1499 || cd.Stock != 1_000_000 {
		t.Errorf("the disc of the replay: %+v", cd)
	}
	if last := bySKU[schemas.SampleLast]; last.Stock != 1 {
		t.Errorf("the last one: %+v", last)
	}
}
