package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func startBouncer(t *testing.T, server *pgtest.Server, o pgtest.BouncerOptions) *pgtest.Bouncer {
	t.Helper()
	bouncer, err := pgtest.StartBouncer(t.Context(), server, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Stop()) })
	return bouncer
}

// simple connects without prepared statements, which PgBouncer carries in transaction mode only since 1.21.
func simple(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	return connect(t, dsn+" default_query_exec_mode=simple_protocol")
}

func backendPID(t *testing.T, conn *pgx.Conn) (pid int) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid))
	return pid
}

func TestTransactionModeSharesOneBackend(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "a")
	database := server.NewDatabase(t, "create role pooled login")
	bouncer := startBouncer(t, server, pgtest.BouncerOptions{Mode: "transaction", PoolSize: 1})
	first := simple(t, bouncer.DSN("pooled", database))
	second := simple(t, bouncer.DSN("pooled", database))
	require.Equal(t, backendPID(t, first), backendPID(t, second))
	require.NotEqual(t, first.PgConn().PID(), uint32(backendPID(t, first)), "the bouncer's key data is not the backend's")
	require.NoError(t, server.Exec(t.Context(), "postgres", "drop role pooled"))
}

func TestSessionModeKeepsTheBackendUntilTheClientLeaves(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "a")
	database := server.NewDatabase(t)
	bouncer := startBouncer(t, server, pgtest.BouncerOptions{Mode: "session", PoolSize: 2})
	first := simple(t, bouncer.DSN("postgres", database))
	second := simple(t, bouncer.DSN("postgres", database))
	pid := backendPID(t, first)
	require.NotEqual(t, pid, backendPID(t, second))
	require.Equal(t, pid, backendPID(t, first))
	require.NoError(t, first.Close(t.Context()))
	require.Equal(t, pid, backendPID(t, simple(t, bouncer.DSN("postgres", database))))
}

// Newer versions follow them by default, and what a test sees must not depend on the version. That they are followed when asked
// for is what the matrix shows: its cells would fail.
func TestPreparedStatementsAreNotFollowedUnlessAskedFor(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "a")
	database := server.NewDatabase(t)
	bouncer := startBouncer(t, server, pgtest.BouncerOptions{PoolSize: 1})
	require.NotEmpty(t, bouncer.Version())
	prepare := func() error {
		_, err := simple(t, bouncer.DSN("postgres", database)).PgConn().Prepare(t.Context(), "s", "select 1", nil)
		return err
	}
	require.NoError(t, prepare())
	require.ErrorContains(t, prepare(), "42P05", "the second client's statement, on the same server connection")
}

func TestBouncerRefusesUnknownMode(t *testing.T) {
	t.Parallel()
	_, err := pgtest.StartBouncer(t.Context(), pgtest.Shared(t, "a"), pgtest.BouncerOptions{Mode: "statements"})
	require.ErrorContains(t, err, "use session or transaction")
}

func TestBouncerThatDoesNotStartShowsItsLog(t *testing.T) {
	t.Parallel()
	_, err := pgtest.StartBouncer(t.Context(), pgtest.Shared(t, "a"), pgtest.BouncerOptions{Settings: map[string]string{"auth_type": "nonsense"}})
	require.ErrorContains(t, err, "nonsense")
}
