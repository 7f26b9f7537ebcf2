package shardedpg_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

// lossy is a driver on a shard whose line can be lost, and what the server has, past that line.
type lossy struct {
	db     *sql.DB
	line   *pgtest.Proxy
	direct *sql.DB
}

const insert = "insert into notes select 'b', max(id) + 1, 'once' from notes"

// count is how many rows insert has made.
func (l lossy) count(t *testing.T) int {
	t.Helper()
	return value[int](t, t.Context(), l.direct, "select count(*) from notes where note = 'once'")
}

// begun is a transaction in which insert has run.
func begun(t *testing.T, ctx context.Context, on interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
},
) *sql.Tx {
	t.Helper()
	tx, err := on.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(ctx, insert)
	require.NoError(t, err)
	return tx
}

func (l lossy) conn(t *testing.T, ctx context.Context) *sql.Conn {
	t.Helper()
	conn, err := l.db.Conn(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asleep waits until a statement sleeps.
func (l lossy) asleep(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return value[bool](t, t.Context(), l.direct, "select exists (select from pg_stat_activity "+
			"where datname = current_database() and wait_event = 'PgSleep')")
	}, 20*time.Second, time.Millisecond)
}

// newLine is a database and a line to its server, and no driver yet.
func newLine(t *testing.T) (l lossy, database string) {
	t.Helper()
	server := pgtest.Shared(t, "wire")
	database = server.NewDatabase(t, wireTables)
	line, err := pgtest.StartProxy(t.Context(), server)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, line.Stop()) })
	direct, err := sql.Open("pgx", server.DSN("postgres", database))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, direct.Close()) })
	return lossy{line: line, direct: direct}, database
}

func newLossy(t *testing.T) (l lossy, b context.Context) {
	t.Helper()
	l, database := newLine(t)
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: l.line.DSN("wire_app", database)}},
		Tenants: []registry.Tenant{{ID: "a", Shard: "s1", Plan: "starter"}, {ID: "b", Shard: "s1", Plan: "growth"}},
	})
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store, MaxConns: 4, TenantShare: 1})
	require.NoError(t, err)
	l.db = sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, l.db.Close()) })
	b = shardedpg.WithTenant(t.Context(), "b")
	require.NoError(t, l.db.PingContext(b))
	return l, b
}

func TestATransactionThatGotNoConnectionIsOver(t *testing.T) {
	t.Parallel()
	l, ctx := newLossy(t)
	begin := func() *sql.Tx {
		tx, err := l.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		require.NoError(t, err)
		l.line.Refuse(true)
		l.line.Cut()
		_, err = tx.ExecContext(ctx, insert)
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
		require.True(t, pgconn.SafeToRetry(err))
		l.line.Refuse(false)
		return tx
	}
	tx := begin()
	for _, tenant := range []string{"b", "a"} { // outside it they would succeed
		_, err := tx.ExecContext(shardedpg.SwitchTenant(ctx, tenant), insert)
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
		require.ErrorContains(t, err, "start it again")
	}
	_ = tx.Rollback() // has nothing left to do
	require.NoError(t, l.db.PingContext(ctx))
	require.ErrorIs(t, begin().Commit(), shardedpg.ErrShardUnavailable, "nothing of it was committed")
	require.Zero(t, l.count(t))
	_, err := l.db.ExecContext(ctx, insert)
	require.NoError(t, err, "the connection serves others")
}

func TestCommitAfterAStatementThatWasLostFails(t *testing.T) {
	t.Parallel()
	l, ctx := newLossy(t)
	tx, err := l.db.BeginTx(ctx, nil)
	require.NoError(t, err)
	failed := make(chan error)
	go func() { _, err := tx.ExecContext(ctx, insert+" where pg_sleep(60) is not null"); failed <- err }()
	l.asleep(t)
	l.line.Cut()
	require.ErrorIs(t, <-failed, shardedpg.ErrShardUnavailable)
	require.ErrorIs(t, tx.Commit(), shardedpg.ErrShardUnavailable)
}

func TestACommitThatFailsLeavesNoTransactionBehind(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(run func(text string), cancel func()){
		"broken by the caller":      func(run func(text string), _ func()) { run("select 1"); run("commit and chain") },
		"whose context has ended":   func(run func(text string), cancel func()) { run("select 1"); cancel() },
		"in which nothing was done": func(_ func(text string), cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := newLossy(t)
			conn := l.conn(t, ctx)
			bounded, cancel := context.WithCancel(ctx)
			defer cancel()
			require.NoError(t, conn.Raw(func(dc any) error { // database/sql rolls back by itself, unless its COMMIT has begun
				c := dc.(*shardedpg.Conn)
				tx, err := c.BeginTx(bounded, driver.TxOptions{})
				require.NoError(t, err)
				spoil(func(text string) {
					_, err := c.ExecContext(ctx, text, nil)
					require.NoError(t, err)
				}, cancel)
				require.Error(t, tx.Commit())
				return nil
			}))
			_, err := conn.ExecContext(ctx, insert)
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			require.Equal(t, 1, l.count(t), "a statement of its own")
		})
	}
}

func TestWhatFollowsABeginThatWasLostIsRefused(t *testing.T) {
	t.Parallel()
	l, ctx := newLossy(t)
	conn := l.conn(t, ctx)
	_, err := conn.ExecContext(ctx, "begin")
	require.NoError(t, err)
	l.line.Cut()
	l.requireOver(t, ctx, conn, insert, insert, "rollback", insert)
}

// requireOver: nothing runs on the connection any more, nothing of it is there, and others go on.
func (l lossy) requireOver(t *testing.T, ctx context.Context, conn *sql.Conn, texts ...string) {
	t.Helper()
	for _, text := range texts {
		_, err := conn.ExecContext(ctx, text)
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable, text)
		require.ErrorContains(t, err, "close this *sql.Conn")
	}
	require.NoError(t, conn.Close())
	require.Zero(t, l.count(t))
	_, err := l.db.ExecContext(ctx, insert)
	require.NoError(t, err)
}

// Nobody knows whether it has begun a transaction. If so, its caller means what follows to be in it.
func TestWhatFollowsABeginWhoseAnswerWasLostIsRefused(t *testing.T) {
	t.Parallel()
	const begun = "select exists (select from pg_stat_activity where datname = current_database() and state = 'idle in transaction')"
	for name, lose := range map[string]func(l lossy, leave func()){
		"by a cut":                func(l lossy, _ func()) { l.line.Cut() },
		"by a context that ended": func(_ lossy, leave func()) { leave() },
	} {
		for _, text := range []string{"begin", "start transaction; select 1", "select 1; begin"} {
			t.Run(name+", "+text, func(t *testing.T) {
				t.Parallel()
				l, ctx := newLossy(t)
				conn := l.conn(t, ctx)
				require.NoError(t, conn.PingContext(ctx))
				bounded, cancel := context.WithCancel(ctx)
				defer cancel()
				l.line.SetDelay(2 * time.Second)
				failed := make(chan error)
				go func() { _, err := conn.ExecContext(bounded, text); failed <- err }()
				require.Eventually(t, func() bool { return value[bool](t, ctx, l.direct, begun) }, 20*time.Second, time.Millisecond)
				lose(l, cancel)
				l.line.SetDelay(0)
				err := <-failed
				require.Error(t, err)
				require.False(t, pgconn.SafeToRetry(err))
				l.requireOver(t, ctx, conn, insert, "commit", insert)
			})
		}
	}
}

func TestATransactionThatHasEndedLeavesItsConnUsable(t *testing.T) {
	t.Parallel()
	hurried := func(l lossy, ctx context.Context, tx *sql.Tx) {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, _ = tx.ExecContext(ctx, "select pg_sleep(60)")
	}
	cut := func(l lossy, _ context.Context, _ *sql.Tx) { l.line.Cut() }
	for name, c := range map[string]struct {
		lose func(l lossy, ctx context.Context, tx *sql.Tx)
		end  func(tx *sql.Tx) error
	}{
		"a deadline and Rollback": {hurried, (*sql.Tx).Rollback}, "a deadline and Commit": {hurried, (*sql.Tx).Commit},
		"a cut and Rollback": {cut, (*sql.Tx).Rollback}, "a cut and Commit": {cut, (*sql.Tx).Commit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := newLossy(t)
			conn := l.conn(t, ctx)
			tx := begun(t, ctx, conn)
			c.lose(l, ctx, tx)
			_ = c.end(tx)
			_, err := conn.ExecContext(ctx, insert)
			require.NoError(t, err)
			require.NoError(t, begun(t, ctx, conn).Rollback())
			require.Equal(t, 1, l.count(t))
		})
	}
}

func TestAnEndWhileRowsAreOpenLeavesNoTransactionBehind(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*sql.Tx) error{"Commit": (*sql.Tx).Commit, "Rollback": (*sql.Tx).Rollback} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := newLossy(t)
			conn := l.conn(t, ctx)
			tx := begun(t, ctx, conn)
			var rows pgx.Rows
			require.NoError(t, conn.Raw(func(dc any) (err error) {
				rows, err = dc.(*shardedpg.Conn).Conn().Query(ctx, "select generate_series(1, 100000)")
				return err
			}))
			err := end(tx)
			require.Error(t, err)
			require.NotErrorIs(t, err, shardedpg.ErrShardUnavailable, "it was not lost")
			_, err = conn.ExecContext(ctx, insert)
			require.NoError(t, err)
			rows.Close()
			require.NoError(t, conn.Close())
			require.Equal(t, 1, l.count(t))
		})
	}
}

func TestASecondTransactionOnAConnIsRefused(t *testing.T) {
	t.Parallel()
	l, ctx := newLossy(t)
	conn := l.conn(t, ctx)
	tx, err := conn.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = conn.BeginTx(ctx, nil)
	require.ErrorContains(t, err, "end it before BeginTx")
	_, err = tx.ExecContext(ctx, insert)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	require.Zero(t, l.count(t))
}

func TestALossIsToldAlsoWhereStatementsHaveToBePreparedAgain(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{"in a transaction": "begin", "outside": "select 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := newLossy(t)
			conn := l.conn(t, ctx)
			for _, text := range []string{begin, "deallocate all"} {
				_, err := conn.ExecContext(ctx, text)
				require.NoError(t, err)
			}
			l.line.Cut()
			_, err := conn.ExecContext(ctx, insert)
			require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
			require.False(t, begin == "begin" && pgconn.SafeToRetry(err))
			_, err = conn.ExecContext(ctx, insert)
			if begin == "begin" {
				require.ErrorContains(t, err, "close this *sql.Conn")
				return
			}
			require.NoError(t, err)
		})
	}
}

func TestAnErrorIsNotThatOfAnEarlierStatement(t *testing.T) {
	t.Parallel()
	l, ctx := newLossy(t)
	conn := l.conn(t, ctx)
	require.NoError(t, conn.PingContext(ctx))
	require.NoError(t, conn.Raw(func(dc any) error {
		_, err := dc.(*shardedpg.Conn).Conn().Exec(ctx, "create role forbidden")
		require.Error(t, err)
		return nil
	}))
	_, err := conn.ExecContext(ctx, insert+"; commit; select 1/0")
	var server *pgconn.PgError
	require.ErrorAs(t, err, &server)
	require.Equal(t, "22012", server.Code)
	require.Equal(t, 1, l.count(t))
}

// The rows' caller has been told. Of the next statement nothing was sent, so it runs on another connection.
func TestALossUnderRowsIsNotThatOfTheNextStatement(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(l lossy){
		"by a cut": func(l lossy) { l.line.Cut() },
		"by an administrator": func(l lossy) {
			_, err := l.direct.ExecContext(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename = 'wire_app'")
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := newLossy(t)
			conn := l.conn(t, ctx)
			rows, err := conn.QueryContext(ctx, "select repeat('x', 1000) from generate_series(1, 100000)")
			require.NoError(t, err)
			require.True(t, rows.Next())
			lose(l)
			for rows.Next() {
			}
			require.Error(t, rows.Err())
			_, err = conn.ExecContext(ctx, insert)
			require.NoError(t, err)
			require.Equal(t, 1, l.count(t))
		})
	}
}

// With these settings the driver takes several statements for one, of which nothing would have been committed.
func TestATextThatIsReadOtherwiseIsNotRunAgain(t *testing.T) {
	t.Parallel()
	const strings, encoding = "set standard_conforming_strings = off", "set client_encoding = sjis"
	for _, c := range [][3]string{
		{strings, `select 'a\', '; `, "execute nosuch"},
		{strings, `select 'a\', '; `, "vacuum notes"},
		{encoding, "select E'\x81\x5c'; ", "execute nosuch"},
	} {
		t.Run(c[0]+", "+c[2], func(t *testing.T) {
			t.Parallel()
			l, ctx := newLossy(t)
			conn := l.conn(t, ctx)
			_, err := conn.ExecContext(ctx, c[0])
			require.NoError(t, err)
			_, err = conn.ExecContext(ctx, c[1]+insert+"; commit; "+c[2]+"; --'")
			require.Error(t, err)
			require.Equal(t, 1, l.count(t))
		})
	}
}
