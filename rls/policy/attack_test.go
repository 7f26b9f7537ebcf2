package policy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

// wide is a database whose app role is there before the first apply.
func wide(t testing.TB, s *pgtest.Server, statements ...string) *bench {
	t.Helper()
	b := newBench(t, s, policytest.Wide(appRole(), 2))
	b.exec(t, "create role "+b.Config.App+" login")
	for _, statement := range statements {
		b.exec(t, b.fill(statement))
	}
	return b
}

func (b *bench) fill(text string) string {
	return strings.NewReplacer("{app}", b.Config.App, "{owner}", b.Config.Owner, "{maintenance}", b.Config.Maintenance, "{db}", b.name).Replace(text)
}

// denied runs each statement as the app role.
func (b *bench) denied(t testing.TB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		_, err := b.as(t, tenantA, b.fill(statement))
		require.ErrorContains(t, err, "42501", statement)
	}
}

// closes applies, and takes that back.
func (b *bench) closes(t testing.TB, attacks ...string) {
	t.Helper()
	before := b.everything(t)
	b.apply(t)
	require.Empty(t, b.plan(t).Diff())
	b.denied(t, attacks...)
	after := b.everything(t)
	_, err := policy.Rollback(t.Context(), b.admin, nil)
	require.NoError(t, err)
	same(t, before, b.everything(t))
	b.exec(t, b.plan(t).Script())
	same(t, after, b.everything(t), "the script makes the same")
}

func TestAnEmptySchemaIsNoPlaceToStandInFront(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "grant create on schema public to public", "create schema mine authorization {app}",
			"create schema lent; grant usage, create on schema lent to {app}; alter default privileges in schema lent grant select on tables to {app}",
			"alter role {app} in database {db} set search_path = public, app, pg_temp")
		require.Contains(t, b.plan(t).Diff(), "schema public\n  - rights to create: CREATE to public")
		b.closes(t, "create function public.lower(uuid) returns text language sql as 'select 1'", "create table public.t0 ()",
			"create table lent.t0 ()", "create table mine.t0 ()")
		b.exec(t, "create table lent.later ()")
		b.denied(t, "select * from lent.later")
	})
}

func TestASchemaOfFunctionsIsTakenFromTheAppRole(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "create schema f authorization {app}",
			"create function f.stamp() returns trigger language plpgsql as 'begin return new; end'",
			"create trigger stamp before insert on app.t0 for each row execute function f.stamp()")
		require.Contains(t, b.plan(t).Diff(), b.fill("schema f\n  - owner: {app}\n  + owner: {owner}"))
		b.closes(t, "drop function f.stamp() cascade", "create function f.other() returns int language sql as 'select 1'")
		_, err := b.as(t, tenantA, "insert into app.t0 (id) values (1)")
		require.NoError(t, err, "what is in the schema can be used")
	})
}

func TestTheAppRoleOwnsNothing(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "create function app.stamp() returns trigger language plpgsql as 'begin return new; end'", "alter function app.stamp() owner to {app}",
			`create type app."Mood 1" as enum ('a'); create domain app.size as int; create type app.pair as (a int); create type app.span as range (subtype = int)`,
			`alter type app."Mood 1" owner to {app}; alter domain app.size owner to {app}; alter type app.pair owner to {app}; alter type app.span owner to {app}`)
		_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
		require.ErrorIs(t, err, policy.ErrProblems)
		require.ErrorContains(t, err, b.fill(`this belongs to it: function app.stamp(). Look at what it does, and give it to {owner} (reassign owned by "{app}" to "{owner}"), or drop it`))
		b.exec(t, "alter function app.stamp() owner to postgres")
		b.closes(t, `alter type app."Mood 1" add value 'b'`, "alter domain app.size set default 1", "alter type app.pair add attribute b int", "drop type app.span")
	})
}

func TestTheDatabaseIsTakenFromTheAppRole(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "revoke all on database {db} from public", "alter database {db} owner to {app}")
		require.Contains(t, b.plan(t).Diff(), b.fill("database {db}\n  - owner: {app}\n  + owner: {owner}"))
		b.closes(t, "create schema mine", "create temporary table t0 ()", "alter database {db} set search_path = x", "drop schema public",
			"create table public.t0 ()")
		b.exec(t, b.fill("alter database {db} owner to {app}"))
		require.Contains(t, b.plan(t).Diff(), b.fill("- owner: {app}"), "drift")
	})
}

func TestAViewShowsNoTableThatIsNotTheTenants(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "create table app.secrets (key text)", "insert into app.secrets values ('x')",
			"create view app.keys as select * from app.secrets", "create view app.more_keys as select * from app.keys",
			"create materialized view app.kept as select * from app.secrets", "create view app.kept_keys as select * from app.kept",
			"create view app.shown as select left(key, 0) as key from app.secrets",
			"create schema tenant_x; create table tenant_x.t (key text); create view app.skipped as select * from tenant_x.t",
			"create foreign data wrapper {app}_far; create server {app}_far foreign data wrapper {app}_far",
			"create foreign table app.far (key text) server {app}_far", "create view app.far_keys as select * from app.far",
			"grant usage on schema app to {app}", "grant select on all tables in schema app to {app}")
		b.Config.Private, b.Config.Global = []string{"app.secrets", "app.kept", "app.far"}, []string{"app.shown"}
		for _, view := range []string{"keys", "more_keys", "kept_keys", "skipped"} {
			_, err := b.as(t, "", "select * from app."+view)
			require.NoError(t, err, "it can be read before")
		}
		b.closes(t, "select * from app.keys", "select * from app.more_keys", "select * from app.kept_keys", "select * from app.skipped")
		got, err := b.as(t, "", "select key from app.shown")
		require.NoError(t, err)
		require.Equal(t, []string{""}, got, "this one was declared global")
		var open bool
		require.NoError(t, b.admin.QueryRow(t.Context(), `select has_table_privilege($1, oid, 'SELECT') and coalesce('security_invoker=on' <> all (reloptions), true)
 from pg_class where oid = 'app.far_keys'::regclass`, b.Config.App).Scan(&open))
		require.False(t, open)
	})
}

func TestEachTableThatATableInheritsFromCounts(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"), "create table app.open (id int)", "create table app.secrets (id int)",
		"create table app.both () inherits (app.open, app.secrets)", "create table app.rows (tenant_id uuid, id int)",
		"create table app.shown () inherits (app.rows, app.open)", "create table app.kept (tenant_id uuid) inherits (app.secrets)",
		"create schema tenant_x; create table tenant_x.t (id int); create table app.lost () inherits (tenant_x.t)",
		"create table tenant_x.stray () inherits (app.t0); grant usage on schema tenant_x to {app}; grant select on tenant_x.stray to {app}")
	b.Config.Global, b.Config.Private = []string{"app.open"}, []string{"app.secrets", "app.lost"}
	_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.ErrorIs(t, err, policy.ErrProblems)
	for _, problem := range []string{
		"table app.both is declared global and private", "table app.shown is declared global and has the tenant column",
		"table app.lost is a part of a table that the plan does not look at", "table app.t0 has parts that the plan does not look at, which get no policies (tenant_x.stray)",
	} {
		require.ErrorContains(t, err, problem)
	}
	require.Equal(t, 4, strings.Count(err.Error(), "\n"), "%v", err)
	b.exec(t, "drop table app.both, app.shown, app.lost, tenant_x.stray", "insert into app.kept values (1)", "delete from app.kept")
	b.Config.Private = b.Config.Private[:1]
	b.apply(t)
	var guarded bool
	require.NoError(t, b.admin.QueryRow(t.Context(), "select attnotnull from pg_attribute where attrelid = 'app.kept'::regclass and attname = 'tenant_id'").Scan(&guarded))
	require.True(t, guarded, "its table has no tenant column to get this from")
}

func TestATenantColumnToWhichTwoTenantsAreOneIsAProblem(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Views(appRole()))
	b.exec(t, "create collation app.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
		"create table app.named (tenant_id text collate app.loose, id int)")
	_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.ErrorIs(t, err, policy.ErrProblems)
	require.ErrorContains(t, err, "table app.named: its tenant column has the collation loose, to which different texts are equal")
	b.exec(t, `alter table app.named alter tenant_id type text collate "C"`)
	b.apply(t)
	_, err = b.as(t, "acme", "insert into app.named values (default, 1)")
	require.NoError(t, err)
	got, err := b.as(t, "ACME", "select count(*) from app.named")
	require.NoError(t, err)
	require.Equal(t, []string{"0"}, got)
}

func TestAnIntegerTenantHasOneSpelling(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		app := appRole()
		b := newBench(t, s, policytest.Database{
			Config: policy.Config{App: app, Owner: app + "_owner", Maintenance: app + "_maintenance"},
			Schema: []string{
				"create schema app; create table app.big (tenant_id bigint, id int); create table app.small (tenant_id integer, id int)",
				"create table app.parted (tenant_id bigint, id int) partition by hash (tenant_id)",
				"create table app.parted_0 partition of app.parted for values with (modulus 2, remainder 0)",
				"create table app.parted_1 partition of app.parted for values with (modulus 2, remainder 1)",
			},
		})
		b.Config.Indexes = true
		b.apply(t)
		require.Empty(t, b.plan(t).Diff())
		for _, table := range []string{"app.big", "app.small", "app.parted"} {
			for _, tenant := range []string{"1", "0", "-7"} {
				_, err := b.as(t, tenant, "insert into "+table+" (id) values (1)")
				require.NoError(t, err)
				got, err := b.as(t, tenant, "select tenant_id::text from "+table)
				require.NoError(t, err)
				require.Equal(t, []string{tenant}, got)
			}
			for _, other := range []string{"01", "+1", " 1", "1 ", "1\n", "\t1", "-0", "00", "0x1", "0_1", "-07", "١"} {
				got, err := b.as(t, other, "select count(*) from "+table)
				require.NoError(t, err)
				require.Equal(t, []string{"0"}, got, "%q is another tenant", other)
				for _, write := range []string{"insert into " + table + " (id) values (2)", "insert into " + table + " values (1, 2)"} {
					_, err = b.as(t, other, write)
					require.Error(t, err, "%q", other)
				}
			}
		}
		b.exec(t, "insert into app.big select g % 1000, g from generate_series(1, 20000) g", "analyze app.big")
		got, err := b.as(t, "1", "explain select * from app.big")
		require.NoError(t, err)
		require.Contains(t, strings.Join(got, "\n"), "Index Cond: (tenant_id = ")
		require.Contains(t, strings.Join(got, "\n"), "InitPlan", "the tenant is looked up once")
		got, err = b.as(t, "1", "explain select * from app.parted")
		require.NoError(t, err)
		require.Contains(t, strings.Join(got, "\n"), "Subplans Removed")
	})
}

func TestTheAppRoleLeavesRolesThatPassPolicies(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "create role {app}_group", "create role {app}_harmless", "grant {app}_harmless to {app}")
		b.apply(t)
		b.exec(t, b.fill("grant {maintenance} to {app}_group"), b.fill("grant {app}_group, {owner} to {app}"), b.fill("grant pg_read_all_data, pg_execute_server_program to {app}"),
			b.fill("create role {app}_maker createrole"), b.fill("grant {app}_maker to {app}"))
		drift := b.plan(t).Diff()
		for _, shown := range []string{
			"- membership in {app}_group: can become {maintenance}", "- membership in {owner}: can become {owner}",
			"- membership in pg_read_all_data: can become pg_read_all_data", "- membership in pg_execute_server_program: can become pg_execute_server_program",
			"- membership in {app}_maker: can become {app}_maker",
		} {
			require.Contains(t, drift, b.fill(shown))
		}
		b.apply(t)
		require.Empty(t, b.plan(t).Diff())
		b.denied(t, "set role {maintenance}", "set role {owner}", "set role {app}_maker", "copy (select 1) to program 'true'")
		_, err := b.as(t, "", b.fill("set role {app}_harmless"))
		require.NoError(t, err)
		b.exec(t, b.fill("drop role {app}_group"), b.fill("drop role {app}_harmless"), b.fill("drop role {app}_maker"))
	})
}

func TestRightsThroughAGroupAreAProblem(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := wide(t, s, "create role {app}_group", "create role {app}_far", "grant {app}_far to {app}_group", "grant {app}_group to {app}",
			"create table app.secrets (key text)", "grant select on app.t0 to {app}_far", "grant usage on schema app to {app}_far")
		b.Config.Private = []string{"app.secrets"}
		b.apply(t)
		for _, c := range []struct{ plant, attack, shown, undo string }{
			{"grant truncate on app.t0 to {app}_far", "truncate app.t0", "TRUNCATE on table app.t0", "revoke truncate on app.t0 from {app}_far"},
			{"grant select (key) on app.secrets to {app}_far", "select key from app.secrets", "SELECT on table app.secrets", "revoke select (key) on app.secrets from {app}_far"},
			{"grant create on schema app to {app}_far", "create table app.mine ()", "CREATE on schema app", "revoke create on schema app from {app}_far"},
			{"alter schema app owner to {app}_far", "create table app.more ()", "OWNER on schema app", "alter schema app owner to postgres"},
			{"alter database {db} owner to {app}_far", "create schema mine", "OWNER on database {db}", "alter database {db} owner to postgres"},
		} {
			b.exec(t, b.fill(c.plant))
			conn := b.connect(t, b.Config.App)
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), b.fill(c.attack))
			require.NoError(t, err, c.attack)
			require.NoError(t, tx.Rollback(t.Context()))
			_, err = policy.Apply(t.Context(), b.admin, b.Config, nil)
			require.ErrorIs(t, err, policy.ErrProblems, c.plant)
			require.ErrorContains(t, err, b.fill(`the app role has rights through role {app}_far that it may not have itself (`+c.shown+`)`))
			require.ErrorContains(t, err, b.fill(`revoke "{app}_group" from "{app}", or take these rights from "{app}_far"`))
			b.exec(t, b.fill(c.undo))
		}
	})
}

func TestARolledBackTableIsTheOneThatWasApplied(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"))
	b.apply(t)
	b.exec(t, "alter table app.t0 rename to archive", "create table app.t0 (tenant_id uuid not null, id bigint)")
	b.exec(t, "alter table app.t0 enable row level security", "create policy shardedpg_guard on app.t0 using (false)")
	result, err := policy.Rollback(t.Context(), b.admin, nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(result.Left, "\n"), "table app.t0: row security: another one has its name now")
	var guarded bool
	require.NoError(t, b.admin.QueryRow(t.Context(), "select relrowsecurity from pg_class where oid = 'app.t0'::regclass").Scan(&guarded))
	require.True(t, guarded, "nobody applied anything to this one")
}

func TestTheAppRoleCannotKeepAnApplyWaiting(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"))
	conn := b.connect(t, b.Config.App)
	_, err := conn.Exec(t.Context(), "select pg_advisory_lock(hashtextextended('sharded-pg rls', 0))")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = policy.Apply(ctx, b.admin, b.Config, &policy.ApplyOptions{LockTimeout: time.Millisecond})
	require.ErrorContains(t, err, "55P03")
	require.ErrorContains(t, err, "others hold it for longer than the lock timeout")
	_, err = conn.Exec(t.Context(), "select pg_advisory_unlock_all()")
	require.NoError(t, err)
	b.apply(t)
}

func TestNamesDoNotEndCommentsOrQuotes(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"))
	for i, end := range []string{"\n", "\r"} {
		b.exec(t, fmt.Sprintf(`create table app."x%screate table app.made_%d(); --" (tenant_id uuid, other int unique)`, end, i))
	}
	b.exec(t, b.plan(t).Script())
	var made int
	require.NoError(t, b.admin.QueryRow(t.Context(), "select count(*) from pg_class where relname like 'made%'").Scan(&made))
	require.Zero(t, made)

	b = newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole()+"$do$ 'x'", 1))
	b.apply(t)
	require.Empty(t, b.plan(t).Diff())
}

func TestASearchPathEndsWithPgTempAndNamesItOnce(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"))
	for path, want := range map[string]string{
		"app, my_pg_temp":       "app, my_pg_temp, pg_temp",
		"pg_temp, app, pg_temp": "app, pg_temp",
		"'app, pg_temp'":        `"app, pg_temp", pg_temp`,
		`"a,b", pg_temp`:        `"a,b", pg_temp`,
		"pg_temp":               `app, pg_temp`,
		`"""pg_temp"""`:         `"""pg_temp""", pg_temp`,
	} {
		b.exec(t, b.fill("alter role {app} in database {db} set search_path = "+path))
		b.apply(t)
		require.Empty(t, b.plan(t).Diff())
		var stored string
		require.NoError(t, b.admin.QueryRow(t.Context(), `select substr(c, 13) from pg_db_role_setting s, unnest(s.setconfig) c
 where setrole = $1::regrole and c like 'search_path=%'`, b.Config.App).Scan(&stored))
		require.Equal(t, want, stored)
	}
}

func TestARuleIsAProblem(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"), "create table app.countries (code text)", "alter table app.t0 owner to {app}", "grant usage on schema app to {app}",
		"grant select, insert on app.countries to {app}")
	b.Config.Global = []string{"app.countries"}
	_, err := b.as(t, "", "create rule planted as on insert to app.t0 do also insert into app.countries values ('planted')")
	require.NoError(t, err)
	_, err = policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.ErrorIs(t, err, policy.ErrProblems)
	require.ErrorContains(t, err, "table app.t0 has rules, whose actions run with the rights of its owner for every tenant (planted)")
	b.exec(t, "drop rule planted on app.t0")
	b.apply(t)
}

func TestATableOfTenantsInAnExtensionGetsPolicies(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"), "create table app.kept (id int)", "alter extension plpgsql add table app.t1", "alter extension plpgsql add table app.kept",
		"grant usage on schema app to {app}", "grant truncate on app.t1 to {app}")
	b.closes(t, "truncate app.t1")
	b.apply(t)
	_, err := b.as(t, tenantA, "insert into app.t1 (id) values (1)")
	require.NoError(t, err)
	got, err := b.as(t, tenantB, "select count(*) from app.t1")
	require.NoError(t, err)
	require.Equal(t, []string{"0"}, got)
}

func TestAdvisedForeignKeysDoWhatTheOldOnesDid(t *testing.T) {
	t.Parallel()
	b := wide(t, pgtest.Shared(t, "policy"), "create table app.parents (tenant_id uuid, id int unique)",
		"create table app.children (tenant_id uuid, parent int references app.parents (id) match full on update cascade on delete set null deferrable initially deferred)")
	for _, a := range b.plan(t).Advice {
		if strings.Contains(a.Finding, "children_parent_fkey") {
			b.exec(t, strings.Split(strings.TrimSuffix(a.SQL, ";"), ";\n")...)
		}
	}
	var now string
	require.NoError(t, b.admin.QueryRow(t.Context(), "select pg_get_constraintdef(oid) from pg_constraint where conname = 'children_parent_fkey'").Scan(&now))
	require.Equal(t, "FOREIGN KEY (tenant_id, parent) REFERENCES app.parents(tenant_id, id) ON UPDATE CASCADE ON DELETE SET NULL (parent)"+
		" DEFERRABLE INITIALLY DEFERRED", now)
}
