package gateway

import (
	"slices"
	"sync"
	"sync/atomic"
)

// An account is one intent through its versions. Steps on it wait for each other; who only looks never waits and sees
// the last version that is on disk.
type account struct {
	step  sync.Mutex
	now   atomic.Pointer[intent]
	early atomic.Int32 // confirms that pm_sim_sporadic_500 has answered 500

	place   int       // in books.intents
	refunds []*refund // guarded by books.mu, oldest first
}

// books are all accounts and refunds, found by ID and in the order they came. Nothing ever leaves.
type books struct {
	max int

	mu       sync.RWMutex
	reserved int // accounts, and those about to be opened
	byID     map[string]*account
	intents  []*account
	places   map[string]int // of refunds, by ID
	refunds  []*refund
}

func newBooks(max int) *books {
	return &books{max: max, byID: map[string]*account{}, places: map[string]int{}}
}

func (b *books) account(id string) *account {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.byID[id]
}

// reserve makes room for one more account, or says there is none.
func (b *books) reserve() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reserved >= b.max {
		return false
	}
	b.reserved++
	return true
}

func (b *books) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reserved--
}

// enter makes a committed change visible.
func (b *books) enter(a *account, i *intent, r *refund) {
	opened := a.now.Swap(i) == nil
	if !opened && r == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if opened {
		a.place = len(b.intents)
		b.byID[i.ID] = a
		b.intents = append(b.intents, a)
	}
	if r != nil {
		a.refunds = append(a.refunds, r)
		b.places[r.ID] = len(b.refunds)
		b.refunds = append(b.refunds, r)
	}
}

func (b *books) refund(id string) *refund {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if place, ok := b.places[id]; ok {
		return b.refunds[place]
	}
	return nil
}

// all returns every account, oldest first. The slice only ever grows behind what is returned.
func (b *books) all() []*account {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.intents
}

func (b *books) pageOfIntents(p page) (items []*intent, more bool, refused *refusal) {
	all := b.all()
	pivot := -1
	if id := p.After + p.Before; id != "" {
		a := b.account(id)
		if a == nil {
			return nil, false, missing("payment_intent", id, p.pivotName())
		}
		pivot = a.place
	}
	places, more := p.choose(len(all), pivot, func(n int) int64 { return all[n].now.Load().Created })
	for _, n := range places {
		items = append(items, all[n].now.Load())
	}
	return items, more, nil
}

func (b *books) pageOfRefunds(p page) (items []*refund, more bool, refused *refusal) {
	all, refused := b.refundsOf(p)
	if refused != nil {
		return nil, false, refused
	}
	pivot := -1
	if id := p.After + p.Before; id != "" {
		pivot = slices.IndexFunc(all, func(r *refund) bool { return r.ID == id })
		if pivot < 0 {
			return nil, false, missing("refund", id, p.pivotName())
		}
	}
	places, more := p.choose(len(all), pivot, func(n int) int64 { return all[n].Created })
	for _, n := range places {
		items = append(items, all[n])
	}
	return items, more, nil
}

func (b *books) refundsOf(p page) ([]*refund, *refusal) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if p.Intent == "" {
		return b.refunds, nil
	}
	a := b.byID[p.Intent]
	if a == nil {
		return nil, missing("payment_intent", p.Intent, "payment_intent")
	}
	return a.refunds, nil
}

func (p page) pivotName() string {
	if p.Before != "" {
		return "ending_before"
	}
	return "starting_after"
}

// choose picks the places of one page out of count things that lie oldest first, and gives them newest first. The
// pivot is the place of After or Before, -1 without one.
func (p page) choose(count, pivot int, created func(int) int64) (places []int, more bool) {
	first, last, by := count-1, -1, -1 // downwards from the newest
	if p.After != "" {
		first = pivot - 1
	}
	if p.Before != "" {
		first, last, by = pivot+1, count, 1 // upwards from the pivot, the nearest first
	}
	for n := first; n != last && !more; n += by {
		if at := created(n); at < p.From || at > p.To {
			continue
		}
		if more = len(places) == p.Limit; !more {
			places = append(places, n)
		}
	}
	if p.Before != "" {
		slices.Reverse(places)
	}
	return places, more
}
