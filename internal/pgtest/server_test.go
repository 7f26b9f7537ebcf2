package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func TestThreeClustersRunBesideEachOther(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		server := pgtest.Shared(t, name)
		require.Same(t, server, pgtest.Shared(t, name))
		var folder, level string
		conn := connect(t, server.DSN("postgres", "postgres"))
		require.NoError(t, conn.QueryRow(t.Context(), "select current_setting('data_directory'), current_setting('wal_level')").Scan(&folder, &level))
		require.Equal(t, "logical", level)
		seen[folder] = true
	}
	require.Len(t, seen, 3)
}

func TestNewDatabaseRunsItsSchemaAndIsDropped(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "a")
	var name string
	t.Run("use", func(t *testing.T) {
		name = server.NewDatabase(t, "create table orders (id int); insert into orders values (7)", "insert into orders values (8)")
		var sum int
		require.NoError(t, connect(t, server.DSN("postgres", name)).QueryRow(t.Context(), "select sum(id) from orders").Scan(&sum))
		require.Equal(t, 15, sum)
	})
	var left int
	require.NoError(t, connect(t, server.DSN("postgres", "postgres")).
		QueryRow(t.Context(), "select count(*) from pg_database where datname = $1", name).Scan(&left))
	require.Zero(t, left)
}

func start(t *testing.T, o pgtest.Options) *pgtest.Server {
	t.Helper()
	server, err := pgtest.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

func TestKilledServerComesBackWithItsData(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{Name: "killed"})
	require.NoError(t, server.Exec(t.Context(), "postgres", "create table kept as select 42 as n", "checkpoint"))
	idle := connect(t, server.DSN("postgres", "postgres"))
	require.NoError(t, server.Kill())
	require.Error(t, idle.Ping(t.Context()))
	require.Error(t, server.Exec(t.Context(), "postgres", "select 1"))
	require.NoError(t, server.Restart(t.Context()))
	var n int
	require.NoError(t, connect(t, server.DSN("postgres", "postgres")).QueryRow(t.Context(), "select n from kept").Scan(&n))
	require.Equal(t, 42, n)
	require.NoError(t, server.StopKeep())
	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, server.Exec(t.Context(), "postgres", "select n from kept"))
}

func TestStopRemovesEverything(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{})
	dir, _ := server.Socket()
	require.DirExists(t, dir)
	require.NoError(t, server.Stop())
	require.NoDirExists(t, dir)
	require.NoFileExists(t, dir+".lock")
	require.NoError(t, server.Stop())
	require.ErrorContains(t, server.Restart(t.Context()), "its data removed")
}

func TestSettingsAndTCPAreTaken(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{TCP: true, Settings: map[string]string{"max_connections": "17"}})
	for _, dsn := range []string{server.DSN("postgres", "postgres"), "postgres://postgres@" + server.Addr() + "/postgres?sslmode=disable"} {
		var limit string
		require.NoError(t, connect(t, dsn).QueryRow(t.Context(), "show max_connections").Scan(&limit))
		require.Equal(t, "17", limit)
	}
}

func TestFailedStartShowsTheServersLog(t *testing.T) {
	t.Parallel()
	_, err := pgtest.Start(t.Context(), pgtest.Options{Name: "wrong", Settings: map[string]string{"no_such_setting": "1"}})
	require.ErrorContains(t, err, `server "wrong"`)
	require.ErrorContains(t, err, "no_such_setting")
}

func TestMissingServerSaysWhatToInstall(t *testing.T) {
	t.Setenv("SHARDEDPG_PGBIN", t.TempDir()) // not parallel: the environment is the process's
	_, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.ErrorIs(t, err, pgtest.ErrNotInstalled)
	require.ErrorContains(t, err, "apt-get install postgresql")
	require.NotContains(t, err.Error(), "\n")
	_, err = pgtest.Start(t.Context(), pgtest.Options{Major: 9})
	require.ErrorContains(t, err, "PostgreSQL 9 server: not installed")
}

func TestSocketPathIsShort(t *testing.T) {
	t.Parallel()
	dir, _ := pgtest.Shared(t, "a").Socket()
	require.Less(t, len(dir+"/.s.PGSQL.65535.lock"), 100)
}
