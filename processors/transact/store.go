package transact

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kadm"
)

// backend is where a table's committed values live: LevelDB, or memory. Only whole batches reach it, each with the
// changelog offset that it then stands for. Readers may be many, beside one writer.
type backend interface {
	get(key string) ([]byte, error) // nil: no such key
	offset() (offset int64, stored bool, err error)
	apply(writes []write, offset int64, whole bool) error // whole: and now nothing is missing
	iterator(start, limit []byte) (storage.Iterator, error)
	complete() error // notes that now nothing is missing
	// follows says whether the changelog with this ID is the one that was followed until now: the first one is.
	follows(changelog kadm.TopicID) (bool, error)
	close() error
}

// write sets a key, or deletes it (nil value).
type write struct {
	key   string
	value []byte
}

const noOffset = -1

// table is one partition of a group's table (or of a view's). It is a storage.Storage for goka, which reads it back from
// the changelog through Set, Delete and SetOffset; from then on callbacks write through put, and nothing of that
// reaches the backend before commit.
//
// Callbacks and the engine take turns with the open values, so these need no lock. Everybody else reads the backend:
// what is committed, never what is not.
type table struct {
	backend
	topic     string
	partition int32

	values cache    // of the backend, and the open transaction's on top
	dirty  []string // the keys that the open transaction has written
	writes []write  // reused by commit
	tail   atomic.Int64

	// Reading back: writes gather until there are enough for a batch. Goka may close a table while it marks it recovered.
	reading   sync.Mutex
	behind    []write
	behindLen int
	readTo    int64
	recovered bool
	onClose   func()
}

const recoveryBatchBytes = 1 << 20

func newTable(b backend, topic string, partition int32, cacheBytes int) *table {
	t := &table{backend: b, topic: topic, partition: partition, values: newCache(cacheBytes), readTo: noOffset}
	t.tail.Store(noOffset)
	return t
}

// value is what a callback sees: its own transaction's writes, then what is committed.
func (t *table) value(key string) ([]byte, error) {
	if v, ok := t.values.get(key); ok {
		return v, nil
	}
	v, err := t.backend.get(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %s/%d: %w", ErrStore, t.topic, t.partition, err)
	}
	t.values.keep(key, v)
	return v, nil
}

// put writes into the open transaction; a nil value deletes.
func (t *table) put(key string, value []byte) {
	if t.values.write(key, value) {
		t.dirty = append(t.dirty, key)
	}
}

// produced notes the offset at which the changelog took a write of the open transaction. Offsets come in order.
func (t *table) produced(offset int64) { t.tail.Store(offset) }

// commit makes the open transaction's writes those of the backend, with its last changelog offset.
func (t *table) commit() error {
	tail := t.tail.Swap(noOffset)
	if len(t.dirty) == 0 {
		t.values.settle() // of what was only read
		return nil
	}
	t.writes = t.writes[:0]
	for _, key := range t.dirty {
		v, _ := t.values.get(key)
		t.writes = append(t.writes, write{key, v})
	}
	t.dirty = t.dirty[:0]
	if err := t.apply(t.writes, tail, true); err != nil {
		return fmt.Errorf("%w: %s/%d: %w", ErrStore, t.topic, t.partition, err)
	}
	clear(t.writes)
	t.values.settle()
	return nil
}

// rollback forgets the open transaction's writes.
func (t *table) rollback() {
	t.tail.Store(noOffset)
	if len(t.dirty) > 0 {
		t.dirty = t.dirty[:0]
		t.values.reset()
	}
}

// What goka calls.

func (t *table) Open() error { return nil }

func (t *table) Close() error {
	t.reading.Lock()
	defer t.reading.Unlock()
	err := t.catchUp(false)
	if t.onClose != nil {
		t.onClose()
	}
	return errors.Join(err, t.backend.close())
}

func (t *table) Has(key string) (bool, error) {
	v, err := t.backend.get(key)
	return v != nil, err
}

func (t *table) Get(key string) ([]byte, error) { return t.backend.get(key) }

func (t *table) Set(key string, value []byte) error {
	t.reading.Lock()
	defer t.reading.Unlock()
	t.behind = append(t.behind, write{key, value})
	t.behindLen += len(key) + len(value)
	return nil
}

func (t *table) Delete(key string) error { return t.Set(key, nil) }

// SetOffset follows each write that is read back. A view that has caught up shows it at once, and is whole by it.
func (t *table) SetOffset(offset int64) error {
	t.reading.Lock()
	defer t.reading.Unlock()
	t.readTo = offset
	if t.recovered || t.behindLen >= recoveryBatchBytes {
		return t.catchUp(t.recovered)
	}
	return nil
}

func (t *table) catchUp(whole bool) error {
	if t.readTo == noOffset {
		return nil
	}
	if err := t.apply(t.behind, t.readTo, whole); err != nil {
		return fmt.Errorf("%w: %s/%d: %w", ErrStore, t.topic, t.partition, err)
	}
	t.behind, t.behindLen, t.readTo = t.behind[:0], 0, noOffset
	return nil
}

func (t *table) GetOffset(byDefault int64) (int64, error) {
	t.reading.Lock()
	defer t.reading.Unlock()
	if t.readTo != noOffset {
		return t.readTo, nil
	}
	offset, stored, err := t.backend.offset()
	if err != nil || !stored {
		return byDefault, err
	}
	return offset, nil
}

// MarkRecovered does not say that the log's end was reached: goka calls it, too, when it was told not to read on.
func (t *table) MarkRecovered() error {
	t.reading.Lock()
	defer t.reading.Unlock()
	t.recovered = true
	return t.catchUp(false)
}

func (t *table) Iterator() (storage.Iterator, error) { return t.backend.iterator(nil, nil) }

func (t *table) IteratorWithRange(start, limit []byte) (storage.Iterator, error) {
	return t.backend.iterator(start, limit)
}
