package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// newBounced is a shard behind a PgBouncer, whose line to the server can be lost.
func newBounced(t *testing.T, execMode string) lossy {
	t.Helper()
	l, database := newLine(t)
	bouncer, err := pgtest.StartBouncer(t.Context(), l.line, pgtest.BouncerOptions{
		Settings: map[string]string{"server_login_retry": "1", "query_wait_timeout": "60"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Stop()) })
	l.db = pooled(t, bouncer, database, execMode, 4)
	return l
}

// cutBehind cuts the line when what do has sent has taken effect, and before the answer to that has arrived.
func (l lossy) cutBehind(t *testing.T, do func() error) error {
	t.Helper()
	l.line.SetDelay(2 * time.Second)
	failed := make(chan error)
	go func() { failed <- do() }()
	require.Eventually(t, func() bool { return l.count(t) == 1 }, 20*time.Second, time.Millisecond)
	l.line.Cut()
	l.line.SetDelay(0)
	return <-failed
}

func TestAStatementWhoseAnswerIsLostBehindAPoolerIsNotRunAgain(t *testing.T) {
	t.Parallel()
	ctx := shardedpg.WithTenant(t.Context(), "b")
	for _, mode := range []string{"exec", "simple_protocol", "cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := newBounced(t, mode)
			seen(t, ctx, b.db, "b", 1)
			err := b.cutBehind(t, func() error { _, err := b.db.ExecContext(ctx, insert); return err })
			require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
			require.ErrorContains(t, err, "it may have taken effect")
			require.False(t, pgconn.SafeToRetry(err))
			require.NoError(t, b.db.PingContext(ctx))
			require.Equal(t, 1, b.count(t))
		})
	}
}

func TestACommitWhoseAnswerIsLostBehindAPoolerMayHaveTakenEffect(t *testing.T) {
	t.Parallel()
	ctx := shardedpg.WithTenant(t.Context(), "b")
	b := newBounced(t, "exec")
	tx := begun(t, ctx, b.db)
	err := b.cutBehind(t, tx.Commit)
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.ErrorContains(t, err, "may have been committed")
	require.False(t, pgconn.SafeToRetry(err))
}

func TestATransactionWhoseServerIsLostBehindAPoolerIsOver(t *testing.T) {
	t.Parallel()
	ctx := shardedpg.WithTenant(t.Context(), "b")
	b := newBounced(t, "exec")
	tx := begun(t, ctx, b.db)
	failed := make(chan error)
	go func() { _, err := tx.ExecContext(ctx, "select pg_sleep(60)"); failed <- err }()
	b.asleep(t)
	b.line.Cut()
	err := <-failed
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.ErrorContains(t, err, "start it again")
	_ = tx.Rollback() // has nothing left to do
	require.NoError(t, b.db.PingContext(ctx))
	require.Zero(t, b.count(t))
}

// PgBouncer takes statements for a server that is gone, and ends the connection of each when it has found that out.
func TestAPoolerThatCannotLogInIsAShardUnavailable(t *testing.T) {
	t.Parallel()
	ctx := shardedpg.WithTenant(t.Context(), "b")
	for _, mode := range []string{"exec", "simple_protocol", "cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := newBounced(t, mode)
			try := func() error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, err := b.db.ExecContext(ctx, insert)
				return err
			}
			var conns []*sql.Conn
			for range 4 {
				conn, err := b.db.Conn(ctx)
				require.NoError(t, err)
				seen(t, ctx, conn, "b", 1)
				conns = append(conns, conn)
			}
			for _, conn := range conns { // connections to PgBouncer that are idle
				require.NoError(t, conn.Close())
			}
			b.line.Refuse(true)
			b.line.Cut()
			var err error
			require.Eventually(t, func() bool {
				err = try()
				return err != nil && !errors.Is(err, context.DeadlineExceeded)
			}, 20*time.Second, time.Millisecond)
			require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
			require.ErrorContains(t, err, "check that the server is up")
			require.True(t, pgconn.SafeToRetry(err))
			b.line.Refuse(false)
			require.Eventually(t, func() bool { return try() == nil }, 20*time.Second, time.Millisecond)
			require.Equal(t, 1, b.count(t))
		})
	}
}
