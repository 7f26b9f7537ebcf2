package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// halved is a fleet of two shards, the first of which can be cut off. Tenant A lives there, tenant B on the other one.
func halved(t *testing.T) (*fleet, *pgtest.Proxy) {
	t.Helper()
	var proxy *pgtest.Proxy
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns, c.ConnectTimeout = 4, 2*time.Second },
		routes: func(f *fleet, routes map[string]*resolver.Route) {
			var err error
			proxy, err = pgtest.StartProxy(t.Context(), f.server)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
			routes[tenantA].Shard = resolver.Shard{Name: "far", DSN: proxy.DSN("app", f.database)}
		},
	})
	return f, proxy
}

func (f *fleet) backends(shard string) backend.Stats {
	_, b := f.statsOf(shard)
	return b
}

func (f *fleet) slotsOf(shard string) limits.Stats {
	s, _ := f.statsOf(shard)
	return s
}

func (f *fleet) statsOf(shard string) (limits.Stats, backend.Stats) {
	for _, s := range f.connector.Stats().Shards {
		if s.Name == shard {
			return s.Slots, s.Backends
		}
	}
	return limits.Stats{}, backend.Stats{}
}

func TestADeadShardIsTriedByOneStatementAtATimeAndComesBackByItself(t *testing.T) {
	t.Parallel()
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, proxy := halved(t)
			read := func() error { // without a deadline, what is in a black hole stays there
				ctx, cancel := context.WithTimeout(f.a, 1500*time.Millisecond)
				defer cancel()
				_, err := f.db.ExecContext(ctx, "select 1")
				return err
			}
			require.NoError(t, read())
			outage(proxy, true)
			failed := make(chan error)
			const callers = 4
			for range callers {
				go func() { failed <- read() }()
			}
			for range callers {
				require.Error(t, <-failed)
			}
			require.Eventually(t, func() bool { _ = read(); return f.backends("far").Down }, 20*time.Second, time.Millisecond)
			before := f.backends("far").Connects
			const refused = 1000
			for range refused {
				err := read()
				require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
				var own *shardedpg.Error
				require.ErrorAs(t, err, &own)
				require.Equal(t, shardedpg.StageBackend, own.Stage)
				require.Equal(t, "far", own.Shard)
				require.Positive(t, own.RetryAfter)
				require.True(t, own.SafeToRetry())
			}
			tries := f.backends("far").Connects - before
			require.Less(t, tries, int64(refused/10), "nearly all are refused without trying")
			f.requireNotes(f.b, f.db, notesOfB) // the other shard's tenant notices nothing
			t.Logf("%d of %d statements tried to connect; the error: %v", tries, refused, read())

			outage(proxy, false)
			require.Eventually(t, func() bool { return read() == nil }, 20*time.Second, time.Millisecond)
			f.requireNotes(f.a, f.db, notesOfA)
			require.False(t, f.backends("far").Down)
			require.EqualValues(t, 1, f.backends("far").Outages)
		})
	}
}

func TestStatementsInTheQueueOfAShardThatDiesDoNotEachWaitForIt(t *testing.T) {
	t.Parallel()
	f, proxy := halved(t)
	holders := make([]func(), 4)
	for i := range holders {
		tx := f.begin(f.a)
		f.requireNotes(f.a, tx, notesOfA)
		holders[i] = func() { _ = tx.Rollback() }
	}
	const waiting = 50
	failed := make(chan error)
	for range waiting {
		go func() { _, err := f.db.ExecContext(f.a, "select 1"); failed <- err }()
	}
	require.Eventually(t, func() bool { return f.slotsOf("far").Waiting == waiting }, 20*time.Second, time.Millisecond)
	proxy.Refuse(true)
	proxy.Cut()
	for _, release := range holders {
		go release()
	}
	for range waiting {
		require.ErrorIs(t, <-failed, shardedpg.ErrShardUnavailable)
	}
	require.Less(t, f.backends("far").Connects, int64(4+waiting/2))
}

func TestAConnectionThatOutlivesAnOutageDoesNotHideItsEnd(t *testing.T) {
	t.Parallel()
	f, proxy := halved(t)
	held := f.conn(f.a)
	f.requireNotes(f.a, held, notesOfA)
	proxy.Refuse(true)
	require.Eventually(t, func() bool { _, _ = f.db.ExecContext(f.a, "select 1"); return f.backends("far").Down }, 20*time.Second, time.Millisecond)
	f.requireNotes(f.a, held, notesOfA)
	require.NoError(t, held.Close())
	proxy.Refuse(false)
	require.Eventually(t, func() bool { _, err := f.db.ExecContext(f.a, "select 1"); return err == nil }, 20*time.Second, time.Millisecond)
	require.False(t, f.backends("far").Down, "or statements would be refused whenever another one needs a connection")
}

// All slots are held by connections that do not end, so there are no attempts to connect but the driver's own.
func TestAShardThatStopsToAnswerIsFoundDeadWithoutNewConnections(t *testing.T) {
	t.Parallel()
	f, proxy := halved(t)
	var held []*sql.Conn
	for range 4 {
		conn := f.conn(f.a)
		f.requireNotes(f.a, conn, notesOfA)
		held = append(held, conn)
	}
	for _, conn := range held {
		require.NoError(t, conn.Close())
	}
	require.Equal(t, 4, f.backends("far").Idle)
	proxy.Stall(true)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(f.a, 100*time.Millisecond)
			defer cancel()
			if _, err := f.db.ExecContext(ctx, "select 1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
	group.Wait()
	require.Eventually(t, func() bool { return f.backends("far").Down }, 12*time.Second, time.Millisecond, "before the connections are given up")
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	proxy.Stall(false)
	require.Eventually(t, func() bool { _, err := f.db.ExecContext(f.a, "select 1"); return err == nil }, 20*time.Second, time.Millisecond)
}

// A server that takes its time to cancel is there.
func TestAStatementThatDoesNotEndMakesNoShardDead(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) {
			c.MaxConns = 4
			c.ConfigureConn = func(_ string, cc *pgx.ConnConfig) error {
				cc.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
					if conn.ParameterStatus("application_name") == "sharded-pg asks" {
						asked.Add(1)
					}
					return nil
				}
				return nil
			}
		},
		// A statement that catches its own cancellation goes on.
		schema: []string{`create function stubborn() returns void language plpgsql as $$ begin
			perform pg_sleep(60); exception when query_canceled then perform pg_sleep(2); end $$`},
	})
	for n := range 4 {
		ctx, cancel := context.WithCancel(f.a)
		text := fmt.Sprintf("select stubborn() -- %d", n)
		failed := make(chan error, 1)
		go func() { _, err := f.db.ExecContext(ctx, text); failed <- err }()
		require.Eventually(t, func() bool {
			var runs bool
			err := f.su.QueryRow(t.Context(), "select exists (select from pg_stat_activity where datname = current_database() and query = $1 and wait_event = 'PgSleep')", text).Scan(&runs)
			return err == nil && runs
		}, 20*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
	}
	require.Eventually(t, func() bool { return f.backends("s1").Connects > 4 }, 20*time.Second, time.Millisecond, "it is asked")
	require.Eventually(t, func() bool { return asked.Load() > 0 }, 20*time.Second, time.Millisecond, "by a connection that says so")
	f.requireNoSlotInUse()
	require.Zero(t, f.backends("s1").Outages)
	f.requireOwnRows()
}

// Connecting takes three round trips here, longer than anybody waits.
func TestAShardThatIsFarAwayIsNotDead(t *testing.T) {
	t.Parallel()
	f, proxy := halved(t)
	proxy.SetDelay(200 * time.Millisecond)
	read := func() bool {
		ctx, cancel := context.WithTimeout(f.a, 900*time.Millisecond)
		defer cancel()
		_, err := f.db.ExecContext(ctx, "select 1")
		return err == nil
	}
	require.Eventually(t, read, 20*time.Second, time.Millisecond)
	settled := func() bool { s := f.backends("far"); return s.Open == s.Idle && s.Open == proxy.Conns() }
	require.Eventually(t, settled, 20*time.Second, time.Millisecond)
	before := f.backends("far").Connects
	hurried, cancel := context.WithTimeout(f.a, 500*time.Millisecond)
	defer cancel()
	_, err := f.db.ExecContext(hurried, "select pg_sleep(60)")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool { return f.backends("far").Connects > before && settled() }, 20*time.Second, time.Millisecond, "it is asked")
	require.Zero(t, f.backends("far").ConnectErrors)
	require.Eventually(t, read, 20*time.Second, time.Millisecond)
	require.Zero(t, f.backends("far").Outages)
}

func TestNobodyWaitsForASlotOfADeadShard(t *testing.T) {
	t.Parallel()
	f, proxy := halved(t)
	var held []*sql.Tx
	for range 3 { // the fourth slot is the only one that is free
		held = append(held, f.begin(f.a))
		f.requireNotes(f.a, held[len(held)-1], notesOfA)
	}
	proxy.Stall(true)
	read := func() error {
		ctx, cancel := context.WithTimeout(f.a, 1500*time.Millisecond)
		defer cancel()
		_, err := f.db.ExecContext(ctx, "select 1")
		return err
	}
	require.Eventually(t, func() bool { _ = read(); return f.backends("far").Down }, 20*time.Second, time.Millisecond)
	before := f.slotsOf("far").Waited
	var group sync.WaitGroup
	const callers, refused = 4, 500
	for range callers {
		group.Go(func() {
			for range refused {
				if err := read(); !errors.Is(err, shardedpg.ErrShardUnavailable) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	group.Wait()
	require.Less(t, f.slotsOf("far").Waited-before, int64(refused/10))
	proxy.Stall(false)
	for _, tx := range held {
		require.NoError(t, tx.Rollback())
	}
}

// The answer to a reset that was sent at release is read at the next checkout.
func TestWhoLeavesIsNotKeptByAResetThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	var proxy *pgtest.Proxy
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		var err error
		proxy, err = pgtest.StartProxy(t.Context(), f.server)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
		routes[tenantA].Shard = resolver.Shard{Name: "far", DSN: proxy.DSN("app", f.database)}
	}})
	conn := f.conn(f.a)
	f.exec(f.a, conn, "set work_mem = '5MB'")
	proxy.Stall(true)
	require.NoError(t, conn.Close())
	ctx, cancel := context.WithCancel(f.a)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := f.db.ExecContext(ctx, "select 1")
		done <- err
	}()
	require.Eventually(t, func() bool { return f.slotsOf("far").Used == 1 }, 10*time.Second, time.Millisecond)
	cancel()
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(10 * time.Second):
		require.Fail(t, "it waits for as long as connecting may take")
	}
	proxy.Stall(false)
	f.requireNotes(f.a, f.db, notesOfA)
}

// resetting are as many connections to a shard as it has slots, idle, and resets on them that are not answered.
func resetting(t *testing.T) (*fleet, *pgtest.Proxy) {
	t.Helper()
	f, proxy := halved(t)
	var conns []*sql.Conn
	for range 4 {
		conn := f.conn(f.a)
		f.exec(f.a, conn, "set work_mem = '5MB'")
		conns = append(conns, conn)
	}
	proxy.Stall(true)
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	require.Equal(t, 4, f.backends("far").Idle)
	return f, proxy
}

func TestWhoLeavesInFrontOfAResetTakesNoOtherConnectionAlong(t *testing.T) {
	t.Parallel()
	f, proxy := resetting(t)
	ctx, cancel := context.WithCancel(f.a)
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := f.db.ExecContext(ctx, "select 1")
		done <- err
	}()
	require.Eventually(t, func() bool { return f.slotsOf("far").Used == 1 }, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.EqualValues(t, 1, f.backends("far").Drops)
	proxy.Stall(false)
	f.requireNotes(f.a, f.db, notesOfA)
	require.EqualValues(t, 4, f.backends("far").Connects)
}

func TestResetsThatAreNotAnsweredAreWaitedForOnce(t *testing.T) {
	t.Parallel()
	f, proxy := resetting(t)
	begin := time.Now()
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.Less(t, time.Since(begin), 3*2*time.Second, "as long as connecting may take, and then for connecting")
	proxy.Stall(false)
}

func TestAServerThatRefusesALoginIsNotDead(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 4 },
		routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Database = "nowhere" },
	})
	for range 10 {
		_, err := f.db.ExecContext(f.a, "select 1")
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
		require.False(t, f.backends("s1").Down, "%v", err)
	}
	f.requireNotes(f.b, f.db, notesOfB)
}

// Commands such as ALTER DATABASE … SET TABLESPACE keep all who connect to a database, for as long as they take.
func TestADatabaseThatKeepsWhoConnectsIsNoDeadShard(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 8 },
		routes: func(f *fleet, routes map[string]*resolver.Route) {
			routes[tenantA].Model, routes[tenantA].Database = resolver.ModelDatabase, f.server.NewDatabase(t)
		},
	})
	f.requireNotes(f.b, f.db, notesOfB)
	name := f.store.routes[tenantA].Database
	_, err := f.su.Exec(t.Context(), "begin; alter database "+name+" rename to "+name+"_")
	require.NoError(t, err)
	var over atomic.Bool
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			for !over.Load() {
				ctx, cancel := context.WithTimeout(f.a, 500*time.Millisecond)
				_, err := f.db.ExecContext(ctx, "select 1")
				cancel()
				assert.Error(t, err)
			}
		})
	}
	for f.backends("s1").ConnectErrors < 7 {
		f.requireNotes(f.b, f.db, notesOfB)
		require.NoError(t, sleepOnServer(f.su))
	}
	over.Store(true)
	callers.Wait()
	require.Zero(t, f.backends("s1").Outages)
	_, err = f.su.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	_, err = f.db.ExecContext(f.a, "select 1")
	require.NoError(t, err)
}

// noSession fails while the driver has a session on the server.
const noSession = "select 1/(not exists (select from pg_stat_activity where usename = 'app'))::int"

// overTLS is a fleet whose connections to one tenant's shard are encrypted, and what a superuser does there.
func overTLS(t *testing.T, options string) (f *fleet, admin func(sql string) error) {
	t.Helper()
	dsn := tlsShard(t, "tls")
	f = newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 8 },
		routes: func(_ *fleet, routes map[string]*resolver.Route) {
			routes[tenantA].Shard.DSN = dsn + " options='" + options + "'"
		},
	})
	return f, func(sql string) error {
		conn, err := pgconn.Connect(t.Context(), dsn+" user=postgres")
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		return conn.Exec(t.Context(), sql).Close()
	}
}

func TestIdleConnectionsThatTheServerHasEndedAreReplacedOverTLS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ options, end string }{
		"idle for too long": {options: "-c idle_session_timeout=1000"},
		// Its other sessions end with a warning, and with no error.
		"a crash": {end: "copy (select 1) to program 'kill -9 $PPID'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, admin := overTLS(t, c.options)
			var conns []*sql.Conn
			for range 6 { // more than a statement is tried
				conn := f.conn(f.a)
				f.pid(f.a, conn)
				conns = append(conns, conn)
			}
			for _, conn := range conns {
				require.NoError(t, conn.Close())
			}
			before := f.backends("s1")
			require.Equal(t, 6, before.Idle)
			f.pid(f.a, f.db)
			require.Equal(t, before.Drops, f.backends("s1").Drops)
			if c.end != "" {
				require.Error(t, admin(c.end))
			}
			require.Eventually(t, func() bool { return admin(noSession) == nil }, 20*time.Second, time.Millisecond)
			f.pid(f.a, f.db)
		})
	}
}

func TestATransactionThatWasIdleForTooLongIsToldSo(t *testing.T) {
	t.Parallel()
	f, admin := overTLS(t, "-c idle_in_transaction_session_timeout=100")
	for name, ctx := range map[string]context.Context{"plainly": f.a, "with a prologue in front": soon(t, f.a)} {
		t.Run(name, func(t *testing.T) {
			tx := f.begin(f.a)
			f.exec(f.a, tx, "select 1")
			require.Eventually(t, func() bool { return admin(noSession) == nil }, 20*time.Second, time.Millisecond)
			_, err := tx.ExecContext(ctx, "select 1")
			requireCode(t, err, "25P03")
			require.ErrorIs(t, tx.Commit(), shardedpg.ErrShardUnavailable)
		})
	}
}
