package main

import (
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// admin runs statements on a shard as the superuser.
func (f *fleet) admin(t testing.TB, shard string, statements ...string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(f.admins[shard])
	require.NoError(t, err)
	require.NoError(t, pgtest.Shared(t, shard).Exec(t.Context(), cfg.Database, statements...))
}

// rls runs a command on policies with the roles of this fleet; those of others are on the same servers.
func (f *fleet) rls(t testing.TB, args ...string) result {
	t.Helper()
	if args[0] == "apply" || args[0] == "generate" {
		args = append(args, "--owner-role", f.login+"_owner", "--maintenance-role", f.login+"_maintenance")
	}
	return f.run(t, "", append([]string{"rls"}, args...)...)
}

func TestPoliciesOfAFleetAreAppliedOnceAndTakenBack(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "before", "--model", "partition", "--shard", "eu1")

	preview := f.rls(t, "apply", "--dry-run", "--drop-policies")
	require.Zero(t, preview.code, preview.notes)
	require.Contains(t, preview.out, "+ policy shardedpg_tenant: permissive for all to "+f.login)
	require.Contains(t, preview.out, "- policy tenant_rows: ")
	require.Contains(t, preview.out, "dry run, nothing was changed")
	require.Equal(t, exitFailed, f.rls(t, "apply", "--dry-run", "--fail-on-drift").code)

	script := f.rls(t, "generate", "--shard", "eu1")
	require.Zero(t, script.code, script.notes)
	require.Contains(t, script.out, `create policy "shardedpg_guard" on "public"."orders" as restrictive for all to public using ("tenant_id" = (select nullif(`)

	applied := f.rls(t, "apply", "--yes", "--drop-policies", "--note", "first")
	require.Zero(t, applied.code, applied.notes)
	require.Contains(t, applied.out, "made, record 1")
	require.Contains(t, applied.out, `shard "us1"`)
	again := f.rls(t, "apply", "--dry-run", "--fail-on-drift")
	require.Zero(t, again.code, again.out)
	require.Zero(t, f.run(t, "", "rls", "apply", "--dry-run", "--fail-on-drift").code, "what was declared need not be said again")

	// Tenants of both models work, and new partitions are no drift.
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	f.ok(t, "tenant", "add", "part", "--model", "partition", "--shard", "eu1")
	db, err := sql.Open("sharded-pg", f.registry)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for tenant, into := range map[string][2]string{"acme": {"orders", "note"}, "part": {"events", "what"}, "before": {"events", "what"}} {
		ctx := shardedpg.WithTenant(t.Context(), tenant)
		_, err := db.ExecContext(ctx, "insert into "+into[0]+" ("+into[1]+") values ($1)", "of "+tenant)
		require.NoError(t, err, tenant)
		var all string
		require.NoError(t, db.QueryRowContext(ctx, "select string_agg("+into[1]+", ',') from "+into[0]).Scan(&all))
		require.Equal(t, "of "+tenant, all)
	}
	again = f.rls(t, "apply", "--dry-run", "--fail-on-drift")
	require.Zero(t, again.code, again.out)

	f.admin(t, "us1", "alter policy shardedpg_guard on orders using (true)")
	drift := f.rls(t, "apply", "--dry-run", "--fail-on-drift")
	require.Equal(t, exitFailed, drift.code)
	require.Contains(t, drift.out, "table public.orders\n  - policy shardedpg_guard: restrictive for all to public using true")
	require.Zero(t, f.rls(t, "apply", "--yes", "--shard", "us1").code)

	require.Equal(t, exitUsage, f.rls(t, "rollback", "--yes").code, "of one database only")
	shown := f.rls(t, "rollback", "--shard", "us1", "--dry-run")
	require.Contains(t, shown.out, "+ policy shardedpg_guard: restrictive for all to public using true")
	require.Contains(t, f.ok(t, "rls", "rollback", "--shard", "us1", "--yes", "--note", "why not"), "made, record 3")
	history := f.json(t, "rls", "history", "--shard", "us1")["records"].([]any)
	require.Len(t, history, 3)
	require.Equal(t, "why not", history[0].(map[string]any)["note"])
	require.Contains(t, f.ok(t, "rls", "history", "--shard", "us1"), "apply, rolled back")
	f.ok(t, "rls", "rollback", "--shard", "us1", "--yes")
	none := f.run(t, "", "rls", "rollback", "--shard", "us1", "--yes")
	require.Equal(t, exitFailed, none.code)
	require.Contains(t, none.notes, `shard "us1", database`)
	require.Contains(t, none.notes, "nothing to roll back; shardedpg rls history shows")
}

func TestThePlanStopsAtWhatWasNotDeclared(t *testing.T) {
	t.Parallel()
	f := ready(t)
	for _, shard := range []string{"eu1", "us1"} {
		f.admin(t, shard, "create table countries (code text primary key)")
	}
	r := f.rls(t, "apply", "--yes")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.notes, `table public.countries has no column "tenant_id": give it one, or declare it global`)
	require.Contains(t, r.notes, `not tried: shard "us1"`)
	r = f.rls(t, "generate", "--shard", "eu1")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.out, "-- PROBLEM: table public.countries")
	r = f.rls(t, "apply", "--dry-run", "--global", "public.countries", "-o", "json")
	require.Zero(t, r.code, r.notes)
	var shown struct {
		Databases []struct {
			Shard   string
			Changes []struct{ Object, Property, Was, Want string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	require.Len(t, shown.Databases, 2)
	require.NotEmpty(t, shown.Databases[1].Changes)
}

func TestAnAuditOfAFleetTellsByItsExitCode(t *testing.T) {
	t.Parallel()
	f := ready(t)
	require.Zero(t, f.rls(t, "apply", "--yes", "--drop-policies", "--indexes").code)
	clean := f.run(t, "", "rls", "audit")
	require.Zero(t, clean.code, clean.out)
	require.Contains(t, clean.out, "2 tables of tenants: 1 finding, ")
	require.Contains(t, clean.out, "max_prepared_transactions", "the servers of the tests have them")

	f.admin(t, "us1", "alter table orders disable row level security", "create unique index orders_note on orders (note)")
	bad := f.run(t, "", "rls", "audit", "--all")
	require.Equal(t, exitFailed, bad.code)
	require.Contains(t, bad.out, "critical  SPG020  us1/")
	require.Contains(t, bad.out, "level standard: takes a superuser")
	require.Contains(t, bad.out, "alter table public.orders enable row level security")

	waivers, sarif := filepath.Join(t.TempDir(), "waivers.yaml"), filepath.Join(t.TempDir(), "audit.sarif")
	require.NoError(t, os.WriteFile(waivers, []byte(`
waivers:
  - {rule: SPG020, shard: us1, reason: a test, expires: 2999-12-31}
  - {rule: SPG022, object: public.orders, reason: a test, expires: 2999-12-31}
  - {rule: SPG040, object: public.*, reason: was a test, expires: 2020-12-31}
`), 0o600))
	waived := f.run(t, "", "rls", "audit", "--waivers", waivers, "--sarif", sarif)
	require.Zero(t, waived.code, waived.out)
	require.Contains(t, waived.out, "medium")
	require.Contains(t, waived.notes, "the waiver of SPG040 expired on 2020-12-31")
	require.Equal(t, exitFailed, f.run(t, "", "rls", "audit", "--waivers", waivers, "--fail-on", "medium").code)
	require.Zero(t, f.run(t, "", "rls", "audit", "--fail-on", "never").code)
	written, err := os.ReadFile(sarif)
	require.NoError(t, err)
	require.Contains(t, string(written), `"ruleId": "SPG020"`)

	report := f.run(t, "", "rls", "audit", "--fail-on", "never", "-o", "json")
	var shown struct {
		Worst     string
		Databases []struct{ Shard string }
		Failed    map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(report.out), &shown))
	require.Equal(t, "critical", shown.Worst)
	require.Len(t, shown.Databases, 2)
	require.Empty(t, shown.Failed)
}

func TestADatabaseThatCannotBeAuditedIsNoGoodDatabase(t *testing.T) {
	t.Parallel()
	f := ready(t)
	require.Zero(t, f.rls(t, "apply", "--yes", "--drop-policies", "--indexes").code)
	f.ok(t, "tenant", "add", "elsewhere", "--no-provision", "--shard", "eu1")
	db, err := sql.Open("pgx", f.registry)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), "update sharded_pg.tenants set database = 'not_there' where id = 'elsewhere'")
	require.NoError(t, err)
	r := f.run(t, "", "rls", "audit", "--fail-on", "never")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.notes, `failed: shard "eu1", database "not_there": `)
	require.Contains(t, r.out, "us1/")
	require.NotContains(t, r.out+r.notes, "user=", "no part of a DSN")
}

func TestTheDriverWorksOnALockedDownShard(t *testing.T) {
	t.Parallel()
	f := ready(t)
	require.Zero(t, f.rls(t, "apply", "--yes", "--drop-policies", "--lockdown").code)
	for _, tenant := range []string{"a", "b"} {
		f.ok(t, "tenant", "add", tenant, "--shard", "eu1")
	}
	db, err := sql.Open("sharded-pg", f.registry+" sharded_max_conns=1") // one connection, reset for each tenant
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for range 3 {
		for _, tenant := range []string{"a", "b"} {
			ctx := shardedpg.WithTenant(t.Context(), tenant)
			tx, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, "insert into orders (note) values ($1)", "of "+tenant)
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, "set local work_mem = '8MB'")
			require.NoError(t, err)
			require.NoError(t, tx.Commit())
			var notes string
			require.NoError(t, db.QueryRowContext(ctx, "select string_agg(distinct note, ',') from orders").Scan(&notes))
			require.Equal(t, "of "+tenant, notes)
			_, err = db.ExecContext(ctx, "select pg_notify('a', 'b')")
			require.ErrorContains(t, err, "42501")
		}
	}
	r := f.run(t, "", "rls", "audit", "--shard", "eu1", "--level", "hardened", "--fail-on", "never", "-o", "json")
	require.Contains(t, r.out, "SPG072")
	require.NotContains(t, r.out, "SPG073")
}

func TestOneDatabaseNeedsNoRegistry(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.env = append(f.env, "SHARDEDPG_REGISTRY=")
	on := []string{"--dsn", f.admins["eu1"], "--app-role", f.login}
	require.Zero(t, f.rls(t, append([]string{"apply", "--yes", "--drop-policies", "--indexes"}, on...)...).code)
	r := f.run(t, "", "rls", "audit", "--dsn", f.admins["eu1"])
	require.Zero(t, r.code, r.out+r.notes)
	require.Contains(t, r.out, "2 tables of tenants: 1 finding, ")
	r = f.run(t, "", "rls", "audit", "--dsn", f.admins["us1"])
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.notes, "Name it with --app-role")
	r = f.run(t, "", "rls", "history", "--dsn", f.admins["eu1"])
	require.Contains(t, r.out, "apply")
	r = f.run(t, "", "rls", "audit", "--dsn", "host=/nowhere password=secret user=x", "--app-role", "x")
	require.Equal(t, exitFailed, r.code)
	require.NotContains(t, r.out+r.notes, "secret")
}

func TestRecordsOfTheAppRoleStopAllButTheAudit(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.admin(t, "eu1", `create schema shardedpg authorization "`+f.login+`"`)
	for _, command := range [][]string{{"generate"}, {"apply", "--yes"}, {"apply", "--dry-run"}, {"rollback", "--yes"}, {"history"}} {
		r := f.rls(t, append(command, "--shard", "eu1")...)
		require.Equal(t, exitFailed, r.code, "%v", command)
		require.Contains(t, r.notes, "the records of policies are not ours alone: schema shardedpg belongs to ", "%v", command)
	}
	r := f.run(t, "", "rls", "audit", "--shard", "eu1")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.out, "critical  SPG081  eu1/")
}

func TestChangesOfPoliciesAreAskedForInSoManyWords(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for says, args := range map[string][]string{
		"say --dry-run to see what apply":    {"apply"},
		"say --dry-run to see what rollback": {"rollback", "--dry-run", "--yes"},
		"leave --shard and --database out":   {"apply", "--yes", "--dsn", "host=x", "--shard", "eu1"},
		"use 1 to 16":                        {"audit", "--jobs", "17"},
		"--fail-on must be one of":           {"audit", "--fail-on", "bad"},
		"no such file":                       {"audit", "--waivers", "/nowhere"},
		"there is no rule":                   {"rules", "SPG999"},
	} {
		r := f.run(t, "", append([]string{"rls"}, args...)...)
		require.Equal(t, exitUsage, r.code, "%v", args)
		require.Contains(t, r.notes, says)
	}
	require.Contains(t, f.ok(t, "rls", "rules"), "SPG085")
	require.Contains(t, f.ok(t, "rls", "rules", "SPG027"), "joined by OR")
}
