package shardedpg_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

// wire is a database seen twice through one proxy: by plain pgx and by the driver, one connection each.
type wire struct {
	proxy       *pgtest.Proxy
	plain, ours *sql.DB
	ctxA, ctxB  context.Context
}

const wireTables = `create table notes (tenant_id text not null, id bigint, note text, primary key (tenant_id, id));
alter table notes enable row level security;
alter table notes force row level security;
create policy notes_tenant on notes using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
do $$ begin create role wire_app login; exception when duplicate_object or unique_violation then null; end $$;
grant select, insert, update, delete on notes to wire_app;
insert into notes select t, i, t || i from unnest(array['a', 'b']) t, generate_series(1, 20) i`

func newWire(t *testing.T, options string) *wire {
	t.Helper()
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables)
	proxy, err := pgtest.StartProxy(t.Context(), server)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
	dsn := proxy.DSN("wire_app", database) + options

	cc, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	cc.RuntimeParams["app.current_tenant_id"] = "a"
	plain := stdlib.OpenDB(*cc)
	plain.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = plain.Close() })

	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: dsn}},
		Tenants: []registry.Tenant{{ID: "a", Shard: "s1", Plan: "starter"}, {ID: "b", Shard: "s1", Plan: "starter"}},
	})
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store, MaxConns: 1})
	require.NoError(t, err)
	ours := sql.OpenDB(connector)
	t.Cleanup(func() { _ = ours.Close() })
	ctx := t.Context()
	return &wire{proxy, plain, ours, shardedpg.WithTenant(ctx, "a"), shardedpg.WithTenant(ctx, "b")}
}

// flights runs f and returns what flew meanwhile.
func (w *wire) flights(t *testing.T, f func()) []pgtest.Flight {
	t.Helper()
	w.proxy.Log().Reset()
	f()
	require.NoError(t, w.proxy.Log().Err())
	return w.proxy.Log().Flights()
}

// waitedFor leaves out the resets sent at release, for whose answer nobody waits.
func waitedFor(flights []pgtest.Flight) (waited []pgtest.Flight) {
	for _, f := range flights {
		if f.Types() != strings.Repeat("BE", 4)+"PBE"+strings.Repeat("BE", 3)+"S" { // the attest is parsed anew
			waited = append(waited, f)
		}
	}
	return waited
}

const point = "select note from notes where id = $1"

func TestNoMoreFlightsThanPlainPgx(t *testing.T) {
	t.Parallel()
	read := func(t *testing.T, q interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}, ctx context.Context, query string, args ...any,
	) {
		t.Helper()
		var note string
		require.NoError(t, q.QueryRowContext(ctx, query, args...).Scan(&note))
		require.True(t, strings.HasPrefix(note, "a"), note)
	}
	inTx := func(t *testing.T, ctx context.Context, db *sql.DB, statements int, finish func(*sql.Tx) error) {
		t.Helper()
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		for range statements {
			read(t, tx, ctx, point, 1)
		}
		require.NoError(t, finish(tx))
	}
	cases := []struct {
		name        string
		plain, ours int // flights once warm
		run         func(t *testing.T, ctx context.Context, db *sql.DB)
	}{
		{"point read", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) { read(t, db, ctx, point, 1) }},
		{"exec without arguments", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			_, err := db.ExecContext(ctx, "update notes set note = note where id = 1")
			require.NoError(t, err)
		}},
		{"exec with arguments", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			_, err := db.ExecContext(ctx, "update notes set note = note where id = $1", 2)
			require.NoError(t, err)
		}},
		{"string of two statements", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			_, err := db.ExecContext(ctx, "select 1; update notes set note = note where id = 3")
			require.NoError(t, err)
		}},
		{"syntax error", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			_, err := db.ExecContext(ctx, "selec 1")
			require.Error(t, err)
		}},
		{"transaction of one statement", 3, 2, func(t *testing.T, ctx context.Context, db *sql.DB) {
			inTx(t, ctx, db, 1, (*sql.Tx).Commit)
		}},
		{"transaction of three statements", 5, 4, func(t *testing.T, ctx context.Context, db *sql.DB) {
			inTx(t, ctx, db, 3, (*sql.Tx).Commit)
		}},
		{"rolled back transaction", 3, 2, func(t *testing.T, ctx context.Context, db *sql.DB) {
			inTx(t, ctx, db, 1, (*sql.Tx).Rollback)
		}},
		{"empty transaction", 2, 0, func(t *testing.T, ctx context.Context, db *sql.DB) {
			inTx(t, ctx, db, 0, (*sql.Tx).Commit)
		}},
		{"simple protocol with arguments", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			read(t, db, ctx, point, pgx.QueryExecModeSimpleProtocol, 1)
		}},
		{"exec mode", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			read(t, db, ctx, point, pgx.QueryExecModeExec, int64(1))
		}},
		{"cached description", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) {
			read(t, db, ctx, point, pgx.QueryExecModeCacheDescribe, 1)
		}},
		{"description each time", 2, 2, func(t *testing.T, ctx context.Context, db *sql.DB) {
			read(t, db, ctx, point, pgx.QueryExecModeDescribeExec, 1)
		}},
		{"ping", 1, 1, func(t *testing.T, ctx context.Context, db *sql.DB) { require.NoError(t, db.PingContext(ctx)) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t, "")
			ctx := t.Context()
			cold := len(w.flights(t, func() { c.run(t, ctx, w.plain) }))
			c.run(t, ctx, w.plain)                         // pgx pings at its first reuse of a connection
			require.NoError(t, w.ours.PingContext(w.ctxA)) // connects
			ours := waitedFor(w.flights(t, func() { c.run(t, w.ctxA, w.ours) }))
			require.LessOrEqual(t, len(ours), cold, "first use, cold: %v", ours)
			require.Len(t, waitedFor(w.flights(t, func() { c.run(t, ctx, w.plain) })), c.plain, "plain pgx")
			ours = waitedFor(w.flights(t, func() { c.run(t, w.ctxA, w.ours) }))
			require.Len(t, ours, c.ours, "%v", ours)
		})
	}
}

func TestAfterAnIdleSecondStillOneFlight(t *testing.T) {
	t.Parallel()
	w := newWire(t, "")
	var note string
	read := func() { require.NoError(t, w.ours.QueryRowContext(w.ctxA, point, 1).Scan(&note)) }
	read()
	<-time.After(1100 * time.Millisecond) // pgx pings a connection that idled for a second; that is the condition
	require.Len(t, w.flights(t, read), 1)
}

func TestBetweenTenantsNothingButResetAndPrologue(t *testing.T) {
	t.Parallel()
	w := newWire(t, "")
	read := func(ctx context.Context, want string) {
		var note string
		require.NoError(t, w.ours.QueryRowContext(ctx, point, 1).Scan(&note))
		require.Equal(t, want, note)
	}
	read(w.ctxA, "a1")
	read(w.ctxB, "b1")
	same := w.flights(t, func() { read(w.ctxB, "b1") })
	require.Len(t, same, 1)
	require.Equal(t, "BE"+"BES", same[0].Types(), "prologue and statement: %v", same[0])
	require.Equal(t, []string{"b"}, same[0].Messages[0].Params, "only the tenant: the limits are the backend's own")

	other := w.flights(t, func() { read(w.ctxA, "a1") })
	require.Len(t, other, 1)
	require.Equal(t, strings.Repeat("BE", 7)+"BE"+"BES", other[0].Types(), "%v", other[0])
	for i := range 7 {
		require.Equal(t, fmt.Sprintf("sharded_pg_r%d", i), other[0].Messages[2*i].Name)
	}
	require.Equal(t, []string{"a"}, other[0].Messages[14].Params)
}

func TestWhatIsNotPlainIsResetAtReleaseWithoutWaiting(t *testing.T) {
	t.Parallel()
	w := newWire(t, "")
	_, err := w.ours.ExecContext(w.ctxA, "set timezone = 'Pacific/Kiritimati'")
	require.NoError(t, err)
	var zone string
	got := w.flights(t, func() {
		require.NoError(t, w.ours.QueryRowContext(w.ctxB, "show timezone", pgx.QueryExecModeExec).Scan(&zone))
	})
	require.NotEqual(t, "Pacific/Kiritimati", zone)
	got = waitedFor(got)
	require.Len(t, got, 1, "the reset flew at release, and the connection was kept: %v", got)
	require.Equal(t, "BE"+"PBDES", got[0].Types(), "%v", got)
}
