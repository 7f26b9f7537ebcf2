package shardedpg_test

import (
	"context"
	"database/sql"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/limits"
)

// narrow is a PgBouncer with two connections to a server, which lets nobody wait for more than a second for one of them.
func narrow(t *testing.T) (*pgtest.Bouncer, string) {
	t.Helper()
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{
		PoolSize: 2, Settings: map[string]string{"query_wait_timeout": "1"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	return bouncer, database
}

// waiting is how many clients PgBouncer lets wait for a connection to a database.
func waiting(t *testing.T, bouncer *pgtest.Bouncer, database string) int {
	t.Helper()
	console, err := pgconn.Connect(context.Background(), bouncer.DSN("postgres", "pgbouncer"))
	require.NoError(t, err)
	defer console.Close(context.Background())
	results, err := console.Exec(context.Background(), "show pools").ReadAll()
	require.NoError(t, err)
	var clients int
	for _, row := range results[0].Rows {
		cells := make(map[string]string)
		for i, f := range results[0].FieldDescriptions {
			cells[f.Name] = string(row[i])
		}
		if cells["database"] == database {
			n, err := strconv.Atoi(cells["cl_waiting"])
			require.NoError(t, err)
			clients += n
		}
	}
	return clients
}

// hold takes both of PgBouncer's connections, for two transactions of tenant a.
func hold(t *testing.T, db *sql.DB) (release func()) {
	t.Helper()
	a := shardedpg.WithTenant(t.Context(), "a")
	var held []*sql.Tx
	for range 2 {
		tx, err := db.BeginTx(a, nil)
		require.NoError(t, err)
		seen(t, a, tx, "a", 1)
		held = append(held, tx)
	}
	return func() {
		for _, tx := range held {
			require.NoError(t, tx.Rollback())
		}
	}
}

func TestWhereSlotsExceedPgBouncersPoolStatementsWaitThere(t *testing.T) {
	t.Parallel()
	for name, idle := range map[string]int{"on a connection that is being made": 0, "on one that is there": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bouncer, database := narrow(t)
			db, connector := pooledConnector(t, bouncer, database, "exec", 8)
			b := shardedpg.WithTenant(t.Context(), "b")
			var conns []*sql.Conn
			for range idle {
				conn, err := db.Conn(b)
				require.NoError(t, err)
				seen(t, b, conn, "b", 1)
				conns = append(conns, conn)
			}
			for _, conn := range conns {
				require.NoError(t, conn.Close())
			}
			insert := func() error {
				_, err := db.ExecContext(b, "insert into notes values ('b', 100, 'once')")
				return err
			}
			release := hold(t, db)
			connects := connector.Stats().Shards[0].Backends.Connects
			failed := make(chan error)
			go func() { failed <- insert() }()
			require.Eventually(t, func() bool { return waiting(t, bouncer, database) == 1 }, 20*time.Second, time.Millisecond)
			err := <-failed
			require.ErrorIs(t, err, shardedpg.ErrShardBusy)
			require.NotErrorIs(t, err, shardedpg.ErrShardUnavailable)
			require.ErrorContains(t, err, "sharded_max_conns")
			require.True(t, pgconn.SafeToRetry(err))
			tries := connector.Stats().Shards[0].Backends.Connects - connects
			want := int64(1)
			if idle > 0 {
				want = 0
			}
			require.Equal(t, want, tries, "it does not wait there again")
			release()
			require.NoError(t, insert(), "it is there once")
		})
	}
}

func TestWhereSlotsFitPgBouncersPoolTheQueueIsTheDrivers(t *testing.T) {
	t.Parallel()
	bouncer, database := narrow(t)
	db, connector := pooledConnector(t, bouncer, database, "exec", 2)
	slots := func() limits.Stats { return connector.Stats().Shards[0].Slots }
	a, b := shardedpg.WithTenant(t.Context(), "a"), shardedpg.WithTenant(t.Context(), "b")
	release := hold(t, db)
	const many = 100
	var group sync.WaitGroup
	var done, before atomic.Int64
	run := func(ctx context.Context, then func()) {
		_, err := db.ExecContext(ctx, "select pg_sleep(0.02)")
		if err != nil {
			t.Errorf("got %v", err)
		}
		then()
	}
	for range many {
		group.Go(func() { run(a, func() { done.Add(1) }) })
	}
	require.Eventually(t, func() bool { return slots().Waiting == many }, 20*time.Second, time.Millisecond)
	group.Go(func() { run(b, func() { before.Store(done.Load()) }) })
	require.Eventually(t, func() bool { return slots().Waiting == many+1 }, 20*time.Second, time.Millisecond)
	// Longer than PgBouncer lets anybody wait, by its own clock.
	require.NoError(t, pgtest.Shared(t, "wire").Exec(t.Context(), database, "select pg_sleep(1.5)"))
	require.Zero(t, waiting(t, bouncer, database))
	release()
	most := 0
	for slots().Waiting > 0 {
		most = max(most, waiting(t, bouncer, database))
	}
	group.Wait()
	require.Zero(t, most, "nobody waits in PgBouncer")
	require.Less(t, before.Load(), int64(many/4), "another tenant does not wait for all of the first one's")
}
