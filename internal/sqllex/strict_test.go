package sqllex_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

func TestTheStrictGuardIsToldWhatItFound(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]sqllex.Finding{
		"select 1":                          {},
		"(table t)":                         {},
		"select 'set_config; ' /* ; */ --;": {},
		`select "SET_CONFIG"`:               {},
		"-- nothing":                        {},

		"begin":               {sqllex.OfVerb, "begin"},
		"Commit":              {sqllex.OfVerb, "commit"},
		"rollback to a":       {sqllex.OfVerb, "rollback"},
		"savepoint secret":    {sqllex.OfVerb, "savepoint"},
		"/**/ set a.b = 'c'":  {sqllex.OfVerb, "set"},
		"reset all":           {sqllex.OfVerb, "reset"},
		"prepare p as values": {sqllex.OfVerb, "prepare"},
		"do $$ begin end $$":  {sqllex.OfVerb, "do"},
		"copy (select 1) to stdout": {
			sqllex.OfVerb, "copy",
		},
		"secret is no word of ours": {sqllex.OfVerb, ""},
		`"select" 1`:                {sqllex.OfVerb, ""},
		"$1":                        {sqllex.OfVerb, ""},

		"explain select 1": {sqllex.OfVerb, "explain"},
		"explain analyze verbose (select 1) union (select 2)":         {sqllex.OfVerb, "explain"},
		"explain (analyze, format json) with x as (select 1) table x": {sqllex.OfVerb, "explain"},
		"explain (select (1))":                            {sqllex.OfVerb, "explain"},
		"explain (costs off) ((values (1)))":              {sqllex.OfVerb, "explain"},
		"explain analyze update t set a = 1":              {sqllex.OfVerb, "explain"},
		"explain (analyze) execute p":                     {sqllex.OfExplained, "execute"},
		"explain analyze create table t as select 1":      {sqllex.OfExplained, "create"},
		"explain (verbose, analyze (1)) declare c cursor": {sqllex.OfExplained, "declare"},
		"explain 'secret'":                                {sqllex.OfExplained, ""},
		"explain secret":                                  {sqllex.OfExplained, ""},

		"select set_config('a.b', 'c', false)":         {sqllex.OfName, "set_config"},
		`select pg_catalog./**/"set_config"('a')`:      {sqllex.OfName, "set_config"},
		"table PG_SETTINGS":                            {sqllex.OfName, "pg_settings"},
		"select set_confİg('a.b', 'c', false)":         {sqllex.OfName, "set_config"},
		`select "set_confİg"('a.b')`:                   {},
		"update pg_settings set setting = secret":      {sqllex.OfName, "pg_settings"},
		"select dblink_exec_secret()":                  {sqllex.OfName, "dblink"},
		"explain select lastval()":                     {sqllex.OfName, "lastval"},
		"set a.b = set_config('c', 'd', false)":        {sqllex.OfName, "set_config"},
		"select lo_get(1), set_config('c', 'd', true)": {sqllex.OfName, "lo_get"},

		`select U&"set\005fconfig"('a')`:          {sqllex.OfUnicode, ""},
		`select set_config(U&'x')`:                {sqllex.OfUnicode, ""},
		`select u&"set!005fconfig" uescape '!'()`: {sqllex.OfUnicode, ""},

		"select 1; select 2":               {sqllex.OfSeveral, ""},
		"select 1; select set_config('a')": {sqllex.OfSeveral, ""},
		"set a = b; commit":                {sqllex.OfSeveral, ""},
		"select 1\x00; secret":             {sqllex.OfNUL, ""},
		"select 1; select 'secret":         {sqllex.OfOpen, ""},
		"select $a$ set_config":            {sqllex.OfOpen, ""},
		"select 1 /* set_config /* */":     {sqllex.OfOpen, ""},
		`select "a`:                        {sqllex.OfOpen, ""},
	} {
		v := sqllex.Scan(sql)
		require.Equal(t, want, v.Strict, sql)
		require.Equal(t, want.Why != 0, v.Has(sqllex.StrictRefused), sql)
	}
}

func TestWhatCanBeAllowedIsKnownAsAFirstWord(t *testing.T) {
	t.Parallel()
	require.True(t, slices.IsSorted(sqllex.Allowable()))
	for _, word := range sqllex.Allowable() {
		require.True(t, sqllex.CanAllow(word))
		require.Equal(t, sqllex.Finding{Why: sqllex.OfVerb, Word: word}, sqllex.Scan(word+" select 1").Strict)
	}
	for _, word := range []string{
		"", "set", "reset", "discard", "do", "prepare", "execute", "deallocate", "load", "create", "alter", "drop", "grant", "import",
		"security", "select", "SAVEPOINT",
	} {
		require.False(t, sqllex.CanAllow(word), word)
	}
}

// lockDown finds the functions that an administrator would take away from a shared login, and the views of them.
const lockDown = `with f as (select oid, proname from pg_proc where pronamespace = 'pg_catalog'::regnamespace and (proname in (
	'set_config', 'pg_terminate_backend', 'pg_cancel_backend', 'pg_notify', 'pg_logical_emit_message', 'pg_export_snapshot',
	'pg_stat_get_activity', 'pg_stat_get_backend_activity', 'pg_lock_status', 'pg_prepared_statement', 'pg_cursor', 'pg_prepared_xact',
	'query_to_xml', 'query_to_xmlschema', 'query_to_xml_and_xmlschema', 'cursor_to_xml', 'cursor_to_xmlschema',
	'table_to_xml', 'table_to_xmlschema', 'table_to_xml_and_xmlschema', 'schema_to_xml', 'schema_to_xmlschema',
	'schema_to_xml_and_xmlschema', 'database_to_xml', 'database_to_xmlschema', 'database_to_xml_and_xmlschema', 'ts_stat', 'lastval')
	or proname ~ '^pg_(try_)?advisory_(xact_)?lock' or proname ~ '^(lo_|loread|lowrite)' or oid = 'ts_rewrite(tsquery, text)'::regprocedure))
select oid::text, proname from f union all
select c.oid::text, c.relname from pg_rewrite r join pg_class c on c.oid = r.ev_class and c.relnamespace = 'pg_catalog'::regnamespace
where c.relname = 'pg_settings' or exists (select from f where r.ev_action::text ~ (':funcid ' || f.oid || ' '))`

// forbidden are the names of lockDown by OID, on this server.
func forbidden(t testing.TB, conn *pgconn.PgConn) map[string]string {
	t.Helper()
	results, err := conn.Exec(context.Background(), lockDown).ReadAll()
	require.NoError(t, err)
	names := make(map[string]string)
	for _, row := range results[0].Rows {
		names[string(row[0])] = string(row[1])
	}
	require.Greater(t, len(names), 60)
	return names
}

func TestStrictKnowsEveryFunctionOfTheLockDownAndTheirViews(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	for _, name := range forbidden(t, conn) {
		for _, sql := range []string{
			"select " + name + "()", "select pg_catalog." + strings.ToUpper(name) + "()", `table "` + name + `"`,
			"with x as (delete from t where " + name + " is null) select 1",
		} {
			require.Equal(t, sqllex.Finding{Why: sqllex.OfName, Word: name}, sqllex.Scan(sql).Strict, sql)
		}
	}
}

var named = regexp.MustCompile(`:(?:funcid|relid|opfuncid|winfnoid|aggfnoid) (\d+)`)

// parsed returns which forbidden names the server's own parser finds in sql, which it does not run.
func parsed(t testing.TB, conn *pgconn.PgConn, forbidden map[string]string, sql string) (found []string, ok bool) {
	t.Helper()
	ctx := context.Background()
	results, err := conn.Exec(ctx, "begin; create function pg_temp.probe() returns void language sql begin atomic "+sql+"\n;end; "+
		"select prosqlbody from pg_proc where proname = 'probe' and pronamespace = pg_my_temp_schema()").ReadAll()
	_, undo := conn.Exec(ctx, "rollback").ReadAll()
	require.NoError(t, undo)
	if err != nil || len(results) != 3 || len(results[2].Rows) != 1 {
		return nil, false
	}
	for _, m := range named.FindAllSubmatch(results[2].Rows[0][0], -1) {
		if name := forbidden[string(m[1])]; name != "" {
			found = append(found, name)
		}
	}
	return found, true
}

// spelled writes a name in one of the ways that PostgreSQL takes for it, or nearly.
func spelled(rnd *rand.Rand, name string) string {
	mixed := []byte(name)
	for i := range mixed {
		if rnd.IntN(2) == 0 {
			mixed[i] = strings.ToUpper(name)[i]
		}
	}
	at := rnd.IntN(len(name))
	ways := []string{
		name, string(mixed), strings.ToUpper(name), `"` + name + `"`, `"` + string(mixed) + `"`,
		fmt.Sprintf(`U&"%s\%04x%s"`, name[:at], name[at], name[at+1:]), fmt.Sprintf(`u&"%s!+%06x%s" uescape '!'`, name[:at], name[at], name[at+1:]),
		`"` + name[:at] + `""` + name[at:] + `"`, name[:at] + "/**/" + name[at:], "'" + name + "'", "$$" + name + "$$",
	}
	prefix := []string{"", "", "pg_catalog.", `"pg_catalog" . `, "PG_Catalog/* ; */.\n", `U&"pg\005fcatalog".`}
	return prefix[rnd.IntN(len(prefix))] + ways[rnd.IntN(len(ways))]
}

var (
	calls = []string{
		"set_config('a.b', 'c', false)", "pg_notify('a', 'b')", "lo_get(1::oid)", "pg_advisory_lock(1)", "pg_try_advisory_xact_lock(1, 2)",
		"query_to_xml('select 1', true, true, '')", "lastval()", "pg_cancel_backend(1)", "ts_rewrite('a'::tsquery, 'select 1'::text)",
		"current_setting('a.b', true)", "length('set_config(')", "upper($$; pg_notify$$)", `lower(E'\'; lastval() --')`,
	}
	relations = []string{"pg_settings", "pg_locks", "pg_stat_activity", "pg_cursors", "pg_class"}
	wholes    = []string{
		"select %s", "select 1 as a where %s is not null", "select * from %s as x", "values (1, (select (%s)::text))", "select * from t order by %s",
		"with x as materialized (select %s as y) select y from x", "insert into t select 1 from (select %s) x", "insert into t values (1) returning %s",
		"update t set a = 2 where (%s)::text <> ''", "delete from t using (select %s) x", "select case when a > 1 then null else %s end from t",
		"select (select count(*) from lateral (select %s) x) from t", "select 'a' || (%s)::text || 'b'", "(select 1) union all (select 1 from (select %s) x)",
	}
	tables = []string{"select * from %s", "table %s", "select 1 from t where exists (table %s)", "with x as (select 1 from %s) select * from x"}
	noise  = []string{"'", `"`, "--", "\n", "/*", "*/", "$$", "$a$", `\`, "E'", "''", "; ", "(", ")", "u&", " "}
)

// text makes a statement that may call something.
func text(rnd *rand.Rand) string {
	whole, name, rest := tables[rnd.IntN(len(tables))], relations[rnd.IntN(len(relations))], ""
	if rnd.IntN(4) > 0 {
		whole = wholes[rnd.IntN(len(wholes))]
		name, rest, _ = strings.Cut(calls[rnd.IntN(len(calls))], "(")
		rest = "(" + rest
	}
	sql := fmt.Sprintf(whole, spelled(rnd, name)+rest)
	for range rnd.IntN(3) * rnd.IntN(3) {
		at := rnd.IntN(len(sql) + 1)
		sql = sql[:at] + noise[rnd.IntN(len(noise))] + sql[at:]
	}
	return sql
}

func newProbe(t testing.TB) (*pgconn.PgConn, map[string]string) {
	t.Helper()
	s := pgtest.Shared(t, "sqllex")
	database := s.NewDatabase(t, "create table t (a int)")
	conn, err := pgconn.Connect(context.Background(), s.DSN("postgres", database))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn, forbidden(t, conn)
}

func TestTheServersParserFindsNothingForbiddenInWhatStrictAccepts(t *testing.T) {
	t.Parallel()
	conn, forbidden := newProbe(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	var caught, passed int
	for range 6000 {
		sql := text(rnd)
		found, ok := parsed(t, conn, forbidden, sql)
		switch accepted := sqllex.Scan(sql).Strict.Why == 0; {
		case len(found) > 0 && accepted:
			t.Errorf("%q: the server finds %v", sql, found)
		case len(found) > 0:
			caught++
		case ok && accepted:
			passed++
		}
	}
	t.Log(caught, passed)
	require.Greater(t, caught, 1000, "most of the texts must reach the server's parser, or nothing was compared")
	require.Greater(t, passed, 300, "and strict must accept some, or it is no wonder")
}

func FuzzStrictOnServer(f *testing.F) {
	conn, forbidden := newProbe(f)
	for seed := range uint64(20) {
		f.Add(text(rand.New(rand.NewPCG(seed, 7))))
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if strings.ContainsRune(sql, 0) || sqllex.Scan(sql).Strict.Why != 0 {
			return
		}
		found, _ := parsed(t, conn, forbidden, sql)
		require.Empty(t, found)
	})
}
