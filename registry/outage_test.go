package registry_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// proxied returns a proxy in front of a registry that holds the tenant acme, a store behind the proxy and one beside it.
func proxied(t *testing.T, opts *registry.Options) (*pgtest.Proxy, *registry.Postgres, *registry.Postgres) {
	t.Helper()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	direct := open(t, server.DSN("postgres", database), nil)
	require.NoError(t, direct.Init(t.Context()))
	require.NoError(t, direct.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1"}))
	require.NoError(t, direct.PutTenant(t.Context(), registry.Tenant{ID: "acme", Shard: "s1"}))
	proxy, err := pgtest.StartProxy(t.Context(), server)
	require.NoError(t, err)
	t.Cleanup(func() { _ = proxy.Stop() })
	return proxy, open(t, proxy.DSN("postgres", database), opts), direct
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, 5*time.Millisecond)
}

func TestTheRegistryIsReachedPastASilentAddressOfItsName(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "registry", TCP: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	store := open(t, "host=registry.internal user=postgres dbname=postgres sslmode=disable", &registry.Options{
		BeforeConnect: func(_ context.Context, cfg *pgx.ConnConfig) error {
			cfg.LookupFunc = func(context.Context, string) ([]string, error) {
				return []string{silent.Addr().String(), server.Addr()}, nil
			}
			return nil
		},
	})
	require.NoError(t, store.Init(t.Context()))
}

func TestLookupIsOneFlight(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, nil)
	_, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	proxy.Log().Reset()
	_, err = store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.NoError(t, proxy.Log().Err())
	require.Len(t, proxy.Log().Flights(), 1)
}

func TestLookupIsRepeatedOnceOnABrokenConnection(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, &registry.Options{MaxConns: 1})
	for range 5 {
		_, err := store.Lookup(t.Context(), "acme")
		require.NoError(t, err)
		proxy.Cut()
	}
}

func TestRestartOfTheRegistryIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, nil)
	var wg sync.WaitGroup
	for range 8 { // fill the pool
		wg.Go(func() { _, _ = store.Lookup(t.Context(), "acme") })
	}
	wg.Wait()
	proxy.Cut()
	_, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	proxy.Cut()
	require.NoError(t, store.SetTenantState(t.Context(), "acme", resolver.StateReadOnly))
}

func TestLookupOfABlackHoleEndsWithItsContext(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, nil)
	_, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	proxy.Stall(true)
	for range 3 { // the first on a pooled connection, the next on connections that cannot be made
		start := time.Now()
		_, err = store.Lookup(within(t, 100*time.Millisecond), "acme")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), time.Second)
	}
	proxy.Stall(false)
	eventually(t, func() bool {
		_, err := store.Lookup(within(t, time.Second), "acme")
		return err == nil
	})
}

func TestCacheOutlivesARegistryThatIsABlackHole(t *testing.T) {
	t.Parallel()
	proxy, store, direct := proxied(t, nil)
	cache := resolver.NewCache(store, resolver.CacheConfig{TTL: time.Nanosecond, Backoff: 50 * time.Millisecond, LookupTimeout: 500 * time.Millisecond})
	t.Cleanup(func() { _ = cache.Close() })
	eventually(t, func() bool { _, err := cache.Resolve(t.Context(), "acme"); return err == nil })

	proxy.Stall(true)
	_, err := cache.Resolve(t.Context(), "unknown")
	require.ErrorIs(t, err, resolver.ErrRegistryUnavailable)
	route, err := cache.Resolve(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, "s1", route.Shard.Name)
	require.NotZero(t, cache.Stats().StaleServed)

	require.NoError(t, direct.PutTenant(t.Context(), registry.Tenant{ID: "acme", Shard: "s1", Database: "moved"}))
	proxy.Stall(false)
	eventually(t, func() bool {
		route, err := cache.Resolve(t.Context(), "acme")
		return err == nil && route.Database == "moved"
	})
}

func TestSlowConnectionsAreMadeInTheEnd(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, nil)
	// Connecting takes several round trips and a lookup one: no single lookup has the time for both.
	proxy.SetDelay(100 * time.Millisecond)
	limit := 350 * time.Millisecond
	_, err := store.Lookup(within(t, limit), "acme")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	eventually(t, func() bool {
		_, err := store.Lookup(within(t, limit), "acme")
		return err == nil
	})
}

func TestAFailureFromBeforeTheCallIsNotReported(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	dsn := server.DSN("postgres", server.NewDatabase(t))
	require.NoError(t, open(t, dsn, nil).Init(t.Context()))
	var attempts atomic.Int64
	begun, fail, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	store := open(t, dsn, &registry.Options{BeforeConnect: func(context.Context, *pgx.ConnConfig) error {
		switch attempts.Add(1) {
		case 1:
			<-fail
			return errors.New("the server starts up")
		case 2:
			close(begun)
			<-goOn
		}
		return nil
	}})
	_, err := store.Lookup(within(t, 10*time.Millisecond), "acme")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	found := make(chan error, 1)
	go func() {
		_, err := store.Lookup(t.Context(), "acme")
		found <- err
	}()
	<-begun
	close(fail)
	eventually(t, func() bool { return attempts.Load() == 3 || len(found) > 0 })
	close(goOn)
	require.ErrorIs(t, <-found, resolver.ErrTenantNotFound)
}

func TestWatchFlushesAfterEachReconnect(t *testing.T) {
	t.Parallel()
	proxy, store, direct := proxied(t, nil)
	flushed, changed := watch(t, store)
	for i := range 3 {
		receive(t, flushed)
		plan := []string{"starter", "growth", "free"}[i]
		require.NoError(t, direct.PutTenant(t.Context(), registry.Tenant{ID: "acme", Shard: "s1", Plan: plan}))
		require.Equal(t, "acme", receive(t, changed))
		proxy.Cut()
	}
}

func TestWatchNoticesAConnectionThatWentSilent(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, &registry.Options{Keepalive: 50 * time.Millisecond})
	flushed, _ := watch(t, store)
	receive(t, flushed)
	// Only the connection that exists falls silent: what comes after the ping timed out gets through again.
	proxy.Stall(true)
	eventually(t, func() bool { return proxy.Conns() != 1 })
	proxy.Stall(false)
	receive(t, flushed)
}

func TestWatchStartsWhileTheRegistryIsDown(t *testing.T) {
	t.Parallel()
	proxy, store, _ := proxied(t, nil)
	proxy.Refuse(true)
	flushed, _ := watch(t, store)
	_, err := store.Lookup(within(t, 5*time.Second), "acme")
	require.Error(t, err)
	require.Empty(t, flushed)
	proxy.Refuse(false)
	receive(t, flushed)
}

func TestWatchBehindAPoolerFlushesRegularly(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: "transaction"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	store := open(t, bouncer.DSN("postgres", database), &registry.Options{Keepalive: 20 * time.Millisecond})
	require.NoError(t, store.Init(t.Context()))
	_, err = store.Lookup(t.Context(), "unknown")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	flushed, _ := watch(t, store)
	for range 3 {
		receive(t, flushed)
	}
}

// watch starts Watch and returns what it tells; it ends with the test.
func watch(t *testing.T, store registry.Store) (flushed chan struct{}, changed chan string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	flushed, changed = make(chan struct{}, 1000), make(chan string, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- store.Watch(ctx, registry.Handler{
			Tenant: func(id string) { changed <- id },
			Flush:  func() { flushed <- struct{}{} },
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	return flushed, changed
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(20 * time.Second):
		require.FailNow(t, "nothing came within 20 s")
		panic("unreachable")
	}
}
