package policy_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

// attacks are calls that reach across tenants, and that everybody may make by default.
var attacks = []string{
	"select pg_advisory_lock(1)", "select pg_notify('x', '')", "select query_to_xml('select 1', true, true, '')", "select lo_create(0)",
	"select count(*) from pg_stat_activity", "select pg_cancel_backend(1)", "do $$ begin end $$",
}

func TestHardeningTakesFromEverybodyAndIsTakenBack(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		b := newBench(t, s, policytest.Views(appRole()))
		_, err := policy.Harden(t.Context(), b.admin, b.Config, false, nil)
		require.ErrorContains(t, err, "there is no role")
		b.apply(t)
		before := b.everything(t)
		preview, err := policy.Harden(t.Context(), b.admin, b.Config, true, nil)
		require.NoError(t, err)
		require.Zero(t, preview.Record)
		require.Greater(t, len(preview.Rights), 40)
		same(t, before, b.everything(t))

		hardened, err := policy.Harden(t.Context(), b.admin, b.Config, false, &policy.ApplyOptions{Note: "x"})
		require.NoError(t, err)
		require.NotZero(t, hardened.Record)
		require.Equal(t, preview.Rights, hardened.Rights, "nothing was refused")
		b.denied(t, attacks...)
		_, err = b.as(t, tenantA, "insert into app.t2 (total) values (1)", "select pg_advisory_unlock_all()")
		require.NoError(t, err, "what the driver, functions and triggers do goes on")
		again, err := policy.Harden(t.Context(), b.admin, b.Config, false, nil)
		require.NoError(t, err)
		require.Empty(t, again.Rights)
		require.Zero(t, again.Record)
		config, _, err := policy.Applied(t.Context(), b.admin)
		require.NoError(t, err)
		require.True(t, config.Lockdown)
		plan, err := policy.Read(t.Context(), b.admin, config)
		require.NoError(t, err)
		require.Empty(t, plan.Diff(), "it is what apply would make")

		_, err = policy.Rollback(t.Context(), b.admin, nil)
		require.NoError(t, err)
		same(t, before, b.everything(t))
	})
}

func TestHardeningSaysWhatTheServerRefuses(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, s *pgtest.Server) {
		d := policytest.Wide(appRole(), 1)
		operator := d.Config.App + "_operator" // what a managed server gives
		b := newBench(t, s, d)
		b.exec(t, "create role "+operator+" login createrole", "alter database "+b.name+" owner to "+operator,
			b.fill("create role {app} login"), b.fill("create role {owner}"), b.fill("create role {maintenance}"))
		conn := b.connect(t, operator)
		hardened, err := policy.Harden(t.Context(), conn, b.Config, false, nil)
		require.NoError(t, err)
		require.Zero(t, hardened.Record)
		require.Greater(t, len(hardened.Rights), 40)
		t.Logf("%d refused", len(hardened.Rights))
		for _, right := range hardened.Rights {
			require.NotEmpty(t, right.Refused, right.Object)
		}
		// One of them is the operator's.
		b.exec(t, "alter function pg_catalog.pg_notify(text, text) owner to "+operator)
		hardened, err = policy.Harden(t.Context(), conn, b.Config, false, nil)
		require.NoError(t, err)
		require.NotZero(t, hardened.Record)
		for _, right := range hardened.Rights {
			require.Equal(t, right.Object == "function pg_notify(text,text)", right.Refused == "", right.Object)
		}
		_, err = b.connect(t, b.Config.App).Exec(t.Context(), "select pg_notify('x', '')", pgx.QueryExecModeExec)
		require.ErrorContains(t, err, "42501")
		config, _, err := policy.Applied(t.Context(), conn)
		require.NoError(t, err)
		require.False(t, config.Lockdown, "the rest is open")
	})
}
