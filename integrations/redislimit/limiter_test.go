package redislimit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/integrations/redislimit"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/limits"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func start(t *testing.T) *pgtest.Redis {
	t.Helper()
	server, err := pgtest.StartRedis(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

// program is one of those that share a Redis. Its timeout is one that a loaded machine keeps.
func program(t *testing.T, server *pgtest.Redis, change ...func(*redislimit.Config)) *redislimit.Limiter {
	t.Helper()
	cfg := redislimit.Config{Redis: &redis.UniversalOptions{Addrs: []string{server.Socket()}}, Timeout: 10 * time.Second}
	for _, c := range change {
		c(&cfg)
	}
	l, err := redislimit.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// hundredth is a rate that gives one statement in a hundred seconds: in the time of a test there is the burst and no more.
const hundredth = 0.01

func TestProgramsShareARate(t *testing.T) {
	t.Parallel()
	server := start(t)
	for name, c := range map[string]struct {
		rate       float64
		set, burst int
	}{"slow": {0.4, 0, 1}, "one at a time": {5, 0, 10}, "fetched many at once": {500, 0, 1000}, "small burst": {5, 3, 3}, "large burst": {5, 300, 300}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			statement := limits.Statement{Tenant: name, Rate: c.rate, Burst: c.set}
			require.Equal(t, c.burst, statement.Most())
			var allowed atomic.Int64
			var group sync.WaitGroup
			begin := time.Now()
			const programs = 4
			for range programs {
				l := program(t, server)
				for range 4 {
					group.Go(func() {
						for range 600 {
							if l.Take(t.Context(), statement) == 0 {
								allowed.Add(1)
							}
						}
					})
				}
			}
			group.Wait()
			most := float64(c.burst) + time.Since(begin).Seconds()*c.rate + 1
			require.LessOrEqual(t, float64(allowed.Load()), most)
			require.GreaterOrEqual(t, allowed.Load(), int64(c.burst)-programs*int64(c.rate*0.05), "but for what was fetched by a program that ended")
		})
	}
}

func TestABurstChangesWhileAProgramRuns(t *testing.T) {
	t.Parallel()
	l := program(t, start(t))
	allowed := func(burst int) (n int) {
		for l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: hundredth, Burst: burst}) == 0 {
			n++
		}
		return n
	}
	require.Equal(t, 5, allowed(5))
	require.Equal(t, 3, allowed(8), "a refusal by the smaller burst is forgotten")
	require.Zero(t, allowed(2))
	fast := func(burst int) time.Duration {
		return l.Take(t.Context(), limits.Statement{Tenant: "globex", Rate: 1000, Burst: burst})
	}
	for range 10 { // the last one fetches eight
		require.Zero(t, fast(0))
	}
	throttled := limits.Statement{Tenant: "globex", Rate: hundredth, Burst: 1}
	n := 0
	for l.Take(t.Context(), throttled) == 0 {
		n++
	}
	require.LessOrEqual(t, n, 1, "what was fetched at the larger rate is not used at the smaller one")
}

func TestABurstIsSharedAsTheRateIsWithoutRedis(t *testing.T) {
	t.Parallel()
	l, err := redislimit.New(redislimit.Config{
		Redis: &redis.UniversalOptions{Addrs: []string{filepath.Join(t.TempDir(), "nothing")}}, Programs: 4,
	})
	require.NoError(t, err)
	defer l.Close()
	n := 0
	for l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: hundredth, Burst: 41}) == 0 {
		n++
	}
	require.Equal(t, 11, n)
}

func TestStatementsOfTransactionsArePaidWithoutRedisToo(t *testing.T) {
	t.Parallel()
	l, err := redislimit.New(redislimit.Config{
		Redis: &redis.UniversalOptions{Addrs: []string{filepath.Join(t.TempDir(), "nothing")}}, Programs: 4,
	})
	require.NoError(t, err)
	defer l.Close()
	statement := limits.Statement{Tenant: "acme", Rate: 4}
	require.Zero(t, l.Take(t.Context(), statement))
	require.Eventually(t, func() bool { return l.Stats().Down }, 20*time.Second, time.Millisecond)
	within := statement
	within.Started = true
	for range 8 {
		require.Zero(t, l.Take(t.Context(), within))
	}
	require.Greater(t, l.Take(t.Context(), statement), 4*time.Second, "a burst of two has paid two of nine")
}

func TestARateWithoutMeasureIsNoFailureOfRedis(t *testing.T) {
	t.Parallel()
	l := program(t, start(t))
	for _, rate := range []float64{1e-300, 1e-15, 1e15, 1e300} {
		statement := limits.Statement{Tenant: "acme", Rate: rate}
		require.Zero(t, l.Take(t.Context(), statement))
		require.Equal(t, rate < 1, l.Take(t.Context(), statement) > 0, "%v", rate)
		require.Zero(t, l.Stats().Failed, "%v", rate)
	}
}

func TestARefusalSaysWhenToComeBackAndIsRemembered(t *testing.T) {
	t.Parallel()
	l := program(t, start(t))
	statement := limits.Statement{Tenant: "acme", Rate: hundredth}
	require.Zero(t, l.Take(t.Context(), statement))
	after := l.Take(t.Context(), statement)
	require.InDelta(t, 100, after.Seconds(), 20)
	asked := l.Stats().Asked
	for range 1000 {
		require.Positive(t, l.Take(t.Context(), statement))
	}
	require.Equal(t, asked, l.Stats().Asked)
	require.EqualValues(t, 1001, l.Stats().Refused)
	require.Zero(t, l.Take(t.Context(), limits.Statement{Tenant: "globex", Rate: hundredth}), "another tenant")
}

func TestAFastTenantDoesNotAskForEachStatement(t *testing.T) {
	t.Parallel()
	l := program(t, start(t))
	for range 1000 {
		require.Zero(t, l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: 1000}))
	}
	require.LessOrEqual(t, l.Stats().Asked, int64(1000/50+10), "50 at once, and a second in which some are lost")
}

func TestStatementsOfTransactionsAreNeverRefusedAndPaidByLaterOnes(t *testing.T) {
	t.Parallel()
	l := program(t, start(t))
	within := limits.Statement{Tenant: "acme", Rate: 1, Started: true}
	for range 8 {
		require.Zero(t, l.Take(t.Context(), within))
	}
	outside := limits.Statement{Tenant: "acme", Rate: 1}
	after := l.Take(t.Context(), outside)
	require.Greater(t, after, 4*time.Second, "a burst of two has paid two of eight")
	for range 1000 {
		require.Zero(t, l.Take(t.Context(), within))
	}
	require.LessOrEqual(t, l.Take(t.Context(), outside), limits.MaxDebt+time.Second, "the rest is forgiven")
}

// A program whose statements run inside transactions and one whose do not.
func TestADebtIsPaidWhileOthersUseTheRate(t *testing.T) {
	t.Parallel()
	server := start(t)
	indebted, other := program(t, server), program(t, server)
	statement := limits.Statement{Tenant: "acme", Rate: 10}
	for other.Take(t.Context(), statement) == 0 {
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() {
		again := time.NewTicker(time.Millisecond)
		defer again.Stop()
		for ctx.Err() == nil {
			other.Take(ctx, statement)
			<-again.C
		}
	})
	within := statement
	within.Started = true
	for range 5 {
		require.Zero(t, indebted.Take(t.Context(), within))
	}
	require.Eventually(t, func() bool { return indebted.Take(t.Context(), statement) == 0 }, 20*time.Second, time.Millisecond)
}

func TestWhatOneProgramMayNotUseIsLeftToOthers(t *testing.T) {
	t.Parallel()
	server := start(t)
	programs := make([]*redislimit.Limiter, 12)
	for i := range programs {
		programs[i] = program(t, server)
		require.Zero(t, programs[i].Take(t.Context(), limits.Statement{Tenant: "warm", Rate: 1000}))
	}
	for _, l := range programs {
		require.Zero(t, l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: 60, Burst: 12}))
	}
}

// A Redis that takes another's place may have a clock that is behind, or be told by hand.
func TestNothingInRedisShutsATenantOutForLong(t *testing.T) {
	t.Parallel()
	server := start(t)
	client := redis.NewClient(&redis.Options{Addr: server.Socket(), Network: "unix"})
	defer client.Close()
	l := program(t, server)
	statement := limits.Statement{Tenant: "a}{ü", Rate: 5}
	require.Zero(t, l.Take(t.Context(), statement))
	keys, err := client.Keys(t.Context(), "sharded-pg:{a}{ü}:5").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1, "keys begin with the prefix, which rights in Redis may be about")
	expires, err := client.TTL(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	require.InDelta(t, 0, expires.Seconds(), 2)
	hour := time.Now().Add(time.Hour).Unix() - 1735689600
	require.NoError(t, client.Set(t.Context(), keys[0], hour, 0).Err())
	for l.Take(t.Context(), statement) == 0 {
	}
	require.LessOrEqual(t, l.Take(t.Context(), statement), limits.MaxDebt+time.Second)
}

func TestAThrottleAddsNoDebtAndLeavesNone(t *testing.T) {
	t.Parallel()
	l := program(t, start(t))
	for range 5000 {
		require.Zero(t, l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: 250, Started: true}))
	}
	throttled := limits.Statement{Tenant: "acme", Rate: 1}
	require.LessOrEqual(t, l.Take(t.Context(), throttled), limits.MaxDebt+time.Second, "what was owed at a rate of 250 is not paid at one of 1")

	throttled = limits.Statement{Tenant: "globex", Rate: hundredth}
	for l.Take(t.Context(), throttled) == 0 {
	}
	require.Zero(t, l.Take(t.Context(), limits.Statement{Tenant: "globex", Rate: 250}), "back on its plan")
}

func TestWithoutRedisEachProgramEnforcesItsShare(t *testing.T) {
	t.Parallel()
	failures := map[string]struct {
		fail, mend func(t *testing.T, r *pgtest.Redis)
	}{
		"gone": {
			func(_ *testing.T, r *pgtest.Redis) { r.Kill() },
			func(t *testing.T, r *pgtest.Redis) { require.NoError(t, r.Start(context.Background())) },
		},
		"silent": {
			func(t *testing.T, r *pgtest.Redis) { require.NoError(t, r.Pause()) },
			func(t *testing.T, r *pgtest.Redis) { require.NoError(t, r.Resume()) },
		},
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			l := program(t, server, func(c *redislimit.Config) { c.Programs, c.Timeout = 4, 100*time.Millisecond })
			statement := func(tenant string) limits.Statement { return limits.Statement{Tenant: tenant, Rate: 20} }
			require.Eventually(t, func() bool { return l.Take(t.Context(), statement("warm")) == 0 && !l.Stats().Down }, 20*time.Second, 50*time.Millisecond)
			before := l.Stats()
			failure.fail(t, server)
			begin, allowed := time.Now(), 0
			const tries = 100_000
			for range tries {
				if l.Take(t.Context(), statement("acme")) == 0 {
					allowed++
				}
			}
			took := time.Since(begin)
			require.GreaterOrEqual(t, allowed, 10, "the burst of a quarter of the rate")
			require.LessOrEqual(t, float64(allowed), 10+1+took.Seconds()*5)
			s := l.Stats()
			require.True(t, s.Down)
			asked := s.Failed - before.Failed
			require.Positive(t, asked)
			require.LessOrEqual(t, float64(asked), 1+took.Seconds(), "one a second")
			t.Logf("%d statements without Redis took %v, %d of them asked it", tries, took, asked)

			failure.mend(t, server)
			require.Eventually(t, func() bool {
				l.Take(t.Context(), statement("back"))
				return !l.Stats().Down
			}, 20*time.Second, 10*time.Millisecond)
		})
	}
}

// far is the address of a Redis to which everything takes so long.
func far(t *testing.T, oneWay time.Duration) string {
	t.Helper()
	way, err := pgtest.StartProxyTo(t.Context(), "unix", start(t).Socket())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, way.Stop()) })
	way.SetDelay(oneWay)
	folder, port := way.Socket()
	return filepath.Join(folder, fmt.Sprintf(".s.PGSQL.%d", port))
}

// Making a connection takes several round trips, which together may be longer than a statement waits.
func TestARedisThatAnswersInTimeIsConnectedToHoweverLongThatTakes(t *testing.T) {
	t.Parallel()
	l, err := redislimit.New(redislimit.Config{
		Redis: &redis.UniversalOptions{Addrs: []string{far(t, 75*time.Millisecond)}}, Timeout: 250 * time.Millisecond,
	})
	require.NoError(t, err)
	defer l.Close()
	require.Eventually(t, func() bool {
		l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: 1000})
		s := l.Stats()
		return s.Asked > s.Failed && !s.Down
	}, 20*time.Second, 10*time.Millisecond)
}

func TestManyWhoComeAtOnceWaitForRedisNoLongerThanOne(t *testing.T) {
	t.Parallel()
	l, err := redislimit.New(redislimit.Config{
		Redis: &redis.UniversalOptions{Addrs: []string{far(t, 20*time.Millisecond)}}, Timeout: 3 * time.Second,
	})
	require.NoError(t, err)
	defer l.Close()
	require.Zero(t, l.Take(t.Context(), limits.Statement{Tenant: "warm", Rate: 1000}))
	const burst = 300 // one after the other they would take twelve seconds
	var allowed, slow atomic.Int64
	var group sync.WaitGroup
	for range burst {
		group.Go(func() {
			begin := time.Now()
			if l.Take(t.Context(), limits.Statement{Tenant: "acme", Rate: hundredth, Burst: burst}) == 0 {
				allowed.Add(1)
			}
			if time.Since(begin) > 4*time.Second {
				slow.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, burst, allowed.Load())
	require.Zero(t, slow.Load())
	require.Zero(t, l.Stats().Alone, "one question is for all who wait")
}

func TestACallerThatGivesUpSaysNothingOfRedis(t *testing.T) {
	t.Parallel()
	server := start(t)
	l := program(t, server)
	statement := limits.Statement{Tenant: "acme", Rate: 1}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, l.Take(cancelled, statement))
	require.Zero(t, l.Stats().Asked)

	require.NoError(t, server.Pause())
	hurried, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	took := make(chan time.Duration)
	go func() { took <- l.Take(hurried, statement) }()
	<-hurried.Done()
	require.Eventually(t, func() bool { return l.Stats().Asked == 1 }, 20*time.Second, time.Millisecond)
	require.NoError(t, server.Resume())
	require.Zero(t, <-took)
	require.False(t, l.Stats().Down)
	require.Zero(t, l.Stats().Failed)
}

func TestCallersInAHurryFindRedisAgainAsOthersDo(t *testing.T) {
	t.Parallel()
	server := start(t)
	l := program(t, server)
	statement := limits.Statement{Tenant: "acme", Rate: 1e6}
	server.Kill()
	require.Eventually(t, func() bool { l.Take(t.Context(), statement); return l.Stats().Down }, 20*time.Second, time.Millisecond)
	require.NoError(t, server.Start(t.Context()))
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Microsecond)
		defer cancel()
		l.Take(ctx, statement)
		return !l.Stats().Down
	}, 20*time.Second, time.Millisecond)
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	_, err := redislimit.New(redislimit.Config{})
	require.ErrorContains(t, err, "Config.Redis")
	_, err = redislimit.New(redislimit.Config{Redis: &redis.UniversalOptions{Addrs: []string{"x"}}, Programs: -1})
	require.ErrorContains(t, err, "must not be negative")
}
