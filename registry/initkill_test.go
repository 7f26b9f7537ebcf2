package registry_test

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

// stop holds statements of others back until the server is killed.
func stop(t *testing.T, dsn, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	for _, text := range []string{"begin", statement} {
		_, err := conn.Exec(t.Context(), text)
		require.NoError(t, err, text)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
}

// waiting returns the statement that waits for a lock in a database.
func waiting(t *testing.T, server *pgtest.Server, database string) (statement string) {
	t.Helper()
	eventually(t, func() bool {
		found := query[string](t, server.DSN("postgres", "postgres"),
			`select query from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'`, database)
		if len(found) > 0 {
			statement = found[0]
		}
		return len(found) > 0
	})
	return statement
}

// Each case stops Init in front of one of its statements, by a table of that name that nobody has committed or by a lock,
// and kills the server there.
func TestInitThatIsKilledAnywhereIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "initkill", Settings: map[string]string{"synchronous_commit": "on"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	ctx := t.Context()
	first, err := os.ReadFile("schema_v1.sql")
	require.NoError(t, err)
	versionOne := []string{
		`create table sharded_pg.versions (version integer primary key, applied_at timestamptz not null default now())`,
		`insert into sharded_pg.versions (version) values (1)`,
		strings.ReplaceAll(string(first), "{s}", "sharded_pg"),
		`insert into sharded_pg.plans values ('free', 5000, 4096, 2, 1, 0)`,
	}
	for name, c := range map[string]struct {
		there []string // before
		stop  string
		in    string // what then waits
	}{
		"in front of the versions":    {nil, `create table sharded_pg.versions ()`, ".versions ("},
		"in the middle of version 1":  {nil, `create table sharded_pg.tenants ()`, "-- Version 1"},
		"in the middle of version 2":  {nil, `create table sharded_pg.graves ()`, "-- Version 2"},
		"at the start of an upgrade":  {versionOne, `lock table sharded_pg.shards in access share mode`, "-- Version 2"},
		"in the middle of an upgrade": {versionOne, `create table sharded_pg.graves ()`, "-- Version 2"},
		"in the middle of version 3":  {versionOne, `lock table sharded_pg.plans in access share mode`, "-- Version 3"},
		"near the end of an upgrade":  {versionOne, `lock table sharded_pg.audit_log in access share mode`, "-- Version 2"},
		"at the record of an upgrade": {versionOne, `lock table sharded_pg.versions in share mode`, ".versions (version) values"},
	} {
		database := server.NewDatabase(t, append([]string{`create schema sharded_pg`}, c.there...)...)
		dsn := server.DSN("postgres", database)
		stop(t, dsn, c.stop)
		store := open(t, dsn, nil)
		ended := make(chan error, 1)
		go func() { ended <- store.Init(ctx) }()
		require.Contains(t, waiting(t, server, database), c.in, name)
		require.NoError(t, server.Kill())
		require.Error(t, receive(t, ended), name)
		require.NoError(t, server.Restart(ctx))

		if c.there == nil {
			_, err = store.ListPlans(ctx)
			require.ErrorIs(t, err, registry.ErrNotInitialized, name)
			require.Equal(t, []int{0}, query[int](t, dsn, `select count(*) from pg_class where relnamespace = 'sharded_pg'::regnamespace`), name)
		} else {
			require.Equal(t, []string{"free 0"}, query[string](t, dsn, `select name || ' ' || rate from sharded_pg.plans`), "%s: a driver of version 1 goes on", name)
			require.Equal(t, []int{1}, query[int](t, dsn, `select version from sharded_pg.versions`), name)
			require.Equal(t, []int{0}, query[int](t, dsn, `select count(*) from information_schema.columns
 where table_schema = 'sharded_pg' and column_name in ('region', 'slug', 'kind', 'burst', 'under_throttle')`), "%s: all of it or nothing", name)
		}
		require.NoError(t, store.Init(ctx), name)
		plans, err := store.ListPlans(ctx)
		require.NoError(t, err)
		want := len(registry.DefaultPlans())
		if c.there != nil {
			want = 1
		}
		require.Len(t, plans, want, name)
		require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s1", DSN: "host=s1"}), name)
	}
}
