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
