package gateway

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Every state against every step: what it becomes, and whether it is refused.
func TestStateMachine(t *testing.T) {
	states := map[string]intent{
		"no method":    {Status: needsMethod},
		"ready":        {Status: needsConfirm, Method: "pm_card_visa"},
		"poor":         {Status: needsConfirm, Method: "pm_card_chargeDeclined"},
		"slow bank":    {Status: needsConfirm, Method: "pm_sim_pending"},
		"processing":   {Status: processing, Method: "pm_sim_pending"},
		"to be told":   {Status: processing, Method: "pm_sim_pending_forever"},
		"stuck":        {Status: processing, Method: "pm_sim_pending_stuck"},
		"late":         {Status: processing, Method: "pm_sim_late_success"},
		"succeeded":    {Status: succeeded, Method: "pm_card_visa", Received: 100},
		"all refunded": {Status: succeeded, Method: "pm_card_visa", Received: 100, Refunded: 100},
		"canceled":     {Status: canceled, Method: "pm_card_visa"},
	}
	steps := map[string]func(*intent) change{
		"confirm": func(i *intent) change { return confirm(i, "", noon, time.Second) },
		"cancel":  func(i *intent) change { return cancel(i, "", noon) },
		"approve": func(i *intent) change { return settle(i, true) },
		"refund":  func(i *intent) change { return giveBack(i, createRefund{Amount: 60}, "re_1", noon) },
	}
	type outcome struct {
		status  status
		refused bool
	}
	table := map[string]map[string]outcome{
		"no method":    {"confirm": {needsMethod, true}, "cancel": {canceled, false}, "approve": {needsMethod, true}, "refund": {needsMethod, true}},
		"ready":        {"confirm": {succeeded, false}, "cancel": {canceled, false}, "approve": {needsConfirm, true}, "refund": {needsConfirm, true}},
		"poor":         {"confirm": {needsMethod, true}, "cancel": {canceled, false}, "approve": {needsConfirm, true}, "refund": {needsConfirm, true}},
		"slow bank":    {"confirm": {processing, false}, "cancel": {canceled, false}, "approve": {needsConfirm, true}, "refund": {needsConfirm, true}},
		"processing":   {"confirm": {processing, true}, "cancel": {processing, true}, "approve": {succeeded, false}, "refund": {processing, true}},
		"to be told":   {"confirm": {processing, true}, "cancel": {canceled, false}, "approve": {succeeded, false}, "refund": {processing, true}},
		"stuck":        {"confirm": {processing, true}, "cancel": {processing, true}, "approve": {succeeded, false}, "refund": {processing, true}},
		"late":         {"confirm": {processing, true}, "cancel": {succeeded, true}, "approve": {succeeded, false}, "refund": {processing, true}},
		"succeeded":    {"confirm": {succeeded, true}, "cancel": {succeeded, true}, "approve": {succeeded, true}, "refund": {succeeded, false}},
		"all refunded": {"confirm": {succeeded, true}, "cancel": {succeeded, true}, "approve": {succeeded, true}, "refund": {succeeded, true}},
		"canceled":     {"confirm": {canceled, true}, "cancel": {canceled, true}, "approve": {canceled, true}, "refund": {canceled, true}},
	}
	for name, state := range states {
		state.ID, state.Amount, state.Currency = "pi_1", 100, "eur"
		for step, do := range steps {
			before := state
			ch := do(&state)
			want, got := table[name][step], outcome{ch.intent.Status, ch.refusal != nil}
			if got != want {
				t.Errorf("%s, %s: %v, want %v", name, step, got, want)
			}
			if before.Status != state.Status || before.Refunded != state.Refunded {
				t.Errorf("%s, %s: the version before was changed", name, step)
			}
		}
	}
}

// Any sequence of steps: money is taken once at most, never more given back than taken, and what is final stays.
func TestMoneyHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cardIDs := []string{""}
		for _, card := range Cards() {
			cardIDs = append(cardIDs, card.ID)
		}
		card := rapid.SampledFrom(cardIDs)
		i := create(createIntent{Amount: rapid.Int64Range(1, maxAmount).Draw(t, "amount"), Currency: "eur", Method: card.Draw(t, "card")}, "pi_1", noon).intent
		var given int64
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			var ch change
			switch rapid.SampledFrom([]string{"confirm", "cancel", "settle", "refund"}).Draw(t, "step") {
			case "confirm":
				ch = confirm(i, card.Draw(t, "other card"), noon, time.Second)
			case "cancel":
				ch = cancel(i, "", noon)
			case "settle":
				ch = settle(i, rapid.Bool().Draw(t, "approved"))
			case "refund":
				ch = giveBack(i, createRefund{Amount: rapid.Int64Range(0, maxAmount).Draw(t, "back")}, "re_1", noon)
			}
			checkStep(t, i, ch)
			if i = ch.intent; ch.refund != nil {
				given += ch.refund.Amount
			}
			if given != i.Refunded || i.Refunded > i.Received {
				t.Fatalf("given back %d, the intent says %d of %d", given, i.Refunded, i.Received)
			}
		}
	})
}

func checkStep(t *rapid.T, before *intent, ch change) {
	after := ch.intent
	final := before.Status == succeeded || before.Status == canceled
	switch {
	case final && after.Status != before.Status:
		t.Fatalf("%s became %s", before.Status, after.Status)
	case (after.Status == succeeded) != (after.Received == after.Amount) || (after.Status != succeeded && after.Received != 0):
		t.Fatalf("%s with %d of %d received", after.Status, after.Received, after.Amount)
	case ch.event == eventSucceeded && before.Status == succeeded:
		t.Fatal("told of success twice")
	case (after.Status == canceled) != (after.CanceledAt != 0):
		t.Fatalf("%s with cancelled at %d", after.Status, after.CanceledAt)
	case after.Status == needsMethod && after.Method != "":
		t.Fatalf("asks for a method and has %s", after.Method)
	}
}
