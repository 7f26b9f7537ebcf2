package rls_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	server := pgtest.Shared(t, "rls")
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres", server.NewDatabase(t)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func values(step rls.Step, s *rls.Settings) (args []any) {
	for i := range rls.Params(step, s.Tag != "", false) {
		args = append(args, string(s.AppendValue(nil, step, i)))
	}
	return args
}

func TestEachStepPutsItsSettingsInForceUntilTheTransactionEnds(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	_, err := conn.Exec(t.Context(), `create schema "tenant_a""b"; create role "tenant_a""b"`)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = conn.Exec(t.Context(), `drop role "tenant_a""b"`) })
	s := rls.For(&resolver.Route{
		Tenant: "o'brien", Model: resolver.ModelSchema, Schema: `tenant_a"b`, Role: `tenant_a"b`, State: resolver.StateReadOnly,
		Plan: resolver.Plan{StatementTimeout: 5 * time.Second, WorkMemKB: 8192},
	})
	s.Tag = "tenant:o'brien"
	want := map[string]string{
		"app.current_tenant_id": "o'brien", "statement_timeout": "5s", "work_mem": "8MB", "search_path": `"tenant_a""b", pg_temp`,
		"role": `tenant_a"b`, "transaction_read_only": "on", "application_name": "tenant:o'brien",
	}
	sets := map[rls.Step][]string{
		rls.Tenant: {"app.current_tenant_id"}, rls.Timeout: {"app.current_tenant_id", "statement_timeout"},
		rls.Limits:   {"app.current_tenant_id", "statement_timeout", "work_mem"},
		rls.Schema:   {"app.current_tenant_id", "statement_timeout", "work_mem", "search_path", "role"},
		rls.Rearm:    {"app.current_tenant_id", "statement_timeout"},
		rls.ReadOnly: {"transaction_read_only"},
	}
	for step, names := range sets {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), rls.SQL(step, rls.DefaultGUC, true, false), values(step, &s)...)
		require.NoError(t, err, "step %d", step)
		if step != rls.ReadOnly {
			names = append(names, "application_name")
		}
		for _, name := range names {
			var got string
			require.NoError(t, tx.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&got))
			require.Equal(t, want[name], got, "step %d, %s", step, name)
		}
		require.NoError(t, tx.Commit(t.Context()))
		for _, name := range names {
			var left string
			require.NoError(t, conn.QueryRow(t.Context(), "select coalesce(current_setting($1, true), '')", name).Scan(&left))
			require.NotEqual(t, want[name], left, "step %d left %s", step, name)
		}
	}
}

func TestRearmingLetsACallerTightenALimitAndNeverLiftIt(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	cases := []struct {
		timeoutMS int64
		own, want string // the caller's SET LOCAL, and what is in force after arming again
	}{
		{30_000, "500ms", "500ms"},
		{30_000, "30s", "30s"},
		{30_000, "31s", "30s"},
		{30_000, "1h", "30s"},
		{30_000, "0", "30s"},
		{30_000, "2147483647", "30s"},
		{0, "500ms", "500ms"}, // no limit in the plan
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%d %s", c.timeoutMS, c.own), func(t *testing.T) {
			s := rls.Settings{Tenant: "a", TimeoutMS: c.timeoutMS, WorkMemKB: 16384}
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
			_, err = tx.Exec(t.Context(), "select set_config('statement_timeout', $1, true), set_config('work_mem', '1GB', true)", c.own)
			require.NoError(t, err)
			args := values(rls.Rearm, &s)
			_, err = tx.Exec(t.Context(), rls.SQL(rls.Rearm, rls.DefaultGUC, false, false), args...)
			require.NoError(t, err)
			var timeout, workMem string
			require.NoError(t, tx.QueryRow(t.Context(), "select current_setting('statement_timeout'), current_setting('work_mem')").
				Scan(&timeout, &workMem))
			require.Equal(t, []string{c.want, "16MB"}, []string{timeout, workMem})
		})
	}
}

func TestThePrologueCarriesOnlyWhatDiffersFromTheBackendsDefaults(t *testing.T) {
	t.Parallel()
	s := rls.Settings{Tenant: "a", TimeoutMS: 30_000, WorkMemKB: 16384}
	require.Equal(t, rls.Tenant, s.Step(rls.Defaults{Known: true, TimeoutMS: 30_000, WorkMemKB: 16384}))
	require.Equal(t, rls.Timeout, s.Step(rls.Defaults{Known: true, TimeoutMS: 5_000, WorkMemKB: 16384}))
	require.Equal(t, rls.Limits, s.Step(rls.Defaults{Known: true, TimeoutMS: 30_000, WorkMemKB: 4096}))
	require.Equal(t, rls.Limits, s.Step(rls.Defaults{}), "behind a pooler nothing is known")
	s.Role = "tenant_a"
	require.Equal(t, rls.Schema, s.Step(rls.Defaults{Known: true, TimeoutMS: 30_000, WorkMemKB: 16384}))
}

func TestADeadlineLowersTheTimeoutAndNeverMeansNoLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ plan, left, want time.Duration }{
		{30 * time.Second, time.Hour, 30 * time.Second},
		{30 * time.Second, time.Second, 1500 * time.Millisecond},
		{resolver.Unlimited, time.Second, 1500 * time.Millisecond},
		{30 * time.Second, -time.Hour, time.Millisecond},
		{time.Millisecond, time.Second, time.Millisecond},
	} {
		s := rls.For(&resolver.Route{Plan: resolver.Plan{StatementTimeout: c.plan}})
		s.Cap(c.left)
		require.Equal(t, c.want.Milliseconds(), s.TimeoutMS, "%v", c)
	}
	require.Zero(t, func() int64 {
		s := rls.For(&resolver.Route{Plan: resolver.Plan{StatementTimeout: resolver.Unlimited}})
		return s.TimeoutMS
	}())
}

func TestTheTenantSettingMustBeACustomParameter(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{rls.DefaultGUC, "myapp.tenant", "a.b.c"} {
		require.NoError(t, rls.CheckGUC(ok))
	}
	for _, bad := range []string{
		"", "role", "statement_timeout", "App.tenant", "app.x'", "app.", ".x", "app x.y", "app.x;", "é.x", strings.Repeat("a", 62) + ".b",
	} {
		require.Error(t, rls.CheckGUC(bad), bad)
	}
}

func FuzzQuoteIdentReadsBackOnTheServer(f *testing.F) {
	f.Add(`a"b`)
	f.Add("tenant_x, other")
	f.Fuzz(func(t *testing.T, name string) {
		quoted := rls.QuoteIdent(name)
		inner := quoted[1 : len(quoted)-1]
		require.Equal(t, name, strings.ReplaceAll(inner, `""`, `"`))
		require.Zero(t, strings.Count(strings.ReplaceAll(inner, `""`, ""), `"`))
	})
}
