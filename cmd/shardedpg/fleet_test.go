package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// binary is the command as it is shipped, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "shardedpg")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "shardedpg")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			panic(fmt.Sprintf("%v: %s", err, out))
		}
		return pgtest.Main(m)
	}())
}

// rows is the rule for a table of shared tenants.
const rows = `(tenant_id = nullif(current_setting('app.current_tenant_id', true), ''))`

var tables = []string{
	`create table orders (tenant_id text not null, id bigint generated always as identity, note text, primary key (tenant_id, id))`,
	`create table events (tenant_id text not null, what text) partition by list (tenant_id)`,
	`create schema tenant_template`,
	`create table tenant_template.orders (id bigint primary key generated always as identity, note text)`,
}

// fleet is a registry and two servers, and what an operator's shell has.
type fleet struct {
	registry string
	env      []string
	login    string
	shards   map[string]string // DSN by name
	admins   map[string]string
}

var logins atomic.Int64

func newFleet(t testing.TB) *fleet {
	t.Helper()
	home := pgtest.Shared(t, "registry")
	f := &fleet{
		registry: home.DSN("postgres", home.NewDatabase(t)),
		login:    fmt.Sprintf("app_%d_%d", time.Now().UnixNano(), logins.Add(1)),
		shards:   map[string]string{}, admins: map[string]string{},
	}
	for _, name := range []string{"eu1", "us1"} {
		server := pgtest.Shared(t, name)
		database := server.NewDatabase(t, tables...)
		statements := []string{`create role ` + f.login + ` login noinherit`}
		for _, table := range []string{"orders", "events"} {
			statements = append(statements,
				`alter table `+table+` enable row level security`, `alter table `+table+` force row level security`,
				`create policy tenant_rows on `+table+` using `+rows+` with check `+rows,
				`create policy tenant_only on `+table+` as restrictive for all to public using `+rows+` with check `+rows,
				`grant select, insert, update, delete on `+table+` to `+f.login)
		}
		require.NoError(t, server.Exec(t.Context(), database, statements...))
		f.shards[name], f.admins[name] = server.DSN(f.login, database), server.DSN("postgres", database)
	}
	f.env = append(os.Environ(), "SHARDEDPG_REGISTRY="+f.registry, "NO_COLOR=1")
	for _, name := range []string{"eu1", "us1"} {
		f.env = append(f.env, strings.ToUpper(name)+"="+f.shards[name], strings.ToUpper(name)+"_ADMIN="+f.admins[name])
	}
	return f
}

// result is what a command left behind.
type result struct {
	out, notes string
	code       int
}

func (f *fleet) run(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env, cmd.Stdin = f.env, strings.NewReader(stdin)
	var out, notes bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &notes
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{out.String(), notes.String(), cmd.ProcessState.ExitCode()}
}

func (f *fleet) ok(t testing.TB, args ...string) string {
	t.Helper()
	r := f.run(t, "", args...)
	require.Zero(t, r.code, "shardedpg %q: %s%s", args, r.out, r.notes)
	return r.out
}

// json runs a command for programs.
func (f *fleet) json(t testing.TB, args ...string) map[string]any {
	t.Helper()
	var value map[string]any
	require.NoError(t, json.Unmarshal([]byte(f.ok(t, append(args, "-o", "json")...)), &value))
	return value
}

// ready is a fleet with its registry and both shards.
func ready(t testing.TB) *fleet {
	t.Helper()
	f := newFleet(t)
	f.ok(t, "registry", "init")
	for _, name := range []string{"eu1", "us1"} {
		f.ok(t, "shard", "add", name, "--dsn", f.shards[name], "--admin-dsn", f.admins[name])
	}
	return f
}
