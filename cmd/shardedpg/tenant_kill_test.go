package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

// neighbours are tenants whose short statements share two connections, and what an operator needs to kill one of them.
type neighbours struct {
	t                    *testing.T
	conn                 *pgx.Conn
	noisy                belonging
	quiet, hit, stopping atomic.Int64
}

// share runs short statements of all until the test ends. Each is the next on a connection that another one's has just left.
func share(t *testing.T) *neighbours {
	f := ready(t)
	f.ok(t, "plan", "set", "unrated", "--statement-timeout", "1m", "--work-mem", "1MB", "--max-conns", "10")
	f.ok(t, "tenant", "add", "noisy", "q1", "q2", "q3", "--shard", "eu1", "--plan", "unrated")
	db, err := sql.Open("sharded-pg", f.registry+" sharded_tag=on sharded_tenant_share=1 sharded_max_conns=2")
	require.NoError(t, err)
	reg, err := registry.Open(f.registry, nil)
	require.NoError(t, err)
	info, err := reg.Tenant(t.Context(), "noisy")
	require.NoError(t, err)
	s, err := newServer(t.Context(), reg, "eu1")
	require.NoError(t, err)
	n := &neighbours{t: t}
	n.conn, err = s.connect(t.Context())
	require.NoError(t, err)
	n.noisy, err = s.whose.belongs(t.Context(), info)
	require.NoError(t, err)

	var running sync.WaitGroup
	run := func(tenant, statement string, after func(err error)) {
		running.Go(func() {
			ctx := shardedpg.WithTenant(context.WithoutCancel(t.Context()), tenant)
			for n.stopping.Load() == 0 {
				_, err := db.ExecContext(ctx, statement)
				var answer *pgconn.PgError
				if err != nil && !(errors.As(err, &answer) && answer.Code == "57014") {
					t.Error(err)
				}
				after(err)
			}
		})
	}
	for _, tenant := range []string{"q1", "q1", "q2", "q3"} {
		run(tenant, "select pg_sleep(0.0005)", func(err error) {
			n.quiet.Add(1)
			if err != nil {
				n.hit.Add(1)
			}
		})
	}
	for range 2 {
		run("noisy", "select pg_sleep(0.003)", func(error) {})
	}
	t.Cleanup(func() {
		n.stopping.Store(1)
		running.Wait()
		closeSoon(context.WithoutCancel(t.Context()), n.conn)
		require.NoError(t, reg.Close())
		require.NoError(t, db.Close())
	})
	return n
}

// kill finds and signals so many statements, and returns how many it hit, and how many were gone by then.
func (n *neighbours) kill(many int, before func(v victim)) (hit, gone int) {
	n.t.Helper()
	for hit+gone < many {
		victims, err := n.noisy.find(n.t.Context(), n.conn)
		require.NoError(n.t, err)
		for _, v := range victims {
			before(v)
			ended, err := n.noisy.end(n.t.Context(), n.conn, "pg_cancel_backend", v)
			require.NoError(n.t, err)
			if ended {
				hit++
			} else {
				gone++
			}
		}
	}
	return hit, gone
}

func TestAKillThatComesTooLateHitsNobody(t *testing.T) {
	t.Parallel()
	n := share(t)
	late := func(v victim) { // until the connection works for somebody else, or for another statement
		for there := true; there; {
			require.NoError(t, n.conn.QueryRow(t.Context(), `select exists (select from pg_stat_activity
 where pid = $1 and xact_start = $2::timestamptz)`, v.PID, v.Transaction).Scan(&there))
		}
	}
	hit, gone := n.kill(300, late)
	require.Zero(t, hit)
	require.Zero(t, n.hit.Load(), "of %d statements of others on the same two connections", n.quiet.Load())
	t.Logf("%d kills came too late, %d statements of others ran meanwhile, none was hit", gone, n.quiet.Load())
}

// What the server's look at a session cannot rule out, with statements that end as often as they can. It prints how often.
func TestAKillInTimeHitsItsTenant(t *testing.T) {
	t.Parallel()
	n := share(t)
	hit, gone := n.kill(300, func(victim) {})
	require.Positive(t, hit)
	t.Logf("%d statements of 3 ms were signalled and %d were gone; of %d statements of others, %d were hit", hit, gone, n.quiet.Load(), n.hit.Load())
}

func TestAKillThatIsInterruptedIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "noisy", "--shard", "eu1", "--plan", "enterprise")
	const busy = 12
	ended := f.sleeps(t, f.tagged(t), "noisy", busy)
	at, err := pgx.ParseConfig(f.admins["eu1"])
	require.NoError(t, err)
	way, err := pgtest.StartProxyTo(t.Context(), "unix", fmt.Sprintf("%s/.s.PGSQL.%d", at.Host, at.Port))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, way.Stop()) })
	f.sql(t, `update sharded_pg.shards set admin_dsn = '`+way.DSN(at.User, at.Database)+`' where name = 'eu1'`)
	way.SetDelay(100 * time.Millisecond)

	cmd := exec.CommandContext(t.Context(), binary, "tenant", "kill", "noisy", "--older-than", "0s", "--reason", "a loop")
	var out, notes strings.Builder
	cmd.Env, cmd.Stdout, cmd.Stderr = f.env, &out, &notes
	require.NoError(t, cmd.Start())
	requireCode(t, receive(t, ended), "57014")
	requireCode(t, receive(t, ended), "57014") // so the program knows of the first
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait() // the code says it
	require.Equal(t, exitFailed, cmd.ProcessState.ExitCode(), notes.String())
	require.NotContains(t, notes.String(), "missing in the audit log")
	require.Regexp(t, `\d+ statements? of tenant "noisy" cancelled`, out.String())
	require.Contains(t, f.ok(t, "registry", "audit-log", "--subject", "noisy", "--limit", "1"), "a loop")
}
