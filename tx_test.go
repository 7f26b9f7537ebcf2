package shardedpg_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestTxKeepsIsolationAndAccessMode(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for level, want := range map[sql.IsolationLevel]string{
		sql.LevelDefault: "read committed", sql.LevelReadUncommitted: "read uncommitted", sql.LevelReadCommitted: "read committed",
		sql.LevelRepeatableRead: "repeatable read", sql.LevelSnapshot: "repeatable read", sql.LevelSerializable: "serializable",
	} {
		for _, readOnly := range []bool{false, true} {
			tx, err := f.db.BeginTx(f.a, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			require.NoError(t, err)
			require.Equal(t, want, value[string](t, f.a, tx, "show transaction_isolation"))
			_, err = tx.ExecContext(f.a, "insert into orders (note) values ('w')")
			if readOnly {
				requireCode(t, err, "25006")
			} else {
				require.NoError(t, err)
			}
			require.NoError(t, tx.Rollback())
			f.requireNotes(f.b, f.db, notesOfB)
		}
	}
	_, err := f.db.BeginTx(f.a, &sql.TxOptions{Isolation: sql.LevelLinearizable})
	require.ErrorIs(t, err, backend.ErrIsolation)
	f.requireOwnRows()
}

func TestSetTransactionWorksAsFirstStatement(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, query := range []string{
		"set transaction isolation level serializable", "set transaction_isolation = 'serializable'",
		"set local transaction_isolation to serializable",
	} {
		tx := f.begin(f.a)
		f.exec(f.a, tx, query)
		require.Equal(t, "serializable", value[string](t, f.a, tx, "show transaction_isolation"))
		f.requireNotes(f.a, tx, notesOfA)
		require.NoError(t, tx.Commit())
		f.requireNotes(f.b, f.db, notesOfB)
	}
	tx := f.begin(f.a)
	f.exec(f.a, tx, "set constraints all deferred")
	f.requireNotes(f.a, tx, notesOfA)
	require.NoError(t, tx.Commit())
	f.requireNotes(f.b, f.db, notesOfB)
}

func TestACancelledTxRollsBackWithoutLosingItsConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	pid := f.pid(f.a, f.db)
	for range 5 {
		ctx, cancel := context.WithCancel(f.a)
		tx, err := f.db.BeginTx(ctx, nil)
		require.NoError(t, err)
		f.exec(ctx, tx, "insert into orders (note) values ('gone')")
		cancel()
		f.requireNoSlotInUse() // database/sql rolls back from a goroutine of its own
		require.ErrorIs(t, tx.Commit(), sql.ErrTxDone)
		f.requireNotes(f.b, f.db, notesOfB)
	}
	require.Equal(t, pid, f.pid(f.a, f.db))
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'gone'"))
}

func TestATxCancelledWhileRowsAreOpenLeavesACleanConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for range 5 {
		ctx, cancel := context.WithCancel(f.a)
		tx, err := f.db.BeginTx(ctx, nil)
		require.NoError(t, err)
		f.exec(ctx, tx, "insert into orders (note) values ('gone')")
		rows, err := tx.QueryContext(ctx, "select repeat('x', 1000) from generate_series(1, 100000)")
		require.NoError(t, err)
		require.True(t, rows.Next())
		cancel()
		for rows.Next() {
		}
		require.ErrorIs(t, rows.Err(), context.Canceled)
		_ = rows.Close()
		f.requireNoSlotInUse()
		f.requireOwnRows()
	}
}

func TestAPlansTimeoutIsRestoredAfterAShortDeadline(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	short, cancel := context.WithTimeout(f.a, 300*time.Millisecond)
	defer cancel()
	inForce := value[string](t, short, tx, "select (current_setting('statement_timeout')::interval < interval '2 s')::text")
	require.Equal(t, "true", inForce, "the first statement is bounded by its deadline")
	require.Equal(t, "30s", value[string](t, f.a, tx, "show statement_timeout"))
	f.exec(f.a, tx, "select pg_sleep(1)")
	f.exec(f.a, tx, "set local datestyle = 'SQL'") // from here on a tighter limit could be the caller's
	for range 2 {
		value[string](t, soon(t, f.a), tx, "show statement_timeout")
		require.Equal(t, "30s", value[string](t, f.a, tx, "show statement_timeout"))
	}
	f.exec(f.a, tx, "set local statement_timeout = '700ms'")
	require.Equal(t, "700ms", value[string](t, f.a, tx, "show statement_timeout"))
	require.NoError(t, tx.Commit())
	require.Equal(t, "30s", value[string](t, f.b, f.db, "show statement_timeout"))
}

func soon(t *testing.T, ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSetTransactionFirstDoesNotBringAnotherTenantsLimits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		routes[tenantA] = f.route(tenantA, planOf(5*time.Second, 4<<10))
		routes[tenantB] = f.route(tenantB, planOf(resolver.Unlimited, 64<<10))
	}})
	f.requireNotes(f.a, f.db, notesOfA) // the connection is made with A's limits as its defaults
	tx := f.begin(f.b)
	f.exec(f.b, tx, "set transaction isolation level serializable")
	require.Equal(t, "0", value[string](t, f.b, tx, "show statement_timeout"))
	require.Equal(t, "64MB", value[string](t, f.b, tx, "show work_mem"))
	require.NoError(t, tx.Commit())
}

func TestTheContextsErrorWinsOverTheServersTimeout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	ctx, cancel := context.WithTimeout(f.a, 100*time.Millisecond)
	defer cancel()
	_, err := f.db.ExecContext(ctx, "select pg_sleep(5)")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, shardedpg.TimedOutByPlan(err))
	f.requireOwnRows()
	f.requireOutside("the server does not go on with it", 0, "select count(*) from pg_stat_activity where query like '%pg_sleep(5)%' and pid <> pg_backend_pid() and state = 'active'")
}

func TestACancelByTheServerIsNotATimeoutByPlan(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	done := make(chan error, 1)
	go func() {
		_, err := f.db.ExecContext(f.a, "select pg_sleep(20)")
		done <- err
	}()
	f.requireOutside("one backend was cancelled", 1, `select count(*) filter (where pg_cancel_backend(pid)) from pg_stat_activity
		where datname = current_database() and query like '%pg_sleep(20)%' and pid <> pg_backend_pid() and state = 'active'`)
	err := <-done
	requireCode(t, err, "57014")
	require.False(t, shardedpg.TimedOutByPlan(err))
	f.requireOwnRows()
}

func TestTheCallersOwnTighterLimitsSurvive(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	f.exec(f.a, tx, "set local statement_timeout = '500ms'")
	f.exec(f.a, tx, "set local work_mem = '1MB'")
	require.Equal(t, "500ms", value[string](t, f.a, tx, "show statement_timeout"))
	require.Equal(t, "1MB", value[string](t, f.a, tx, "show work_mem"))
	start := time.Now()
	_, err := tx.ExecContext(f.a, "select pg_sleep(5)")
	requireCode(t, err, "57014")
	require.Less(t, time.Since(start), 3*time.Second)
	require.NoError(t, tx.Rollback())

	tx = f.begin(f.a)
	f.exec(f.a, tx, "set local statement_timeout = '2h'")
	f.exec(f.a, tx, "set local work_mem = '1GB'")
	require.Equal(t, "30s", value[string](t, f.a, tx, "show statement_timeout"))
	require.Equal(t, "16MB", value[string](t, f.a, tx, "show work_mem"))
	require.NoError(t, tx.Commit())

	f.exec(f.a, f.db, "set statement_timeout = '500ms'")
	require.Equal(t, "30s", value[string](t, f.b, f.db, "show statement_timeout"))
}

func TestOfASessionsOwnLimitsTheTighterHold(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"", "default_query_exec_mode=simple_protocol"} {
		f := newFleet(t, fleetOptions{dsn: dsn})
		conn := f.conn(f.a)
		for _, tc := range []struct{ set, timeout, workMem string }{
			{"set statement_timeout = 0", "30s", "16MB"},
			{"set work_mem = '1GB'", "30s", "16MB"},
			{"set statement_timeout = '2h'; set work_mem = '1MB'", "30s", "1MB"},
			{"select set_config('statement_timeout', '500ms', false)", "500ms", "1MB"},
			{"reset all", "30s", "16MB"},
		} {
			f.exec(f.a, conn, tc.set)
			require.Equal(t, tc.timeout, value[string](t, f.a, conn, "show statement_timeout"), tc.set)
			tx, err := conn.BeginTx(f.a, nil)
			require.NoError(t, err)
			require.Equal(t, tc.workMem, value[string](t, f.a, tx, "show work_mem"), tc.set)
			require.Equal(t, tc.timeout, value[string](t, f.a, tx, "show statement_timeout"), tc.set)
			require.NoError(t, tx.Commit())
			ctx, cancel := context.WithTimeout(f.a, 10*time.Second)
			f.requireNotes(ctx, conn, notesOfA) // with a deadline's timeout
			cancel()
		}
	}
	// On a connection made for another plan, what that began with is not the caller's.
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		routes[tenantB] = f.route(tenantB, planOf(time.Second, 4<<10))
	}})
	f.requireNotes(f.b, f.db, notesOfB)
	conn := f.conn(f.a)
	for _, text := range []string{"set application_name = 'x'", "set statement_timeout = 0", "set work_mem = '1GB'"} {
		f.exec(f.a, conn, text)
		require.Equal(t, "16MB", value[string](t, f.a, conn, "show work_mem"), text)
		require.Equal(t, "30s", value[string](t, f.a, conn, "show statement_timeout"), text)
	}
}

func TestRollbackToArmsAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	f.exec(f.a, tx, "savepoint s")
	f.exec(f.a, tx, "set local app.current_tenant_id = 'globex'")
	f.exec(f.a, tx, "savepoint s2")
	f.requireNotes(f.a, tx, notesOfA)
	f.exec(f.a, tx, "rollback to s2") // brings the foreign setting back
	f.requireNotes(f.a, tx, notesOfA)
	f.exec(f.a, tx, "rollback to s")
	f.requireNotes(f.a, tx, notesOfA)
	_, err := tx.ExecContext(f.a, "selec")
	requireCode(t, err, "42601")
	f.exec(f.a, tx, "rollback to s")
	f.requireNotes(f.a, tx, notesOfA)
	require.NoError(t, tx.Commit())

	// The savepoint is the first statement, so the very first prologue flew in front of it.
	tx = f.begin(f.b)
	f.exec(f.b, tx, "savepoint s")
	f.exec(f.b, tx, "rollback to s")
	f.requireNotes(f.b, tx, notesOfB)
	require.NoError(t, tx.Rollback())
}

func TestADeadlineInATxIsArmedForTheStatementItBelongsTo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{plan: planOf(resolver.Unlimited, 4<<10)})
	tx := f.begin(f.a)
	require.Equal(t, "0", value[string](t, f.a, tx, "show statement_timeout"))
	long, cancel := context.WithTimeout(f.a, time.Minute)
	defer cancel()
	require.NotEqual(t, "0", value[string](t, long, tx, "show statement_timeout"))
	require.Equal(t, "0", value[string](t, f.a, tx, "show statement_timeout"))
	require.NoError(t, tx.Commit())
}

func TestAStmtPreparedOnATxRunsOnceInIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	stmt, err := tx.PrepareContext(f.a, "insert into orders (note) values ($1)")
	require.NoError(t, err)
	for range 3 {
		_, err = stmt.ExecContext(f.a, "p")
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	require.Equal(t, 3, outside[int](f, "select count(*) from orders where note = 'p' and tenant_id = 'acme'"))

	shared, err := f.db.PrepareContext(f.b, "insert into orders (note) values ($1)")
	require.NoError(t, err)
	defer shared.Close()
	tx = f.begin(f.a)
	_, err = tx.StmtContext(f.a, shared).ExecContext(f.a, "q")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.Equal(t, 1, outside[int](f, "select count(*) from orders where note = 'q' and tenant_id = 'acme'"))
}

func TestALostConnectionEndsTheTxOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	kill := func(pid int) {
		_, err := f.su.Exec(t.Context(), "select pg_terminate_backend($1)", pid)
		require.NoError(t, err)
		f.requireOutside("the backend is gone", 0, "select count(*) from pg_stat_activity where pid = $1", pid)
	}
	tx := f.begin(f.a)
	f.exec(f.a, tx, "insert into orders (note) values ('gone')")
	kill(f.pid(f.a, tx))
	for range 3 {
		_, err := tx.ExecContext(f.a, "insert into orders (note) values ('gone')")
		require.Error(t, err)
		require.NotContains(t, err.Error(), "bad connection")
	}
	require.Error(t, tx.Commit())
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'gone'"))
	f.requireOwnRows()

	// Nothing ran in this one yet, so it moves to another connection unseen.
	pid := f.pid(f.a, f.db)
	tx, err := f.db.BeginTx(f.a, &sql.TxOptions{Isolation: sql.LevelSerializable})
	require.NoError(t, err)
	kill(pid)
	f.exec(f.a, tx, "insert into orders (note) values ($1)", "moved")
	require.Equal(t, "serializable", value[string](t, f.a, tx, "show transaction_isolation"))
	require.NoError(t, tx.Commit())
	require.Equal(t, 1, outside[int](f, "select count(*) from orders where note = 'moved'"))
}
