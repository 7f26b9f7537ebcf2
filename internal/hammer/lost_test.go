package hammer_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

// lossy is a shard behind a proxy that can lose connections, and a superuser's view of it.
type lossy struct {
	db    *sql.DB
	proxy *pgtest.Proxy
	admin *pgconn.PgConn
	ctx   context.Context // of the tenant acme
}

func newLossy(t *testing.T) *lossy {
	t.Helper()
	server := pgtest.Shared(t, "lossy")
	name := server.NewDatabase(t, `
do $$begin create role app login noinherit; exception when duplicate_object or unique_violation then null; end$$;
create table writes(tenant_id text not null default current_setting('app.current_tenant_id'), token text);
grant select, insert on writes to app;`)
	proxy, err := pgtest.StartProxy(t.Context(), server)
	require.NoError(t, err)
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: proxy.DSN("app", name)}},
		Tenants: []registry.Tenant{{ID: "acme", Shard: "s1"}},
	})
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store})
	require.NoError(t, err)
	l := &lossy{db: sql.OpenDB(connector), proxy: proxy, ctx: shardedpg.WithTenant(t.Context(), "acme")}
	l.admin, err = pgconn.Connect(t.Context(), server.DSN("postgres", name))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.db.Close())
		require.NoError(t, proxy.Stop())
		_ = l.admin.Close(context.Background())
	})
	return l
}

// ask returns the one value of a query.
func (l *lossy) ask(t *testing.T, query string) string {
	t.Helper()
	res, err := l.admin.Exec(t.Context(), query).ReadAll()
	require.NoError(t, err)
	return string(res[0].Rows[0][0])
}

const sleepers = "select count(*) from pg_stat_activity where usename = 'app' and datname = current_database() and wait_event = 'PgSleep'"

// The server finishes what it has begun, whether the client is still there or not.
func TestStatementIsNotRunAgainWhenItsAnswerIsLost(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	require.NoError(t, l.db.PingContext(l.ctx))
	failed := make(chan error, 1)
	go func() {
		_, err := l.db.ExecContext(l.ctx, "insert into writes(token) select 'once' from pg_sleep(0.5)")
		failed <- err
	}()
	require.Eventually(t, func() bool { return l.ask(t, sleepers) == "1" }, 10*time.Second, 5*time.Millisecond)
	l.proxy.Refuse(true) // also to pgx's request to cancel what it has lost
	l.proxy.Cut()
	err := <-failed
	require.Error(t, err)
	require.False(t, pgconn.SafeToRetry(err), "LEDGER: %v: a caller who trusts this writes twice", err)
	require.Eventually(t, func() bool { return l.ask(t, sleepers) == "0" && l.ask(t, "select count(*) from writes") == "1" },
		10*time.Second, 20*time.Millisecond, "LEDGER: the write was run again, or not at all")
}

func TestConnectionLostInsideHandMadeTransactionEndsIt(t *testing.T) {
	t.Parallel()
	l := newLossy(t)
	conn, err := l.db.Conn(l.ctx)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(l.ctx, "begin")
	require.NoError(t, err)
	l.proxy.Cut()
	for range 2 { // the first may meet the loss in the middle, the second cannot
		if _, err = conn.ExecContext(l.ctx, "insert into writes(token) values ('outside')"); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.Equal(t, "0", l.ask(t, "select count(*) from writes"), "LEDGER: it ran outside its transaction")
}
