package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/verify"
)

// left counts what a run may leave on a shard: rows of its tenants, partitions for them, and statements that still run.
func (f *fleet) left(t testing.TB, shard string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.admins[shard])
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.NoError(t, conn.QueryRow(t.Context(), `select (select count(*) from orders where tenant_id like 'shardedpg-verify-%') +
 (select count(*) from events where tenant_id like 'shardedpg-verify-%') + (select count(*) from pg_largeobject_metadata) +
 (select count(*) from pg_class where relispartition and obj_description(oid, 'pg_class') like '%shardedpg-verify-%')`).Scan(&n))
	return n
}

func TestVerifyTellsByItsExitCodeWhatHolds(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--model", "partition", "--shard", "eu1")
	before := f.ok(t, "tenant", "list", "--all") + f.ok(t, "registry", "audit-log")
	planned := f.ok(t, "rls", "verify", "--dry-run")
	require.Contains(t, planned, "shardedpg-verify-a, shardedpg-verify-b")
	require.Contains(t, planned, "  public.orders\n")

	good := f.run(t, "", "rls", "verify", "--yes")
	require.Zero(t, good.code, good.out+good.notes)
	require.Contains(t, good.out, "0 broken, 0 not tried")
	require.Contains(t, good.out, "known: switch inside the statement")
	require.Equal(t, exitFailed, f.run(t, "", "rls", "verify", "--yes", "--strict").code)
	require.Contains(t, f.ok(t, "rls", "verify", "--yes", "--shard", "eu1", "--all"), "held     public.orders ")

	f.admin(t, "us1", "alter table orders disable row level security")
	bad := f.run(t, "", "rls", "verify", "--yes", "-o", "json")
	require.Equal(t, exitFailed, bad.code)
	var shown struct {
		Databases []*verify.Report
		Failed    map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(bad.out), &shown))
	require.Empty(t, shown.Failed)
	require.Len(t, shown.Databases, 2)
	require.True(t, shown.Databases[0].Proved())
	require.False(t, shown.Databases[1].Proved())
	require.Equal(t, before, f.ok(t, "tenant", "list", "--all")+f.ok(t, "registry", "audit-log"), "the registry is not touched")
	for _, shard := range []string{"eu1", "us1"} {
		require.Zero(t, f.left(t, shard))
	}
}

// In the middle of a transaction the driver sets a deadline, and settings that were rolled back, as the tenant's role.
func TestSchemaTenantsWorkWhereTheDatabaseIsLockedDown(t *testing.T) {
	t.Parallel()
	f := ready(t)
	role := f.login + "_hooli"
	f.admin(t, "eu1", "create role "+role, "grant "+role+" to "+f.login, "create schema tenant_hooli", "grant usage on schema tenant_hooli to "+role,
		"create table tenant_hooli.orders (note text)", "grant select, insert on tenant_hooli.orders to "+role)
	f.ok(t, "registry", "apply", "-f", written(t, "tenants: {hooli: {shard: eu1, model: schema, role: "+role+"}}\n"))
	f.ok(t, "rls", "apply", "--shard", "eu1", "--drop-policies", "--lockdown", "--yes")

	db, err := sql.Open("sharded-pg", f.registry)
	require.NoError(t, err)
	defer db.Close()
	ctx := shardedpg.WithTenant(t.Context(), "hooli")
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	for _, statement := range []string{
		"insert into orders values ('a')", "savepoint s", "insert into orders values ('b')", "rollback to s", "set local enable_seqscan = off",
		"insert into orders values ('c')",
	} {
		_, err := tx.ExecContext(ctx, statement)
		require.NoError(t, err, statement)
	}
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var notes string
	require.NoError(t, tx.QueryRowContext(soon, "select string_agg(note, ',') from orders").Scan(&notes))
	require.Equal(t, "a,c", notes)
	require.NoError(t, tx.Commit())

	r := f.run(t, "", "rls", "verify", "--shard", "eu1", "--yes")
	require.Zero(t, r.code, r.out+r.notes)
}

// halfway starts a run and returns while it makes the rows of the second table.
func (f *fleet) halfway(t *testing.T, prepare ...string) (cmd *exec.Cmd, notes *bytes.Buffer, release func()) {
	t.Helper()
	f.admin(t, "eu1", prepare...)
	f.admin(t, "eu1", `create function wait() returns trigger language plpgsql as 'begin perform pg_advisory_xact_lock_shared(4711); return new; end'`,
		`create trigger wait before insert on orders for each row execute function wait()`)
	conn, err := pgx.Connect(t.Context(), f.admins["eu1"])
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `select pg_advisory_lock(4711)`)
	require.NoError(t, err)
	cmd, notes = f.start(t, "rls", "verify", "--shard", "eu1", "--yes", "--timeout", "1m")
	f.held(t, "eu1", 1)
	require.Positive(t, f.left(t, "eu1"), "rows are there")
	return cmd, notes, func() { require.NoError(t, conn.Close(t.Context())) }
}

func TestARunThatIsKilledIsCleanedUpByTheNext(t *testing.T) {
	t.Parallel()
	for name, next := range map[string][]string{
		"run": {"rls", "verify", "--shard", "eu1", "--yes"}, "cleanup": {"rls", "verify", "--shard", "eu1", "--cleanup", "--yes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ready(t)
			cmd, _, release := f.halfway(t)
			f.kill(t, cmd)
			release()
			require.Positive(t, f.left(t, "eu1"), "what is to be cleaned up")
			f.alone(t, "eu1")
			r := f.run(t, "", next...)
			require.Zero(t, r.code, r.out+r.notes)
			require.Contains(t, r.out+r.notes, "rows of public.events")
			require.Contains(t, r.out+r.notes, "2 partitions")
			require.Zero(t, f.left(t, "eu1"))
			require.Contains(t, f.ok(t, "rls", "verify", "--shard", "eu1", "--cleanup", "--yes"), "nothing was left by a run")
		})
	}
}

// alone waits until no statement of the login runs any more: the server finishes what a killed program has sent.
func (f *fleet) alone(t *testing.T, shard string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.admins[shard])
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Eventually(t, func() bool {
		var n int
		err := conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and usename = $1`, f.login).Scan(&n)
		return err == nil && n == 0
	}, time.Minute, 5*time.Millisecond)
}

func TestARunThatIsInterruptedCleansUp(t *testing.T) {
	t.Parallel()
	for name, revoke := range map[string]string{
		"in the driver": `select 1`, "on the administrator's connection": `revoke insert on orders from `,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ready(t)
			if strings.HasPrefix(revoke, "revoke") {
				revoke += f.login
			}
			cmd, notes, release := f.halfway(t, revoke)
			require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
			release()
			require.Error(t, cmd.Wait())
			require.Equal(t, exitFailed, cmd.ProcessState.ExitCode())
			require.Contains(t, notes.String(), "interrupted")
			f.alone(t, "eu1")
			require.Zero(t, f.left(t, "eu1"), notes.String())
		})
	}
}

func TestACanaryIsQuietUntilSomethingIsWrong(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "canary-a", "canary-b", "--model", "partition", "--shard", "eu1")
	look := func(args ...string) (result, *verify.CanaryReport) {
		r := f.run(t, "", append([]string{"rls", "verify", "--canary", "canary-a,canary-b", "--timeout", "30s", "-o", "json"}, args...)...)
		var report verify.CanaryReport
		if r.out != "" {
			require.NoError(t, json.Unmarshal([]byte(r.out), &report))
			require.Equal(t, 1, strings.Count(r.out, "\n"), "one line for a log")
		}
		return r, &report
	}
	r, _ := look()
	require.Equal(t, exitFailed, r.code, "canaries without rows prove nothing")
	f.admin(t, "eu1", `insert into orders (tenant_id, note) values ('canary-a', 'a'), ('canary-b', 'b'), ('acme', 'c')`)
	r, report := look()
	require.Zero(t, r.code, r.out+r.notes)
	require.Equal(t, []string{"public.events"}, report.Unwatched)
	fingerprint := report.Policies
	require.NotEmpty(t, fingerprint)
	quiet := f.run(t, "", "rls", "verify", "--canary", "canary-a,canary-b", "--timeout", "30s", "--policies", fingerprint)
	require.Equal(t, result{}, quiet)

	f.admin(t, "eu1", `alter policy tenant_only on orders using (tenant_id is not null)`)
	r, report = look("--policies", fingerprint)
	require.Equal(t, exitFailed, r.code)
	require.Len(t, report.Findings, 1)
	require.Contains(t, report.Findings[0], "policies, owners or row security of tables are not what they were")

	f.admin(t, "eu1", `alter policy tenant_rows on orders using (true)`)
	r, report = look()
	require.Equal(t, exitFailed, r.code)
	require.Equal(t, []string{`public.orders shows tenant "canary-a" rows of others`, `public.orders shows tenant "canary-b" rows of others`}, report.Findings)
	loud := f.run(t, "", "rls", "verify", "--canary", "canary-a,canary-b", "--timeout", "30s")
	require.Equal(t, exitFailed, loud.code)
	require.Contains(t, loud.out, `finding: public.orders shows tenant "canary-a" rows of others`)

	r, _ = look("--table", "public.nothing")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.notes, "tenants may read no table")
	unknown := f.run(t, "", "rls", "verify", "--canary", "canary-a,nobody", "--timeout", "30s")
	require.Equal(t, exitFailed, unknown.code)
	require.Contains(t, unknown.notes, "tenant not found")
}

func TestVerifyLeavesATenantWithAReservedIDAlone(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "shardedpg-verify-b", "--shard", "eu1")
	f.admin(t, "eu1", `insert into orders (tenant_id, note) values ('shardedpg-verify-b', 'real')`)
	for _, what := range [][]string{{"--yes"}, {"--yes", "--cleanup"}} {
		r := f.run(t, "", append([]string{"rls", "verify", "--shard", "eu1"}, what...)...)
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.notes, `the ID of tenant "shardedpg-verify-b" is reserved`)
	}
	require.Equal(t, 1, f.left(t, "eu1"))
}

func TestVerifyIsAskedForInSoManyWords(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for says, args := range map[string][]string{
		"say --dry-run to see what":    {},
		"--canary only looks":          {"--canary", "a,b", "--yes"},
		"takes the IDs of two tenants": {"--canary", "a"},
		"--policies is for --canary":   {"--policies", "x", "--yes"},
		"say --yes, too":               {"--cleanup", "--dry-run"},
		"give both, or neither":        {"--dsn", "host=x", "--yes"},
		"use at least 1ms":             {"--timeout", "0s", "--yes"},
	} {
		r := f.run(t, "", append([]string{"rls", "verify"}, args...)...)
		require.Equal(t, exitUsage, r.code, "%v", args)
		require.Contains(t, r.notes, says)
	}
	one := f.run(t, "", "rls", "verify", "--dsn", f.admins["eu1"], "--app-dsn", f.shards["eu1"], "--yes")
	require.Zero(t, one.code, one.out+one.notes)
	require.Contains(t, one.out, "0 broken")
}
