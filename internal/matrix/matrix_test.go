package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// These tests are inside the package: a program exports nothing.

func readLines(t *testing.T, lines ...string) *result {
	t.Helper()
	r, err := read(strings.NewReader(strings.Join(lines, "\n")))
	require.NoError(t, err)
	return r
}

func TestScenariosCountAndWhatHoldsThemDoesNot(t *testing.T) {
	t.Parallel()
	r := readLines(t,
		`{"Action":"run","Test":"T"}`, `{"Action":"run","Test":"T/one"}`, `{"Action":"pass","Test":"T/one"}`,
		`{"Action":"run","Test":"T/two"}`, `{"Action":"run","Test":"T/two/a"}`,
		`{"Action":"output","Test":"T/two/a","Output":"    run.go:1: excluded: two/a: it cannot be: never\n"}`,
		`{"Action":"skip","Test":"T/two/a"}`, `{"Action":"pass","Test":"T/two"}`,
		`{"Action":"output","Test":"T","Output":"    x_test.go:1: on: PostgreSQL 14.1, PgBouncer 1.18.0\n"}`, `{"Action":"pass","Test":"T"}`,
	)
	require.NoError(t, r.problem)
	require.Equal(t, counts{passed: 1, excluded: 1}, r.counts)
	require.Equal(t, map[string]string{"two/a": "it cannot be: never"}, r.excluded)
	require.Equal(t, "PostgreSQL 14.1, PgBouncer 1.18.0", r.versions)
}

func TestAScenarioThatDidNotEndOrWasSkippedWithoutAReasonHasFailed(t *testing.T) {
	t.Parallel()
	r := readLines(t, `{"Action":"run","Test":"T"}`, `{"Action":"run","Test":"T/hangs"}`, `{"Action":"run","Test":"T/skips"}`,
		`{"Action":"output","Test":"T/skips","Output":"no server\n"}`, `{"Action":"skip","Test":"T/skips"}`)
	require.Equal(t, counts{failed: 2}, r.counts)
	require.ErrorContains(t, r.problem, "T/hangs: fail")
	require.ErrorContains(t, r.problem, "T/skips: skip\nno server")
}

func TestAFailureOutsideScenariosCounts(t *testing.T) {
	t.Parallel()
	r := readLines(t, `{"Action":"run","Test":"T"}`, `{"Action":"run","Test":"T/one"}`, `{"Action":"pass","Test":"T/one"}`,
		`{"Action":"fail","Test":"T"}`)
	require.Equal(t, counts{passed: 1, failed: 1}, r.counts)
}

func TestThePageSaysWhereAScenarioIsExcluded(t *testing.T) {
	t.Parallel()
	results := map[cell]*result{}
	for _, c := range cells() {
		if c.absence() != nil {
			continue
		}
		results[c] = &result{excluded: map[string]string{"always": "r"}}
		if c.major == 14 {
			results[c].excluded["old"] = "r"
		}
		if c.pooler != "direct" {
			results[c].excluded["pooled"] = "r"
		}
		if c.pooler == "prepared" && c.mode == "cache_statement" {
			results[c].excluded["one"] = "r"
		}
	}
	text := report(results)
	for _, line := range []string{
		"| always | everywhere | r |", "| old | PostgreSQL 14 | r |",
		"| pooled | session pooling; transaction pooling; transaction pooling, prepared statements followed | r |",
		"| one | transaction pooling, prepared statements followed; `cache_statement` | r |",
	} {
		require.Contains(t, text, line)
	}
}

func TestChoosingWhatDoesNotExistSaysWhatDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []choice{{major: 13}, {pooler: "odyssey"}, {mode: "fast"}, {pooler: "session", mode: "describe_exec"}} {
		_, err := choose(c)
		require.Error(t, err, "%+v", c)
	}
	chosen, err := choose(choice{major: 18, pooler: "transaction"})
	require.NoError(t, err)
	require.Len(t, chosen, len(modes)-2)
}

func TestARunGoesOnFromWhatHasPassedOnTheSameBuild(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	program := func(text string) kept {
		path := filepath.Join(t.TempDir(), "suite")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		k, err := keep(base, path)
		require.NoError(t, err)
		return k
	}
	k := program("one build")
	passed, failed, missing := cell{14, "direct", "exec"}, cell{15, "direct", "exec"}, cell{16, "direct", "exec"}
	want := &result{counts: counts{passed: 7, excluded: 1}, excluded: map[string]string{"a/b": "why"}, versions: "PostgreSQL 14.1"}
	require.NoError(t, k.save(passed, want))
	require.NoError(t, k.save(failed, &result{counts: counts{passed: 7, failed: 1}, problem: io.EOF}))

	results := map[cell]*result{}
	require.NoError(t, recall(io.Discard, program("one build"), []cell{passed, failed, missing}, results))
	require.Equal(t, map[cell]*result{passed: want}, results)
	other := map[cell]*result{}
	require.NoError(t, recall(io.Discard, program("another build"), []cell{passed}, other))
	require.Empty(t, other)
	require.NoError(t, k.forget())
	require.NoError(t, recall(io.Discard, program("one build"), []cell{passed}, other))
	require.Empty(t, other)
}

// A combination may be left out only when it cannot work whatever the driver does, so pgx alone must not get through either.
func TestPgxAloneFailsInTheCombinationsThatAreLeftOut(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers; run without -short")
	}
	t.Parallel()
	server := pgtest.Shared(t, "matrix")
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{PoolSize: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Stop()) })
	client := func(mode string) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), bouncer.DSN("postgres", "postgres")+" default_query_exec_mode="+mode)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		return conn
	}
	var n int
	require.NoError(t, client("cache_statement").QueryRow(t.Context(), "select $1::int", 1).Scan(&n))
	require.ErrorContains(t, client("cache_statement").QueryRow(t.Context(), "select $1::int", 1).Scan(&n), "42P05")

	first, second := client("describe_exec").PgConn(), client("describe_exec").PgConn()
	statement, err := first.Prepare(t.Context(), "", "select 'first'", nil)
	require.NoError(t, err)
	_, err = second.Prepare(t.Context(), "", "select 'second'", nil)
	require.NoError(t, err)
	answer := first.ExecStatement(t.Context(), statement, nil, nil, nil).Read()
	require.NoError(t, answer.Err)
	require.Equal(t, "second", string(answer.Rows[0][0]), "the other client's statement was executed")
}
