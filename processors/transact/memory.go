package transact

import (
	"bytes"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kadm"
)

// memoryStore keeps one partition of a table in memory. It outlives the goka processors that open and close it, so that
// a rebalance reads only what has happened since, for as long as a store on disk is trusted (openFreshLevelStore).
type memoryStore struct {
	mu        sync.RWMutex
	values    map[string][]byte
	at        int64
	changelog kadm.TopicID
	whole     time.Time // when nothing was missing, as in levelStore.age
}

func newMemoryStore() *memoryStore {
	return &memoryStore{values: map[string][]byte{}, at: noOffset, whole: time.Now()}
}

func (s *memoryStore) age() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return time.Since(s.whole)
}

func (s *memoryStore) get(key string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.values[key], nil
}

func (s *memoryStore) offset() (int64, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.at, s.at != noOffset, nil
}

func (s *memoryStore) apply(writes []write, offset int64, whole bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range writes {
		if w.value == nil {
			delete(s.values, w.key)
		} else {
			s.values[w.key] = w.value
		}
	}
	s.at = offset
	if whole {
		s.whole = time.Now()
	}
	return nil
}

func (s *memoryStore) follows(changelog kadm.TopicID) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changelog == (kadm.TopicID{}) {
		s.changelog = changelog
	}
	return s.changelog == changelog, nil
}

// iterator walks over a snapshot, in order.
func (s *memoryStore) iterator(start, limit []byte) (storage.Iterator, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	it := &memoryIterator{at: -1}
	for k, v := range s.values {
		if inRange(k, string(start), string(limit)) {
			it.writes = append(it.writes, write{k, v})
		}
	}
	sort.Slice(it.writes, func(i, j int) bool { return it.writes[i].key < it.writes[j].key })
	return it, nil
}

// inRange follows goka's storage: a start without a limit is a prefix.
func inRange(key, start, limit string) bool {
	if limit == "" {
		return strings.HasPrefix(key, start)
	}
	return key >= start && key < limit
}

func (s *memoryStore) complete() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = time.Now()
	return nil
}

func (s *memoryStore) close() error { return nil }

type memoryIterator struct {
	writes []write
	at     int
}

func (i *memoryIterator) Next() bool             { i.at++; return i.at < len(i.writes) }
func (i *memoryIterator) Err() error             { return nil }
func (i *memoryIterator) Key() []byte            { return []byte(i.writes[i.at].key) }
func (i *memoryIterator) Value() ([]byte, error) { return bytes.Clone(i.writes[i.at].value), nil }
func (i *memoryIterator) Release()               { i.writes = nil }

// Seek stands before the first key that is not smaller; Next moves onto it.
func (i *memoryIterator) Seek(key []byte) bool {
	i.at = sort.Search(len(i.writes), func(n int) bool { return i.writes[n].key >= string(key) }) - 1
	return i.at+1 < len(i.writes)
}
