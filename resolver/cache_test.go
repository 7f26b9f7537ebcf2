package resolver_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// source is a resolver.Source whose answer a test changes.
type source struct {
	asked  atomic.Int64
	mu     sync.Mutex
	lookup func(ctx context.Context, tenant string) (*resolver.Route, error)
}

func (s *source) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	s.asked.Add(1)
	s.mu.Lock()
	lookup := s.lookup
	s.mu.Unlock()
	return lookup(ctx, tenant)
}

func (s *source) answer(lookup func(ctx context.Context, tenant string) (*resolver.Route, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookup = lookup
}

func (s *source) epoch(epoch int64) {
	s.answer(func(_ context.Context, tenant string) (*resolver.Route, error) {
		return &resolver.Route{Tenant: tenant, Epoch: epoch}, nil
	})
}

func (s *source) fails(err error) {
	s.answer(func(context.Context, string) (*resolver.Route, error) { return nil, err })
}

func (s *source) hangs() {
	s.answer(func(ctx context.Context, _ string) (*resolver.Route, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
}

func newCache(t *testing.T, cfg resolver.CacheConfig) (*source, *resolver.Cache) {
	t.Helper()
	src := &source{}
	src.epoch(1)
	cache := resolver.NewCache(src, cfg)
	t.Cleanup(func() { require.NoError(t, cache.Close()) })
	return src, cache
}

func resolveEpoch(t *testing.T, cache *resolver.Cache, tenant string) int64 {
	t.Helper()
	route, err := cache.Resolve(t.Context(), tenant)
	require.NoError(t, err)
	require.Equal(t, tenant, route.Tenant)
	return route.Epoch
}

var errDown = errors.New("connection refused")

func TestCacheAsksOncePerTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{TTL: time.Minute})
		for range 3 {
			require.EqualValues(t, 1, resolveEpoch(t, cache, "acme"))
		}
		require.EqualValues(t, 1, src.asked.Load())
		src.epoch(2)
		time.Sleep(time.Minute - 1)
		require.EqualValues(t, 1, resolveEpoch(t, cache, "acme"))
		time.Sleep(time.Nanosecond)
		require.EqualValues(t, 2, resolveEpoch(t, cache, "acme"))
		stats := cache.Stats()
		require.Equal(t, resolver.CacheStats{Hits: 3, Misses: 2, Lookups: 2, Entries: 1}, stats)
	})
}

func TestCacheRemembersRefusalsForAShortTime(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]error{
		"not found": fmt.Errorf("%w: nobody", resolver.ErrTenantNotFound),
		"unusable":  resolver.UnusableRoute(errors.New("PGPASS is not set")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				src, cache := newCache(t, resolver.CacheConfig{NegativeTTL: 2 * time.Second})
				src.fails(refusal)
				for range 3 {
					_, err := cache.Resolve(t.Context(), "acme")
					require.ErrorIs(t, err, refusal)
				}
				require.EqualValues(t, 1, src.asked.Load())
				require.EqualValues(t, 2, cache.Stats().NegativeHits)
				require.Zero(t, cache.Stats().LookupErrors)

				src.epoch(1)
				resolveEpoch(t, cache, "other") // the source is not taken for down
				time.Sleep(2 * time.Second)
				resolveEpoch(t, cache, "acme")

				src.fails(refusal)
				cache.Invalidate("acme")
				_, err := cache.Resolve(t.Context(), "acme")
				require.ErrorIs(t, err, refusal)
				src.epoch(1)
				cache.Invalidate("acme")
				resolveEpoch(t, cache, "acme")
			})
		})
	}
}

func TestCacheFloodOfUnknownTenantsEvictsNoKnownOne(t *testing.T) {
	t.Parallel()
	src, cache := newCache(t, resolver.CacheConfig{Size: 10, LookupTimeout: time.Minute}) // a busy machine is not a silent source
	resolveEpoch(t, cache, "acme")
	src.fails(resolver.ErrTenantNotFound)
	for i := range 1000 {
		_, err := cache.Resolve(t.Context(), fmt.Sprintf("unknown-%d", i))
		require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	}
	asked := src.asked.Load()
	resolveEpoch(t, cache, "acme")
	require.Equal(t, asked, src.asked.Load())
	require.Equal(t, 1, cache.Stats().Entries)
}

func TestCacheStampedeIsOneLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		src.answer(func(_ context.Context, tenant string) (*resolver.Route, error) {
			time.Sleep(10 * time.Millisecond)
			return &resolver.Route{Tenant: tenant}, nil
		})
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				_, err := cache.Resolve(t.Context(), "acme")
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, src.asked.Load())
	})
}

func TestCacheStampedeOnAnInstantSourceIsOneLookup(t *testing.T) {
	t.Parallel()
	src, cache := newCache(t, resolver.CacheConfig{})
	var wg sync.WaitGroup
	for range 10_000 {
		wg.Go(func() { _, _ = cache.Resolve(t.Context(), "acme") })
	}
	wg.Wait()
	require.EqualValues(t, 1, src.asked.Load())
}

func TestCacheCancelOfOneCallerFailsNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		src.answer(func(ctx context.Context, tenant string) (*resolver.Route, error) {
			select {
			case <-time.After(50 * time.Millisecond):
				return &resolver.Route{Tenant: tenant}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		first, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := cache.Resolve(first, "acme")
			gaveUp <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		wg.Go(func() { resolveEpoch(t, cache, "acme") })
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gaveUp, context.Canceled)
		wg.Wait()
		require.EqualValues(t, 1, src.asked.Load())

		_, err := cache.Resolve(first, "another")
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, src.asked.Load(), "a caller that is gone asks nothing")
	})
}

func TestCacheServesStaleWhileSourceIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{TTL: time.Minute, StaleFor: time.Hour, Backoff: time.Second})
		resolveEpoch(t, cache, "acme")
		require.True(t, cache.Fresh("acme"))
		require.False(t, cache.Fresh("globex"))
		src.fails(errDown)
		time.Sleep(time.Minute)
		require.False(t, cache.Fresh("acme"))
		for range 100 {
			require.EqualValues(t, 1, resolveEpoch(t, cache, "acme"))
		}
		require.EqualValues(t, 2, src.asked.Load(), "one attempt, then the backoff")
		require.EqualValues(t, 100, cache.Stats().StaleServed)
		require.EqualValues(t, 1, cache.Stats().LookupErrors)

		time.Sleep(time.Hour - time.Second)
		resolveEpoch(t, cache, "acme")
		time.Sleep(time.Second)
		_, err := cache.Resolve(t.Context(), "acme")
		require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		require.ErrorIs(t, err, errDown)
	})
}

func TestCacheRefusesUnknownTenantWithin200msOfABlackHole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		resolveEpoch(t, cache, "acme")
		src.hangs()

		start := time.Now()
		_, err := cache.Resolve(t.Context(), "unknown")
		require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the caller's own deadline has not passed")
		require.Less(t, time.Since(start), 200*time.Millisecond)

		start = time.Now()
		_, err = cache.Resolve(t.Context(), "another")
		require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		cache.Flush()
		require.EqualValues(t, 1, resolveEpoch(t, cache, "acme"))
		require.Zero(t, time.Since(start), "nobody waits for a source that is known to be down")
	})
}

func TestCacheProbesOncePerBackoffAndRecoversByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{Backoff: time.Second})
		src.hangs()
		_, err := cache.Resolve(t.Context(), "acme")
		require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		for range 10 {
			time.Sleep(1500 * time.Millisecond)
			before := src.asked.Load()
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() { _, _ = cache.Resolve(t.Context(), fmt.Sprint("tenant", i)) })
			}
			wg.Wait()
			require.Equal(t, before+1, src.asked.Load())
		}
		src.epoch(1)
		time.Sleep(1500 * time.Millisecond)
		for i := range 10 {
			resolveEpoch(t, cache, fmt.Sprint("tenant", i))
		}
	})
}

func TestCacheSlowLookupOfABusySourceIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		src.answer(func(ctx context.Context, tenant string) (*resolver.Route, error) {
			if tenant == "slow" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &resolver.Route{Tenant: tenant}, nil
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := cache.Resolve(t.Context(), "slow")
			require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		})
		time.Sleep(time.Millisecond)
		resolveEpoch(t, cache, "quick")
		wg.Wait()
		resolveEpoch(t, cache, "another")
	})
}

func TestCacheInvalidateDuringLookupPublishesNothingFresh(t *testing.T) {
	t.Parallel()
	for name, invalidate := range map[string]func(*resolver.Cache){
		"invalidate": func(c *resolver.Cache) { c.Invalidate("acme") },
		"flush":      func(c *resolver.Cache) { c.Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				src, cache := newCache(t, resolver.CacheConfig{})
				release := make(chan struct{})
				src.answer(func(_ context.Context, tenant string) (*resolver.Route, error) {
					<-release
					return &resolver.Route{Tenant: tenant, Epoch: 1}, nil
				})
				var wg sync.WaitGroup
				wg.Go(func() { resolveEpoch(t, cache, "acme") })
				synctest.Wait()

				invalidate(cache)
				src.epoch(2)
				require.EqualValues(t, 2, resolveEpoch(t, cache, "acme"), "a later caller does not join the old lookup")
				close(release)
				wg.Wait()
				require.EqualValues(t, 2, resolveEpoch(t, cache, "acme"), "the old answer came last and is not kept")
			})
		})
	}
}

func TestCacheInvalidatedAnswerIsStaleOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		release := make(chan struct{})
		src.answer(func(_ context.Context, tenant string) (*resolver.Route, error) {
			<-release
			return &resolver.Route{Tenant: tenant, Epoch: 1}, nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { resolveEpoch(t, cache, "acme") })
		synctest.Wait()
		cache.Invalidate("acme")
		close(release)
		wg.Wait()
		src.fails(errDown)
		require.EqualValues(t, 1, resolveEpoch(t, cache, "acme"))
		require.EqualValues(t, 1, cache.Stats().StaleServed)
		require.EqualValues(t, 2, src.asked.Load())
	})
}

func TestCacheInvalidateAndFlushAskAgain(t *testing.T) {
	t.Parallel()
	src, cache := newCache(t, resolver.CacheConfig{})
	resolveEpoch(t, cache, "acme")
	src.epoch(2)
	cache.Invalidate("acme")
	require.EqualValues(t, 2, resolveEpoch(t, cache, "acme"))
	src.epoch(3)
	cache.Flush()
	require.EqualValues(t, 3, resolveEpoch(t, cache, "acme"))
	src.fails(resolver.ErrTenantNotFound)
	cache.Flush()
	_, err := cache.Resolve(t.Context(), "acme")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound, "a tenant that is gone is not served stale")
}

func TestCacheOlderEpochNeverReplacesNewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{TTL: time.Minute, StaleFor: time.Hour, NegativeTTL: time.Second})
		src.epoch(5)
		require.EqualValues(t, 5, resolveEpoch(t, cache, "acme"))
		src.epoch(4)
		cache.Invalidate("acme")
		require.EqualValues(t, 5, resolveEpoch(t, cache, "acme"))
		require.EqualValues(t, 5, resolveEpoch(t, cache, "acme"))
		require.EqualValues(t, 2, src.asked.Load(), "a source that lags is not asked for each statement")
		time.Sleep(time.Hour + time.Minute)
		require.EqualValues(t, 4, resolveEpoch(t, cache, "acme"), "a source restored from a backup is believed in the end")
	})
}

func TestCacheSurvivesABadSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lookup func(context.Context, string) (*resolver.Route, error)
		text   string
	}{
		"panic":  {func(context.Context, string) (*resolver.Route, error) { panic("boom") }, "the source panicked: boom"},
		"goexit": {func(context.Context, string) (*resolver.Route, error) { runtime.Goexit(); return nil, nil }, "without an answer"},
		"nil":    {func(context.Context, string) (*resolver.Route, error) { return nil, nil }, "neither a route nor an error"},
		"another tenant": {func(context.Context, string) (*resolver.Route, error) {
			return &resolver.Route{Tenant: "other"}, nil
		}, `route of tenant "other"`},
		"bad conn": {func(context.Context, string) (*resolver.Route, error) { return nil, driver.ErrBadConn }, "bad connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, cache := newCache(t, resolver.CacheConfig{})
			src.answer(c.lookup)
			_, err := cache.Resolve(t.Context(), "acme")
			require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
			require.ErrorContains(t, err, c.text)
			require.NotErrorIs(t, err, driver.ErrBadConn)
		})
	}
}

func TestCacheDoesNotWaitForASourceThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		src.answer(func(context.Context, string) (*resolver.Route, error) {
			time.Sleep(time.Hour)
			return nil, errDown
		})
		start := time.Now()
		_, err := cache.Resolve(t.Context(), "acme")
		require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		require.Equal(t, 150*time.Millisecond, time.Since(start))
		time.Sleep(2 * time.Hour)
	})
}

func TestCacheCloseEndsLookupsAndStillServesWhatItKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{})
		resolveEpoch(t, cache, "acme")
		src.hangs()
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() {
			_, err := cache.Resolve(t.Context(), "unknown")
			require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		})
		synctest.Wait()
		require.NoError(t, cache.Close())
		require.NoError(t, cache.Close())
		wg.Wait()
		require.Zero(t, time.Since(start))
		resolveEpoch(t, cache, "acme")
		_, err := cache.Resolve(t.Context(), "another")
		require.ErrorContains(t, err, "closed")
	})
}

func TestCacheHitDoesNotAllocate(t *testing.T) {
	_, cache := newCache(t, resolver.CacheConfig{})
	resolveEpoch(t, cache, "acme")
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = cache.Resolve(ctx, "acme") }))
}

func TestCacheUnderConcurrentInvalidation(t *testing.T) {
	t.Parallel()
	var epoch atomic.Int64
	src, cache := newCache(t, resolver.CacheConfig{Size: 8})
	src.answer(func(_ context.Context, tenant string) (*resolver.Route, error) {
		return &resolver.Route{Tenant: tenant, Epoch: epoch.Load()}, nil
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				tenant := fmt.Sprint("tenant", i%12)
				want := epoch.Load()
				switch {
				case g == 0:
					epoch.Add(1)
					cache.Flush()
				case g == 1:
					want = epoch.Add(1)
					cache.Invalidate(tenant)
					fallthrough
				default:
					route, err := cache.Resolve(t.Context(), tenant)
					require.NoError(t, err)
					if g == 1 {
						require.GreaterOrEqual(t, route.Epoch, want)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestStaticResolvesItsRoutes(t *testing.T) {
	t.Parallel()
	static := resolver.Static{"acme": {Tenant: "acme"}}
	route, err := static.Resolve(t.Context(), "acme")
	require.NoError(t, err)
	require.Same(t, static["acme"], route)
	_, err = static.Lookup(t.Context(), "unknown\n")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	require.NotContains(t, err.Error(), "\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = static.Resolve(ctx, "unknown")
	require.ErrorIs(t, err, context.Canceled)
}

func BenchmarkCacheHit(b *testing.B) {
	src := &source{}
	src.epoch(1)
	cache := resolver.NewCache(src, resolver.CacheConfig{})
	defer cache.Close()
	ids := make([]string, 1024)
	for i := range ids {
		ids[i] = fmt.Sprintf("a0eebc99-9c0b-4ef8-bb6d-6bb9bd38%04x", i)
		_, _ = cache.Resolve(b.Context(), ids[i])
	}
	ctx := b.Context()
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			_, _ = cache.Resolve(ctx, ids[i&1023])
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				_, _ = cache.Resolve(ctx, ids[i&1023])
			}
		})
	})
}

func TestTheFirstLookupMayTakeLongerForItConnects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, cache := newCache(t, resolver.CacheConfig{FirstLookupTimeout: 5 * time.Second})
		src.answer(func(_ context.Context, tenant string) (*resolver.Route, error) {
			time.Sleep(2 * time.Second)
			return &resolver.Route{Tenant: tenant, Epoch: 1}, nil
		})
		_, err := cache.Resolve(t.Context(), "acme")
		require.NoError(t, err)
		start := time.Now()
		_, err = cache.Resolve(t.Context(), "globex")
		require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
		require.Equal(t, 150*time.Millisecond, time.Since(start))
		time.Sleep(2 * time.Hour)
	})
}
