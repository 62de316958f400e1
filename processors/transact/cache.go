package transact

// cache holds values of a table by key, in two generations: what is not touched for a generation is forgotten, in no
// time, however much it is. It exceeds its bound while a transaction is open, whose writes are nowhere else.
type cache struct {
	young, old map[string]entry
	youngBytes int
	limit      int    // of a generation
	epoch      uint64 // counts transactions that wrote
}

type entry struct {
	value []byte // nil: there is no such key
	epoch uint64 // of the transaction that wrote it; 0 when it was read
}

// entryBytes is about what an entry costs beside its key and value.
const entryBytes = 64

func newCache(limit int) cache {
	return cache{young: map[string]entry{}, limit: limit / 2, epoch: 1}
}

func (c *cache) get(key string) (value []byte, ok bool) {
	if e, ok := c.young[key]; ok {
		return e.value, true
	}
	if e, ok := c.old[key]; ok {
		c.add(key, entry{value: e.value})
		return e.value, true
	}
	return nil, false
}

// keep remembers what the backend answered.
func (c *cache) keep(key string, value []byte) {
	c.add(key, entry{value: value})
}

// write remembers what the open transaction wrote, and whether that is its first write of this key.
func (c *cache) write(key string, value []byte) (first bool) {
	e, ok := c.young[key]
	if ok {
		c.youngBytes += len(value) - len(e.value)
		c.young[key] = entry{value, c.epoch}
		return e.epoch != c.epoch
	}
	c.add(key, entry{value, c.epoch})
	return true
}

func (c *cache) add(key string, e entry) {
	c.young[key] = e
	c.youngBytes += len(key) + len(e.value) + entryBytes
}

// settle says that what was written is now what the backend holds.
func (c *cache) settle() {
	c.epoch++
	if c.youngBytes > c.limit {
		c.old, c.young, c.youngBytes = c.young, make(map[string]entry, len(c.young)), 0
	}
}

// reset forgets everything: the backend knows.
func (c *cache) reset() {
	*c = cache{young: map[string]entry{}, limit: c.limit, epoch: c.epoch + 1}
}
