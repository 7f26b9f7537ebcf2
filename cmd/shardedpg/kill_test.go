package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// hold keeps schema tenants from being made on a shard: their tables are like those of a template that is locked.
func (f *fleet) hold(t *testing.T, shard string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.admins[shard])
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `begin`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `lock table tenant_template.orders in access exclusive mode`)
	require.NoError(t, err)
	release = func() { _ = conn.Close(context.Background()) }
	t.Cleanup(release)
	return release
}

// held waits until n provisioners are held on a shard.
func (f *fleet) held(t *testing.T, shard string, n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.admins[shard])
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Eventually(t, func() bool {
		var waiting int
		err := conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting >= n
	}, time.Minute, 5*time.Millisecond)
}

// start runs a command that does not end by itself.
func (f *fleet) start(t *testing.T, args ...string) (cmd *exec.Cmd, notes *bytes.Buffer) {
	t.Helper()
	cmd, notes = exec.CommandContext(t.Context(), binary, args...), new(bytes.Buffer)
	cmd.Env, cmd.Stderr = f.env, notes
	require.NoError(t, cmd.Start())
	return cmd, notes
}

func (f *fleet) kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}

// refused makes sure that a program cannot run statements of a tenant.
func (f *fleet) refused(t *testing.T, tenant string) {
	t.Helper()
	db, err := sql.Open("sharded-pg", f.registry+" sharded_lookup_timeout=20s")
	require.NoError(t, err)
	defer db.Close()
	var n int
	err = db.QueryRowContext(shardedpg.WithTenant(t.Context(), tenant), "select count(*) from orders").Scan(&n)
	require.ErrorIs(t, err, shardedpg.ErrTenantDisabled)
	require.ErrorContains(t, err, "provisioning")
}

// runs makes sure that it can.
func (f *fleet) runs(t *testing.T, tenant string) {
	t.Helper()
	db, err := sql.Open("sharded-pg", f.registry+" sharded_lookup_timeout=20s")
	require.NoError(t, err)
	defer db.Close()
	var n int
	require.NoError(t, db.QueryRowContext(shardedpg.WithTenant(t.Context(), tenant), "select count(*) from orders").Scan(&n))
}

func TestACommandKilledWhileItProvisionsIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	f := ready(t)
	release := f.hold(t, "eu1")
	cmd, _ := f.start(t, "tenant", "add", f.own("a"), "--model", "schema", "--shard", "eu1")
	f.held(t, "eu1", 1)
	f.kill(t, cmd)
	require.Equal(t, "provisioning", f.json(t, "tenant", "show", f.own("a"))["state"])
	f.refused(t, f.own("a"))
	release()
	require.Contains(t, f.ok(t, "tenant", "provision", f.own("a")), "is active")
	f.runs(t, f.own("a"))
}

func TestABatchKilledInTheMiddleIsCompletedByTheSameAgain(t *testing.T) {
	t.Parallel()
	f := ready(t)
	var lines strings.Builder
	for i := range 12 {
		lines.WriteString(f.own(fmt.Sprintf("t%02d", i)) + "\n")
	}
	ids := t.TempDir() + "/ids"
	require.NoError(t, os.WriteFile(ids, []byte(lines.String()), 0o600))
	add := []string{"tenant", "add", "-f", ids, "--model", "schema", "--shard", "eu1", "--jobs", "3"}
	in := func(state string) []any { return f.json(t, "tenant", "list", "--state", state)["tenants"].([]any) }

	first := strings.SplitAfter(lines.String(), "\n")[0]
	require.Zero(t, f.run(t, first, "tenant", "add", "-f", "-", "--model", "schema", "--shard", "eu1").code)
	release := f.hold(t, "eu1")
	cmd, _ := f.start(t, add...)
	f.held(t, "eu1", 3)
	f.kill(t, cmd)
	require.Len(t, in("active"), 1)
	halfDone := in("provisioning")
	require.Len(t, halfDone, 3, "as many as there were jobs")
	f.refused(t, halfDone[0].(map[string]any)["id"].(string))
	release()
	r := f.run(t, "", add...)
	require.Zero(t, r.code, r.notes)
	require.Equal(t, "8 tenants added; 4 there already\n", r.out)
	require.Len(t, in("active"), 12)
	for id := range strings.Lines(lines.String()) {
		f.runs(t, strings.TrimSpace(id))
	}
}

func TestARegistryKilledDuringProvisioningRoutesToNothingHalfDone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	home, err := pgtest.Start(t.Context(), pgtest.Options{Name: "home", Settings: map[string]string{"synchronous_commit": "on"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = home.Stop() })
	f.registry = home.DSN("postgres", home.NewDatabase(t))
	f.env = append(f.env, "SHARDEDPG_REGISTRY="+f.registry)
	f.ok(t, "registry", "init")
	f.ok(t, "shard", "add", "eu1", "--dsn", f.shards["eu1"], "--admin-dsn", f.admins["eu1"])
	release := f.hold(t, "eu1")
	cmd, notes := f.start(t, "tenant", "add", f.own("a"), "--model", "schema")
	f.held(t, "eu1", 1)
	require.NoError(t, home.Kill())
	release() // the schema is made, and nobody can be told
	require.Error(t, cmd.Wait())
	require.Equal(t, exitFailed, cmd.ProcessState.ExitCode())
	require.Contains(t, notes.String(), "the registry cannot be reached")
	require.Contains(t, notes.String(), "run shardedpg tenant provision "+f.own("a"))
	require.NoError(t, home.Restart(t.Context()))
	require.Equal(t, "provisioning", f.json(t, "tenant", "show", f.own("a"))["state"])
	f.refused(t, f.own("a"))
	f.ok(t, "tenant", "provision", f.own("a"))
	f.runs(t, f.own("a"))
}

// own is an ID whose role no other test has: roles belong to the server, which tests share.
func (f *fleet) own(id string) string { return id + "." + f.login }
