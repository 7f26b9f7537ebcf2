package sqllex_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// atoms are complete statements full of semicolons that do not count.
var atoms = []string{
	"select 1",
	"select ';'",
	`select 'a\', ';'`,
	`select E'\';\\'`,
	"select E'a' -- '\n '\\';'",
	"select 'a'\r';'",
	"select $$;$$, $a$;$$;$a$, $_$;$b$;$_$",
	`select "a;""b" from (select 1 as "a;""b") x`,
	"select /* ; /* ; */ ; */ 1",
	"select 1 -- ;\n + 1",
	"select 1 -- ;\r + 1",
	"select 1 +-- ;\n 1",
	"select 2 */* ; */ 2",
	`select U&'\003b;'`,
	"select N';', B'01', X'0f'",
	"(values (1), (2))",
	"create or replace temp view v as select 1 as a",
	"create temp table if not exists pg_temp.r(a int)",
	"create temp table if not exists pg_temp.r(a int); create or replace rule x as on insert to pg_temp.r do also (select 1; select ';')",
	"create or replace function pg_temp.f() returns int begin atomic select case when true then 1 end; select 1 as end; end",
	"create or replace procedure pg_temp.p() begin atomic end",
	"set client_min_messages = error",
	"savepoint a; rollback to a",
	"begin", "commit",
	"", "/* ; */", "-- ;\n", "-- ;\r",
}

var separators = []string{";", ";;", " ; ", ";\n", ";/* ; */", ";-- ;\r"}

// run sends text as one simple query and returns the tags of the statements that
// completed, from a session in which nothing is open.
func run(t *testing.T, conn *pgconn.PgConn, text string) (tags []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	mrr := conn.Exec(ctx, text)
	for mrr.NextResult() {
		tag, err := mrr.ResultReader().Close()
		if err == nil && tag.String() != "" { // the answer to an empty query has no tag
			tags = append(tags, tag.String())
		}
	}
	err = mrr.Close()
	_, undo := conn.Exec(ctx, "rollback").ReadAll()
	require.NoError(t, undo, text)
	return tags, err
}

// split cuts text at each FirstEnd and leaves out what is empty.
func split(text string) (statements []string) {
	for text != "" {
		v := sqllex.Scan(text)
		if !v.Has(sqllex.Empty) {
			statements = append(statements, text[:v.FirstEnd])
		}
		text = text[v.FirstEnd:]
	}
	return statements
}

func agree(t *testing.T, conn *pgconn.PgConn, text string) (ran bool) {
	t.Helper()
	tags, err := run(t, conn, text)
	statements := split(text)
	v := sqllex.Scan(text)
	require.Equal(t, len(statements) > 1, v.Has(sqllex.Multi), "%q", text)
	require.Equal(t, len(statements) == 0, v.Has(sqllex.Empty), "%q", text)
	if err != nil {
		require.GreaterOrEqual(t, len(statements), len(tags), "%q ran %v", text, tags)
		return false
	}
	require.Len(t, statements, len(tags), "%q ran %v", text, tags)
	if len(statements) > 0 {
		first, err := run(t, conn, statements[0])
		require.NoError(t, err, "%q alone", statements[0])
		require.Equal(t, tags[:1], first, "%q starts with %q", text, statements[0])
	}
	return true
}

func connect(t *testing.T) *pgconn.PgConn {
	t.Helper()
	s := pgtest.Shared(t, "sqllex")
	conn, err := pgconn.Connect(t.Context(), s.DSN("postgres", "postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestServerSeesTheSameStatements(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	for _, atom := range atoms {
		for _, sep := range separators {
			agree(t, conn, sep+atom+sep)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	ran := 0
	for range 1500 {
		var b strings.Builder
		for range 1 + rnd.IntN(4) {
			b.WriteString(atoms[rnd.IntN(len(atoms))])
			b.WriteString(separators[rnd.IntN(len(separators))])
		}
		if agree(t, conn, b.String()) {
			ran++
		}
	}
	require.Greater(t, ran, 1000, "most of the texts must reach execution, or nothing was compared")
}

// Random pieces are mostly syntax errors, for which the server runs nothing. Those
// that it accepts are the ones nobody thought of.
func TestServerSeesTheSameStatementsInRandomTexts(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	lexical := []string{
		"'", "'", `"`, "$$", "$a$", "$b$", "--", "/*", "*/", "E'", "e'", `\`, "''", ";", ";", "\n", "\r", " ", "a", "1", ",", "+", "*", "(", ")",
		";select 1", ";commit;", "as", "N'", "é", "_", "$",
	}
	ran := 0
	for range 6000 {
		var b strings.Builder
		b.WriteString("select 1 as a")
		for range 1 + rnd.IntN(7) {
			b.WriteString(lexical[rnd.IntN(len(lexical))])
		}
		if agree(t, conn, b.String()) {
			ran++
		}
	}
	require.Greater(t, ran, 300)
}
