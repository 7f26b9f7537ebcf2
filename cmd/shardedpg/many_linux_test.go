package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

const crowd = 100_000

// crowded is a fleet whose registry has many tenants, put there without the rules, which would take minutes.
func crowded(t *testing.T) *fleet {
	t.Helper()
	f := ready(t)
	conn, err := pgx.Connect(t.Context(), f.registry)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `insert into sharded_pg.tenants (id, shard, model, plan, state, labels)
 select 'tenant-' || lpad(i::text, 6, '0'), case when i % 2 = 0 then 'eu1' else 'us1' end, 'shared', 'free', 'active', '{"ring": "canary"}'
   from generate_series(1, $1) i`, crowd)
	require.NoError(t, err)
	return f
}

// peak tells the most memory that a process had, in MB, when it has ended. The kernel's own figure for a child is at least what
// its parent had when it forked.
func peak(t *testing.T, pid int) <-chan int {
	t.Helper()
	told := make(chan int, 1)
	line := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	go func() {
		most := 0
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			found := line.FindSubmatch(status)
			if err != nil || found == nil {
				told <- most >> 10
				return
			}
			if now, err := strconv.Atoi(string(found[1])); err == nil {
				most = max(most, now)
			}
		}
	}()
	return told
}

// The bound is on memory, which does not depend on what else the machine does. A page takes half of it, all tenants more.
func TestAllTenantsAreListedInTheMemoryOfAPage(t *testing.T) {
	t.Parallel()
	f := crowded(t)
	for _, output := range []string{"json", "table"} {
		cmd := exec.CommandContext(t.Context(), binary, "tenant", "list", "--all", "-o", output)
		cmd.Env = f.env
		var out bytes.Buffer
		cmd.Stdout = &out
		start := time.Now()
		require.NoError(t, cmd.Start())
		watched := peak(t, cmd.Process.Pid)
		require.NoError(t, cmd.Wait())
		memory := <-watched
		t.Logf("%s: %d tenants in %v, %v of processor time, at most %d MB of memory, %d MB of output", output, crowd,
			time.Since(start).Round(time.Millisecond), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), memory, out.Len()>>20)
		require.Positive(t, memory)
		require.Less(t, memory, 40)
		if output == "json" {
			var document struct {
				Tenants []struct{ ID string }
				Next    string
			}
			require.NoError(t, json.Unmarshal(out.Bytes(), &document))
			require.Len(t, document.Tenants, crowd)
			require.Equal(t, "tenant-100000", document.Tenants[crowd-1].ID)
			require.Empty(t, document.Next)
			continue
		}
		lines := bufio.NewScanner(&out)
		require.True(t, lines.Scan())
		require.Equal(t, "TENANT         STATE   MODEL   SHARD  PLAN  SLUG", lines.Text())
		n := 0
		for ; lines.Scan(); n++ {
			require.Len(t, strings.Fields(lines.Text()), 6, lines.Text())
		}
		require.Equal(t, crowd, n, "one header, and a line for each")
	}
}

func TestAPreviewOfManyTenantsCountsThemByShard(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "registry", "apply", "-f", unlimited(t, f))
	var ids strings.Builder
	for i := range 20_000 {
		ids.WriteString("new-" + strconv.Itoa(i) + "\n")
	}
	r := f.run(t, ids.String(), "tenant", "add", "-f", "-", "--dry-run", "--strategy", "smallest")
	require.Zero(t, r.code, r.notes)
	require.Equal(t, "dry run, nothing was changed: 20000 tenants would be added; 0 there already\n"+
		"SHARD  NEW TENANTS\neu1    10000\nus1    10000\n", r.out)
	require.Empty(t, f.json(t, "tenant", "list")["tenants"])
}

func TestResultsThatAreLostAreAFailure(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "a", "b", "c", "--no-provision")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	for _, args := range [][]string{
		{"plan", "list"},
		{"tenant", "list"},
		{"tenant", "show", "a"},
		{"tenant", "list", "-o", "json"},
		{"registry", "export"},
		{"registry", "audit-log"},
		{"rls", "generate"},
		{"top", "--once", "--interval", "200ms"},
		{"top", "--interval", "200ms"},
		{"completion", "bash"},
	} {
		cmd := exec.CommandContext(t.Context(), binary, args...)
		var notes strings.Builder
		cmd.Env, cmd.Stdout, cmd.Stderr = f.env, full, &notes
		_ = cmd.Run() // the code says it
		require.Equal(t, exitFailed, cmd.ProcessState.ExitCode(), "%q", args)
		require.Equal(t, 1, strings.Count(notes.String(), "no space left on device"), "%q: %s", args, notes.String())
	}
}

// Tags of IDs that do not begin with ASCII are a hash: among many tenants each would have to be searched for.
func TestTopNamesTenantsWithoutASCIIAmongMany(t *testing.T) {
	t.Parallel()
	f := crowded(t)
	const busy = 15
	f.sql(t, `insert into sharded_pg.tenants (id, shard, model, plan, state, labels)
 select 'zürich-' || i || repeat('-long', 12), 'eu1', 'shared', 'free', 'active', '{}'::jsonb from generate_series(1, 1000) i
 union all select '日本-' || i, 'eu1', 'shared', 'free', 'active', '{}'::jsonb from generate_series(1, 1000) i`)
	db := f.tagged(t)
	for i := range busy {
		go func() {
			_, _ = db.ExecContext(shardedpg.WithTenant(t.Context(), fmt.Sprintf("日本-%d", 1000-i)), "select pg_sleep(600)")
		}()
	}
	require.Eventually(t, func() bool {
		var running int
		conn, err := pgx.Connect(t.Context(), f.admins["eu1"])
		require.NoError(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from pg_stat_activity where application_name like 'tenant:??-%' and usename = $1", f.login).Scan(&running))
		return running == busy
	}, 30*time.Second, 20*time.Millisecond)
	for end, found := time.Now().Add(time.Minute), 0; found < busy; { // on a loaded machine there may be no time to find them
		require.True(t, time.Now().Before(end), "%d of them were found", found)
		lines := f.lines(t, "--shard", "eu1", "-n", "1000")
		found = 0
		for i := range busy {
			found += lines[fmt.Sprintf("日本-%d", 1000-i)].Active
		}
	}
}
