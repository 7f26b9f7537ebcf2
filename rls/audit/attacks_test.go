package audit_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls/audit"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

// attacks are further forms of faults, which an attack on the generator used.
var attacks = []struct{ rule, plant, object, detail string }{
	{"SPG081", `alter schema shardedpg owner to {app}`, "shardedpg", "owned by reachable role {app}"},
	{
		"SPG081", `drop table shardedpg.rls_records; create view shardedpg.rls_records as select 1; alter view shardedpg.rls_records owner to {app}`,
		"shardedpg.rls_records", "owned by reachable role {app}",
	},
	{"SPG010", `alter role {app} in database {db} set search_path = app, my_pg_temp`, "{app}", "search_path=app, my_pg_temp"},
	{"SPG010", `alter role {app} in database {db} set search_path = pg_temp, app, pg_temp`, "{app}", "search_path=pg_temp, app, pg_temp"},
	{"SPG010", `alter role {app} in database {db} set search_path = 'app, pg_temp'`, "{app}", `search_path="app, pg_temp"`},
	{"SPG010", `alter role {app} set search_path = app, pg_temp; alter role {app} in database {db} set search_path = app`, "{app}", "search_path=app"},
	{"SPG071", `create schema f authorization {app}; revoke create on schema f from {app}`, "f", "owned by {app}, which {app} is or can become"},
	{
		"SPG071", `alter database {db} owner to {app}; alter schema public owner to pg_database_owner; revoke create on schema public from pg_database_owner`,
		"public", "owned by pg_database_owner, which {app} is or can become",
	},
	{"SPG081", `create trigger t before insert on shardedpg.rls_records for each row execute function app.touch()`, "shardedpg.rls_records", "runs trigger t"},
}

func TestEachRuleFindsTheFormsThatAnAttackUsed(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Views(appRole()))
	for _, a := range attacks {
		tx, err := s.conn.Begin(t.Context())
		require.NoError(t, err)
		find := func() (details []string) {
			r, err := audit.RunOnly(t.Context(), tx, s.audit, a.rule)
			require.NoError(t, err)
			require.Empty(t, r.NotRun)
			for _, f := range r.Findings {
				details = append(details, f.Object+": "+f.Detail)
			}
			return details
		}
		wanted := s.fill(a.object + ": " + a.detail)
		require.NotContains(t, find(), wanted)
		_, err = tx.Exec(t.Context(), s.fill(a.plant), pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, a.plant)
		require.Contains(t, find(), wanted, a.plant)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

func TestPoliciesOnIntegersHaveNoFinding(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Chatwoot(appRole()))
	r, err := audit.RunOnly(t.Context(), s.conn, s.audit, "SPG027", "SPG028", "SPG030", "SPG031", "SPG032", "SPG035", "SPG036")
	require.NoError(t, err)
	require.Empty(t, r.NotRun)
	require.Empty(t, found(r))
}

// What provisioning grants on the tables to come in a tenant's own schema is for that tenant alone, and no policy has to come first.
func TestASchemaTenantsFutureTablesAreItsOwn(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Views(appRole()))
	exec := func(statements ...string) {
		for _, statement := range statements {
			_, err := s.conn.Exec(t.Context(), s.fill(statement))
			require.NoError(t, err)
		}
	}
	exec("create role {app}_x", "grant {app}_x to {app}", "create schema tenant_x",
		"alter default privileges in schema tenant_x grant select, insert on tables to {app}_x")
	r, err := audit.RunOnly(t.Context(), s.conn, s.audit, "SPG046")
	require.NoError(t, err)
	require.Empty(t, found(r))
	for object, statement := range map[string]string{
		"postgres in tenant_x": "alter default privileges in schema tenant_x grant select on tables to {app}",
		"postgres in tenant_y": "create schema tenant_y; alter default privileges in schema tenant_y grant select on tables to public",
		"postgres in app":      "alter default privileges in schema app grant select on tables to {app}_x",
	} {
		exec(statement)
		r, err := audit.RunOnly(t.Context(), s.conn, s.audit, "SPG046")
		require.NoError(t, err)
		require.Contains(t, found(r), "SPG046 "+object)
	}
}
