package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// capped is a fleet of conns connections, of which the plan of tenant A allows it some.
func capped(t *testing.T, conns, ofA int) *fleet {
	t.Helper()
	return newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns, c.Tag = conns, true },
		routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Plan.MaxConns = ofA },
	})
}

func (f *fleet) slots() limits.Stats { return f.connector.Stats().Shards[0].Slots }

const activeSQL = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'app' and state = 'active' and application_name = 'tenant:'||$1"

func TestATenantAtItsCapWaitsAndAnotherIsServed(t *testing.T) {
	t.Parallel()
	f := capped(t, 4, 2)
	_, err := f.su.Exec(t.Context(), "select pg_advisory_lock(7)")
	require.NoError(t, err)
	done := make(chan error)
	const callers = 6
	for range callers {
		go func() {
			_, err := f.db.ExecContext(f.a, "select pg_advisory_xact_lock_shared(7)")
			done <- err
		}()
	}
	f.requireOutside("two run", 2, activeSQL, tenantA)
	require.Eventually(t, func() bool { return f.slots().Used == 2 && f.slots().Waiting == callers-2 }, 10*time.Second, time.Millisecond)
	for range 20 {
		f.requireNotes(f.b, f.db, notesOfB)
		require.Equal(t, 2, outside[int](f, activeSQL, tenantA), "never a third")
	}
	busiest := f.connector.BusiestTenants(1)["s1"]
	require.Equal(t, []string{tenantA}, []string{busiest[0].Tenant})
	require.Equal(t, [2]int{2, 2}, [2]int{busiest[0].Used, busiest[0].Limit})
	_, err = f.su.Exec(t.Context(), "select pg_advisory_unlock(7)")
	require.NoError(t, err)
	for range callers {
		require.NoError(t, <-done)
	}
}

func TestAnotherPlanHoldsForStatementsThatWaitAlready(t *testing.T) {
	t.Parallel()
	f := capped(t, 4, 1)
	first := f.begin(f.a)
	f.requireNotes(f.a, first, notesOfA)
	done := make(chan error)
	go func() {
		tx, err := f.db.BeginTx(f.a, nil)
		if err == nil {
			err = tx.Rollback()
		}
		done <- err
	}()
	require.Eventually(t, func() bool { return f.slots().Waiting == 1 }, 10*time.Second, time.Millisecond)
	f.store.set(tenantA, func(r *resolver.Route) { r.Plan.MaxConns = 2 })
	require.NoError(t, <-done, "while the first one goes on")

	second := f.begin(f.a)
	f.requireNotes(f.a, second, notesOfA)
	f.store.set(tenantA, func(r *resolver.Route) { r.Plan.MaxConns = 1 })
	f.requireNotes(f.a, first, notesOfA)
	f.requireNotes(f.a, second, notesOfA) // nothing is killed
	require.NoError(t, first.Commit())
	require.NoError(t, second.Commit())
	f.requireOwnRows()
}

func TestARateIsRefusedBeforeAnySQLAndNeverInsideATransaction(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 2 },
		routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Plan.Rate = 2 },
	})
	tx := f.begin(f.a)
	for range 10 {
		f.requireNotes(f.a, tx, notesOfA)
	}
	require.NoError(t, tx.Commit())
	sent := f.connector.Stats().Shards[0].Backends
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrRateLimited)
	var ours *shardedpg.Error
	require.ErrorAs(t, err, &ours)
	require.Equal(t, shardedpg.StageSlot, ours.Stage)
	require.Greater(t, ours.RetryAfter, 2*time.Second, "six above the burst of four, at two a second, with slack")
	require.LessOrEqual(t, ours.RetryAfter, 3500*time.Millisecond)
	require.Equal(t, sent, f.connector.Stats().Shards[0].Backends)
	require.EqualValues(t, 1, f.slots().Plans[0].RateLimited)
	f.requireNotes(f.b, f.db, notesOfB)

	f.store.set(tenantA, func(r *resolver.Route) { r.Plan.Rate = 0 })
	for range 20 {
		f.requireNotes(f.a, f.db, notesOfA)
	}
}

// database/sql prepares a *sql.Stmt again on each virtual connection that it meets, of which nothing is sent.
func TestAStatementThroughAStmtCountsOnce(t *testing.T) {
	t.Parallel()
	const burst = 20
	for name, run := range map[string]func(f *fleet, stmt *sql.Stmt) error{
		"by itself": func(f *fleet, stmt *sql.Stmt) error {
			_, err := stmt.ExecContext(f.a)
			return err
		},
		"in a transaction": func(f *fleet, stmt *sql.Stmt) error {
			tx, err := f.db.BeginTx(f.a, nil)
			if err != nil {
				return err
			}
			_, err = tx.StmtContext(f.a, stmt).ExecContext(f.a)
			return errors.Join(err, tx.Commit())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
				routes[tenantA].Plan.Rate, routes[tenantA].Plan.Burst = 0.01, burst
			}})
			stmt, err := f.db.PrepareContext(f.b, "select 1")
			require.NoError(t, err)
			defer stmt.Close()
			f.db.SetMaxIdleConns(-1)
			for range burst {
				require.NoError(t, run(f, stmt))
			}
			require.ErrorIs(t, run(f, stmt), shardedpg.ErrRateLimited)
		})
	}
}

func TestABurstFollowsThePlanWhileAProgramRuns(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
		routes[tenantA].Plan.Rate, routes[tenantA].Plan.Burst = 0.01, 5
	}})
	allowed := func() (n int) {
		for {
			if _, err := f.db.ExecContext(f.a, "select 1"); err != nil {
				require.ErrorIs(t, err, shardedpg.ErrRateLimited)
				return n
			}
			n++
		}
	}
	require.Equal(t, 5, allowed(), "in the time of this test there is the burst and no more")
	f.requireNotes(f.b, f.db, notesOfB)
	f.store.set(tenantA, func(r *resolver.Route) { r.Plan.Rate, r.Plan.Burst = 10_000, 3 })
	require.Eventually(t, func() bool {
		_, err := f.db.ExecContext(f.a, "select 1")
		return err == nil
	}, 5*time.Second, time.Millisecond)
}

// lastCounted is a limiter that allows all and remembers by which rate it was asked last.
type lastCounted struct{ rate atomic.Value }

func (l *lastCounted) Take(_ context.Context, s limits.Statement) time.Duration {
	l.rate.Store(s.Rate)
	return 0
}

func TestAConnThatIsHeldFollowsItsPlansRate(t *testing.T) {
	t.Parallel()
	counted := &lastCounted{}
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.RateLimiter = counted },
		routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Plan.Rate = 100 },
	})
	conn := f.conn(f.a)
	for _, rate := range []float64{100, 5, 7} {
		f.store.set(tenantA, func(r *resolver.Route) { r.Plan.Rate = rate })
		require.Eventually(t, func() bool {
			f.requireNotes(f.a, conn, notesOfA)
			return counted.rate.Load() == rate
		}, 5*time.Second, time.Millisecond)
	}
}

func TestATenantThatWaitsForItselfIsToldSo(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(f *fleet) (release func()){
		"a transaction": func(f *fleet) func() {
			tx := f.begin(f.a)
			f.requireNotes(f.a, tx, notesOfA)
			return func() { require.NoError(f, tx.Rollback()) }
		},
		"rows": func(f *fleet) func() {
			rows, err := f.db.QueryContext(f.a, "select note from orders")
			require.NoError(f, err)
			require.True(f, rows.Next())
			return func() { require.NoError(f, rows.Close()) }
		},
		"rows that the server is still sending": func(f *fleet) func() {
			rows, err := f.db.QueryContext(f.a, "select repeat('x', 10000) from generate_series(1, 10000)")
			require.NoError(f, err)
			require.True(f, rows.Next())
			return func() { require.NoError(f, rows.Close()) }
		},
		"a connection": func(f *fleet) func() {
			conn := f.conn(f.a)
			f.requireNotes(f.a, conn, notesOfA)
			return func() { require.NoError(f, conn.Close()) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := capped(t, 2, 1)
			release := hold(f)
			_, err := f.db.ExecContext(f.a, "select 1")
			require.ErrorIs(t, err, shardedpg.ErrTenantBusy)
			require.ErrorContains(t, err, "its 1 connections have been held for 2s with nothing running on them")
			require.Greater(t, f.slots().LongestWait, time.Second)
			require.Less(t, f.slots().LongestWait, 10*time.Second)
			release()
			f.requireOwnRows()
		})
	}
}

func TestTenantsThatWaitForEachOtherAreToldSo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 2 }})
	outer := map[string]*sql.Tx{tenantA: f.begin(f.a), tenantB: f.begin(f.b)} // these are all the connections
	f.requireNotes(f.a, outer[tenantA], notesOfA)
	f.requireNotes(f.b, outer[tenantB], notesOfB)
	done := make(chan error)
	for holds, wants := range map[string]context.Context{tenantA: f.b, tenantB: f.a} {
		go func() {
			_, err := f.db.ExecContext(wants, "select 1")
			_ = outer[holds].Rollback()
			done <- err
		}()
	}
	told := 0
	for range outer {
		if err := <-done; err != nil { // the other one may have had the connection of who was told first
			told++
			require.ErrorIs(t, err, shardedpg.ErrShardBusy)
			require.ErrorContains(t, err, "all 2 slots have been held for 2s with nothing running on them")
			var ours *shardedpg.Error
			require.ErrorAs(t, err, &ours)
			require.Zero(t, ours.RetryAfter)
		}
	}
	require.Positive(t, told)
	require.Less(t, f.slots().LongestWait, 10*time.Second)
	f.requireOwnRows()
}

func TestAWaiterBehindALongStatementGoesOnWaiting(t *testing.T) {
	t.Parallel()
	f := capped(t, 2, 1)
	done := make(chan error)
	go func() {
		_, err := f.db.ExecContext(f.a, "select pg_sleep(5)")
		done <- err
	}()
	f.requireOutside("the long one runs", 1, activeSQL, tenantA)
	f.requireNotes(f.a, f.db, notesOfA)
	require.NoError(t, <-done)
}

// slowLine is a line on which what is large waits until it is widened.
type slowLine struct {
	net.Conn
	wide <-chan struct{}
}

func (n slowLine) Write(p []byte) (int, error) {
	if len(p) > 1<<20 {
		<-n.wide
	}
	return n.Conn.Write(p)
}

func TestAWaiterBehindAnArgumentOnASlowLineGoesOnWaiting(t *testing.T) {
	t.Parallel()
	wide := make(chan struct{})
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.ConfigureConn = func(_ string, cc *pgx.ConnConfig) error {
			dial := cc.DialFunc
			cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return slowLine{conn, wide}, err
			}
			return nil
		}
	}})
	f.requireOwnRows()
	done := make(chan error)
	run := func(text string, args ...any) {
		_, err := f.db.ExecContext(f.a, text, args...)
		done <- err
	}
	go run("select length($1)", strings.Repeat("x", 2<<20))
	require.Eventually(t, func() bool { return f.slots().Used == 1 }, 10*time.Second, time.Millisecond)
	go run("select 1")
	_, err := f.su.Exec(t.Context(), "select pg_sleep(5)")
	require.NoError(t, err)
	close(wide)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

// TestACancelStormStaysWithinTheLimit: a cancelled statement goes on until the server has heard of it. It counts until then.
// What may outlast its slot for a moment is a server process that has nothing left to do but end. A second after the last one all
// is as fast as before.
func TestACancelStormStaysWithinTheLimit(t *testing.T) {
	t.Parallel()
	const conns, callers, cancels = 4, 100, 10_000
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns, c.TenantShare = conns, 0.5 }})
	f.requireOwnRows()
	work := func() time.Duration { // what takes a moment on connections that are there, to both tenants
		begin := time.Now()
		var wg sync.WaitGroup
		for caller := range 2 * conns {
			wg.Go(func() {
				for range 100 {
					_, err := f.db.ExecContext([]context.Context{f.a, f.b}[caller%2], "select 1")
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		return time.Since(begin)
	}
	work()
	before := work()
	var wg sync.WaitGroup
	var served, cancelled atomic.Int64
	a, stopA := context.WithCancel(f.a)
	defer stopA()
	b, stopB := context.WithCancel(f.b)
	defer stopB()
	for caller := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(caller), 1))
			for cancelled.Load() < cancels {
				patience := []time.Duration{5 * time.Millisecond, 5 * time.Millisecond, 5 * time.Millisecond, time.Second}[r.IntN(4)]
				ctx, cancel := context.WithTimeout([]context.Context{a, b}[caller%2], time.Duration(r.Int64N(int64(patience))))
				if _, err := f.db.ExecContext(ctx, "select pg_sleep($1)", r.Float64()*0.004); err == nil {
					served.Add(1)
				} else {
					cancelled.Add(1)
				}
				cancel()
			}
			stopA() // it ends with all that runs and waits cancelled at once
			stopB()
		})
	}
	storm := make(chan bool)
	go func() { wg.Wait(); close(storm) }()
	most := 0
	for over := false; !over; {
		select {
		case <-storm:
			over = true
		default:
			const active = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'app' and state = 'active'"
			// Where the server takes a quarter of a second to let go of a connection, as on a busy machine, it is asked over another one.
			most = max(most, outside[int](f, active+" and application_name <> 'sharded-pg asks'"))
		}
	}
	after := work()
	t.Logf("%d served, %d cancelled, at most %d at once; %s for what took %s before", served.Load(), cancelled.Load(), most, after, before)
	require.Less(t, after, before+time.Second)
	require.LessOrEqual(t, most, conns)
	require.Positive(t, served.Load())
	require.Positive(t, cancelled.Load())
	f.requireNoSlotInUse()
	require.LessOrEqual(t, f.connector.Stats().Shards[0].Backends.Open, conns)
	require.Empty(t, f.connector.BusiestTenants(1)["s1"])
	for range 100 {
		f.requireOwnRows()
	}
}

func TestSlotsKeepTheQueueOutOfPgBouncer(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables)
	const poolSize = 2
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{PoolSize: poolSize})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	db := pooled(t, bouncer, database, "exec", poolSize)
	cc, err := pgx.ParseConfig(bouncer.DSN("postgres", "pgbouncer"))
	require.NoError(t, err)
	cc.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // the console speaks no other
	console, err := pgx.ConnectConfig(t.Context(), cc)
	require.NoError(t, err)
	defer console.Close(context.Background())
	done := make(chan error)
	const callers, each = 16, 25
	for i := range callers {
		go func() {
			ctx := shardedpg.WithTenant(t.Context(), []string{"a", "b"}[i%2])
			for range each {
				if _, err := db.ExecContext(ctx, "select pg_sleep(0.002)"); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for left := callers; left > 0; {
		select {
		case err := <-done:
			require.NoError(t, err)
			left--
		default:
			rows, err := console.Query(t.Context(), "show pools")
			require.NoError(t, err)
			pools, err := pgx.CollectRows(rows, pgx.RowToMap)
			require.NoError(t, err)
			for _, pool := range pools {
				count := func(column string) int {
					n, err := strconv.Atoi(fmt.Sprint(pool[column]))
					require.NoError(t, err)
					return n
				}
				if count("cl_waiting") > 0 { // for a connection that is being made, or given back at this moment
					require.Less(t, count("sv_active"), poolSize, "a statement waits in PgBouncer: %v", pool)
				}
			}
		}
	}
}

func TestAStatementThatIsSentTwiceIsCountedOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
		routes[tenantA].Plan.Rate, routes[tenantA].Plan.Burst = 0.001, 2
	}})
	f.exec(f.a, f.db, "vacuum probe") // refuses the transaction that it is sent in first
	f.exec(f.a, f.db, "select 1")
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrRateLimited)
}
