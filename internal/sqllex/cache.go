package sqllex

import (
	"hash/maphash"
	"sync/atomic"
)

const (
	places    = 512
	maxCached = 2 << 10 // longer texts are rare, and mostly seen once
)

// Cache remembers verdicts by text. A text has one place, that of its hash, and the next one with the same place takes it: so
// it holds at most a megabyte, and nothing has to be evicted. It is safe for concurrent use; make one with [NewCache].
type Cache struct {
	seed   maphash.Seed
	places [places]atomic.Pointer[seen]
}

type seen struct {
	text    string
	verdict Verdict
}

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{seed: maphash.MakeSeed()} }

// Scan is [ScanBytes], looked up first.
func (c *Cache) Scan(sql []byte) Verdict {
	if len(sql) > maxCached {
		return ScanBytes(sql)
	}
	place := &c.places[maphash.Bytes(c.seed, sql)%places]
	if s := place.Load(); s != nil && s.text == string(sql) {
		return s.verdict
	}
	v := ScanBytes(sql)
	place.Store(&seen{string(sql), v})
	return v
}
