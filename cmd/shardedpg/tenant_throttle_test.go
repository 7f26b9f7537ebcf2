package main

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// connections counts how many a tenant gets at once.
func connections(t *testing.T, db *sql.DB, tenant string) (n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(shardedpg.WithTenant(t.Context(), tenant))
	defer cancel() // rolls them back
	for {
		tx, err := db.BeginTx(ctx, nil)
		if err == nil {
			_, err = tx.ExecContext(ctx, "select 1")
		}
		if err != nil {
			require.ErrorIs(t, err, shardedpg.ErrTenantBusy)
			return n
		}
		defer func() { _ = tx.Rollback() }()
		n++
	}
}

func TestAThrottleIsAboveTheOverrideAndLosesNothing(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "plan", "set", "two", "--statement-timeout", "1m", "--work-mem", "4MB", "--max-conns", "2")
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1", "--plan", "two")
	db, err := sql.Open("sharded-pg", f.registry+" sharded_cache_ttl=20ms sharded_acquire_timeout=50ms")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	becomes := func(n int, why string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; {
			got := connections(t, db, "acme")
			if got == n {
				return
			}
			require.True(t, time.Now().Before(deadline), "%s: %d connections instead of %d", why, got, n)
		}
	}
	becomes(2, "its plan's")
	f.ok(t, "tenant", "override", "acme", "--max-conns", "4", "--rate", "2000")
	becomes(4, "its override's")
	r := f.run(t, "", "tenant", "throttle", "acme", "--reason", "a loop")
	require.Regexp(t, `^tenant "acme" is throttled: max conns 1, rate 200/s, weight 1, until .*, because of: a loop\n$`, r.out, "a tenth of what it has")
	require.Contains(t, r.notes, "its override stays, below the throttle: max conns 4, rate 2000/s, never expires\n")
	becomes(1, "the throttle's")
	shown := f.ok(t, "tenant", "show", "acme")
	require.Regexp(t, `(?m)^override +max conns 4, rate 2000/s, never expires$`, shown)
	require.Regexp(t, `(?m)^throttle +max conns 1, rate 200/s, weight 1, until .*, because of: a loop$`, shown)
	listed := f.json(t, "tenant", "list")["tenants"].([]any)[0].(map[string]any)
	require.EqualValues(t, 4, listed["override"].(map[string]any)["max_conns"])
	require.EqualValues(t, 1, listed["throttle"].(map[string]any)["max_conns"])
	require.Contains(t, f.ok(t, "registry", "audit-log", "--subject", "acme", "--limit", "1"), "set_throttle  acme     throttle: none -> ")

	r = f.run(t, "", "tenant", "throttle", "acme", "--rate", "1000", "--for", "2s")
	require.Contains(t, r.notes, "this replaces its throttle: max conns 1, rate 200/s, weight 1, until ")
	becomes(4, "its override's again, when the second throttle has ended by the clock: the first one is gone")
	require.Regexp(t, `(?m)^throttle .*, expired .* and no longer in force, because of: throttled$`, f.ok(t, "tenant", "show", "acme"))

	f.ok(t, "tenant", "throttle", "acme", "--rate", "1000")
	becomes(1, "the third throttle's")
	r = f.run(t, "", "tenant", "override", "acme", "--max-conns", "3")
	require.Contains(t, r.out, "never expires")
	require.Contains(t, r.notes, "it is still throttled (shardedpg tenant throttle acme --clear ends that): max conns 1, rate 1000/s")
	file := written(t, f.ok(t, "registry", "export"))
	f.ok(t, "registry", "apply", "-f", file)
	require.Equal(t, 1, connections(t, db, "acme"), "a fleet's file knows neither, and takes neither away")
	require.Equal(t, "tenant \"acme\" is back on its override: max conns 3, never expires\n", f.ok(t, "tenant", "throttle", "acme", "--clear"))
	becomes(3, "the override that was set meanwhile")
	r = f.run(t, "", "tenant", "throttle", "acme", "--clear")
	require.Equal(t, "tenant \"acme\" is not throttled; its override stays: max conns 3, never expires\n", r.out)
	require.Equal(t, "shardedpg tenant override acme --clear ends that\n", r.notes)
	require.Equal(t, 3, connections(t, db, "acme"))

	f.ok(t, "tenant", "throttle", "acme", "--rate", "1000")
	require.Contains(t, f.run(t, "", "tenant", "override", "acme", "--clear").notes, "it is still throttled")
	becomes(1, "the fourth throttle's")
	require.Equal(t, "tenant \"acme\" is back on its plan's limits\n", f.ok(t, "tenant", "throttle", "acme", "--clear"))
	becomes(2, "its plan's")
	require.Equal(t, "tenant \"acme\" is not throttled\n", f.ok(t, "tenant", "throttle", "acme", "--clear"))
}
