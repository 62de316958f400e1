package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
)

// raw sends one request as curl would and returns the status and the error object.
func (s *shop) raw(method, path, body string, header ...string) (int, wireError) {
	s.t.Helper()
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer sk_test_raw")
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for n := 0; n < len(header); n += 2 {
		request.Header.Set(header[n], header[n+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	var answered struct{ Error wireError }
	if err := json.NewDecoder(response.Body).Decode(&answered); err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, answered.Error
}

// Everything that is refused at the door: status, code, parameter.
func TestRefusals(t *testing.T) {
	s := openShop(t, quick())
	const create, ok = "/v1/payment_intents", "amount=100&currency=eur"
	for _, c := range []struct {
		path, body  string
		status      int
		code, param string
	}{
		{create, "currency=eur", 400, "parameter_missing", "amount"},
		{create, "amount=100", 400, "parameter_missing", "currency"},
		{create, "amount=&currency=eur", 400, "parameter_invalid_empty", "amount"},
		{create, "amount=ten&currency=eur", 400, "parameter_invalid_integer", "amount"},
		{create, "amount=1.5&currency=eur", 400, "parameter_invalid_integer", "amount"},
		{create, "amount=0&currency=eur", 400, "parameter_invalid_integer", "amount"},
		{create, "amount=-5&currency=eur", 400, "parameter_invalid_integer", "amount"},
		{create, "amount=100000000&currency=eur", 400, "amount_too_large", "amount"},
		{create, "amount=99999999999999999999&currency=eur", 400, "parameter_invalid_integer", "amount"},
		{create, "amount=100&currency=xyz", 400, "", "currency"},
		{create, ok + "&payment_method=pm_none", 400, "resource_missing", "payment_method"},
		{create, ok + "&payment_method_types[0]=ideal", 400, "payment_intent_invalid_parameter", "payment_method_types"},
		{create, ok + "&capture_method=manual", 400, "", "capture_method"},
		{create, ok + "&confirm=maybe", 400, "", "confirm"},
		{create, ok + "&amuont=3", 400, "parameter_unknown", "amuont"},
		{create, ok + "&expand[0]=latest_charge", 400, "", "expand"},
		{create, ok + "&metadata[" + strings.Repeat("k", 41) + "]=v", 400, "", "metadata[" + strings.Repeat("k", 41) + "]"},
		{create, ok + "&metadata[k]=" + strings.Repeat("v", 501), 400, "", "metadata[k]"},
		{create, ok + "&description=" + strings.Repeat("d", 1001), 400, "", "description"},
		{create, ok + "&description=" + strings.Repeat("d", maxBody), 400, "", ""},
		{create + "/pi_none/confirm", "", 404, "resource_missing", "intent"},
		{create + "/pi_none/cancel", "", 404, "resource_missing", "intent"},
		{create + "/pi_none/cancel", "cancellation_reason=rain", 400, "", "cancellation_reason"},
		{create + "/pi_none/capture", "", 404, "", ""},
		{"/v1/refunds", "", 400, "parameter_missing", ""},
		{"/v1/refunds", "payment_intent=pi_none", 404, "resource_missing", "payment_intent"},
		{"/v1/refunds", "payment_intent=pi_none&charge=ch_none", 400, "parameters_exclusive", "charge"},
		{"/v1/refunds", "charge=none", 400, "resource_missing", "charge"},
		{"/v1/refunds", "payment_intent=pi_none&amount=", 400, "parameter_invalid_empty", "amount"},
		{"/v1/refunds", "payment_intent=pi_none&amount=0", 400, "parameter_invalid_integer", "amount"},
		{"/v1/customers", "", 404, "", ""},
	} {
		status, e := s.raw(http.MethodPost, c.path, c.body)
		if status != c.status || e.Code != c.code || e.Param != c.param || e.Type != typeInvalid || e.Message == "" {
			t.Errorf("POST %s %.60s: %d %q %q %s: %s", c.path, c.body, status, e.Code, e.Param, e.Type, e.Message)
		}
	}
	for path, want := range map[string]int{
		"/v1/payment_intents/pi_none": 404, "/v1/payment_intents/search?query=x": 404, "/v1/refunds/re_none": 404,
		"/v1/payment_intents?limit=0": 400, "/v1/payment_intents?limit=101": 400, "/v1/payment_intents?starting_after=pi_none": 404,
		"/v1/payment_intents?starting_after=pi_a&ending_before=pi_b": 400, "/v1/payment_intents?customer=cus_1": 400,
		"/v1/refunds?payment_intent=pi_none": 404, "/v1/payment_intents/pi_none?expand[]=latest_charge": 400,
	} {
		if status, e := s.raw(http.MethodGet, path, ""); status != want {
			t.Errorf("GET %s: %d %s", path, status, e.Message)
		}
	}
}

func TestOnlyTestKeys(t *testing.T) {
	s := openShop(t, quick())
	for _, key := range []string{"", "Bearer", "Bearer sk_live_x", "Bearer sk_test_", "Basic !", "sk_test_x"} {
		if status, e := s.raw(http.MethodGet, "/v1/payment_intents", "", "Authorization", key); status != http.StatusUnauthorized {
			t.Errorf("%q: %d %s", key, status, e.Message)
		}
	}
	if status, _ := s.raw(http.MethodGet, "/v1/payment_intents", "", "Authorization", "Basic c2tfdGVzdF94Og=="); status != http.StatusOK {
		t.Errorf("as curl -u sk_test_x: sends it: %d", status)
	}
}

func TestRefunds(t *testing.T) {
	s := openShop(t, quick())
	made := s.intent("pm_card_visa")
	_, err := s.refund(made.ID, "early", 1)
	s.wantError(err, http.StatusBadRequest, anInvalid, "")
	paid, err := s.confirm(made.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	part, err := s.refund(made.ID, "part", 450)
	if err != nil || part.Status != stripe.RefundStatusSucceeded || part.Amount != 450 || part.PaymentIntent.ID != made.ID || part.Charge.ID != paid.LatestCharge.ID {
		t.Fatal(part, err)
	}
	_, err = s.refund(made.ID, "much", 801)
	if e := s.wantError(err, http.StatusBadRequest, anInvalid, ""); e.Param != "amount" {
		t.Fatal(e)
	}
	rest, err := s.refund(made.ID, "rest", 0)
	if err != nil || rest.Amount != 800 {
		t.Fatal(rest, err)
	}
	_, err = s.refund(made.ID, "more", 0)
	s.wantError(err, http.StatusBadRequest, anInvalid, stripe.ErrorCodeChargeAlreadyRefunded)

	var steps []string
	for r, err := range s.client.V1Refunds.List(context.Background(), &stripe.RefundListParams{PaymentIntent: stripe.String(made.ID)}).All(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, r.Metadata["step"])
	}
	if !slices.Equal(steps, []string{"rest", "part"}) {
		t.Fatalf("listed %v", steps)
	}
	if one, err := s.client.V1Refunds.Retrieve(context.Background(), part.ID, nil); err != nil || one.Amount != 450 || one.Metadata["step"] != "part" {
		t.Fatal(one, err)
	}
	if l, _ := s.ledger(); l.Totals["eur"] != (LedgerTotal{Intents: 1, Captured: 1250, Refunded: 1250}) {
		t.Fatal(l.Totals)
	}
}

func TestLists(t *testing.T) {
	s := openShop(t, quick())
	var made []string
	for range 25 {
		made = append(made, s.intent("").ID)
	}
	newest := slices.Clone(made)
	slices.Reverse(newest)
	nearest := slices.Clone(newest[2:9]) // stripe-go walks back from ending_before, the nearest first
	slices.Reverse(nearest)
	page := func(p stripe.PaymentIntentListParams) []string {
		t.Helper()
		var ids []string
		for pi, err := range s.client.V1PaymentIntents.List(context.Background(), &p).All(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, pi.ID)
		}
		return ids
	}
	limit := func(n int64) stripe.ListParams { return stripe.ListParams{Limit: stripe.Int64(n)} }
	after, before := limit(7), limit(7)
	after.StartingAfter, after.Single = &newest[9], true
	before.EndingBefore, before.Single = &newest[9], true
	for name, c := range map[string]struct {
		p    stripe.PaymentIntentListParams
		want []string
	}{
		"all, by pages of 10": {stripe.PaymentIntentListParams{ListParams: limit(10)}, newest},
		"after the tenth":     {stripe.PaymentIntentListParams{ListParams: after}, newest[10:17]},
		"before the tenth":    {stripe.PaymentIntentListParams{ListParams: before}, nearest},
		"of tomorrow":         {stripe.PaymentIntentListParams{CreatedRange: &stripe.RangeQueryParams{GreaterThan: time.Now().Add(24 * time.Hour).Unix()}}, nil},
		"until tomorrow":      {stripe.PaymentIntentListParams{CreatedRange: &stripe.RangeQueryParams{LesserThanOrEqual: time.Now().Add(24 * time.Hour).Unix()}}, newest},
	} {
		if got := page(c.p); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestFull(t *testing.T) {
	settings := quick()
	settings.MaxIntents = 2
	s := openShop(t, settings)
	made := s.intent("pm_card_visa")
	s.intent("")
	_, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("", ""))
	s.wantError(err, http.StatusTooManyRequests, anInvalid, "rate_limit")
	if _, err := s.confirm(made.ID, ""); err != nil {
		t.Fatal("full for what exists:", err)
	}
}

func TestLatency(t *testing.T) {
	settings := quick()
	settings.Latency = 30 * time.Millisecond
	s := openShop(t, settings)
	start := time.Now()
	s.intent("")
	if took := time.Since(start); took < settings.Latency {
		t.Fatalf("took %s", took)
	}
}

func TestContradictions(t *testing.T) {
	for want, spoil := range map[string]func(*Settings){
		"fault rate":     func(s *Settings) { s.FaultRate = 1.1 },
		"duration":       func(s *Settings) { s.Hang = -1 },
		"above 0":        func(s *Settings) { s.MaxIntents = 0 },
		"is not a URL":   func(s *Settings) { s.WebhookURL = "somewhere" },
		"webhook secret": func(s *Settings) { s.WebhookURL = "http://127.0.0.1:1/" },
	} {
		s := Defaults()
		spoil(&s)
		if g, err := Open(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v %v", want, g, err)
		}
	}
}

func TestCountsRequests(t *testing.T) {
	s := openShop(t, quick())
	made, err := s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", "k"))
	if err != nil {
		t.Fatal(err)
	}
	s.client.V1PaymentIntents.Create(context.Background(), s.params("pm_card_visa", "k"))
	s.look(made.ID)
	response, err := http.Get(s.url + "/_simulator/requests")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	for _, want := range []string{`"POST /v1/payment_intents":{"200":2}`, `"GET /v1/payment_intents/{id}":{"200":1}`, `"replayed":1`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("%s does not say %s", body, want)
		}
	}
}

// Faults by chance: whoever repeats with the same key gets every order paid, once; and a seed always does the same.
func TestFaults(t *testing.T) {
	settings := quick()
	settings.FaultRate, settings.Seed = 0.4, 7
	s := openShop(t, settings)
	lost, broken := 0, 0
	insist := func(do func() error) {
		for range 100 {
			err := do()
			if err == nil {
				return
			}
			if stripeError(err).HTTPStatusCode == http.StatusInternalServerError {
				broken++
			} else {
				lost++
			}
		}
		t.Fatal("a hundred faults in a row")
	}
	for n := range 50 {
		var id string
		insist(func() error {
			p := s.params("pm_card_visa", fmt.Sprint("make-", n))
			p.Metadata["order_id"] = fmt.Sprint(n)
			pi, err := s.client.V1PaymentIntents.Create(context.Background(), p)
			id = pi.ID
			return err
		})
		insist(func() error { _, err := s.confirm(id, fmt.Sprint("pay-", n)); return err })
	}
	_, lines := s.ledger()
	for n := range 50 {
		if got := lines[fmt.Sprint(n)]; len(got) != 1 || got[0].Captured != 1250 {
			t.Fatalf("order %d: %+v", n, got)
		}
	}
	if lost < 10 || broken < 10 {
		t.Fatalf("%d answers lost, %d broken: the faults do not happen", lost, broken)
	}
	a, b := faults{rate: 0.4, seed: 7}, faults{rate: 0.4, seed: 7}
	for n := range 1000 {
		if a.next() != b.next() {
			t.Fatalf("one seed, another fate at request %d", n)
		}
	}
}
