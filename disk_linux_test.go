package shardedpg_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// cramped is a fleet of two shards. Tenant A lives on a server of its own, one folder of which can be made full if it is named;
// its ledger is empty. Tenant B lives on the other one.
func cramped(t *testing.T, folder string, settings map[string]string) (*fleet, *pgtest.Server) {
	t.Helper()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "cramped", SmallDisk: folder, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	require.NoError(t, server.Exec(t.Context(), "postgres", ledgerSQL, "alter table ledger add pad text; alter table ledger alter pad set storage plain"))
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 4 },
		routes: func(_ *fleet, routes map[string]*resolver.Route) {
			routes[tenantA].Shard = resolver.Shard{Name: "full", DSN: server.DSN("app", "postgres")}
		},
	})
	return f, server
}

// Both write several thousand bytes, into the table or into the log only.
const (
	fillTable = "insert into ledger (token, pad) values ($1, $2)"
	fillLog   = "insert into ledger (token) select $1 from pg_logical_emit_message(false, '', $2::text)"
)

// insert writes one row, for a caller who does not wait for ever.
func (f *fleet) insert(query string, token int) error {
	ctx, cancel := context.WithTimeout(f.a, 10*time.Second)
	defer cancel()
	_, err := f.db.ExecContext(ctx, query, token, strings.Repeat("x", 6000))
	return err
}

// untilRefused inserts until that fails, and returns how many rows were acknowledged.
func (f *fleet) untilRefused(query string) (int, error) {
	f.Helper()
	for token := range 20_000 {
		if err := f.insert(query, token); err != nil {
			return token, err
		}
		if token%100 == 0 {
			f.requireNotes(f.b, f.db, notesOfB)
		}
	}
	require.FailNow(f, "the disk does not get full")
	return 0, nil
}

func (f *fleet) requireLedger(rows int, unsure int) {
	f.Helper()
	there := value[int](f, f.a, f.db, "select count(distinct token) from ledger")
	require.GreaterOrEqual(f, there, rows)
	require.LessOrEqual(f, there, rows+unsure)
	require.Equal(f, there, value[int](f, f.a, f.db, "select count(*) from ledger"))
}

func TestAFullDiskIsTheStatementsErrorAndNotTheShards(t *testing.T) {
	t.Parallel()
	f, server := cramped(t, "base", nil)
	require.NoError(t, f.insert(fillTable, -1))
	how, err := server.FillDisk()
	require.NoError(t, err)
	rows, err := f.untilRefused(fillTable)
	t.Logf("with %s, after %d rows: %v", how, rows, err)
	requireCode(t, err, "53100")
	connects := f.backends("full").Connects
	for range 10 {
		requireCode(t, f.insert(fillTable, rows), "53100")
		f.requireLedger(rows+1, 0) // who only reads goes on
		f.requireNotes(f.b, f.db, notesOfB)
	}
	require.False(t, f.backends("full").Down)
	require.NoError(t, server.FreeDisk())
	require.NoError(t, f.insert(fillTable, rows))
	f.requireLedger(rows+2, 0)
	require.Equal(t, connects, f.backends("full").Connects, "on the same connections")
}

func TestAServerWithoutRoomForItsLogIsUnavailableUntilItHasSome(t *testing.T) {
	t.Parallel()
	f, server := cramped(t, "pg_wal", map[string]string{"synchronous_commit": "on", "wal_recycle": "off"})
	require.NoError(t, f.insert(fillLog, -1))
	how, err := server.FillDisk()
	require.NoError(t, err)
	rows, err := f.untilRefused(fillLog)
	t.Logf("with %s, after %d rows: %v", how, rows, err)
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		require.Equal(t, "PANIC", answer.Severity)
	} else {
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	}
	require.False(t, pgconn.SafeToRetry(err), "nobody knows what the server had written")
	require.Eventually(t, func() bool {
		err = f.insert(fillLog, rows+1)
		return err != nil && f.backends("full").Down
	}, 30*time.Second, time.Millisecond)
	require.ErrorIs(t, f.insert(fillLog, rows+1), shardedpg.ErrShardUnavailable)
	require.True(t, pgconn.SafeToRetry(f.insert(fillLog, rows+1)))
	t.Logf("then: %v", f.insert(fillLog, rows+1))
	f.requireNotes(f.b, f.db, notesOfB)

	require.NoError(t, server.FreeDisk())
	require.NoError(t, server.Restart(t.Context()))
	require.Eventually(t, func() bool { return f.insert(fillLog, rows+2) == nil }, 20*time.Second, time.Millisecond)
	f.requireLedger(rows+2, 2)
	require.False(t, f.backends("full").Down)
}

func TestAKilledShardComesBackByItself(t *testing.T) {
	t.Parallel()
	f, server := cramped(t, "", map[string]string{"synchronous_commit": "on"})
	require.NoError(t, f.insert(fillTable, 0))
	require.NoError(t, server.Kill())
	require.Eventually(t, func() bool { _ = f.insert(fillTable, 1); return f.backends("full").Down }, 20*time.Second, time.Millisecond)
	for range 100 {
		require.ErrorIs(t, f.insert(fillTable, 1), shardedpg.ErrShardUnavailable)
		f.requireNotes(f.b, f.db, notesOfB)
	}
	require.NoError(t, server.Restart(t.Context()))
	require.Eventually(t, func() bool { return f.insert(fillTable, 1) == nil }, 20*time.Second, time.Millisecond)
	require.False(t, f.backends("full").Down)
	f.requireLedger(2, 0)
}
