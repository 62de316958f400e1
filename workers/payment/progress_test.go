package payment

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

// Whatever the order in which records are done, what may be committed is the first offset that is not.
func TestOnlyTheFinishedPrefixIsCommitted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p progress
		var offsets []int64
		at := rapid.Int64Range(0, 1000).Draw(t, "first")
		for range rapid.IntRange(1, 40).Draw(t, "records") {
			offsets = append(offsets, at)
			p.begin(&kgo.Record{Offset: at, LeaderEpoch: 3})
			at += rapid.Int64Range(1, 3).Draw(t, "gap") // markers and aborted records leave gaps
		}
		done := map[int64]bool{}
		committed := int64(-1)
		for _, i := range rapid.Permutation(offsets).Draw(t, "done") {
			p.done(i)
			done[i] = true
			want := committed
			for _, o := range offsets {
				if !done[o] {
					break
				}
				want = o + 1
			}
			next, moved := p.take()
			if moved != (want > committed) || moved && (next.Offset != want || next.Epoch != 3) {
				t.Fatalf("after %d: commit %v (moved: %v), want %d", i, next, moved, want)
			}
			committed = want
		}
		if len(p.open) != 0 {
			t.Fatalf("%d records are kept", len(p.open))
		}
	})
}

func TestOffsetOfNothingKnown(t *testing.T) {
	var p progress
	p.begin(&kgo.Record{Offset: 5})
	p.done(4)
	if next, moved := p.take(); moved {
		t.Errorf("commit %v", next)
	}
}
