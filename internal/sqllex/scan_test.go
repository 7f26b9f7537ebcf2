package sqllex_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

const (
	empty    = sqllex.Empty
	multi    = sqllex.Multi
	plain    = sqllex.Plain
	begin    = sqllex.Begin
	end      = sqllex.End
	backTo   = sqllex.RollbackTo
	txc      = sqllex.TxControl
	setTx    = sqllex.SetTransaction
	writes   = sqllex.Writes
	discard  = sqllex.Discard
	byName   = sqllex.SQLPrepared
	copyIn   = sqllex.CopyIn
	drops    = sqllex.DropsPrepared
	cluster  = sqllex.ClusterWide
	refused  = sqllex.StrictRefused
	unterm   = sqllex.Unterminated
	commits  = sqllex.MayCommit
	lasting  = sqllex.Lasting
	multiRef = multi | refused
)

// verdicts are exact: every flag that is not listed must be absent.
var verdicts = []struct {
	sql  string
	want sqllex.Flags
}{
	// nothing
	{"", empty | plain},
	{" \t\r\n\f\v", empty | plain},
	{";;; -- x", empty | plain},
	{"/* a /* b */ ; select */;", empty | plain},
	{"-- ping", empty | plain},
	{"/* open", empty | unterm | refused},
	{"/* a /* b */", empty | unterm | refused},
	{"/*/", empty | unterm | refused},

	// plain
	{"select 1", plain},
	{"SeLeCt 1;", plain},
	{"select * from t where a = 'x;y' and b = $1", plain},
	{"((select 1) union (select 2))", plain},
	{"with x as (select 1) select * from x", plain},
	{"with x as (insert into t values (1) returning *) select * from x", plain},
	{"with x as (select 1) insert into t select * from x", plain},
	{"with insert as (select 1) insert into t select * from insert", plain},
	{"values (1), (2)", plain},
	{"table t", plain},
	{"insert into t(a) values ($1)", plain | writes},
	{"update t set a = 1", plain | writes},
	{"delete from t", plain | writes},
	{"merge into t using s on t.a = s.a when matched then delete", plain | writes},
	{"show work_mem", plain | refused},
	{"fetch all from c", plain | refused},
	{"move next from c", plain | refused},
	{"savepoint a", plain | refused},
	{"release savepoint a", plain | refused},
	{"select 1::text, a->>'b', a @> b, 5*-1, 'a' || /* x */ 'b'", plain},
	{"select 'set_config'", plain},
	{"select $$set_config; drop table x$$", plain},
	{"select 1 -- set_config; select 2", plain},
	{`select "SET_CONFIG"`, plain},
	{"select my_set_config from set_configs", plain},
	{"select lo_orderkey, lo_revenue from lineorder", plain},
	{"select pg_advisory_xact_lock(1)", plain | refused},
	{"select pg_notify('a','b')", plain | refused},
	{"select lastval()", plain | refused},

	// looks plain, leaves something behind
	{"select set_config('a.b','c',false)", refused},
	{"select pg_catalog . /* x */ SET_Config('a.b','c',false)", refused},
	{`select "set_config"('a.b','c',false)`, refused},
	{`select U&"set\005fconfig"('a.b','c',false)`, lasting | refused},
	{`select U&"dblink\005fconnect"('x')`, lasting | refused},
	{`select u&'x'`, refused},
	{"select u & 'x'", plain},
	{`update pg_settings set setting = '1'`, writes | refused},
	{"select pg_advisory_lock(1)", refused},
	{"select pg_try_advisory_lock_shared(1)", refused},
	{"select pg_advisory_unlock(1)", 0},
	{"select setval('s', 1)", 0},
	{"select * from dblink('x')", refused},
	{"select dblink_connect_u('x')", lasting | refused},
	{`select "dblink_connect"('x'); select 1`, lasting | multiRef},
	{"select pg_create_physical_replication_slot('x', false, true)", lasting | refused},
	{"select query_to_xml('x', true, true, '')", refused},
	{"select lo_creat(-1)", writes | refused},
	{"select loread(lo_open(1, 262144), 1)", refused},
	{"select 1 into t", 0},
	{"select * into temp t from x", 0},
	{"(select * into temp t from x)", 0},
	{"with x as (select 1) select * into t from x", 0},
	{"select insert into temp t from (select 1 as insert) x", 0},
	{"with w as (select 1) select (1) insert into temp t", 0},
	{"with w as (select 1) (select (1) insert into temp t)", 0},
	{"select merge into temp t from x", 0},

	// transactions
	{"begin", plain | begin | txc | refused},
	{"BEGIN ISOLATION LEVEL SERIALIZABLE", plain | begin | txc | refused},
	{"start transaction read only", plain | begin | txc | refused},
	{"begin; select 1", begin | txc | multiRef},
	{"select 1; begin", txc | multiRef},
	{"commit", plain | end | txc | refused},
	{"end work", plain | end | txc | refused},
	{"abort", plain | end | txc | refused},
	{"rollback", plain | end | txc | refused},
	{"commit and chain", end | txc | refused},
	{"rollback work and chain", end | txc | refused},
	{"rollback to a", plain | backTo | refused},
	{"rollback work to savepoint a", plain | backTo | refused},
	{"rollback transaction to savepoint prepared", plain | backTo | refused},
	{"select 1; rollback to a; select 2", backTo | multiRef},
	{"commit prepared 'x'", txc | refused},
	{"rollback prepared 'x'", txc | refused},
	{"prepare transaction 'x'", txc | discard | refused},
	{"select 1; commit; select 2", txc | multiRef},
	{"set transaction isolation level serializable", setTx | refused},
	{"SET LOCAL TRANSACTION READ ONLY", setTx | refused},
	{"set session transaction read only", setTx | refused},
	{"set transaction_isolation = 'serializable'", setTx | refused},
	{"set constraints all deferred", setTx | refused},
	{"set session characteristics as transaction read only", refused},
	{"set session authorization x", refused},
	{"set local statement_timeout = 0", refused},
	{"select 1; set constraints all deferred", multiRef},

	// prepared statements
	{"prepare p as select 1", discard | byName | refused},
	{"execute p", byName | refused},
	{"deallocate p", discard | byName | refused},
	{`deallocate "all"`, discard | byName | refused},
	{"deallocate all", discard | byName | drops | refused},
	{"DEALLOCATE PREPARE ALL", discard | byName | drops | refused},
	{"discard plans", discard | refused},
	{"discard all", discard | drops | refused},
	{"select 1; discard all", discard | drops | multiRef},

	// data definition and the like
	{"create table t(a int)", writes | refused},
	{"create temp table t(a int)", refused},
	{"create local temporary table t(a int)", refused},
	{"create or replace temp view v as select 1", refused},
	{"create table temp(a int)", writes | refused},
	{"truncate t", writes | refused},
	{"vacuum t", writes | refused},
	{"copy t from stdin", copyIn | writes | refused},
	{"copy t (a, b) from stdin", copyIn | writes | refused},
	{"copy t to stdout", refused},
	{"copy (select a from t) to stdout", refused},
	{"do $$ begin end $$", refused},
	{"do $$ begin COMMIT; end $$", commits | refused},
	{"do language plpgsql 'begin rollback; end'", commits | refused},
	{"do $$ begin call p(); end $$", commits | refused},
	{"/* commit */ do $$ begin end $$ -- commit", refused},
	{"do 'begin com'\n'mit; end'", commits | refused},
	{"do language plpgsql 'begin com' -- \n 'mit; end'", commits | refused},
	{"do E'begin com'\n'mit; end'", commits | refused},
	{"do U&'begin !0063ommit; end' uescape '!'", commits | refused},
	{"select E'x'; do 'begin end' language plpgsql", commits | multiRef},
	{"do $$ begin perform public.DBlink_Connect('c', ''); end $$", lasting | refused},
	{"do $$ begin perform my_dblink_connect('c', ''); end $$", refused},
	{`do e'begin c\x6fmmit; end'`, commits | refused},
	{"call p()", commits | refused},
	{"select 1; CALL p()", commits | multiRef},
	{"insert into t values (1) on conflict do nothing", plain | writes},
	{"explain select 1", refused},
	{"listen x", refused},
	{"lock table t", refused},
	{"declare c cursor with hold for select 1", refused},

	// cluster-wide
	{"create role r", writes | cluster | refused},
	{"ALTER /**/ user u set a.b = 'c'", writes | cluster | refused},
	{"drop group g", writes | cluster | refused},
	{"drop owned by current_user", writes | cluster | refused},
	{"drop table owned", writes | refused},
	{"alter database d set work_mem = '1GB'", writes | cluster | refused},
	{"create tablespace s location '/x'", writes | cluster | refused},
	{"alter system set work_mem = '1GB'", writes | cluster | refused},
	{"select 1; alter system reset all", cluster | multiRef},
	{"create user mapping for u server s", writes | refused},
	{"drop user mapping if exists for u server s", writes | refused},
	{"alter user mapping for u server s options (a 'b')", writes | refused},
	{"create user mapping superuser", writes | cluster | refused},
	{`create user "mapping" for`, writes | cluster | refused},
	{"drop user if exists mapping", writes | cluster | refused},
	{"drop user mapping, b", writes | cluster | refused},
	{"grant r to u", writes | refused},
	{"create table role(a int)", writes | refused},

	// strings and identifiers
	{"select 'a", unterm | refused},
	{"select 'a''", unterm | refused},
	{`select "a`, unterm | refused},
	{"select $a$ $b$", unterm | refused},
	{"select 'it''s; fine'", plain},
	{`select 'a\'; select 1`, multiRef},
	{`select E'a\'; select 1'`, plain},
	{`select e'a\\'; select 1`, multiRef},
	{`select E'a\`, unterm | refused},
	{"select E'a' -- c\n 'b\\'; commit; select 1'", plain},
	{"select E'a'\r'b\\'; commit; select 1'", plain},
	{"select E'a' /* c */\n 'b\\'; commit; select 1 -- '", txc | multiRef},
	{"select 'a'\n'b\\'; commit; select 1 -- '", txc | multiRef},
	{`select ae'a\'; commit; select 1 -- '`, txc | multiRef},
	{`select "a""; commit; """`, plain},
	{"select N'a;b', B'01', X'0f'", plain},
	{"select $$a;$$, $t$;$$;$t$, $_1$;$_1$", plain},
	{"select $é$;$é$", plain},
	{"select a$b$; select c$b$", multiRef},
	{"select $1$a$;$a$", plain},
	{"select 1$a$;$a$", plain},
	{"select $1a$; select 1 $1a$", multiRef},
	{"select $a$ $ab$ ; $a$", plain},
	{"select $A$ $a$ ; commit $A$", plain},
	{"select 1from t", plain},

	// comments
	{"select 1 +-- ; commit\n 2", plain},
	{"select 1 -- x\r; commit", txc | multiRef},
	{"select 1 -- x\f; commit", plain},
	{"select 1 */* ; */ 2", plain},
	{"select /* /* ; */ ; commit */ 1", plain},
	{"select /* */ ; commit */ 1", txc | multiRef},
	{"select /***/ 1 /**/; commit", txc | multiRef},
	{"select '/*'; commit; select '*/'", txc | multiRef},
	{"select 1; /* nothing */ ; -- more", plain},

	// semicolons that do not split
	{"create rule r as on insert to t do (select 1; commit)", writes | refused},
	{"select (1; commit", 0 | plain},
	{"select 1); commit", txc | multiRef},
	{"create function f() returns int begin atomic select 1; select case when true then 1 end; end", writes | refused},
	{"create or replace procedure p() begin atomic end; commit", writes | txc | multiRef},
	{"create function f() returns int begin atomic select 1 case; end; commit", writes | txc | multiRef},
	{"create function f() returns int begin atomic select 1 end; select 2; end; commit", writes | txc | multiRef},
	{"create function begin() returns int as 'x'; atomic; commit", writes | txc | multiRef},
	{"create table t as begin atomic select 1; commit", writes | txc | multiRef},
	{"select begin atomic; commit", txc | multiRef},

	// the server stops at a NUL byte
	{"\x00select 1", empty | refused},
	{"select 1\x00; commit", refused},
}

func TestScanTellsWhatATextIs(t *testing.T) {
	t.Parallel()
	for _, tc := range verdicts {
		t.Run(tc.sql, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, names(tc.want), names(sqllex.Scan(tc.sql).Flags))
			require.Equal(t, sqllex.Scan(tc.sql), sqllex.ScanBytes([]byte(tc.sql)))
		})
	}
}

func TestFirstEndIsBehindTheSemicolonOfTheFirstStatement(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ sql, first string }{
		{"", ""},
		{"select 1", "select 1"},
		{"select 1;", "select 1;"},
		{"begin; select 1", "begin;"},
		{";; begin ; select 1; select 2", ";; begin ;"},
		{"select ';' /* ; */; select 1", "select ';' /* ; */;"},
		{"create rule r as on insert to t do (select 1; select 2); select 3", "create rule r as on insert to t do (select 1; select 2);"},
		{"create function f() returns int begin atomic select 1; end; commit", "create function f() returns int begin atomic select 1; end;"},
		{"; -- only\n;", "; -- only\n;"},
		{"select 1\x00; select 2", "select 1\x00; select 2"},
	} {
		t.Run(tc.sql, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.first, tc.sql[:sqllex.Scan(tc.sql).FirstEnd])
		})
	}
}

func TestHasAsksForAllFlags(t *testing.T) {
	t.Parallel()
	v := sqllex.Scan("begin")
	require.True(t, v.Has(sqllex.Begin|sqllex.Plain))
	require.False(t, v.Has(sqllex.Begin|sqllex.Multi))
}

func TestScanDoesNotAllocate(t *testing.T) { // not parallel: AllocsPerRun counts the whole process
	sql := strings.Repeat("select a, E'x\\'y', $$z$$, \"q\"\"r\" from t where b = $1; ", 5)
	buf := []byte(sql)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		sqllex.Scan(sql)
		sqllex.ScanBytes(buf)
	}))
}

var benchTexts = map[string][]byte{
	"point":   []byte("select id, email, name from customers where id = $1"),
	"hundred": []byte("select o.id, o.total, c.name from orders o join customers c on c.id = o.customer_id where o.id = $1 ;"),
	"refused": []byte("select * from orders where pg_catalog . set_config('app.current_tenant_id', $1, true) is not null"),
}

func BenchmarkScan(b *testing.B) {
	for name, sql := range benchTexts {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sqllex.ScanBytes(sql)
			}
		})
	}
}

var flagNames = []string{
	"Empty", "Multi", "Plain", "Begin", "End", "RollbackTo", "TxControl", "SetTransaction",
	"Writes", "Discard", "SQLPrepared", "CopyIn", "DropsPrepared", "ClusterWide", "StrictRefused", "Unterminated", "MayCommit", "Lasting",
}

func names(f sqllex.Flags) string {
	var out []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, "|")
}
