package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

var (
	roles   atomic.Int64
	serving sync.Map // by major: func() (*pgtest.Server, error)
)

// server of that major, one for all tests.
func server(t testing.TB, major int) *pgtest.Server {
	t.Helper()
	start, _ := serving.LoadOrStore(major, sync.OnceValues(func() (*pgtest.Server, error) {
		return pgtest.Start(context.Background(), pgtest.Options{Name: fmt.Sprint("policy ", major), Major: major})
	}))
	s, err := start.(func() (*pgtest.Server, error))()
	require.NoError(t, err)
	return s
}

// onEachMajor runs test on the oldest PostgreSQL that is here, the newest, and 15, the first with security_invoker.
func onEachMajor(t *testing.T, test func(t *testing.T, s *pgtest.Server)) {
	t.Helper()
	majors, err := pgtest.Majors(t.Context())
	require.NoError(t, err)
	for _, major := range majors {
		if major != slices.Min(majors) && major != slices.Max(majors) && major != 15 || testing.Short() && major != slices.Max(majors) {
			continue
		}
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			test(t, server(t, major))
		})
	}
}

// appRole is a name of its own: roles are the server's, which tests share.
func appRole() string { return fmt.Sprintf("app_%d", roles.Add(1)) }

// bench is a database and connections to it.
type bench struct {
	policytest.Database
	server *pgtest.Server
	name   string
	admin  *pgx.Conn
}

func newBench(t testing.TB, s *pgtest.Server, d policytest.Database) *bench {
	t.Helper()
	b := &bench{Database: d, server: s, name: s.NewDatabase(t, d.Schema...)}
	b.admin = b.connect(t, "postgres")
	return b
}

func (b *bench) connect(t testing.TB, user string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.server.DSN(user, b.name))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (b *bench) exec(t testing.TB, statements ...string) {
	t.Helper()
	require.NoError(t, b.server.Exec(t.Context(), b.name, statements...))
}

func (b *bench) apply(t testing.TB) *policy.Result {
	t.Helper()
	result, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.NoError(t, err)
	return result
}

func (b *bench) plan(t testing.TB) *policy.Plan {
	t.Helper()
	plan, err := policy.Read(t.Context(), b.admin, b.Config)
	require.NoError(t, err)
	return plan
}

// as runs statements as the app role for a tenant ("" for none), and returns the first column of the last as text.
func (b *bench) as(t testing.TB, tenant string, statements ...string) (values []string, err error) {
	t.Helper()
	conn := b.connect(t, b.Config.App)
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		if tenant != "" {
			if _, err := tx.Exec(t.Context(), "select set_config('app.current_tenant_id', $1, true)", tenant); err != nil {
				return err
			}
		}
		for _, statement := range statements {
			rows, err := tx.Query(t.Context(), statement)
			if err != nil {
				return err
			}
			if values, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
				all, err := row.Values()
				return fmt.Sprint(all[0]), err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return values, err
}

// everything is all that the generator may change in a database, as text.
func (b *bench) everything(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, query := range []string{
		`select c.oid::regclass::text, c.relowner::regrole::text, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text,
 array(select g::text from aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) g where grantee <> c.relowner order by 1)::text
 from pg_class c where c.relnamespace::regnamespace::text in ('app', 'public') and c.relkind in ('r','p','v','m','f','S') order by 1`,
		`select polrelid::regclass::text, polname::text, polcmd::text, polpermissive, polroles::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) from pg_policy order by 1, 2`,
		`select attrelid::regclass::text, attname::text, attnotnull, attacl::text, (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum)
 from pg_attribute join pg_class c on c.oid = attrelid where c.relnamespace::regnamespace::text in ('app', 'public') and attnum > 0 order by 1, 2`,
		`select indexrelid::regclass::text from pg_index i join pg_class c on c.oid = indexrelid where c.relnamespace::regnamespace::text in ('app', 'public') order by 1`,
		`select datdba::regrole::text, array(select g::text from aclexplode(coalesce(datacl, acldefault('d', datdba))) g order by 1)::text from pg_database where datname = current_database()`,
		`select nspname::text, nspowner::regrole::text, array(select g::text from aclexplode(coalesce(nspacl, acldefault('n', nspowner))) g where grantee <> nspowner order by 1)::text
 from pg_namespace where nspname !~ '^pg_' and nspname not in ('information_schema', 'shardedpg') order by 1`,
		`select setrole::regrole::text, c from pg_db_role_setting, unnest(setconfig) c where setdatabase = (select oid from pg_database where datname = current_database()) order by 1, 2`,
		`select defaclrole::regrole::text, defaclacl::text from pg_default_acl order by 1, 2`,
		`select p.oid::regprocedure::text from pg_proc p where proname in ('set_config', 'pg_notify') and exists (select from aclexplode(coalesce(proacl, acldefault('f', proowner))) where grantee = 0) order by 1`,
	} {
		rows, err := b.admin.Query(t.Context(), query)
		require.NoError(t, err)
		for rows.Next() {
			values, err := rows.Values()
			require.NoError(t, err)
			all = append(all, fmt.Sprintln(values...))
		}
		require.NoError(t, rows.Err(), query)
	}
	return all
}

// same says which lines differ, and no more: all of them are thousands.
func same(t testing.TB, before, after []string, why ...any) {
	t.Helper()
	without := func(lines, others []string) (left []string) {
		for _, line := range lines {
			if !slices.Contains(others, line) {
				left = append(left, line)
			}
		}
		return left
	}
	require.Empty(t, without(before, after), append([]any{"it was, and is no more: "}, why...)...)
	require.Empty(t, without(after, before), append([]any{"it was not, and is now: "}, why...)...)
}

func TestApplyMakesADatabaseThatHasNoDriftAndRollbackMakesItWhatItWas(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		for _, d := range policytest.All(appRole()) {
			t.Run(d.Name, func(t *testing.T) {
				b := newBench(t, s, d)
				b.Config.Indexes = true
				before := b.everything(t)

				plan := b.plan(t)
				require.Empty(t, plan.Problems)
				require.Equal(t, d.Tables, plan.Tables)
				require.GreaterOrEqual(t, plan.Tables, 30)
				require.NotEmpty(t, plan.Drift())
				same(t, before, b.everything(t), "reading changes nothing")

				result := b.apply(t)
				require.Len(t, result.Changes, len(plan.Drift()))
				require.NotZero(t, result.Record)
				require.Empty(t, b.plan(t).Diff())
				after := b.everything(t)

				again := b.apply(t)
				require.Empty(t, again.Changes)
				require.Zero(t, again.Record, "nothing was done, so nothing is recorded")
				same(t, after, b.everything(t))

				b.exec(t, plan.Script())
				same(t, after, b.everything(t), "the script of the plan makes the same, also where it is already")

				undone, err := policy.Rollback(t.Context(), b.admin, nil)
				require.NoError(t, err)
				require.Equal(t, result.Record, undone.Undoes)
				same(t, before, b.everything(t))
				_, err = policy.Rollback(t.Context(), b.admin, nil)
				require.ErrorIs(t, err, policy.ErrNothing)

				b.exec(t, plan.Script())
				same(t, after, b.everything(t), "the script alone makes the same")
			})
		}
	})
}

const (
	tenantA = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
	tenantB = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"
)

func TestATenantSeesAndWritesItsOwnRowsOnly(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		for _, c := range []struct {
			d     policytest.Database
			table string
			a, b  string
		}{
			{policytest.Chatwoot(appRole()), "messages", "1", "2"},
			{policytest.Partitioned(appRole()), "app.listed_0", tenantA, tenantB},
			{policytest.Partitioned(appRole()), "app.timed_0", tenantA, tenantB},
			{policytest.Partitioned(appRole()), "app.base", tenantA, tenantB},
			{policytest.Views(appRole()), "app.t1", "a", "b'\\"},
		} {
			t.Run(c.d.Name+" "+c.table, func(t *testing.T) {
				b := newBench(t, s, c.d)
				b.apply(t)
				column := b.plan(t).Config.TenantColumn
				insert := "insert into " + c.table + " (id) values (1)"
				if c.d.Name == "Chatwoot" {
					b.exec(t, "insert into accounts (id) values (1), (2)")
					insert = "insert into " + c.table + " (content) values ('x')"
				}
				for _, tenant := range []string{c.a, c.b} {
					_, err := b.as(t, tenant, insert)
					require.NoError(t, err)
					got, err := b.as(t, tenant, "select "+column+"::text from "+c.table)
					require.NoError(t, err)
					require.Equal(t, []string{tenant}, got, "the column is filled with the tenant, and its own row is all it sees")
				}
				moved := "update " + c.table + " set " + column + " = '" + strings.ReplaceAll(c.b, "'", "''") + "'"
				_, err := b.as(t, c.a, moved)
				require.ErrorContains(t, err, "42501", "a row cannot be given away")
				got, err := b.as(t, c.a, "with d as (delete from "+c.table+" returning 1) select count(*) from d")
				require.NoError(t, err)
				require.Equal(t, []string{"1"}, got)

				got, err = b.as(t, "", "select count(*) from "+c.table)
				require.NoError(t, err)
				require.Equal(t, []string{"0"}, got, "without a tenant there are no rows")
				_, err = b.as(t, "", insert)
				require.Error(t, err)
			})
		}
	})
}

func TestPartitionsCannotBeNamed(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := newBench(t, s, policytest.Partitioned(appRole()))
		b.apply(t)
		for _, part := range []string{"app.listed_0_rest", "app.hashed_0_1", "app.timed_0_new", "app.nested_rest", "app.nested_rest_all", "app.derived"} {
			_, err := b.as(t, tenantA, "select * from "+part)
			require.ErrorContains(t, err, "42501", part)
		}
		// And where somebody grants them, their own policies hold.
		b.exec(t, "grant select on app.listed_0_rest to "+b.Config.App, "insert into app.listed_0 values ('"+tenantB+"', 1)")
		got, err := b.as(t, tenantA, "select count(*) from app.listed_0_rest")
		require.NoError(t, err)
		require.Equal(t, []string{"0"}, got)
	})
}

func TestOnlyTablesPartitionedByTheTenantGetTheBareForm(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Partitioned(appRole()))
	b.apply(t)
	b.exec(t, "insert into app.hashed_0 select gen_random_uuid(), g from generate_series(1, 100) g", "analyze app.hashed_0")
	got, err := b.as(t, tenantA, "explain select * from app.hashed_0")
	require.NoError(t, err)
	require.Contains(t, strings.Join(got, "\n"), "Subplans Removed", "partitions of others are not opened")
	got, err = b.as(t, tenantA, "explain select * from app.timed_0")
	require.NoError(t, err)
	require.Contains(t, strings.Join(got, "\n"), "InitPlan", "the tenant is looked up once")
}

func TestViewsRunAsTheirCaller(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := newBench(t, s, policytest.Views(appRole()))
		b.exec(t, "insert into app.t1 values ('a', 1, 5), ('b', 2, 7)", "insert into app.t11 values ('a', 3, 1), ('b', 4, 1)")
		b.apply(t)
		got, err := b.as(t, "a", "select total::text from app.vv1")
		if s.Major() < 15 { // no security_invoker
			require.ErrorContains(t, err, "42501")
			return
		}
		require.NoError(t, err)
		require.Equal(t, []string{"5"}, got)
		got, err = b.as(t, "a", "select app.total_of(2)::text")
		require.NoError(t, err)
		require.Equal(t, []string{"<nil>"}, got)
		_, err = b.as(t, "a", "select * from app.totals")
		require.ErrorContains(t, err, "42501", "a materialized view has the rows of all")
		_, err = b.as(t, "a", "select * from app.country_list")
		require.NoError(t, err, "this one was declared global")
	})
}

func TestAMaterializedViewIsStillFullAfterARefresh(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Views(appRole()))
	b.exec(t, "insert into app.t0 values ('a', 1, 5), ('b', 2, 7)")
	b.apply(t)
	b.exec(t, "set role "+b.Config.Maintenance+"; refresh materialized view app.totals; reset role")
	var n int
	require.NoError(t, b.admin.QueryRow(t.Context(), "select count(*) from app.totals").Scan(&n))
	require.Equal(t, 2, n)
}

func TestManualChangesAreShownAndTakenBack(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		app := appRole()
		b := newBench(t, s, policytest.Views(app))
		b.Config.Indexes, b.Config.DropPolicies = true, true
		b.apply(t)
		clean := b.everything(t)
		changes := []struct{ statement, object, shown string }{
			{"alter table app.t1 disable row level security", "table app.t1", "- row security: off, forced"},
			{"alter table app.t2 no force row level security", "table app.t2", "- row security: on\n"},
			{"alter policy shardedpg_tenant on app.t3 using (true)", "table app.t3", "- policy shardedpg_tenant: permissive for all to " + app + " using true with check"},
			{"alter policy shardedpg_guard on app.t4 with check (true)", "table app.t4", "with check true"},
			{"drop policy shardedpg_guard on app.t5", "table app.t5", "+ policy shardedpg_guard"},
			{"alter policy shardedpg_tenant on app.t6 to public", "table app.t6", "to public"},
			{"create policy oops on app.t7 using (true)", "table app.t7", "- policy oops: permissive for all to public using true with check none"},
			{"create table app.more (tenant_id text)", "table app.more", "- column tenant_id: null"},
			{"alter table app.t8 alter tenant_id set default 'acme'", "table app.t8", "- default of tenant_id: 'acme'::text"},
			{"alter table app.t9 owner to " + app, "table app.t9", "- owner: " + app},
			{"grant truncate on app.t10 to " + app, "table app.t10", "TRUNCATE"},
			{"grant references (id) on app.t11 to " + app, "table app.t11", "REFERENCES(id)"},
			{"grant select on app.t12 to public", "table app.t12", "public SELECT"},
			{"grant update on sequence app.t1_id_seq to " + app, "sequence app.t1_id_seq", "UPDATE, USAGE"},
			{"grant select on app.v1 to public", "view app.v1", "public SELECT"},
			{"grant select on app.totals to " + app, "materialized view app.totals", "- rights: " + app + " SELECT"},
			{"grant create on schema app to " + app, "schema app", app + " CREATE, USAGE"},
			{"grant temporary on database " + b.name + " to public", "database " + b.name, "TEMPORARY to public"},
			{"alter default privileges in schema app grant select on tables to " + app, "default rights of postgres in schema app", "- tables: " + app + " SELECT"},
			{"alter role " + app + " in database " + b.name + " reset statement_timeout", "role " + app, "+ setting statement_timeout"},
			{"alter role " + app + " in database " + b.name + " set search_path = app", "role " + app, "+ setting search_path: app, pg_temp"},
			{"alter role " + app + " bypassrls createdb", "role " + app, "- attributes: login bypassrls createdb"},
		}
		if s.Major() >= 15 {
			changes = append(changes, struct{ statement, object, shown string }{
				"alter view app.v2 reset (security_invoker)", "view app.v2", "- security_invoker: off",
			})
		}
		for _, c := range changes {
			b.exec(t, c.statement)
		}
		sections := map[string]string{}
		for _, c := range b.plan(t).Drift() {
			sections[c.Object] += policy.Diff([]policy.Change{c})
		}
		for _, c := range changes {
			require.Contains(t, sections[c.object], c.shown, c.statement)
		}
		b.apply(t)
		require.Empty(t, b.plan(t).Diff())
		b.exec(t, "drop table app.more")
		same(t, clean, b.everything(t))
	})
}

func TestApplyRefusesWhatWasNotDeclared(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Chatwoot(appRole()))
	for problem, change := range map[string]func(c *policy.Config){
		`table public.users has no column "account_id"`:                      func(c *policy.Config) { c.Private = c.Private[:2] },
		"table public.messages is declared global and has the tenant column": func(c *policy.Config) { c.Global = append(c.Global, "public.messages") },
		"table public.users is declared global and private":                  func(c *policy.Config) { c.Global = append(c.Global, "public.users") },
		"its tenant column is character varying: make it one of uuid, text":  func(c *policy.Config) { c.TenantColumn = "code" },
		`has no table with a column "nowhere"`:                               func(c *policy.Config) { c.TenantColumn, c.Private = "nowhere", []string{"public.*"} },
	} {
		t.Run(problem, func(t *testing.T) {
			if strings.Contains(problem, "varying") {
				b.exec(t, "create table coded (code varchar)")
				defer b.exec(t, "drop table coded")
			}
			before := b.everything(t)
			c := b.Config
			change(&c)
			_, err := policy.Apply(t.Context(), b.admin, c, nil)
			require.ErrorIs(t, err, policy.ErrProblems)
			require.ErrorContains(t, err, problem)
			same(t, before, b.everything(t))
		})
	}
}

func TestAWrongConfigurationSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 1))
	_, err := policy.Read(t.Context(), b.admin, policy.Config{GUC: "tenant", Owner: "x", Maintenance: "x", Global: []string{"countries", "app.[", "app.*"}})
	for _, part := range []string{"not a custom parameter", "no app role", `"x" is maintenance role and owner role`, `"countries"`, `"app.[" of global is malformed`} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), `"app.*"`)
}

func TestApplyIsAllOrNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Chatwoot(appRole()))
	b.exec(t, "insert into webhooks (url) values ('x')") // the last table but one, without a tenant
	before := b.everything(t)
	_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.ErrorContains(t, err, "table public.webhooks: column account_id")
	require.ErrorContains(t, err, "rows without a tenant; give them one or delete them; nothing was changed")
	same(t, before, b.everything(t))
	records, err := policy.Records(t.Context(), b.admin)
	require.NoError(t, err)
	require.Empty(t, records)
}

func TestApplyDoesNotWaitForALongTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Chatwoot(appRole()))
	before := b.everything(t)
	reader := b.connect(t, "postgres")
	_, err := reader.Exec(t.Context(), "begin; select count(*) from notes")
	require.NoError(t, err)
	_, err = policy.Apply(t.Context(), b.admin, b.Config, &policy.ApplyOptions{LockTimeout: 50 * time.Millisecond})
	require.ErrorContains(t, err, "table public.notes: ")
	require.ErrorContains(t, err, "longer than the lock timeout; run again when they are done, or wait longer; nothing was changed")
	_, err = reader.Exec(t.Context(), "commit")
	require.NoError(t, err)
	same(t, before, b.everything(t))
	b.apply(t)
}

func TestManyAppliesAtOnceAreOne(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 40))
	var changed atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		conn := b.connect(t, "postgres")
		group.Go(func() {
			result, err := policy.Apply(t.Context(), conn, b.Config, nil)
			if errs[i] = err; err == nil && len(result.Changes) > 0 {
				changed.Add(1)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, changed.Load())
}

func TestALoginWithoutTheRightsIsToldSoAndChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 2))
	b.apply(t)
	// What others granted is not the owner's to take, and PostgreSQL only warns.
	b.exec(t, "grant select on app.t1 to "+b.Config.Owner+" with grant option", "create role "+b.Config.App+"_x", "grant usage on schema app to "+b.Config.App+"_x",
		"grant select on app.t1 to "+b.Config.App+"_x with grant option", "set role "+b.Config.App+"_x; grant select on app.t1 to public")
	before := b.everything(t)
	_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.ErrorContains(t, err, "the server did not make all changes")
	require.ErrorContains(t, err, "public SELECT")
	same(t, before, b.everything(t))
	b.exec(t, "drop owned by "+b.Config.App+"_x; drop role "+b.Config.App+"_x")
}

func TestRollbacksGoBackOneByOneAndLeaveOutWhatIsGone(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 3))
	b.apply(t)
	first := b.everything(t)
	b.exec(t, "create table app.later (tenant_id uuid primary key)", "create table app.last (tenant_id uuid primary key)")
	_, err := policy.Apply(t.Context(), b.admin, b.Config, &policy.ApplyOptions{Note: "two new tables"})
	require.NoError(t, err)
	b.exec(t, "drop table app.later")
	result, err := policy.Rollback(t.Context(), b.admin, &policy.ApplyOptions{Note: "a mistake"})
	require.NoError(t, err)
	require.Contains(t, strings.Join(result.Left, "\n"), "table app.later: row security: it is gone")
	b.exec(t, "drop table app.last")
	same(t, first, b.everything(t))
	_, err = policy.Rollback(t.Context(), b.admin, nil)
	require.NoError(t, err)

	records, err := policy.Records(t.Context(), b.admin)
	require.NoError(t, err)
	require.Len(t, records, 4)
	require.Equal(t, []string{"rollback", "rollback", "apply", "apply"},
		[]string{records[0].Action, records[1].Action, records[2].Action, records[3].Action})
	require.Equal(t, []int64{records[3].ID, records[2].ID}, []int64{records[0].Undoes, records[1].Undoes})
	require.Equal(t, "two new tables", records[2].Note)
	require.True(t, records[2].Undone && records[3].Undone)
}

func TestRecordsThatOthersMayWriteAreNotRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 1))
	b.apply(t)
	_, err := b.as(t, tenantA, "select * from shardedpg.rls_records")
	require.ErrorContains(t, err, "42501", "tenants cannot read them")
	b.exec(t, "grant insert on shardedpg.rls_records to "+b.Config.App)
	before := b.everything(t)
	_, err = policy.Rollback(t.Context(), b.admin, nil)
	require.ErrorContains(t, err, "not ours alone")
	same(t, before, b.everything(t))
}

func TestLockdownTakesFromEverybodyWhatReachesAcrossTenants(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := newBench(t, s, policytest.Wide(appRole(), 1))
		becomes := b.Config.App + "_tenant"
		b.exec(t, b.fill("create role {app} login noinherit"), "create role "+becomes, "grant "+becomes+" to "+b.Config.App)
		before := b.everything(t)
		b.Config.Lockdown = true
		b.apply(t)
		require.Empty(t, b.plan(t).Diff())
		for _, call := range []string{
			"select pg_notify('a', 'b')", "select pg_advisory_lock(1)", "select * from pg_stat_activity", "select pg_cancel_backend(0)",
			"select query_to_xml('select 1', true, true, '')", "select lo_create(0)", "do 'begin end'", "create temporary table x ()",
			"select ts_rewrite('a'::tsquery, 'select ''b''::tsquery, ''c''::tsquery')",
		} {
			_, err := b.as(t, tenantA, call)
			require.ErrorContains(t, err, "42501", call)
		}
		_, err := b.as(t, tenantA, "set local role "+becomes, "select set_config('statement_timeout', '1000', true)")
		require.NoError(t, err, "what the driver does in the middle of a schema tenant's transaction")
		_, err = b.as(t, tenantA, "select pg_advisory_unlock_all()", "select count(*) from pg_prepared_statements", "select pg_advisory_xact_lock(1)")
		require.NoError(t, err, "what the driver calls, and locks that end with the transaction")
		_, err = policy.Rollback(t.Context(), b.admin, nil)
		require.NoError(t, err)
		same(t, before, b.everything(t))
	})
}

func TestNothingButTheGivenTablesIsTouched(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 3))
	b.exec(t, "create table app.undeclared (id int)", "create table tenant_x (tenant_id uuid)", "create schema tenant_x; create table tenant_x.t (id int)")
	before := b.everything(t)
	b.Config.Tables, b.Config.KeepTemp = []string{"app.t1", "app.t2"}, true
	plan := b.plan(t)
	require.Empty(t, plan.Problems)
	require.Equal(t, 2, plan.Tables)
	b.apply(t)
	var untouched []string
	for _, line := range before {
		if strings.HasPrefix(line, "app.t0 ") || strings.HasPrefix(line, "app.undeclared ") || strings.HasPrefix(line, "tenant_x ") {
			untouched = append(untouched, line)
		}
	}
	require.NotEmpty(t, untouched)
	require.Subset(t, b.everything(t), untouched)
	_, err := b.as(t, tenantA, "create temporary table x ()")
	require.NoError(t, err, "temporary tables were to be left alone")

	b.Config.Tables, b.Config.Private = nil, []string{"app.undeclared", "public.*"}
	require.Empty(t, b.plan(t).Problems, "schemas of schema tenants are left alone")
	b.Config.SkipSchemas = []string{"nothing"}
	require.Contains(t, strings.Join(b.plan(t).Problems, "\n"), "table tenant_x.t has no column")
}

func TestAPrivateTableWithATenantIsProtectedAndNotGranted(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 2))
	b.Config.Private = []string{"app.t1"}
	b.apply(t)
	_, err := b.as(t, tenantA, "select * from app.t1")
	require.ErrorContains(t, err, "42501")
	var forced bool
	require.NoError(t, b.admin.QueryRow(t.Context(), "select relforcerowsecurity from pg_class where oid = 'app.t1'::regclass").Scan(&forced))
	require.True(t, forced)
}

func TestASchemaOfTheAppRoleIsTakenFromIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 1))
	b.apply(t)
	b.exec(t, "alter schema app owner to "+b.Config.App)
	require.Contains(t, b.plan(t).Diff(), "- owner: "+b.Config.App+"\n  + owner: "+b.Config.Owner)
	b.apply(t)
	require.Empty(t, b.plan(t).Diff())
	_, err := b.as(t, tenantA, "create table app.x ()")
	require.ErrorContains(t, err, "42501")
	_, err = b.as(t, tenantA, "select * from app.t0")
	require.NoError(t, err)
}

func TestATenantColumnMayBeAnInteger(t *testing.T) {
	t.Parallel()
	app := appRole()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Database{
		Config: policy.Config{App: app, Owner: app + "_owner", Maintenance: app + "_maintenance", GUC: "shop.tenant", TenantColumn: "Shop"},
		Schema: []string{`create schema app; create table app.t ("Shop" int primary key)`},
	})
	b.apply(t)
	require.Empty(t, b.plan(t).Diff())
	got, err := b.as(t, "", "select set_config('shop.tenant', '7', true)", `insert into app.t default values returning "Shop"`)
	require.NoError(t, err)
	require.Equal(t, []string{"7"}, got)
	got, err = b.as(t, "", "select set_config('shop.tenant', '8', true)", `select count(*) from app.t`)
	require.NoError(t, err)
	require.Equal(t, []string{"0"}, got)
}

func TestAdviceSaysHowKeysCarryTheTenant(t *testing.T) {
	t.Parallel()
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Chatwoot(appRole()))
	b.apply(t)
	plan := b.plan(t)
	advised := func() (all []string) {
		for _, a := range b.plan(t).Advice {
			all = append(all, a.Object+": "+a.Finding)
		}
		return all
	}
	have := strings.Join(advised(), "\n")
	for _, part := range []string{
		"table public.portals: unique index portals_slug_key does not begin with the tenant",
		"table public.messages: foreign key messages_conversation_id_fkey does not carry the tenant",
		"table public.labels: no index begins with the tenant column",
	} {
		require.Contains(t, have, part)
	}
	require.NotContains(t, have, "conversations_uuid_key", "a generated value tells nobody anything")
	require.NotContains(t, have, "table public.messages: no index")
	// The SQL of all advice runs, on tables that people know, and then there is none left.
	for _, a := range plan.Advice {
		b.exec(t, strings.Split(strings.TrimSuffix(a.SQL, ";"), ";\n")...)
	}
	require.Empty(t, advised())
	var action string
	require.NoError(t, b.admin.QueryRow(t.Context(), "select pg_get_constraintdef(oid) from pg_constraint where conname = 'conversations_contact_id_fkey'").Scan(&action))
	require.Contains(t, action, "FOREIGN KEY (account_id, contact_id) REFERENCES contacts(account_id, id) ON DELETE SET NULL (contact_id)")
}

func TestAThousandTablesArePlannedAndAppliedInSeconds(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a server for a while; run without -short")
	}
	b := newBench(t, pgtest.Shared(t, "policy"), policytest.Wide(appRole(), 1000))
	began := time.Now()
	plan := b.plan(t)
	t.Logf("plan of %d tables: %v, %d changes", plan.Tables, time.Since(began).Round(time.Millisecond), len(plan.Drift()))
	began = time.Now()
	b.apply(t)
	t.Logf("apply: %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	require.Empty(t, b.plan(t).Drift())
	t.Logf("plan without drift: %v", time.Since(began).Round(time.Millisecond))
}
