package shardedpg_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// rowsOf ends a pipeline and returns the first value of each row.
func rowsOf(t *testing.T, p *pgconn.Pipeline) (values []string) {
	t.Helper()
	require.NoError(t, p.Flush())
	for {
		results, err := p.GetResults()
		require.NoError(t, err)
		if results == nil {
			require.NoError(t, p.Close())
			return values
		}
		if reader, ok := results.(*pgconn.ResultReader); ok {
			r := reader.Read()
			require.NoError(t, r.Err)
			for _, row := range r.Rows {
				values = append(values, string(row[0]))
			}
		}
	}
}

func TestAPipelineIsItsTenantsWhereverATransactionBegins(t *testing.T) {
	t.Parallel()
	query := func(p *pgconn.Pipeline, text string) { p.SendQueryParams(text, nil, nil, nil, nil) }
	for name, send := range map[string]func(p *pgconn.Pipeline){
		"in a later part": func(p *pgconn.Pipeline) {
			query(p, notesSQL)
			p.SendPipelineSync()
			query(p, "begin isolation level serializable")
		},
		"in a part of its own": func(p *pgconn.Pipeline) {
			query(p, notesSQL)
			p.SendPipelineSync()
			query(p, "begin")
			p.SendPipelineSync()
			query(p, "set transaction isolation level serializable")
		},
		"in front of a close": func(p *pgconn.Pipeline) {
			query(p, "begin")
			p.SendDeallocate("nothing")
			query(p, notesSQL)
			p.SendDeallocate("nothing")
		},
		"in front of a description": func(p *pgconn.Pipeline) {
			p.SendPrepare("notes", notesSQL, nil)
			p.SendPipelineSync()
			query(p, "begin")
			p.SendDeallocate("nothing")
			p.SendQueryPrepared("notes", nil, nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			f.requireNotes(f.b, f.db, notesOfB)
			conn := f.conn(f.a)
			f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
				p := c.PgConn().StartPipeline(ctx)
				send(p)
				query(p, notesSQL)
				query(p, "commit")
				p.SendPipelineSync()
				require.Equal(t, []string{notesOfA, notesOfA}, rowsOf(t, p))
				return nil
			})
			f.requireNotes(f.a, conn, notesOfA)
			require.NoError(t, conn.Close())
		})
	}
}

func TestAFunctionCalledByItsNumberIsRefusedAndTheConnectionStaysUsable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	oid := outside[uint32](f, "select 'now'::regproc::oid")
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		fe := c.PgConn().Frontend()
		fe.Send(&pgproto3.FunctionCall{Function: oid})
		require.NoError(t, fe.Flush())
		answer, err := fe.Receive()
		require.NoError(t, err)
		require.IsType(t, &pgproto3.ErrorResponse{}, answer)
		answer, err = fe.Receive()
		require.NoError(t, err)
		require.IsType(t, &pgproto3.ReadyForQuery{}, answer)
		return c.Ping(ctx)
	})
	f.requireNotes(f.a, conn, notesOfA)
}

// rawPooled runs do on the pgx connection of tenant a.
func rawPooled(t *testing.T, db *sql.DB, do func(ctx context.Context, c *pgconn.PgConn)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(shardedpg.WithTenant(t.Context(), "a"), 20*time.Second)
	defer cancel()
	conn, err := db.Conn(ctx)
	require.NoError(t, err)
	require.NoError(t, conn.Raw(func(c any) error {
		do(ctx, c.(interface{ Conn() *pgx.Conn }).Conn().PgConn())
		return nil
	}))
	require.NoError(t, conn.Close())
}

// A pooler gives the server connection to others between the parts of a pipeline, also when nobody has read their answers yet.
func TestEachPartOfAPipelineBehindAPoolerIsResetByItself(t *testing.T) {
	t.Parallel()
	bouncer, database, foreign := besideAnother(t)
	db := pooled(t, bouncer, database, "exec", 1)
	const look = "select coalesce(current_setting('app.trace', true), '') || min(note) || max(tenant_id) from notes"
	rawPooled(t, db, func(ctx context.Context, c *pgconn.PgConn) {
		p := c.StartPipeline(ctx)
		for range 3 {
			p.SendQueryParams(look, nil, nil, nil, nil)
			require.NoError(t, p.Sync())
			_, err := foreign.Exec(ctx, "create temp table notes as select 'foreign'::text as note, 'x'::text as tenant_id")
			require.NoError(t, err)
			_, err = foreign.Exec(ctx, "set app.trace = 'behind'")
			require.NoError(t, err)
		}
		require.Equal(t, []string{"a1a", "a1a", "a1a"}, rowsOf(t, p))
	})
	// Where a transaction begins or ends, nobody knows which server connection is next.
	for _, first := range []string{"begin", "commit"} {
		rawPooled(t, db, func(ctx context.Context, c *pgconn.PgConn) {
			p := c.StartPipeline(ctx)
			p.SendQueryParams(first, nil, nil, nil, nil)
			p.SendPipelineSync()
			p.SendQueryParams(look, nil, nil, nil, nil)
			p.SendPipelineSync()
			require.NoError(t, p.Flush())
			_, err := p.GetResults()
			require.ErrorContains(t, err, "behind a pooler", first)
			_ = p.Close()
		})
	}
	rawPooled(t, db, func(ctx context.Context, c *pgconn.PgConn) {
		_, err := c.Exec(ctx, "begin").ReadAll()
		require.NoError(t, err)
		p := c.StartPipeline(ctx)
		for _, text := range []string{look, look, "commit"} {
			p.SendQueryParams(text, nil, nil, nil, nil)
			p.SendPipelineSync()
		}
		require.Equal(t, []string{"a1a", "a1a"}, rowsOf(t, p))
	})
}
