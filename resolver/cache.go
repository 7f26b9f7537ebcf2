package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

var _ Resolver = (*Cache)(nil)

// CacheConfig sizes a [Cache]. The zero value is ready for use; a field that is not positive takes its default.
type CacheConfig struct {
	// Size is how many tenants are kept. Raise it above the number of tenants that one process serves within TTL.
	// Refusals are kept apart, an eighth of Size, so that a flood of unknown IDs pushes no tenant out. Default 10000.
	Size int
	// TTL is how long a route is used without asking again. With notifications from the source it only bounds what a
	// lost notification can do. Default 60s.
	TTL time.Duration
	// NegativeTTL is how long a refusal (tenant not found, route unusable) is remembered. Default 2s.
	NegativeTTL time.Duration
	// StaleFor is how long after TTL a known route goes on being served while the source is down. Lower it if running
	// on an old plan or state is worse for you than refusing. Default 1h.
	StaleFor time.Duration
	// LookupTimeout is how long one lookup may take, and so how long a statement waits for a source that does not
	// answer: with the default, a tenant that is not cached is refused within 200 ms. Raise it if the source is far
	// away. Default 150ms.
	LookupTimeout time.Duration
	// FirstLookupTimeout is the same until the source has answered for the first time: connecting to it comes on top
	// then, and there is nothing yet to tell a source that is far away from one that is down. Default LookupTimeout.
	FirstLookupTimeout time.Duration
	// Backoff is the pause between two attempts once the source is known to be down; up to half of it is added at
	// random. During it stale routes are served and other tenants refused, both without waiting. Default 1s.
	Backoff time.Duration
}

func (cfg CacheConfig) withDefaults() CacheConfig {
	if cfg.Size <= 0 {
		cfg.Size = 10_000
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&cfg.TTL, time.Minute},
		{&cfg.NegativeTTL, 2 * time.Second},
		{&cfg.StaleFor, time.Hour},
		{&cfg.LookupTimeout, 150 * time.Millisecond},
		{&cfg.Backoff, time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return cfg
}

// CacheStats counts since the cache was made.
type CacheStats struct {
	Hits         uint64 // answered with a fresh route
	Misses       uint64 // had to look up, or to do without the source
	NegativeHits uint64 // answered with a remembered refusal
	StaleServed  uint64 // answered with a stale route because the source was down
	Lookups      uint64 // questions to the source
	LookupErrors uint64 // questions that the source did not answer
	Entries      int    // routes kept now
}

// Cache is a [Resolver] in front of a [Source]. It may be wrong (a route may have changed a moment ago) and must not be
// harmful: a shard has to refuse a stale route itself.
//
//   - A hit allocates nothing and asks nobody.
//   - Concurrent misses of one tenant are one lookup. It runs on its own deadline, so a caller that gives up fails nobody
//     else; that caller gets its context's error.
//   - When the source is down, known tenants go on for a bounded time, unknown ones fail at once with
//     [ErrRegistryUnavailable], and one lookup per backoff finds out whether it is back.
//
// All methods may be called by any number of goroutines.
type Cache struct {
	src  Source
	cfg  CacheConfig
	base time.Time // times are durations since base: one monotonic clock reading, no time.Time on the hit path

	routes   *lru.Cache[string, *entry]
	refusals *lru.Cache[string, *refusal]
	group    singleflight.Group
	health   health

	generation atomic.Uint64 // grows with each Flush; an entry of an older one is not fresh

	mu      sync.Mutex          // guards flights, and publishing against invalidation
	flights map[string]*flights // lookups under way, by tenant

	closeOnce sync.Once
	closed    chan struct{}

	hits, misses, negativeHits, staleServed, lookups, lookupErrors atomic.Uint64
}

// entry is a known tenant; it is never changed, only replaced.
type entry struct {
	route      *Route
	generation uint64
	freshUntil time.Duration
	staleUntil time.Duration
}

// refusal is a remembered error about one tenant; it is never changed, only replaced.
type refusal struct {
	err        error
	generation uint64
	until      time.Duration
}

// NewCache returns a cache in front of src. It asks nothing yet, so it can be made while the source is down.
func NewCache(src Source, cfg CacheConfig) *Cache {
	cfg = cfg.withDefaults()
	// New fails only for a size below one.
	routes, _ := lru.New[string, *entry](cfg.Size)
	refusals, _ := lru.New[string, *refusal](max(16, cfg.Size/8))
	return &Cache{
		src: src, cfg: cfg, base: time.Now(),
		routes: routes, refusals: refusals,
		health:  health{backoff: cfg.Backoff},
		flights: make(map[string]*flights),
		closed:  make(chan struct{}),
	}
}

func (c *Cache) now() time.Duration { return time.Since(c.base) }

// Resolve returns the tenant's route. It fails with an error that matches [ErrTenantNotFound], [ErrRouteUnusable] or
// [ErrRegistryUnavailable], or with the error of ctx when ctx ends while it waits for the source.
func (c *Cache) Resolve(ctx context.Context, tenant string) (*Route, error) {
	now := c.now()
	known, ok := c.routes.Get(tenant)
	if ok && now < known.freshUntil && known.generation == c.generation.Load() {
		c.hits.Add(1)
		return known.route, nil
	}
	return c.resolveMiss(ctx, tenant, known, now)
}

func (c *Cache) resolveMiss(ctx context.Context, tenant string, known *entry, now time.Duration) (*Route, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if no, ok := c.refusals.Get(tenant); ok && now < no.until && no.generation == c.generation.Load() {
		c.negativeHits.Add(1)
		return nil, no.err
	}
	c.misses.Add(1)
	select {
	case <-c.closed:
		return nil, fmt.Errorf("%w: the route cache is closed", ErrRegistryUnavailable)
	default:
	}
	if err := c.health.refuse(now); err != nil {
		return c.stale(known, err)
	}

	answer := c.group.DoChan(tenant, func() (any, error) { return c.lookup(ctx, tenant) })
	select {
	case result := <-answer:
		if result.Err == nil {
			return result.Val.(*Route), nil
		}
		if sure(result.Err) {
			return nil, result.Err
		}
		return c.stale(known, result.Err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stale serves what was known when the source could not be asked because of cause.
func (c *Cache) stale(known *entry, cause error) (*Route, error) {
	if known == nil || c.now() >= known.staleUntil {
		return nil, cause
	}
	c.staleServed.Add(1)
	return known.route, nil
}

// Fresh reports whether the tenant's route is what the source says, as far as anybody knows, and not a stale one.
func (c *Cache) Fresh(tenant string) bool {
	known, ok := c.routes.Peek(tenant)
	return ok && c.now() < known.freshUntil && known.generation == c.generation.Load()
}

// Invalidate makes the next Resolve of the tenant ask the source. A lookup that is under way does not count as that: it
// may have been answered before the change. The old route stays usable as a stale one.
func (c *Cache) Invalidate(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetFlights(tenant)
	c.refusals.Remove(tenant)
	if known, ok := c.routes.Peek(tenant); ok {
		old := *known
		old.freshUntil = 0
		c.routes.Add(tenant, &old)
	}
}

// Flush does what Invalidate does for all tenants, at once and in constant time per lookup under way. Call it when
// notifications from the source may have been lost.
func (c *Cache) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation.Add(1)
	for tenant := range c.flights {
		c.forgetFlights(tenant)
	}
	c.refusals.Purge()
}

// Stats returns the counters. They are read one after the other, so they need not add up under load.
func (c *Cache) Stats() CacheStats {
	return CacheStats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), NegativeHits: c.negativeHits.Load(),
		StaleServed: c.staleServed.Load(), Lookups: c.lookups.Load(), LookupErrors: c.lookupErrors.Load(),
		Entries: c.routes.Len(),
	}
}

// Close ends the lookups under way; whoever waits for them gets [ErrRegistryUnavailable] or a stale route. Afterwards
// fresh routes are still served and nothing new is looked up. It always returns nil and may be called more than once.
func (c *Cache) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return nil
}

var errClosedDuringLookup = errors.New("the route cache was closed during the lookup")
