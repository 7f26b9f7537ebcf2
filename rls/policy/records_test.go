package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

// ours is the table of records as the generator makes it.
const ours = `create table shardedpg.rls_records (
  id bigint generated always as identity primary key, at timestamptz not null default clock_timestamp(),
  login text not null default session_user, action text not null check (action in ('apply', 'rollback')),
  undoes bigint unique references shardedpg.rls_records, note text not null, config jsonb not null, changes jsonb not null)`

// attacked is a database whose app role owns it and has put into schema shardedpg what the statements say. The functions that
// they may use note that a superuser ran them, in a way that no rollback undoes.
func attacked(t testing.TB, s *pgtest.Server, statements ...string) *bench {
	t.Helper()
	b := newBench(t, s, policytest.Wide(appRole(), 1))
	b.exec(t, "create role "+b.Config.App+" login", "alter database "+b.name+" owner to "+b.Config.App)
	const body = ` language plpgsql as $$ begin if (select rolsuper from pg_roles where rolname = current_user) then perform nextval('shardedpg.ran'); end if; `
	_, err := b.as(t, "", append([]string{
		"create schema shardedpg",
		"create sequence shardedpg.ran",
		"create function shardedpg.run(bigint) returns bigint" + body + "return $1; end $$",
		"create function shardedpg.fired() returns trigger" + body + "return new; end $$",
		"create function shardedpg.pure(jsonb) returns jsonb immutable" + body + "return $1; end $$",
	}, statements...)...)
	require.NoError(t, err)
	return b
}

// refuses asks for all that reads or writes records.
func (b *bench) refuses(t testing.TB, says string) {
	t.Helper()
	_, applied := policy.Apply(t.Context(), b.admin, b.Config, nil)
	_, newest := policy.Newest(t.Context(), b.admin)
	_, rolledBack := policy.Rollback(t.Context(), b.admin, nil)
	_, _, configured := policy.Applied(t.Context(), b.admin)
	_, listed := policy.Records(t.Context(), b.admin)
	var ran bool
	require.NoError(t, b.admin.QueryRow(t.Context(), "select coalesce((select last_value from pg_sequences where sequencename = 'ran') > 0, false)").Scan(&ran))
	require.False(t, ran, "the app role's code ran with the rights of whoever applied")
	for name, err := range map[string]error{
		"Apply": applied, "Newest": newest, "Rollback": rolledBack, "Applied": configured, "Records": listed,
	} {
		require.ErrorIs(t, err, policy.ErrForeignRecords, name)
		require.ErrorContains(t, err, says, name)
		require.ErrorContains(t, err, "have a superuser drop the schema", name)
	}
}

func TestCodeThatTheAppRolePutWhereTheRecordsGoIsNotRun(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		for name, c := range map[string]struct {
			statements []string
			kind, says string // what is wrong even when a superuser owns it
		}{
			"a view that calls a function": {[]string{
				`create view shardedpg.rls_records as select shardedpg.run(1) as id, now() as at, ''::text as login, 'apply'::text as action, null::bigint as undoes,
 ''::text as note, '{}'::jsonb as config, '[]'::jsonb as changes`,
			}, "view", "no plain table"},
			"a trigger": {[]string{
				ours, "create trigger t before insert on shardedpg.rls_records for each row execute function shardedpg.fired()",
			}, "table", "triggers, rules or policies"},
			"a rule": {[]string{
				ours, "create rule r as on insert to shardedpg.rls_records do also select shardedpg.run(1)",
			}, "table", "triggers, rules or policies"},
			"a policy": {[]string{
				ours, "alter table shardedpg.rls_records force row level security", "create policy p on shardedpg.rls_records using (shardedpg.run(id) > 0)",
			}, "table", "triggers, rules or policies"},
			"a default": {[]string{
				ours, "alter table shardedpg.rls_records add more bigint default shardedpg.run(1)",
			}, "table", "other columns, defaults"},
			"a generated column": {[]string{
				ours, "alter table shardedpg.rls_records add more jsonb generated always as (shardedpg.pure(config)) stored",
			}, "table", "other columns, defaults"},
			"a constraint": {[]string{
				ours, "alter table shardedpg.rls_records add check (shardedpg.run(id) > 0)",
			}, "table", "other columns, defaults"},
			"an index": {[]string{
				ours, "create index on shardedpg.rls_records (shardedpg.pure(config))",
			}, "table", "other columns, defaults"},
			"statistics of an expression": {[]string{
				ours, "create statistics shardedpg.s on (shardedpg.pure(config)), note from shardedpg.rls_records",
			}, "table", "other columns, defaults"},
			"a child": {[]string{
				ours, "create table public.child () inherits (shardedpg.rls_records)",
				`insert into public.child (id, action, note, config, changes) values (7, 'apply', '', '{}', '[{"undo": ["select shardedpg.run(1)"]}]')`,
			}, "table", "is inherited from"},
			"a partition": {[]string{
				"create table shardedpg.rls_records (id bigint) partition by list (id)",
			}, "table", "no plain table"},
		} {
			t.Run(name, func(t *testing.T) {
				b := attacked(t, s, c.statements...)
				b.refuses(t, "schema shardedpg belongs to "+b.Config.App+"; rls_records belongs to "+b.Config.App)
				b.exec(t, "alter schema shardedpg owner to postgres", "alter "+c.kind+" shardedpg.rls_records owner to postgres")
				b.refuses(t, c.says)
			})
		}
	})
}

func TestARecordThatTheAppRoleWroteIsNotRolledBack(t *testing.T) {
	t.Parallel()
	b := attacked(t, pgtest.Shared(t, "policy"), ours,
		`insert into shardedpg.rls_records (action, note, config, changes) values ('apply', '', '{}', '[{"undo": ["select shardedpg.run(1)"]}]')`)
	b.refuses(t, "belongs to "+b.Config.App)
	b.exec(t, "drop schema shardedpg cascade")
	b.apply(t)
	_, err := policy.Rollback(t.Context(), b.admin, nil)
	require.NoError(t, err, "what the error advises helps")
}

func TestRecordsAreReadOnlyWhereNobodyElseCanReplaceThem(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 1))
	b.exec(t, "create role "+b.Config.App+"_other", "alter default privileges grant all on tables to "+b.Config.App+"_other",
		"alter default privileges grant all on schemas to "+b.Config.App+"_other")
	b.apply(t)
	_, err := policy.Records(t.Context(), b.admin)
	require.NoError(t, err, "what default privileges grant was taken away")
	for _, c := range []struct{ plant, says, undo string }{
		{"alter schema shardedpg owner to {app}", "schema shardedpg belongs to {app}", "alter schema shardedpg owner to postgres"},
		{"grant create on schema shardedpg to {app}", "{app} may create in schema shardedpg", "revoke create on schema shardedpg from {app}"},
		{"grant create on schema shardedpg to public", "everybody may create in schema shardedpg", "revoke create on schema shardedpg from public"},
		{"alter table shardedpg.rls_records owner to {app}_other", "rls_records belongs to {app}_other", "alter table shardedpg.rls_records owner to postgres"},
		{"grant insert on shardedpg.rls_records to {app}", "{app} has rights on rls_records", "revoke insert on shardedpg.rls_records from {app}"},
		{"grant update (changes) on shardedpg.rls_records to public", "everybody has rights on rls_records", "revoke update (changes) on shardedpg.rls_records from public"},
	} {
		fill := func(text string) string { return strings.ReplaceAll(text, "{app}", b.Config.App) }
		b.exec(t, fill(c.plant))
		b.refuses(t, fill(c.says))
		b.exec(t, fill(c.undo))
	}
	// A superuser that the app role can become is no better than the app role.
	b.exec(t, "alter role "+b.Config.App+"_other superuser", "alter table shardedpg.rls_records owner to "+b.Config.App+"_other")
	_, err = policy.Records(t.Context(), b.admin)
	require.NoError(t, err)
	b.exec(t, "grant "+b.Config.App+"_other to "+b.Config.App)
	for _, call := range []func() error{
		func() error { _, err := policy.Apply(t.Context(), b.admin, b.Config, nil); return err },
		func() error { _, err := policy.Rollback(t.Context(), b.admin, nil); return err },
	} {
		require.ErrorIs(t, call(), policy.ErrForeignRecords)
	}
	b.exec(t, "alter table shardedpg.rls_records owner to postgres", "drop owned by "+b.Config.App+"_other", "drop role "+b.Config.App+"_other")
	_, err = policy.Rollback(t.Context(), b.admin, nil)
	require.NoError(t, err)
}

func TestALoginThatMayNotReadTheRecordsIsToldThat(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 1))
	b.exec(t, "create role "+b.Config.App+"_admin superuser login")
	conn := b.connect(t, b.Config.App+"_admin")
	_, err := policy.Apply(t.Context(), conn, b.Config, nil)
	require.NoError(t, err)
	b.exec(t, "alter role "+b.Config.App+"_admin nosuperuser")
	_, _, err = policy.Applied(t.Context(), b.connect(t, b.Config.App))
	require.ErrorContains(t, err, "42501", "it is no attack that they are another role's")
	_, found, err := policy.Applied(t.Context(), conn)
	require.NoError(t, err)
	require.True(t, found, "they are the login's own")
	require.NoError(t, conn.Close(t.Context()))
	b.exec(t, "alter schema shardedpg owner to postgres", "drop owned by "+b.Config.App+"_admin cascade")
}
