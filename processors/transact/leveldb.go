package transact

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lovoo/goka/storage"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/iterator"
	"github.com/syndtr/goleveldb/leveldb/opt"
	levelfiles "github.com/syndtr/goleveldb/leveldb/storage"
	"github.com/syndtr/goleveldb/leveldb/util"
	"github.com/twmb/franz-go/pkg/kadm"
)

// openFreshLevelStore opens a store that is no older than maxAge, or else begins a new one. An old one may hold keys that
// were deleted since, and whose deletions are no longer in the changelog: compaction drops them after
// delete.retention.ms.
func openFreshLevelStore(dir, topic string, partition int32, maxAge time.Duration) (*levelStore, error) {
	s, err := openLevelStore(dir, topic, partition)
	if err != nil {
		return nil, err
	}
	age, err := s.age()
	if err == nil && age <= maxAge {
		return s, nil
	}
	if err := errors.Join(err, s.close(), os.RemoveAll(levelPath(dir, topic, partition))); err != nil {
		return nil, fmt.Errorf("%w: begin anew: %w", ErrStore, err)
	}
	return openLevelStore(dir, topic, partition)
}

func levelPath(dir, topic string, partition int32) string {
	return filepath.Join(dir, fmt.Sprintf("%s.%d", topic, partition))
}

// levelStore keeps one partition of a table in LevelDB. Keys carry a prefix, so that no key of a table can be mistaken for
// one of the store's own. Writes are not synced: a machine that loses power loses the latest batches whole, with their
// offset, and reads them back from Kafka.
type levelStore struct {
	files levelfiles.Storage
	db    *leveldb.DB
	batch leveldb.Batch
	key   []byte // reused by apply, which has one caller at a time
}

var (
	valuePrefix  = byte('v')
	valueRange   = util.Range{Start: []byte{valuePrefix}, Limit: []byte{valuePrefix + 1}}
	offsetKey    = []byte("offset")
	timeKey      = []byte("time")
	changelogKey = []byte("changelog")
)

const (
	levelWriteBuffer = 8 << 20
	bloomBits        = 10
)

func openLevelStore(dir, topic string, partition int32) (*levelStore, error) {
	path := levelPath(dir, topic, partition)
	files, err := levelfiles.OpenFile(path, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrStore, path, err)
	}
	s, err := openLevelStoreOn(files)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrStore, path, err), files.Close())
	}
	return s, nil
}

func openLevelStoreOn(files levelfiles.Storage) (*levelStore, error) {
	db, err := leveldb.Open(files, &opt.Options{WriteBuffer: levelWriteBuffer, Filter: filter.NewBloomFilter(bloomBits)})
	if err != nil {
		return nil, err
	}
	s := &levelStore{db: db, files: files}
	_, stored, err := s.number(timeKey)
	if err == nil && !stored {
		err = s.complete()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *levelStore) get(key string) ([]byte, error) {
	buf := make([]byte, 0, 64)
	v, err := s.db.Get(append(append(buf, valuePrefix), key...), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

func (s *levelStore) offset() (int64, bool, error) { return s.number(offsetKey) }

// age is how long ago nothing was missing: when the store was begun (what it has read since can only have been deleted
// later), was read back to the changelog's end, or was last written by a commit.
func (s *levelStore) age() (time.Duration, error) {
	at, _, err := s.number(timeKey)
	return time.Since(time.UnixMilli(at)), err
}

func (s *levelStore) follows(changelog kadm.TopicID) (bool, error) {
	followed, err := s.db.Get(changelogKey, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return true, s.db.Put(changelogKey, changelog[:], nil)
	}
	return bytes.Equal(followed, changelog[:]), err
}

func (s *levelStore) number(key []byte) (int64, bool, error) {
	v, err := s.db.Get(key, nil)
	switch {
	case errors.Is(err, leveldb.ErrNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case len(v) != 8:
		return 0, false, fmt.Errorf("%s of %d bytes", key, len(v))
	}
	return int64(binary.BigEndian.Uint64(v)), true, nil
}

func (s *levelStore) apply(writes []write, offset int64, whole bool) error {
	s.batch.Reset()
	for _, w := range writes {
		s.key = append(append(s.key[:0], valuePrefix), w.key...)
		if w.value == nil {
			s.batch.Delete(s.key)
		} else {
			s.batch.Put(s.key, w.value)
		}
	}
	s.put(offsetKey, offset)
	if whole {
		s.put(timeKey, time.Now().UnixMilli())
	}
	return s.db.Write(&s.batch, nil)
}

func (s *levelStore) put(key []byte, number int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(number))
	s.batch.Put(key, b[:])
}

func (s *levelStore) complete() error {
	s.batch.Reset()
	s.put(timeKey, time.Now().UnixMilli())
	return s.db.Write(&s.batch, nil)
}

// iterator follows goka's storage: a start without a limit is a prefix.
func (s *levelStore) iterator(start, limit []byte) (storage.Iterator, error) {
	r := valueRange
	switch {
	case len(limit) > 0:
		r.Start, r.Limit = prefixed(start), prefixed(limit)
	case len(start) > 0:
		r = *util.BytesPrefix(prefixed(start))
	}
	return &levelIterator{it: s.db.NewIterator(&r, &opt.ReadOptions{DontFillCache: true})}, nil
}

func prefixed(key []byte) []byte { return append([]byte{valuePrefix}, key...) }

func (s *levelStore) close() error { return errors.Join(s.db.Close(), s.files.Close()) }

type levelIterator struct {
	it     iterator.Iterator
	sought bool
}

// Next stays where a Seek has gone, once: goka says that it moves onto the pair that was sought.
func (i *levelIterator) Next() bool {
	if i.sought {
		i.sought = false
		return i.it.Valid()
	}
	return i.it.Next()
}

func (i *levelIterator) Err() error             { return i.it.Error() }
func (i *levelIterator) Key() []byte            { return i.it.Key()[1:] }
func (i *levelIterator) Value() ([]byte, error) { return i.it.Value(), nil }
func (i *levelIterator) Release()               { i.it.Release() }

func (i *levelIterator) Seek(key []byte) bool {
	i.sought = true
	return i.it.Seek(prefixed(key))
}
