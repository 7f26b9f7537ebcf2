package shardedpg_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// deafSQL is a statement that does not hear that it is cancelled, for a while.
const deafSQL = `create function deaf() returns void language plpgsql as $$ begin
	for i in 1..20 loop
		begin perform pg_sleep(0.1); exception when query_canceled then null; end;
	end loop;
end $$`

const sessionsSQL = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'app'"

// TestALeaseHasOneConnectionAtATime: a *sql.Conn outlives the connection of a statement that was cancelled. The slot is for one, and the
// server is busy with that until it has heard of it.
func TestALeaseHasOneConnectionAtATime(t *testing.T) {
	t.Parallel()
	left := func(f *fleet, conn *sql.Conn) {
		ctx, cancel := context.WithCancel(f.a)
		defer cancel()
		done := make(chan error)
		go func() {
			_, err := conn.ExecContext(ctx, "select deaf()")
			done <- err
		}()
		f.requireOutside("it runs", 1, sessionsSQL+" and state = 'active' and query = 'select deaf()'")
		cancel()
		require.ErrorIs(f, <-done, context.Canceled)
	}
	leftWithSettings := func(f *fleet, conn *sql.Conn) {
		f.exec(f.a, conn, "set work_mem = '5MB'")
		left(f, conn)
		_, err := conn.ExecContext(f.a, "select 1")
		require.ErrorContains(f, err, "session state")
	}
	requireOne := func(f *fleet, q querier) { require.Equal(f, 1, value[int](f, f.a, q, sessionsSQL)) }
	for name, goOn := range map[string]func(f *fleet, conn *sql.Conn){
		"with its next statement": func(f *fleet, conn *sql.Conn) {
			left(f, conn)
			requireOne(f, conn)
		},
		"with a transaction": func(f *fleet, conn *sql.Conn) {
			left(f, conn)
			tx, err := conn.BeginTx(f.a, nil)
			require.NoError(f, err)
			requireOne(f, tx)
			require.NoError(f, tx.Rollback())
		},
		"with statements of little patience": func(f *fleet, conn *sql.Conn) {
			left(f, conn)
			for n := range 3 {
				ctx, cancel := context.WithTimeout(f.a, 100*time.Millisecond)
				_, err := conn.ExecContext(ctx, "select deaf()")
				cancel()
				require.ErrorIs(f, err, context.DeadlineExceeded)
				if n == 0 {
					require.ErrorContains(f, err, "still busy")
				}
			}
			requireOne(f, conn)
		},
		"when its settings were lost": func(f *fleet, conn *sql.Conn) {
			leftWithSettings(f, conn)
			requireOne(f, conn)
		},
		"when it ends instead": func(f *fleet, conn *sql.Conn) {
			leftWithSettings(f, conn)
			require.NoError(f, conn.Close())
			requireOne(f, f.db)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{schema: []string{deafSQL}})
			conn := f.conn(f.a)
			f.requireNotes(f.a, conn, notesOfA)
			goOn(f, conn)
		})
	}
}

// A statement that is left in the middle, as no context does, is stopped, and counts until it is.
func TestAConnectionThatIsLeftInTheMiddleCountsUntilTheServerHasStopped(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(){"by a panic": func() { panic("left") }, "without Close": func() {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			for range 3 {
				func() {
					defer func() { _ = recover() }()
					conn := f.conn(f.a)
					defer conn.Close()
					_ = conn.Raw(func(dc any) error {
						var batch pgx.Batch
						batch.Queue("select pg_sleep(60)")
						_ = dc.(*shardedpg.Conn).Conn().SendBatch(f.a, &batch)
						f.requireOutside("it runs", 1, sessionsSQL+" and wait_event = 'PgSleep'")
						leave()
						return nil
					})
				}()
			}
			require.Equal(t, 1, value[int](t, f.a, f.db, sessionsSQL))
		})
	}
}
