package policy_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

// keyring are two keys of a fleet.
func keyring(t testing.TB) rls.Keys {
	t.Helper()
	keys, err := rls.ParseKeys("1 " + strings.Repeat("ab", 32) + "\n2 " + strings.Repeat("cd", 32))
	require.NoError(t, err)
	return keys
}

// signedBench is a database whose policies are signed, with a table of two tenants' rows, and the key of its shard.
func signedBench(t testing.TB, s *pgtest.Server) (*bench, *rls.ShardKey) {
	t.Helper()
	b := newBench(t, s, policytest.Partitioned(appRole()))
	b.Config.KeyOwner = b.Config.App + "_keys"
	for i := range 3 {
		b.exec(t, fmt.Sprintf("insert into app.base (tenant_id, id, note) values ('%s', %d, 'a%[2]d'), ('%s', %[2]d, 'b%[2]d')", tenantA, i, tenantB))
	}
	key := keyring(t)[0].For("s1")
	_, err := policy.InstallKeys(t.Context(), b.admin, b.Config, []*rls.ShardKey{key}, nil)
	require.NoError(t, err)
	b.Config.Identity = policy.Signed
	b.apply(t)
	require.Empty(t, b.plan(t).Diff())
	return b, key
}

// signer is a connection of the app role.
type signer struct {
	*pgx.Conn
	t   testing.TB
	key *rls.ShardKey
}

func (b *bench) signer(t testing.TB, key *rls.ShardKey) *signer {
	return &signer{b.connect(t, b.Config.App), t, key}
}

func (s *signer) token(tenant string) string {
	return string(s.key.AppendToken(nil, s.PgConn().PID(), time.Now().Add(time.Minute).Unix(), tenant))
}

// in runs work in a transaction with a token and the plain setting in force, as the driver does.
func (s *signer) in(token, tenant string, work func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(s.t.Context(), s.Conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(s.t.Context(), "select set_config('shardedpg.ctx', $1, true), set_config('app.current_tenant_id', $2, true)", token, tenant); err != nil {
			return err
		}
		return work(tx)
	})
}

// notes are what a query shows.
func (s *signer) notes(token, tenant, query string, args ...any) (notes []string, err error) {
	err = s.in(token, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(s.t.Context(), query, args...)
		if err != nil {
			return err
		}
		notes, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return notes, err
}

const notesSQL = "select note from app.base order by 1"

func refused(t testing.TB, err error, says string) {
	t.Helper()
	var server *pgconn.PgError
	require.ErrorAs(t, err, &server)
	require.Equal(t, "28000", server.Code, "%v", err)
	require.Contains(t, server.Message, says)
}

func TestASignedTenantSeesItsRowsAndNobodyElseIsOne(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, server *pgtest.Server) {
		b, key := signedBench(t, server)
		s, other := b.signer(t, key), b.signer(t, key)
		own, err := s.notes(s.token(tenantA), tenantA, notesSQL)
		require.NoError(t, err)
		require.Equal(t, []string{"a0", "a1", "a2"}, own)

		soon := time.Now().Add(time.Minute).Unix()
		pid := s.PgConn().PID()
		retired := keyring(t)[1].For("s1")
		forged := strings.Replace(s.token(tenantA), tenantA, tenantB, 1)
		for name, c := range map[string]struct{ token, says string }{
			"the plain ID":                      {tenantB, "a key that is not here"},
			"the key of another shard":          {string(keyring(t)[0].For("s2").AppendToken(nil, pid, soon, tenantB)), "the signature of the tenant is wrong"},
			"a key that is not installed":       {string(retired.AppendToken(nil, pid, soon, tenantB)), "a key that is not here"},
			"A's signature on B's ID":           {forged, "the signature of the tenant is wrong"},
			"B's token of another connection":   {other.token(tenantB), "signed for another connection"},
			"an expired one":                    {string(key.AppendToken(nil, pid, time.Now().Add(-time.Second).Unix(), tenantB)), "has expired"},
			"the pid taken for one of a pooler": {strings.Replace(other.token(tenantB), fmt.Sprintf(":%d:", other.PgConn().PID()), ":0:", 1), "the signature of the tenant is wrong"},
			"garbage":                           {"\x01" + strings.Repeat(":", 80), "a key that is not here"},
			"a short one":                       {"x", "a key that is not here"},
			"garbage with a key's ID":           {strings.Repeat("0", 64) + ":1:x:y:" + tenantB, "the signature of the tenant is wrong"},
		} {
			for _, statement := range []string{notesSQL, "insert into app.base (id) values (9) returning note", "delete from app.base returning note"} {
				_, err := s.notes(c.token, tenantB, statement)
				require.Error(t, err, name)
				refused(t, err, c.says)
			}
		}
		_, err = s.notes("", tenantB, notesSQL)
		refused(t, err, "the tenant is not signed")

		none, err := s.notes("", "", notesSQL)
		require.NoError(t, err)
		require.Empty(t, none, "no tenant is no rows")
		_, err = s.notes("", "", "insert into app.base (tenant_id, id) values ($1, 9) returning note", tenantB)
		require.ErrorContains(t, err, "42501")
		fresh := b.connect(t, b.Config.App)
		var count int
		require.NoError(t, fresh.QueryRow(t.Context(), "select count(*) from app.base").Scan(&count))
		require.Zero(t, count, "neither setting was ever set")

		pooled := string(key.AppendToken(nil, 0, soon, tenantB))
		own, err = s.notes(pooled, tenantB, notesSQL)
		require.NoError(t, err, "behind a pooler the pid is not known")
		require.Equal(t, []string{"b0", "b1", "b2"}, own)
	})
}

// switches are statements of injected SQL that make the plain setting, or the token, another tenant's while they run.
var switches = map[string]string{
	"the plain setting": `select note from app.base where set_config('app.current_tenant_id', '` + tenantB + `', true) is not null`,
	"the plain ID as token": `select note from app.base
 where set_config('shardedpg.ctx', '` + tenantB + `', true) is not null and set_config('app.current_tenant_id', '` + tenantB + `', true) is not null`,
	"as own statements":             `set local app.current_tenant_id = '` + tenantB + `'; select note from app.base`,
	"with the token of before":      `set local app.current_tenant_id = '` + tenantB + `'; set local shardedpg.ctx = '` + tenantB + `'; select note from app.base`,
	"in a CTE":                      `with x as materialized (select set_config('app.current_tenant_id', '` + tenantB + `', true) as v) select note from app.base, x`,
	"in a subquery in the FROM":     `select note from (select set_config('app.current_tenant_id', '` + tenantB + `', true) as v offset 0) x, app.base`,
	"through update of pg_settings": `with x as (select 1) select note from app.base where (select count(set_config(name, '` + tenantB + `', true)) from pg_settings where name = 'app.current_tenant_id') >= 0 and set_config('app.current_tenant_id', '` + tenantB + `', true) <> ''`,
}

// injected runs each switch as tenant A, and returns those that have shown B's rows.
func injected(t *testing.T, s *signer, token string) (leaked []string) {
	t.Helper()
	for name, text := range switches {
		err := s.in(token, tenantA, func(tx pgx.Tx) error {
			results, err := tx.Conn().PgConn().Exec(t.Context(), text).ReadAll()
			for _, r := range results {
				for _, row := range r.Rows {
					if strings.HasPrefix(string(row[0]), "b") {
						leaked = append(leaked, name)
						return err
					}
				}
			}
			return err
		})
		if err != nil {
			refused(t, err, "shardedpg: ")
		}
	}
	return leaked
}

func TestInjectedSQLBecomesAnotherTenantOnPlainPoliciesOnly(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, server *pgtest.Server) {
		b, key := signedBench(t, server)
		s := b.signer(t, key)
		require.Empty(t, injected(t, s, s.token(tenantA)))
		captured := b.signer(t, key).token(tenantB)
		_, err := s.notes(s.token(tenantA), tenantA, "select note from app.base where set_config('shardedpg.ctx', $1, true) is not null", captured)
		refused(t, err, "signed for another connection")
		b.Config.Identity = policy.Plain
		b.apply(t)
		leaked := injected(t, s, s.token(tenantA))
		require.Contains(t, leaked, "the plain setting", "else this test proves nothing")
		require.Contains(t, leaked, "as own statements")
		require.GreaterOrEqual(t, len(leaked), len(switches)-2, "%v", leaked)
	})
}

func TestTheKeyCannotBeReadOrReplaced(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, server *pgtest.Server) {
		b, key := signedBench(t, server)
		inner, outer := key.Pads()
		s := b.signer(t, key)
		for _, attack := range []string{
			"select * from shardedpg.ctx_key", "select ipad::text from shardedpg.ctx_key", "copy shardedpg.ctx_key to stdout",
			"insert into shardedpg.ctx_key values ('9', '', '')", "delete from shardedpg.ctx_key", "lock shardedpg.ctx_key",
			"create function shardedpg.current_tenant(int) returns text language sql as 'select 1'", "create table shardedpg.x ()",
			"create or replace function shardedpg.current_tenant() returns text language sql as 'select 1'",
			"alter function shardedpg.current_tenant() security invoker", "alter function shardedpg.current_tenant() set search_path = public",
			"drop function shardedpg.current_tenant() cascade", "set role " + b.Config.KeyOwner, "set session authorization " + b.Config.KeyOwner,
			"alter table shardedpg.ctx_key disable row level security", "create trigger x before insert on shardedpg.ctx_key execute function suppress_redundant_updates_trigger()",
			"select * from shardedpg.rls_records",
		} {
			_, err := s.notes(s.token(tenantA), tenantA, attack)
			require.ErrorContains(t, err, "42501", attack)
		}
		for _, where := range []string{
			"select coalesce(string_agg(prosrc || coalesce(proconfig::text, '') || coalesce(pg_get_functiondef(oid), ''), ''), '') from pg_proc where pronamespace = 'shardedpg'::regnamespace and prokind = 'f'",
			"select coalesce(string_agg(setconfig::text, ''), '') from pg_db_role_setting", "select coalesce(string_agg(s::text, ''), '') from pg_stats s",
			"select coalesce(string_agg(query, ''), '') from pg_stat_activity",
		} {
			var text string
			require.NoError(t, s.QueryRow(t.Context(), where).Scan(&text))
			for _, secret := range [][]byte{inner, outer, outer[:8]} {
				require.NotContains(t, text, hex.EncodeToString(secret), where)
			}
		}
	})
}

func TestNothingOfTheCallersStandsInFrontOfWhatTheFunctionCalls(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, server *pgtest.Server) {
		b := newBench(t, server, policytest.Partitioned(appRole()))
		b.Config.KeyOwner, b.Config.KeepTemp = b.Config.App+"_keys", true
		key := keyring(t)[0].For("s1")
		b.exec(t, "create role "+b.Config.App+" login", "create schema evil authorization "+b.Config.App, "grant usage on schema evil to public",
			fmt.Sprintf("insert into app.base (tenant_id, id, note) values ('%s', 1, 'a1'), ('%s', 1, 'b1')", tenantA, tenantB))
		_, err := policy.InstallKeys(t.Context(), b.admin, b.Config, []*rls.ShardKey{key}, nil)
		require.NoError(t, err)
		b.Config.Identity, b.Config.SkipSchemas = policy.Signed, []string{"evil"}
		b.apply(t)
		s := b.signer(t, key)
		for _, schema := range []string{"pg_temp", "evil"} {
			for _, plant := range []string{
				"create function %s.sha256(bytea) returns bytea language sql as 'select ''''::bytea'",
				"create function %s.pg_backend_pid() returns int language sql as 'select 0'",
				"create function %s.current_setting(text, boolean) returns text language sql as 'select ''x'''",
				"create function %s.yes(bytea, bytea) returns boolean language sql as 'select false'",
				"create operator %s.<> (leftarg = bytea, rightarg = bytea, function = %[1]s.yes)",
				"create function %s.encode(bytea, text) returns text language sql as 'select ''''::text'",
				"create table %s.ctx_key as select '1'::text as kid, ''::bytea as ipad, ''::bytea as opad",
				"create function %s.substr(text, int) returns text language sql as 'select ''" + tenantB + "''::text'",
			} {
				_, err := s.Exec(t.Context(), fmt.Sprintf(plant, schema))
				require.NoError(t, err, plant)
			}
		}
		_, err = s.Exec(t.Context(), "set search_path = pg_temp, evil, pg_catalog, app")
		require.NoError(t, err)
		got, err := s.notes(s.token(tenantA), tenantA, notesSQL)
		require.NoError(t, err)
		require.Equal(t, []string{"a1"}, got)
		_, err = s.notes(strings.Replace(s.token(tenantA), tenantA, tenantB, 1), tenantB, notesSQL)
		refused(t, err, "the signature of the tenant is wrong")
	})
}

func TestEachExecutionOfACachedPlanAsksForTheTenantAnew(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, server *pgtest.Server) {
		b, key := signedBench(t, server)
		b.exec(t,
			`create function app.stamp() returns trigger language plpgsql as 'begin new.note := (select count(*) from app.base)::text; return new; end'`,
			"create trigger stamp before insert on app.base for each row when (new.id = 99) execute function app.stamp()",
			fmt.Sprintf("insert into app.base (tenant_id, id, note) select '%s', g, 'a' || g from generate_series(10, 20000) g", tenantA),
			"alter table app.base set (parallel_workers = 2)", "analyze app.base",
			fmt.Sprintf("insert into app.hashed_1 (tenant_id, id, note) select '%s', g, repeat('x', 200) from generate_series(1, 3000) g order by random()", tenantA), "analyze app.hashed_1")
		s := b.signer(t, key)
		_, err := s.Exec(t.Context(), "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; set plan_cache_mode = force_generic_plan")
		require.NoError(t, err)
		count := func(tenant string) (n int) {
			require.NoError(t, s.in(s.token(tenant), tenant, func(tx pgx.Tx) error {
				return tx.QueryRow(t.Context(), "select count(*) from app.base where note <> $1", "").Scan(&n)
			}))
			return n
		}
		for range 8 { // beyond the fifth, a plan may be generic anyway
			require.Equal(t, 19994, count(tenantA))
			require.Equal(t, 3, count(tenantB))
		}
		plan := func(query string) string {
			lines, err := s.notes(s.token(tenantA), tenantA, "explain (analyze, costs off, timing off) "+query)
			require.NoError(t, err)
			return strings.Join(lines, "\n")
		}
		parallel := plan("select count(*) from app.base where note <> 'x'")
		require.Contains(t, parallel, "Workers Launched")
		require.Contains(t, parallel, "InitPlan", "verified once, by the leader")
		pruned := plan("select * from app.hashed_0")
		require.Contains(t, pruned, "Subplans Removed: 1", "no other partition is opened")
		require.Contains(t, plan("select * from app.hashed_1"), "Index Cond: (tenant_id = ", "verified once, and not for each row")

		if !strings.HasPrefix(s.PgConn().ParameterStatus("server_version"), "14") {
			b.exec(t, "create view app.shown with (security_invoker = true) as select * from app.base", "grant select on app.shown to "+b.Config.App)
			got, err := s.notes(s.token(tenantB), tenantB, "select note from app.shown order by 1")
			require.NoError(t, err)
			require.Equal(t, []string{"b0", "b1", "b2"}, got)
		}
		require.NoError(t, s.in(s.token(tenantB), tenantB, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "declare c cursor with hold for "+notesSQL)
			return err
		}))
		got, err := s.notes(s.token(tenantA), tenantA, "fetch all from c")
		require.NoError(t, err)
		require.Equal(t, []string{"b0", "b1", "b2"}, got, "a cursor keeps its rows: the reset closes it")
		_, err = s.notes("", tenantB, "fetch all from c")
		require.NoError(t, err)
		got, err = s.notes(s.token(tenantB), tenantB, "insert into app.base (id, note) values (7, 'b7') returning tenant_id::text")
		require.NoError(t, err)
		require.Equal(t, []string{tenantB}, got, "the default is the tenant")
		got, err = s.notes(s.token(tenantB), tenantB, "insert into app.base (id) values (99) returning note")
		require.NoError(t, err)
		require.Equal(t, []string{"4"}, got, "a trigger sees the tenant's rows")
		_, err = s.notes(s.token(tenantB), tenantA, "insert into app.base (id, note) values (8, 'b8') returning tenant_id::text")
		require.ErrorContains(t, err, "42501", "and is not trusted")
	})
}

func TestATransactionKeepsItsTenantBeyondTheTokensEnd(t *testing.T) {
	t.Parallel()
	b, key := signedBench(t, pgtest.Shared(t, "policy"))
	s := b.signer(t, key)
	short := string(key.AppendToken(nil, s.PgConn().PID(), time.Now().Add(2*time.Second).Unix(), tenantA))
	require.NoError(t, s.in(short, tenantA, func(tx pgx.Tx) error {
		var past bool
		for !past {
			require.NoError(t, tx.QueryRow(t.Context(), "select extract(epoch from clock_timestamp()) > split_part(current_setting('shardedpg.ctx'), ':', 4)::bigint + 1").Scan(&past))
		}
		var n int
		require.NoError(t, tx.QueryRow(t.Context(), "select count(*) from app.base").Scan(&n))
		require.Equal(t, 3, n)
		return nil
	}))
	_, err := s.notes(short, tenantA, notesSQL)
	refused(t, err, "has expired")
}

func TestPoliciesGoFromPlainToSignedAndBackInOneApply(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, server *pgtest.Server) {
		for _, d := range policytest.All(appRole()) {
			t.Run(d.Name, func(t *testing.T) {
				b := newBench(t, server, d)
				b.Config.KeyOwner = b.Config.App + "_keys"
				b.apply(t)
				plain := b.everything(t)
				b.Config.Identity = policy.Signed
				_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
				require.ErrorIs(t, err, policy.ErrProblems)
				require.ErrorContains(t, err, "no key is installed")
				same(t, plain, b.everything(t))

				key := keyring(t)[0].For("s1")
				installed, err := policy.InstallKeys(t.Context(), b.admin, b.Config, []*rls.ShardKey{key}, nil)
				require.NoError(t, err)
				require.Equal(t, []string{"1"}, installed)
				same(t, plain, b.everything(t), "policies are as they were")
				state, err := policy.ReadKeys(t.Context(), b.admin, b.Config)
				require.NoError(t, err)
				require.Equal(t, []int{0, d.Tables}, []int{state.Signed, state.Plain})
				require.Equal(t, key.Name(), state.Keys[0].Name)

				plan := b.plan(t)
				result := b.apply(t)
				require.Len(t, result.Changes, 2*d.Tables, "the two policies of each table, and nothing else")
				require.Empty(t, b.plan(t).Diff())
				signed := b.everything(t)
				b.exec(t, plan.Script())
				same(t, signed, b.everything(t))
				state, err = policy.ReadKeys(t.Context(), b.admin, b.Config)
				require.NoError(t, err)
				require.Equal(t, []int{d.Tables, 0}, []int{state.Signed, state.Plain})

				_, err = policy.Rollback(t.Context(), b.admin, nil)
				require.NoError(t, err)
				same(t, plain, b.everything(t))
				b.apply(t)
				same(t, signed, b.everything(t))
				b.Config.Identity = policy.Plain
				b.apply(t)
				same(t, plain, b.everything(t))
				require.Empty(t, b.plan(t).Diff())
			})
		}
	})
}

func TestWhatVerifiesTokensIsDriftWhenSomebodyChangesIt(t *testing.T) {
	t.Parallel()
	b, _ := signedBench(t, pgtest.Shared(t, "policy"))
	for change, shown := range map[string]string{
		"create or replace function shardedpg.current_tenant() returns text language sql stable as 'select null::text'":    "function shardedpg.current_tenant()\n  - definition: ",
		"alter function shardedpg.current_tenant() immutable":                                                              "volatility i",
		"alter function shardedpg.current_tenant() owner to {app}":                                                         "owner {app}, returns text",
		"alter function shardedpg.current_tenant() reset search_path":                                                      "function shardedpg.current_tenant()\n  - definition: ",
		"grant execute on function shardedpg.current_tenant() to public":                                                   "current_tenant public",
		"grant select on shardedpg.ctx_key to {app}":                                                                       "rights of {app}",
		"revoke usage on schema shardedpg from {owner}":                                                                    "schema shardedpg\n  - may use it: ",
		"alter table shardedpg.ctx_key owner to {owner}":                                                                   "owner {owner}, kid text",
		"create or replace function shardedpg.identity_keys() returns text[] language sql stable as 'select array[''1'']'": "function shardedpg.identity_keys()\n  - definition: ",
	} {
		tx, err := b.admin.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), b.fill(change))
		require.NoError(t, err, change)
		require.NoError(t, tx.Commit(t.Context()))
		require.Contains(t, b.plan(t).Diff(), b.fill(shown), change)
		b.apply(t)
		require.Empty(t, b.plan(t).Diff(), change)
	}
	b.exec(t, b.fill("create table shardedpg.mine (); alter table shardedpg.ctx_key inherit shardedpg.mine; "))
	_, err := policy.Apply(t.Context(), b.admin, b.Config, nil)
	require.ErrorContains(t, err, "with triggers, rules or children", "what is not ours is not repaired")
	_, err = policy.ReadKeys(t.Context(), b.admin, b.Config)
	require.ErrorContains(t, err, "is not as it must be")
}

func TestKeysAreInstalledAndRemovedAndAreInNoLog(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "keys", Settings: map[string]string{"log_statement": "all"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	b, first := signedBench(t, server)
	second := keyring(t)[1].For("s1")
	install := func(keys ...*rls.ShardKey) ([]string, error) {
		return policy.InstallKeys(context.Background(), b.admin, b.Config, keys, nil)
	}
	_, err = policy.RemoveKey(t.Context(), b.admin, b.Config, "1", nil)
	require.ErrorContains(t, err, "is the only key")
	_, err = install(keyring(t)[0].For("another shard"))
	require.ErrorContains(t, err, `another key is installed as "1"`)
	installed, err := install(first, second)
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, installed)
	s := b.signer(t, first)
	old := s.token(tenantA)
	_, err = s.notes(old, tenantA, notesSQL)
	require.NoError(t, err)
	removed, err := policy.RemoveKey(t.Context(), b.admin, b.Config, "1", nil)
	require.NoError(t, err)
	require.True(t, removed)
	_, err = s.notes(old, tenantA, notesSQL)
	refused(t, err, "a key that is not here")
	s.key = second
	_, err = s.notes(s.token(tenantA), tenantA, notesSQL)
	require.NoError(t, err)

	log, err := os.ReadFile(server.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), "ctx_key", "the statements are there")
	for _, key := range []*rls.ShardKey{first, second} {
		inner, outer := key.Pads()
		for _, secret := range [][]byte{inner, outer} {
			require.NotContains(t, string(log), hex.EncodeToString(secret[:8]))
		}
	}
}
