package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// tagged is a program that names its tenants to the servers, and whose statements have all the time that a busy machine takes.
func (f *fleet) tagged(t *testing.T) *sql.DB {
	t.Helper()
	f.ok(t, "plan", "set", "free", "--statement-timeout", "unlimited")
	db, err := sql.Open("sharded-pg", f.registry+" sharded_tag=on")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// sleeps starts statements that do not end by themselves, and waits until the server runs them.
func (f *fleet) sleeps(t *testing.T, db *sql.DB, tenant string, n int) (ended chan error) {
	t.Helper()
	ended = make(chan error, n)
	ctx := shardedpg.WithTenant(t.Context(), tenant)
	for range n {
		go func() {
			_, err := db.ExecContext(ctx, "select pg_sleep(600)")
			ended <- err
		}()
	}
	require.Eventually(t, func() bool { return f.lines(t)[tenant].Active == n }, 30*time.Second, 10*time.Millisecond)
	return ended
}

// lines is what top shows now, by tenant.
func (f *fleet) lines(t *testing.T, args ...string) map[string]load {
	t.Helper()
	found := map[string]load{}
	for _, l := range f.table(t, args...).Tenants {
		found[l.name()] = *l
	}
	return found
}

func (f *fleet) table(t *testing.T, args ...string) (b busy) {
	t.Helper()
	r := f.run(t, "", append([]string{"top", "--once", "--interval", "200ms", "-o", "json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(r.out), &b), r.notes)
	return b
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var answer *pgconn.PgError
	require.ErrorAs(t, err, &answer)
	require.Equal(t, code, answer.Code, "%v", err)
}

func receive(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the statement goes on")
	}
	return nil
}

func TestANoisyTenantIsFoundStoppedAndThrottled(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "noisy", "mild", "--shard", "eu1", "--plan", "enterprise")
	db := f.tagged(t)
	mild := f.sleeps(t, db, "mild", 1)
	noisy := f.sleeps(t, db, "noisy", 3)

	table := f.table(t)
	// Other tests are on the servers, too.
	table.Tenants = slices.DeleteFunc(table.Tenants, func(l *load) bool { return l.Kind != ofTenant })
	require.Equal(t, "noisy", table.Tenants[0].Tenant, "who eats the shard comes first")
	require.InDelta(t, 3, table.Tenants[0].Load, 0.5)
	require.Equal(t, "eu1", table.Tenants[0].Shard)
	before := f.lines(t)["mild"]
	text := f.ok(t, "top", "--once", "--interval", "200ms")
	require.Regexp(t, `(?ms)^SHARD +TENANT +LOAD.*^eu1 +noisy +3\.00.*^eu1 +mild +1\.00`, text)
	require.Regexp(t, `^\S+ \S+Z  load \d+\.\d\d on 2 shards, \d+ samples in`, text)

	young := f.run(t, "", "tenant", "kill", "noisy", "--older-than", "1h")
	require.Contains(t, young.out, `0 statements of tenant "noisy" cancelled on shard "eu1"`)
	require.Contains(t, young.notes, "3 younger ones left alone")
	require.Contains(t, f.ok(t, "tenant", "kill", "noisy", "--older-than", "0s", "--dry-run"), "3 statements of tenant \"noisy\" would be cancelled")
	require.Equal(t, 3, f.lines(t)["noisy"].Active, "a dry run ends nothing")

	killed := f.json(t, "tenant", "kill", "noisy", "--older-than", "0s", "--reason", "a loop")
	require.Len(t, killed["cancelled"], 3)
	require.Regexp(t, `(?m) kill +noisy +cancelled=\d+, \d+, \d+ shard=eu1 +a loop$`, f.ok(t, "registry", "audit-log", "--subject", "noisy", "--limit", "1"))
	for range 3 {
		requireCode(t, receive(t, noisy), "57014")
	}
	after := f.lines(t)["mild"]
	require.Equal(t, before.OldestPID, after.OldestPID)
	require.Greater(t, after.Oldest, before.Oldest, "the other tenant's statement goes on")
	require.Empty(t, mild)

	ctx := shardedpg.WithTenant(t.Context(), "noisy")
	limited := func() bool {
		_, err := db.ExecContext(ctx, "select 1")
		if err != nil {
			require.ErrorIs(t, err, shardedpg.ErrRateLimited)
		}
		return err != nil
	}
	for range 100 {
		require.False(t, limited())
	}
	f.ok(t, "tenant", "override", "noisy", "--statement-timeout", "2m", "--rate", "4000")
	r := f.run(t, "", "tenant", "throttle", "noisy", "--rate", "3", "--for", "30m", "--reason", "loops")
	require.Zero(t, r.code, r.notes)
	require.Regexp(t, `^tenant "noisy" is throttled: max conns 1, rate 3/s, weight 1, until .*, because of: loops\n$`, r.out)
	require.Contains(t, r.notes, "its override stays, below the throttle: statement timeout 2m0s, rate 4000/s, never expires")
	require.Eventually(t, limited, 2*time.Second, time.Millisecond)
	require.Contains(t, f.ok(t, "registry", "audit-log", "--subject", "noisy", "--limit", "1"), "loops")
	require.Contains(t, f.ok(t, "tenant", "throttle", "noisy", "--clear"), "back on its override: statement timeout 2m0s, rate 4000/s, never expires")
	require.Eventually(t, func() bool {
		for range 50 { // more than the throttled rate lets through
			if limited() {
				return false
			}
		}
		return true
	}, 5*time.Second, 10*time.Millisecond)
	require.Contains(t, f.ok(t, "tenant", "override", "noisy", "--clear"), "back on its plan's limits")
	require.Contains(t, f.ok(t, "tenant", "throttle", "noisy"), "max conns 1, rate 500/s, weight 1", "a tenth of its plan's")
	f.ok(t, "tenant", "kill", "mild", "--older-than", "0s")
	requireCode(t, receive(t, mild), "57014")
}

func TestTopShowsWhoBlocksWhomAndTerminateEndsIt(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "holder", "waiter", "--shard", "us1", "--plan", "growth")
	db := f.tagged(t)
	lock := "select pg_advisory_xact_lock(7)"
	tx, err := db.BeginTx(shardedpg.WithTenant(t.Context(), "holder"), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), lock)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := db.ExecContext(shardedpg.WithTenant(t.Context(), "waiter"), lock)
		ended <- err
	}()
	require.Eventually(t, func() bool { return f.lines(t)["waiter"].Lock > 0.9 }, 30*time.Second, 10*time.Millisecond)
	lines := f.lines(t, "--shard", "us1")
	require.Equal(t, []string{"holder"}, lines["waiter"].BlockedBy)
	require.Equal(t, 1, lines["holder"].IdleInTx)
	require.Positive(t, lines["holder"].Idle)
	require.Zero(t, lines["holder"].Load, "a transaction in which nothing runs is no load")
	require.Empty(t, f.lines(t, "--shard", "eu1")["waiter"])
	require.Regexp(t, `us1 +waiter .* holder\n`, f.ok(t, "top", "--once", "--interval", "200ms"))

	r := f.run(t, "", "tenant", "kill", "holder", "--older-than", "0s")
	require.Contains(t, r.out, "0 statements")
	require.Contains(t, r.notes, "1 session idle in a transaction: --terminate ends them")
	require.Contains(t, f.ok(t, "tenant", "kill", "holder", "--older-than", "0s", "--terminate"), "1 session of tenant \"holder\" terminated")
	require.Regexp(t, `(?m) kill +holder +shard=us1 terminated=\d+ `, f.ok(t, "registry", "audit-log", "--subject", "holder"))
	require.NotContains(t, f.ok(t, "registry", "audit-log", "--subject", "waiter"), "kill")
	require.NoError(t, receive(t, ended), "the one that waited goes on")
	_, err = tx.ExecContext(t.Context(), "select 1")
	require.Error(t, err)
	_ = tx.Rollback()
	_, err = db.ExecContext(shardedpg.WithTenant(t.Context(), "holder"), "select 1")
	require.NoError(t, err, "its programs connect again")
}

// Between the look at a tenant's sessions and the kill, one of them passes to another tenant.
func TestAKillSparesAConnectionThatHasChangedHands(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "noisy", "quiet", "--shard", "eu1")
	db, err := sql.Open("sharded-pg", f.registry+" sharded_tag=on sharded_max_conns=1")
	require.NoError(t, err)
	defer db.Close()
	noisy, cancel := context.WithCancel(shardedpg.WithTenant(t.Context(), "noisy"))
	defer cancel()
	pid := func(ctx context.Context, tx *sql.Tx) (pid int) {
		require.NoError(t, tx.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&pid))
		return pid
	}
	tx, err := db.BeginTx(noisy, nil)
	require.NoError(t, err)
	first := pid(noisy, tx)

	b := belonging{tag: "tenant:noisy", login: f.login}
	conn, err := pgx.Connect(t.Context(), f.admins["eu1"])
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	require.NoError(t, conn.QueryRow(t.Context(), "select current_database()").Scan(&b.database))
	victims, err := b.find(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, victims, 1)

	spared := func(why string) {
		t.Helper()
		for _, signal := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
			ended, err := b.end(t.Context(), conn, signal, victims[0])
			require.NoError(t, err)
			require.False(t, ended, why)
		}
	}
	again := victims[0]
	require.Equal(t, first, pid(noisy, tx))
	spared("another statement of the transaction")
	require.NoError(t, tx.Commit())
	spared("an idle connection")

	for _, next := range []string{"quiet", "noisy"} {
		ctx := shardedpg.WithTenant(t.Context(), next)
		tx, err = db.BeginTx(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, first, pid(ctx, tx), "the connection is the same one")
		spared("it works for " + next)
		if next == "quiet" { // as if its statement had begun at the same moment
			require.NoError(t, conn.QueryRow(t.Context(), `select xact_start::text, query_start::text from pg_stat_activity where pid = $1`, first).
				Scan(&again.Transaction, &again.Query))
			victims[0] = again
			spared("the tag says whose it is")
		}
		require.NoError(t, tx.Commit())
	}
}

func TestTopNamesWhoHasADatabaseAndSaysWhoIsNotNamed(t *testing.T) {
	t.Parallel()
	f := ready(t)
	long := strings.Repeat("long-", 20) + "ü"
	f.admin(t, "eu1", `create database own_`+f.login)
	f.ok(t, "tenant", "add", "together", long, "--shard", "eu1", "--plan", "growth")
	f.ok(t, "tenant", "add", "apart", "--shard", "eu1", "--model", "database", "--database", "own_"+f.login, "--plan", "growth", "--no-provision")
	f.admin(t, "eu1", `grant connect on database own_`+f.login+` to `+f.login)
	f.sql(t, `update sharded_pg.tenants set state = 'active' where id = 'apart'`)
	plain, err := sql.Open("sharded-pg", f.registry)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, plain.Close()) })

	apart := f.sleeps(t, plain, "apart", 1)
	named := f.sleeps(t, f.tagged(t), long, 1)
	together := make(chan error, 1)
	go func() {
		_, err := plain.ExecContext(shardedpg.WithTenant(t.Context(), "together"), "select pg_sleep(600)")
		together <- err
	}()
	require.Eventually(t, func() bool { return f.lines(t)["(untagged)"].Active == 1 }, 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return strings.Contains(f.ok(t, "top", "--once", "--interval", "200ms"), "(untagged): programs open the registry without sharded_tag=on")
	}, 30*time.Second, 10*time.Millisecond)

	r := f.run(t, "", "tenant", "kill", "together", "--older-than", "0s")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.notes, `shard "eu1": 1 session of programs may be anybody's, and nothing was ended: let programs open the registry with sharded_tag=on`)
	require.Len(t, f.json(t, "tenant", "kill", "apart", "--older-than", "0s")["cancelled"], 1)
	requireCode(t, receive(t, apart), "57014")
	require.Len(t, f.json(t, "tenant", "kill", long, "--older-than", "0s")["cancelled"], 1)
	requireCode(t, receive(t, named), "57014")
	require.Empty(t, together)
	f.admin(t, "eu1", `select pg_cancel_backend(pid) from pg_stat_activity where usename = '`+f.login+`' and state = 'active'`)
	requireCode(t, receive(t, together), "57014")
}

func TestTopGoesOnWithoutAShardThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	const secret = "hunter2"
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, os.WriteFile(file, []byte(`shards: {silent: {dsn: "host=127.0.0.1 port=`+
		strconv.Itoa(silent.Addr().(*net.TCPAddr).Port)+` user=app sslmode=disable"}, gone: {dsn: "host=/nowhere user=app password=`+"${EU1_PASSWORD}"+`"}, unset: {dsn: "host=x password=${NO_SUCH_VARIABLE}"}}`), 0o600))
	f.env = append(f.env, "EU1_PASSWORD="+secret)
	f.ok(t, "registry", "apply", "-f", file)
	f.sleeps(t, f.tagged(t), "acme", 1)
	r := f.run(t, "", "top", "--once", "--interval", "200ms")
	require.Equal(t, exitFailed, r.code)
	require.Regexp(t, `eu1 +acme +1\.00`, r.out)
	require.Contains(t, r.out, `shard "gone": no connection: `)
	require.Contains(t, r.out, `shard "silent": it did not answer in time`)
	require.Contains(t, r.out, `NO_SUCH_VARIABLE`)
	require.NotContains(t, r.out+r.notes, secret)

	blind := "blind_" + f.login
	f.admin(t, "us1", `create role `+blind+` login`, `grant connect on database `+databaseIn(t, f.admins["us1"])+` to `+blind)
	f.ok(t, "tenant", "add", "seen", "--shard", "us1")
	ended := f.sleeps(t, f.tagged(t), "seen", 1)
	f.sql(t, `update sharded_pg.shards set admin_dsn = replace(admin_dsn, 'user=postgres', 'user=`+blind+`') where name = 'us1'`)
	r = f.run(t, "", "top", "--once", "--interval", "200ms", "--shard", "us1")
	require.Equal(t, exitFailed, r.code)
	require.Regexp(t, `shard "us1": its login may not see what \d+ sessions? do: grant pg_read_all_stats`, r.out)
	r = f.run(t, "", "tenant", "kill", "seen", "--older-than", "0s")
	require.Contains(t, r.notes, "grant pg_read_all_stats and pg_signal_backend")
	f.admin(t, "us1", `grant pg_read_all_stats to `+blind)
	r = f.run(t, "", "tenant", "kill", "seen", "--older-than", "0s")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.notes, "grant pg_signal_backend")
	f.admin(t, "us1", `grant pg_signal_backend to `+blind)
	f.ok(t, "tenant", "kill", "seen", "--older-than", "0s")
	requireCode(t, receive(t, ended), "57014")
}

func TestTopAndKillReachThePrimaryBehindAHostThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	ended := f.sleeps(t, f.tagged(t), "acme", 1)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	live, err := pgx.ParseConfig(f.admins["eu1"])
	require.NoError(t, err)
	f.sql(t, fmt.Sprintf(`update sharded_pg.shards set admin_dsn = 'host=127.0.0.1,%s port=%d,%d user=%s dbname=%s sslmode=disable target_session_attrs=read-write' where name = 'eu1'`,
		live.Host, silent.Addr().(*net.TCPAddr).Port, live.Port, live.User, live.Database))
	require.Equal(t, 1, f.lines(t, "--shard", "eu1")["acme"].Active)
	require.Len(t, f.json(t, "tenant", "kill", "acme", "--older-than", "0s")["cancelled"], 1)
	requireCode(t, receive(t, ended), "57014")
}

// sql changes the registry behind the back of its rules.
func (f *fleet) sql(t *testing.T, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.registry)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), statement)
	require.NoError(t, err)
}

func databaseIn(t *testing.T, dsn string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	return cfg.Database
}

func TestTopPrintsTablesOneAfterTheOtherWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	f := ready(t)
	cmd := exec.CommandContext(t.Context(), binary, "top", "--interval", "200ms")
	cmd.Env = f.env
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for tables := 0; tables < 3; {
		require.True(t, lines.Scan())
		require.NotContains(t, lines.Text(), "\x1b")
		if strings.HasPrefix(lines.Text(), "SHARD ") {
			tables++
		}
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	for lines.Scan() {
	}
	require.NoError(t, cmd.Wait(), "Ctrl-C is how it ends")

	once := exec.CommandContext(t.Context(), binary, "top", "--once", "--interval", "1h", "-o", "json")
	once.Env = f.env
	require.NoError(t, once.Start())
	dsn, err := pgx.ParseConfig(f.admins["eu1"])
	require.NoError(t, err)
	server, err := pgx.ConnectConfig(t.Context(), dsn)
	require.NoError(t, err)
	defer server.Close(context.WithoutCancel(t.Context()))
	require.Eventually(t, func() bool {
		var looks bool
		require.NoError(t, server.QueryRow(t.Context(), "select exists (select from pg_stat_activity where datname = $1 and query like '%pg_blocking_pids%' and pid <> pg_backend_pid())",
			dsn.Database).Scan(&looks))
		return looks
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, once.Process.Signal(syscall.SIGINT))
	require.Error(t, once.Wait(), "a document that is not there is none")
}
