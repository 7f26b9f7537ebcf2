package pgtest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func startProxy(t *testing.T, upstream pgtest.Upstream) *pgtest.Proxy {
	t.Helper()
	proxy, err := pgtest.StartProxy(t.Context(), upstream)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
	return proxy
}

// median returns the median time of the operation.
func median(t *testing.T, runs int, operation func() error) time.Duration {
	t.Helper()
	times := make([]time.Duration, runs)
	for i := range times {
		start := time.Now()
		require.NoError(t, operation())
		times[i] = time.Since(start)
		for j := i; j > 0 && times[j] < times[j-1]; j-- {
			times[j], times[j-1] = times[j-1], times[j]
		}
	}
	return times[runs/2]
}

func TestProxyDelaysEachDirection(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, pgtest.Shared(t, "a"))
	conn := connect(t, proxy.DSN("postgres", "postgres"))
	one := func() error { _, err := conn.Exec(t.Context(), "select 1"); return err }
	require.NoError(t, one())
	proxy.SetDelay(5 * time.Millisecond)
	require.GreaterOrEqual(t, median(t, 21, one), 10*time.Millisecond)
	proxy.SetDelay(500 * time.Microsecond)
	short := median(t, 101, one)
	require.GreaterOrEqual(t, short, time.Millisecond)
	t.Logf("a round trip with 2 x 0.5 ms takes %v", short)
	proxy.SetDelay(0)
}

func TestDelayDoesNotLimitThroughput(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, pgtest.Shared(t, "a"))
	conn := connect(t, proxy.DSN("postgres", "postgres"))
	proxy.SetDelay(100 * time.Millisecond)
	start := time.Now()
	var size int
	require.NoError(t, conn.QueryRow(t.Context(), "select length(repeat('x', 32000000)), repeat('x', 32000000)").Scan(&size, nil))
	require.Equal(t, 32000000, size)
	// One piece of 64 KB per delay would take a minute.
	require.Less(t, time.Since(start), 10*time.Second)
}

func TestCutClosesLiveConnectionsOnly(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, pgtest.Shared(t, "a"))
	conn := connect(t, proxy.DSN("postgres", "postgres"))
	require.Equal(t, 1, proxy.Conns())
	proxy.Cut()
	require.Zero(t, proxy.Conns())
	require.Error(t, conn.Ping(t.Context()))
	require.NoError(t, connect(t, proxy.DSN("postgres", "postgres")).Ping(t.Context()))
}

func TestStallHoldsEverythingUntilItEnds(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, pgtest.Shared(t, "a"))
	conn := connect(t, proxy.DSN("postgres", "postgres"))
	proxy.Stall(true)
	answered := make(chan error, 1)
	connected := make(chan error, 1)
	go func() { answered <- conn.Ping(t.Context()) }()
	go func() {
		other, err := pgx.Connect(t.Context(), proxy.DSN("postgres", "postgres"))
		if err == nil {
			err = other.Close(t.Context())
		}
		connected <- err
	}()
	select {
	case <-answered:
		require.Fail(t, "answered through a black hole")
	case <-connected:
		require.Fail(t, "connected through a black hole")
	case <-time.After(50 * time.Millisecond):
	}
	proxy.Stall(false)
	require.NoError(t, <-answered)
	require.NoError(t, <-connected)
}

func TestRefuseTurnsAwayNewConnectionsOnly(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, pgtest.Shared(t, "a"))
	conn := connect(t, proxy.DSN("postgres", "postgres"))
	proxy.Refuse(true)
	_, err := pgx.Connect(t.Context(), proxy.DSN("postgres", "postgres"))
	require.ErrorContains(t, err, "connection refused")
	require.NoError(t, conn.Ping(t.Context()))
	proxy.Refuse(false)
	connect(t, proxy.DSN("postgres", "postgres"))
}

func TestProxyDeliversTheLastWordsOfAServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "a")
	proxy := startProxy(t, server)
	proxy.SetDelay(2 * time.Millisecond)
	conn := connect(t, proxy.DSN("postgres", "postgres"))
	pid := backendPID(t, conn)
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "select pg_sleep(60)")
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(proxy.Log().Flights()) == 3 }, 10*time.Second, time.Millisecond)
	require.NoError(t, server.Exec(t.Context(), "postgres", fmt.Sprintf("select pg_terminate_backend(%d)", pid)))
	require.ErrorContains(t, <-ended, "57P01")
}

func TestProxyInFrontOfBouncer(t *testing.T) {
	t.Parallel()
	bouncer := startBouncer(t, pgtest.Shared(t, "a"), pgtest.BouncerOptions{Mode: "transaction"})
	proxy := startProxy(t, bouncer)
	conn := simple(t, proxy.DSN("postgres", "postgres"))
	proxy.Log().Reset()
	require.NotZero(t, backendPID(t, conn))
	require.Len(t, proxy.Log().Flights(), 1)
	require.NoError(t, proxy.Log().Err())
}

func TestMissingUpstreamClosesTheClient(t *testing.T) {
	t.Parallel()
	proxy, err := pgtest.StartProxyTo(t.Context(), "unix", "/nowhere/.s.PGSQL.5432")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
	_, err = pgx.Connect(t.Context(), proxy.DSN("postgres", "postgres"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "refused")
}
