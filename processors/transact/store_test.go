package transact

import (
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/lovoo/goka/storage"
	levelfiles "github.com/syndtr/goleveldb/leveldb/storage"
	"pgregory.net/rapid"
)

// twin is the second, dumb model of a table: two whole maps.
type twin struct {
	open, committed map[string]string
	offset          int64
}

// Any sequence of reads, writes, commits, aborts and reopenings answers as two maps would, whatever the cache forgets:
// callbacks see their own writes, everybody else what is committed.
func TestTableAgainstTwoMaps(t *testing.T) {
	for name, open := range map[string]func(b backend) backend{
		"leveldb": func(b backend) backend {
			files := levelfiles.NewMemStorage()
			if b != nil {
				files = b.(*levelStore).files
			}
			s, err := openLevelStoreOn(files)
			if err != nil {
				panic(err)
			}
			return s
		},
		"memory": func(b backend) backend {
			if b == nil {
				return newMemoryStore()
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				b := open(nil)
				tab := newTable(b, "t", 0, rapid.SampledFrom([]int{0, 400, 1 << 20}).Draw(rt, "cache"))
				m := &twin{open: map[string]string{}, committed: map[string]string{}, offset: noOffset}
				key := rapid.SampledFrom([]string{"", "a", "ab", "b", "offset", "v", "\xff"})
				rt.Repeat(map[string]func(*rapid.T){
					"put": func(rt *rapid.T) {
						k, v := key.Draw(rt, "key"), rapid.StringN(0, 5, -1).Draw(rt, "value")
						tab.put(k, []byte(v))
						m.open[k] = v
					},
					"delete": func(rt *rapid.T) {
						k := key.Draw(rt, "key")
						tab.put(k, nil)
						delete(m.open, k)
					},
					"commit": func(rt *rapid.T) {
						if len(tab.dirty) > 0 {
							m.offset++
							tab.produced(m.offset)
						}
						must(t, "commit", tab.commit)
						m.committed = maps.Clone(m.open)
					},
					"abort": func(rt *rapid.T) {
						tab.produced(m.offset + 100)
						tab.rollback()
						m.open = maps.Clone(m.committed)
					},
					"reopen": func(rt *rapid.T) {
						tab.rollback()
						m.open = maps.Clone(m.committed)
						must(t, "close", tab.Close)
						b = open(b)
						tab = newTable(b, "t", 0, 400)
					},
					"": func(rt *rapid.T) { m.check(rt, tab) },
				})
				must(t, "close", tab.Close)
			})
		})
	}
}

func (m *twin) check(rt *rapid.T, tab *table) {
	for _, k := range []string{"", "a", "ab", "b", "offset", "v", "\xff", "none"} {
		got, err := tab.value(k)
		want, has := m.open[k]
		if err != nil || has != (got != nil) || string(got) != want {
			rt.Fatalf("callback sees %q=%q (%v), want %q (%v)", k, got, err, want, has)
		}
		got, err = tab.Get(k)
		want, has = m.committed[k]
		if err != nil || has != (got != nil) || string(got) != want {
			rt.Fatalf("others see %q=%q (%v), want %q (%v)", k, got, err, want, has)
		}
		if h, _ := tab.Has(k); h != has {
			rt.Fatalf("has %q: %v", k, h)
		}
	}
	if o, err := tab.GetOffset(noOffset); err != nil || o != m.offset {
		rt.Fatalf("offset %d (%v), want %d", o, err, m.offset)
	}
	all, _ := tab.Iterator()
	wantWalk(rt, all, m.committed, func(string) bool { return true })
	prefix, _ := tab.IteratorWithRange([]byte("a"), nil)
	wantWalk(rt, prefix, m.committed, func(k string) bool { return strings.HasPrefix(k, "a") })
	span, _ := tab.IteratorWithRange([]byte("ab"), []byte("v"))
	wantWalk(rt, span, m.committed, func(k string) bool { return k >= "ab" && k < "v" })
}

func wantWalk(rt *rapid.T, it storage.Iterator, of map[string]string, in func(string) bool) {
	defer it.Release()
	var want, got []string
	for k, v := range of {
		if in(k) {
			want = append(want, k+"="+v)
		}
	}
	sort.Strings(want)
	for it.Next() {
		v, err := it.Value()
		if err != nil {
			rt.Fatal(err)
		}
		got = append(got, string(it.Key())+"="+string(v))
	}
	if it.Err() != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		rt.Fatalf("walk %q (%v), want %q", got, it.Err(), want)
	}
}

// What is read back from a changelog is there in whole batches, each with its offset: a crash in the middle reads on from
// the last batch.
func TestReadingBackIsBatched(t *testing.T) {
	dir := t.TempDir()
	b, err := openLevelStore(dir, "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	tab := newTable(b, "t", 0, 0)
	for i := range 10 {
		must(t, "set", func() error { return tab.Set(fmt.Sprint(i), []byte("v")) })
		must(t, "offset", func() error { return tab.SetOffset(int64(i)) })
	}
	if _, stored, _ := b.offset(); stored {
		t.Fatal("a batch is written before it is full")
	}
	if o, _ := tab.GetOffset(noOffset); o != 9 {
		t.Fatalf("read to %d", o)
	}
	must(t, "recovered", tab.MarkRecovered)
	if o, _, _ := b.offset(); o != 9 {
		t.Fatalf("stored %d", o)
	}
	must(t, "set", func() error { return tab.Set("x", []byte("y")) })
	must(t, "offset", func() error { return tab.SetOffset(10) })
	if v, _ := tab.Get("x"); string(v) != "y" { // a view follows at once
		t.Fatalf("x is %q", v)
	}
	must(t, "close", tab.Close)
}

// A store that was away for too long may hold what has been deleted since: it begins anew.
func TestOldStoreIsDiscarded(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct {
		maxAge time.Duration
		want   string
	}{{time.Hour, ""}, {time.Hour, "v"}, {-time.Second, ""}, {time.Hour, "v"}} {
		b, err := openFreshLevelStore(dir, "t", 0, step.maxAge)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := b.get("k"); err != nil || string(v) != step.want {
			t.Fatalf("k is %q (%v), want %q", v, err, step.want)
		}
		must(t, "apply", func() error { return b.apply([]write{{"k", []byte("v")}}, 1, true) })
		must(t, "close", b.close)
	}
}

func (s *levelStore) makeOld(t *testing.T) {
	t.Helper()
	s.batch.Reset()
	s.put(timeKey, time.Now().Add(-time.Hour).UnixMilli())
	must(t, "make it old", func() error { return s.db.Write(&s.batch, nil) })
}

// A store is young by what it lacks, not by what was written last: half a table that is read back leaves it as old as it
// was, and so does goka's word that it is recovered.
func TestAgeOfAStore(t *testing.T) {
	b, err := openLevelStore(t.TempDir(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	tab := newTable(b, "t", 0, 0)
	young := func() bool {
		age, err := b.age()
		if err != nil {
			t.Fatal(err)
		}
		b.makeOld(t)
		return age < time.Minute
	}
	for _, step := range []struct {
		what string
		do   func() error
		want bool
	}{
		{"begin", func() error { return nil }, true},
		{"read a batch", func() error {
			return errors.Join(tab.Set("k", make([]byte, recoveryBatchBytes)), tab.SetOffset(1))
		}, false},
		{"read less", func() error { return errors.Join(tab.Set("k", nil), tab.SetOffset(2)) }, false},
		{"mark recovered", tab.MarkRecovered, false},
		{"reach the end", tab.complete, true},
		{"commit", func() error { tab.put("k", []byte("v")); tab.produced(3); return tab.commit() }, true},
		{"abort", func() error { tab.put("k", nil); tab.rollback(); return nil }, false},
	} {
		must(t, step.what, step.do)
		if young() != step.want {
			t.Errorf("%s: young is not %v", step.what, step.want)
		}
	}
	must(t, "begin a view", func() error { tab = newTable(b, "t", 0, 0); return tab.MarkRecovered() })
	must(t, "follow", func() error { return errors.Join(tab.Set("k", nil), tab.SetOffset(4)) })
	if !young() {
		t.Error("a view that follows is old")
	}
}

// Half a table that is read back, and closed, is no younger when it is opened again.
func TestAgeOfAStoreThatIsClosed(t *testing.T) {
	dir := t.TempDir()
	b, err := openLevelStore(dir, "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	b.makeOld(t)
	tab := newTable(b, "t", 0, 0)
	must(t, "read", func() error { return errors.Join(tab.Set("k", []byte("v")), tab.SetOffset(1), tab.MarkRecovered()) })
	must(t, "close", tab.Close)
	if b, err = openLevelStore(dir, "t", 0); err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if age, err := b.age(); err != nil || age < time.Hour {
		t.Fatalf("%v old (%v)", age, err)
	}
}

// A table in memory that was away for too long begins anew, too: the process may live on while others delete.
func TestOldMemoryIsDiscarded(t *testing.T) {
	inst := &Instance{memories: map[int32]*memoryStore{}, deletions: 2 * time.Hour}
	store := func() backend {
		b, err := inst.backend("t", 0)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, step := range []struct {
		what string
		do   func(*memoryStore) error
		want bool
	}{
		{"begin", func(*memoryStore) error { return nil }, false},
		{"commit", func(s *memoryStore) error { return s.apply([]write{{"k", []byte("v")}}, 1, true) }, true},
		{"read a batch", func(s *memoryStore) error { return s.apply([]write{{"k", []byte("v")}}, 2, false) }, false},
		{"reach the end", func(s *memoryStore) error {
			return errors.Join(s.apply([]write{{"k", []byte("v")}}, 2, false), s.complete())
		}, true},
	} {
		s := store().(*memoryStore)
		s.whole = time.Now().Add(-2 * time.Hour)
		must(t, step.what, func() error { return step.do(s) })
		if _, kept, err := store().offset(); err != nil || kept != step.want {
			t.Errorf("%s: the table is kept: %v (%v)", step.what, kept, err)
		}
	}
}

func TestSeek(t *testing.T) {
	level, err := openLevelStore(t.TempDir(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer level.close()
	for name, b := range map[string]backend{"leveldb": level, "memory": newMemoryStore()} {
		must(t, "apply", func() error {
			return b.apply([]write{{"a", []byte("1")}, {"c", []byte("2")}, {"d", []byte("3")}}, 1, true)
		})
		it, _ := b.iterator(nil, nil)
		if it.Seek([]byte("e")) || it.Next() {
			t.Errorf("%s: something after the end", name)
		}
		if !it.Seek([]byte("b")) || !it.Next() || string(it.Key()) != "c" || !it.Next() || string(it.Key()) != "d" {
			t.Errorf("%s: not c and d after b", name)
		}
		it.Release()
	}
}

// An abort must not bring back what a generation before the last commit remembers.
func TestAbortAfterAGenerationHasPassed(t *testing.T) {
	tab := newTable(newMemoryStore(), "t", 0, 4*entryBytes)
	commit := func(keys ...string) {
		for _, k := range keys {
			tab.put(k, []byte("of "+strings.Join(keys, "")))
		}
		must(t, "commit", tab.commit)
	}
	commit("a", "b", "c") // more than a generation holds
	if len(tab.values.old) == 0 {
		t.Fatal("no generation has passed")
	}
	commit("a")
	tab.put("a", []byte("not to be"))
	tab.rollback()
	if v, err := tab.value("a"); err != nil || string(v) != "of a" {
		t.Fatalf("a is %q (%v)", v, err)
	}
}

// Transactions that only read forget, too, what the cache has no room for.
func TestReadingDoesNotGrowTheCache(t *testing.T) {
	const room = 4 * entryBytes
	tab := newTable(newMemoryStore(), "t", 0, room)
	for i := range 100 {
		if _, err := tab.value(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		must(t, "commit", tab.commit)
	}
	if n := len(tab.values.young) + len(tab.values.old); n*entryBytes > 2*room {
		t.Fatalf("%d values are kept", n)
	}
}
