package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func TestAFleetFileIsPreviewedAppliedAndExported(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(t, "registry", "init")
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte("shards: {eu1: {dsn: '${EU1}', region: eu}}\ntenants: {acme: {shard: eu1, plan: growth}}\n"), 0o600))

	preview := f.json(t, "registry", "apply", "-f", file, "--dry-run")
	require.Len(t, preview["differences"], 2)
	require.Empty(t, f.json(t, "tenant", "list")["tenants"], "a preview changes nothing")

	f.ok(t, "registry", "apply", "-f", file)
	exported := f.ok(t, "registry", "export")
	require.Contains(t, exported, "${EU1}")
	again := f.run(t, exported, "registry", "apply", "-f", "-")
	require.Zero(t, again.code, again.notes)
	require.Contains(t, again.out, "0 to add, 0 to change")

	unlimited := f.run(t, strings.ReplaceAll(exported, "max_tenants: 500", "max_tenants: unlimited"), "registry", "apply", "-f", "-")
	require.Contains(t, unlimited.out, `change shard "eu1" max_tenants: 500 -> unlimited`)
	require.Contains(t, f.ok(t, "registry", "audit-log", "--limit", "1"), "max_tenants: 500 -> unlimited")

	moved := f.run(t, strings.ReplaceAll(exported, "${EU1}", "${US1}"), "registry", "apply", "-f", "-")
	require.Equal(t, exitFailed, moved.code)
	require.Contains(t, moved.notes, "--change-dsns")
}

func TestManyTenantsAreReadInPages(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "a", "b", "c", "d", "e", "--no-provision")
	var seen []string
	after := ""
	for range 3 {
		page := f.json(t, "tenant", "list", "--limit", "2", "--after", after)
		for _, tenant := range page["tenants"].([]any) {
			seen = append(seen, tenant.(map[string]any)["id"].(string))
		}
		after, _ = page["next"].(string)
	}
	require.Equal(t, []string{"a", "b", "c", "d", "e"}, seen)
	require.Empty(t, after, "the last page says that it is the last one")
}

func TestABatchCanBeRunAgain(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "b", "--no-provision")
	preview := f.json(t, "tenant", "add", "a", "b", "c", "--dry-run")
	require.Equal(t, []any{"a", "c"}, preview["added"])
	require.Equal(t, []any{"b"}, preview["existing"])
	require.Len(t, f.json(t, "tenant", "list")["tenants"], 1)
	shards := preview["shards"].(map[string]any)
	require.Contains(t, f.ok(t, "tenant", "add", "a", "b", "c", "--dry-run"), "1 of those there were left in provisioning")
	single := f.run(t, "", "tenant", "add", "b", "--dry-run")
	require.Equal(t, exitFailed, single.code)
	require.Contains(t, single.notes, "exists already")

	r := f.run(t, "# customers\na\nb\n\nc\na\n", "tenant", "add", "-f", "-")
	require.Zero(t, r.code, r.notes)
	require.Equal(t, "2 tenants added; 1 there already\n", r.out)
	for _, id := range []string{"a", "c"} {
		require.Equal(t, shards[id], f.json(t, "tenant", "show", id)["shard"], "as was previewed")
	}
	require.Len(t, f.json(t, "tenant", "list", "--state", "active")["tenants"], 3, "b was left in provisioning, and is completed")
}

func TestABatchWithNowhereToGoEndsEarlyAndSaysWhatWasNotTried(t *testing.T) {
	t.Parallel()
	f := ready(t)
	r := f.run(t, "a\nb\nc\nd\ne\nf\n", "tenant", "add", "-f", "-", "--region", "mars", "--jobs", "1", "-o", "json")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.out, `"added": []`)
	require.Contains(t, r.notes, "1 failed, 5 not tried")
}

func TestHealthFailsForAShardThatHasAProblem(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "shard", "set-dsn", "us1", "--dsn", f.admins["us1"], "--reason", "a test") // a superuser
	r := f.run(t, "", "shard", "health", "us1")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.out, "is a superuser")
	require.Empty(t, r.notes)
}

func TestHealthIsGoodForAServerAsItComes(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role app login"))
	f := newFleet(t)
	f.ok(t, "registry", "init")
	f.ok(t, "shard", "add", "fresh", "--dsn", server.DSN("app", "postgres"), "--admin-dsn", server.DSN("postgres", "postgres"))
	r := f.run(t, "", "shard", "health")
	require.Zero(t, r.code, "%s%s", r.out, r.notes)
	require.Regexp(t, `(?m)^fresh +ok .* replica$`, r.out)
	require.Equal(t, "warning: shard \"fresh\": its wal_level is replica: tenants cannot be moved while they write; set it to logical and restart the server\n", r.notes)
	shown := f.json(t, "shard", "health")["shards"].([]any)[0].(map[string]any)
	require.Len(t, shown["warnings"], 1)
	require.NotContains(t, shown, "problems")
}

func TestPromisesThatAShardCannotKeepAreWarnedOfWithNumbers(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"max_connections": "25", "wal_level": "logical"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role app login"))
	f := newFleet(t)
	f.ok(t, "registry", "init")
	f.ok(t, "shard", "add", "small", "--dsn", server.DSN("app", "postgres"), "--admin-dsn", server.DSN("postgres", "postgres"))
	f.ok(t, "registry", "apply", "-f", written(t, "tenants: {a: {shard: small, plan: growth}}\n"))
	require.Empty(t, f.run(t, "", "shard", "health").notes, "20 of 22 connections")

	f.ok(t, "registry", "apply", "-f", written(t, "tenants: {a: {shard: small, plan: growth}, b: {shard: small, plan: growth}}\n"))
	r := f.run(t, "", "shard", "health")
	require.Zero(t, r.code, "a promise is no problem yet: %s%s", r.out, r.notes)
	require.Contains(t, r.notes, `warning: shard "small": 2 tenants may use 40 connections together, in each program, 1.8 times the 22 there are: `)
	require.Len(t, strings.Split(strings.TrimSpace(r.notes), "\n"), 1)
	shown := f.json(t, "shard", "health")["shards"].([]any)[0].(map[string]any)
	require.EqualValues(t, 22, shown["slots"])
	require.Len(t, shown["warnings"], 1)
	require.Empty(t, f.run(t, "", "registry", "status").notes, "it asks no server, and nobody has said what there is")

	// What no server tells is in the labels, also for a pooler in front.
	labels := "shards: {small: {dsn: '" + server.DSN("app", "postgres") + "', admin_dsn: '" + server.DSN("postgres", "postgres") +
		"', labels: {capacity.slots: '10', capacity.memory: 512MB}}}\n"
	f.ok(t, "registry", "apply", "-f", written(t, labels))
	for _, args := range [][]string{{"registry", "status"}, {"shard", "health"}, {"plan", "set", "growth", "--weight", "5"}} {
		notes := f.run(t, "", args...).notes
		require.Contains(t, notes, "4.0 times the 10 there are", args)
		require.Contains(t, notes, "work_mem of statements that may run at once is 640 MB, 1.2 times the 512 MB there are: ", args)
	}
	status := f.json(t, "registry", "status")["shards"].([]any)[0].(map[string]any)
	require.Len(t, status["warnings"], 2)
	require.Empty(t, f.run(t, "", "plan", "set", "growth", "--work-mem", "32MB", "--max-conns", "5").notes, "which is kept")
	require.Empty(t, f.run(t, "", "registry", "status").notes)
}

func TestHealthAsksForTheSizeOfAPoolerThatItMeets(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"wal_level": "logical"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role app login"))
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	f := newFleet(t)
	f.ok(t, "registry", "init")
	fleet := "shards: {pooled: {dsn: '" + bouncer.DSN("app", "postgres") + "', admin_dsn: '" + server.DSN("postgres", "postgres") + "'%s}}\n"
	f.ok(t, "registry", "apply", "-f", written(t, fmt.Sprintf(fleet, "")))
	r := f.run(t, "", "shard", "health")
	require.Zero(t, r.code, "%s%s", r.out, r.notes)
	require.Contains(t, r.notes, `warning: shard "pooled": a pooler is in front of it, and how many connections its pool has is not known: set the label capacity.slots`)
	require.Equal(t, true, f.json(t, "shard", "health")["shards"].([]any)[0].(map[string]any)["pooled"])
	f.ok(t, "registry", "apply", "-f", written(t, fmt.Sprintf(fleet, ", labels: {capacity.slots: '20'}")))
	require.Empty(t, f.run(t, "", "shard", "health").notes)
}

// written is a file with that text.
func written(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestAServerThatCannotBeAskedHasNoFigures(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "shard", "set-dsn", "eu1", "--admin-dsn", "${EU1_ADMIN}", "--reason", "a test")
	f.env = slices.DeleteFunc(f.env, func(variable string) bool { return strings.HasPrefix(variable, "EU1_ADMIN=") })
	r := f.run(t, "", "shard", "health", "eu1")
	require.Equal(t, exitFailed, r.code)
	require.Regexp(t, `(?m)^eu1 +problem +- +- +- +-$`, r.out)
	require.Contains(t, r.out, "EU1_ADMIN is not set")
}

func TestAnEmptyRegistrySaysWhatIsNext(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(t, "registry", "init")
	for _, args := range [][]string{{"registry", "status"}, {"shard", "list"}, {"shard", "health"}} {
		r := f.run(t, "", args...)
		require.Zero(t, r.code, args)
		require.Equal(t, "next: shardedpg shard add\n", r.notes, args)
	}
}

func TestSetDSNKeepsTheOneThatIsNotGiven(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "shard", "set-dsn", "eu1", "--dsn", f.shards["eu1"]+" application_name=x", "--reason", "a test")
	require.Contains(t, f.ok(t, "shard", "show", "eu1"), "admin DSN        yes")
}

// The driver follows what a DSN says of a pool; the server knows no such setting.
func TestDSNsWithOptionsOfAPoolAreGoodForEachCommand(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.ok(t, "registry", "init")
	const pool = " pool_max_conn_lifetime=30m pool_max_conn_idle_time=5m"
	f.ok(t, "shard", "add", "eu1", "--dsn", f.shards["eu1"]+pool, "--admin-dsn", f.admins["eu1"]+pool)
	for _, args := range [][]string{
		{"shard", "health"},
		{"tenant", "add", "acme", "--model", "partition"},
		{"rls", "generate"},
		{"rls", "audit", "--fail-on", "critical"},
		{"rls", "verify", "--yes", "--table", "public.orders"},
		{"top", "--once", "--interval", "1s"},
		{"tenant", "kill", "acme"},
		{"tenant", "disable", "acme"},
		{"tenant", "purge", "acme", "--yes"},
	} {
		f.ok(t, args...)
	}
}

func TestATenantIsTakenThroughItsLife(t *testing.T) {
	t.Parallel()
	f := ready(t)
	state := func() any { return f.json(t, "tenant", "show", "acme")["state"] }
	f.ok(t, "tenant", "add", "acme", "--label", "ring=canary", "--slug", "acme-gmbh")
	require.Len(t, f.json(t, "tenant", "list", "--label", "ring=canary", "--slug", "acme-gmbh")["tenants"], 1)
	f.ok(t, "tenant", "plan", "acme", "growth")
	require.Equal(t, "growth", f.json(t, "tenant", "show", "acme")["plan"])
	f.ok(t, "tenant", "override", "acme", "--work-mem", "32MB", "--for", "1h")
	require.Contains(t, f.ok(t, "tenant", "show", "acme"), "work mem 32MB, until 2")
	require.Contains(t, f.ok(t, "tenant", "override", "acme", "--work-mem", "32MB"), "never expires")
	require.Contains(t, f.ok(t, "tenant", "show", "acme"), "work mem 32MB, never expires")
	f.ok(t, "tenant", "override", "acme", "--clear")
	require.NotContains(t, f.ok(t, "tenant", "show", "acme"), "32MB")
	f.ok(t, "tenant", "slug", "acme")
	require.Empty(t, f.json(t, "tenant", "list", "--slug", "acme-gmbh")["tenants"])
	f.ok(t, "tenant", "readonly", "acme")
	require.Equal(t, "readonly", state())
	f.ok(t, "tenant", "disable", "acme")
	require.Equal(t, "disabled", state())
	f.ok(t, "tenant", "remove", "acme")
	require.Len(t, f.json(t, "tenant", "list", "--removed", "only")["tenants"], 1)
	f.ok(t, "tenant", "enable", "acme")
	require.Equal(t, "active", state())
	f.ok(t, "tenant", "provision", "acme")
	f.ok(t, "tenant", "disable", "acme")
	f.ok(t, "tenant", "purge", "acme", "--dry-run")
	require.Equal(t, "disabled", state())
	f.ok(t, "tenant", "purge", "acme", "--yes")
	require.Equal(t, exitFailed, f.run(t, "", "tenant", "show", "acme").code)
}

func TestNothingButTextReachesAPipe(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.env = append(f.env, "NO_COLOR=", "TERM=xterm-256color")
	r := f.run(t, "", "shard", "list")
	require.NotContains(t, r.out, "\x1b")
	r = f.run(t, "a\nb\n", "tenant", "add", "-f", "-")
	require.NotContains(t, r.notes+r.out, "\x1b")
}

func TestAnExpiredOverrideIsShownAsOneAndNotInForce(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--plan", "free", "--shard", "eu1")
	db, err := sql.Open("sharded-pg", f.registry+" sharded_cache_ttl=50ms")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	inForce := func() (limit string) {
		err := db.QueryRowContext(shardedpg.WithTenant(t.Context(), "acme"), "show statement_timeout").Scan(&limit)
		require.NoError(t, err)
		return limit
	}
	require.Equal(t, "5s", inForce())
	f.ok(t, "tenant", "override", "acme", "--statement-timeout", "2m", "--for", "5s")
	require.Eventually(t, func() bool { return inForce() == "2min" }, 4*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool { return inForce() == "5s" }, 20*time.Second, 20*time.Millisecond)
	require.Contains(t, f.ok(t, "tenant", "show", "acme"), "no longer in force")
}

func TestAnOlderCommandChangesNothingInANewerRegistry(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme")
	conn, err := pgx.Connect(t.Context(), f.registry)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `insert into sharded_pg.versions (version) values (99)`)
	require.NoError(t, err)
	log := f.ok(t, "registry", "audit-log")
	for _, args := range [][]string{
		{"registry", "init"}, {"tenant", "add", "b"}, {"tenant", "disable", "acme"}, {"shard", "full", "eu1"}, {"plan", "set", "free", "--weight", "2"},
	} {
		r := f.run(t, "", args...)
		require.Equal(t, exitFailed, r.code, args)
		require.Contains(t, r.notes, "registry is newer than this program: its version is 99", args)
		require.Contains(t, r.notes, "use a newer program", args)
	}
	require.Equal(t, log, f.ok(t, "registry", "audit-log"), "it reads as far as it understands")
}

func TestABurstIsSetAndReachesAProgramThatRuns(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "plan", "set", "tiny", "--statement-timeout", "1m", "--work-mem", "1MB", "--max-conns", "5", "--rate", "0.01", "--burst", "100000")
	f.ok(t, "tenant", "add", "acme", "--plan", "tiny", "--shard", "eu1")
	program := startProgram(t, f.registry, "acme")
	for range 20 {
		require.NoError(t, program.query(t.Context()))
	}
	require.Regexp(t, `tiny +1m0s +1MB +5 +0\.01/s +1 +1\n`, f.ok(t, "plan", "set", "tiny", "--burst", "1"))
	require.ErrorIs(t, program.refused(t, time.Now().Add(10*time.Second)), shardedpg.ErrRateLimited)
	for _, plan := range f.json(t, "plan", "list")["plans"].([]any) {
		want := map[string]any{"tiny": 1.0, "free": 100.0}
		if fields := plan.(map[string]any); want[fields["name"].(string)] != nil {
			require.Equal(t, want[fields["name"].(string)], fields["burst"], "what is in force")
		}
	}
	require.Contains(t, f.ok(t, "registry", "export"), "rate: 0.01\n    burst: 1\n")
	f.ok(t, "tenant", "override", "acme", "--rate", "1000", "--burst", "7")
	require.Contains(t, f.ok(t, "tenant", "show", "acme"), "rate 1000/s, burst 7, never expires")
	require.Eventually(t, func() bool { return program.query(t.Context()) == nil }, 5*time.Second, time.Millisecond)
}
