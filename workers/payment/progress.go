package payment

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// progress knows what of one partition is done, so that only the prefix that is done is committed.
type progress struct {
	open []mark // in log order, from the first that is not committed
	next kgo.EpochOffset
	news bool // next has moved since it was last taken
}

type mark struct {
	at   kgo.EpochOffset
	done bool
}

// begin enters a record that was read; records come in log order.
func (p *progress) begin(r *kgo.Record) {
	p.open = append(p.open, mark{at: kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset}})
}

// done says that a record needs nothing more.
func (p *progress) done(offset int64) {
	i, found := slices.BinarySearchFunc(p.open, offset, func(m mark, o int64) int { return int(m.at.Offset - o) })
	if !found {
		return
	}
	p.open[i].done = true
	n := 0
	for n < len(p.open) && p.open[n].done {
		n++
	}
	if n > 0 {
		last := p.open[n-1].at
		p.next, p.news = kgo.EpochOffset{Epoch: last.Epoch, Offset: last.Offset + 1}, true
		p.open = p.open[n:]
	}
}

// take is the offset to commit, if it has moved since the last take.
func (p *progress) take() (kgo.EpochOffset, bool) {
	moved := p.news
	p.news = false
	return p.next, moved
}
