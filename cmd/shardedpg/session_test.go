package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

var update = flag.Bool("update", false, "rewrite docs/cli-session.md")

var volatile = []struct {
	pattern *regexp.Regexp
	as      string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`), "2026-01-01 12:00:00Z"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`), "2026-01-02T12:00:00Z"},
	{regexp.MustCompile(`\S+ \(shardedpg\) +`), "operator (shardedpg)  "},
	{regexp.MustCompile(`NO +AT( +)ACTOR +`), "NO    AT${1}ACTOR                 "},
	{regexp.MustCompile(`(?m)^\d+ +2026-01-01`), "1234  2026-01-01"},
	{regexp.MustCompile(`CHANGE +REASON`), "CHANGE  REASON"},
	{regexp.MustCompile(`(?m)^(1234 .*?) +-$`), "${1}  -"},
	{regexp.MustCompile(`app_\d+_\d+`), "app"},
	{regexp.MustCompile(`\bt\d+_arecordedsessioniswhatoperatorssee\b`), "app"},
	{regexp.MustCompile(`us1/app +public`), "us1/app  public"},
	{regexp.MustCompile(`(?m)(SPG083  us1/app  public.orders) +`), "${1}  "},
	{regexp.MustCompile(`PostgreSQL \d[^,]*,`), "PostgreSQL 18.4,"},
	{regexp.MustCompile(`\d+ attacks: \d+ held`), "133 attacks: 127 held"}, // MERGE came with 15
	{regexp.MustCompile(`"elapsed_ms":\d+`), `"elapsed_ms":7`},
	{regexp.MustCompile(`"policies":"[0-9a-f]+"`), `"policies":"5f0c…"`},
}

// session is what an operator types and sees.
type session struct {
	t    *testing.T
	env  []string
	text strings.Builder
}

func (s *session) explain(text string) { s.text.WriteString("\n" + text + "\n") }

// types runs lines in a shell and records them with what they print.
func (s *session) types(lines ...string) {
	s.t.Helper()
	s.text.WriteString("\n```console\n")
	for _, line := range lines {
		out := s.shell(line)
		for _, v := range volatile {
			out = v.pattern.ReplaceAllString(out, v.as)
		}
		s.text.WriteString("$ " + line + "\n" + out)
	}
	s.text.WriteString("```\n")
}

func (s *session) shell(line string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "bash", "-o", "pipefail", "-c", line)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Sprintf("%s[exit code %d]\n", out, exit.ExitCode())
	}
	require.NoError(s.t, err)
	return string(out)
}

// Not parallel: the program in it reads DSNs from the environment of this process.
func TestARecordedSessionIsWhatOperatorsSee(t *testing.T) {
	f := newFleet(t)
	for _, name := range []string{"EU1", "US1"} {
		t.Setenv(name, f.shards[strings.ToLower(name)])
		t.Setenv(name+"_ADMIN", f.admins[strings.ToLower(name)])
	}
	eu := pgtest.Shared(t, "eu1")
	require.NoError(t, eu.Exec(t.Context(), "postgres", `create database tenant_template`))
	require.NoError(t, eu.Exec(t.Context(), "tenant_template",
		`create table orders (id bigint primary key, note text)`, `grant select, insert, update, delete on orders to `+f.login))

	s := &session{t: t, env: append(f.env, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))}
	s.text.WriteString("# A session with shardedpg\n\nRecorded by a test against real servers: " +
		"`go test ./cmd/shardedpg -run Recorded -update` writes it again. Times, numbers of\nrecords and the operator's name are made up; the DSNs come from the environment.\n")

	s.explain("## A registry and two shards")
	s.types("shardedpg registry status", "shardedpg registry init",
		"shardedpg shard add eu1 --dsn '${EU1}' --admin-dsn '${EU1_ADMIN}' --region eu --max-tenants 2000",
		"shardedpg shard add us1 --dsn '${US1}' --admin-dsn '${US1_ADMIN}' --region us --max-tenants 2000",
		"shardedpg shard list")

	s.explain("## Plans")
	s.types("shardedpg plan set trial --statement-timeout 2s --work-mem 4MB --max-conns 1", "shardedpg plan set growth --work-mem 128MB --dry-run",
		"shardedpg plan set free --rate 20 --burst 200", "shardedpg plan list")

	s.explain("## A thousand tenants of all models")
	s.types("shardedpg tenant add acme --plan growth --region eu --dry-run", "shardedpg tenant add acme --plan growth --region eu",
		"seq -f 'customer-%04g' 990 | shardedpg tenant add -f - --plan starter --dry-run",
		"seq -f 'customer-%04g' 990 | shardedpg tenant add -f - --plan starter --jobs 8",
		"shardedpg tenant add part-a part-b part-c --model partition --strategy smallest --jobs 1",
		"shardedpg tenant add initech hooli umbrella --model schema --shard us1",
		"shardedpg tenant add globex --model database --shard eu1 --plan enterprise",
		"shardedpg tenant add gratis trialist --plan trial",
		"seq -f 'customer-%04g' 991 | tail -n 3 | shardedpg tenant add -f - --plan starter",
		"shardedpg registry status", "shardedpg tenant list --limit 5", "shardedpg tenant list --limit 3 --after customer-0990",
		"shardedpg tenant list --model schema,database -o json | grep -o '\"id\":\"[^\"]*\"'",
		"shardedpg tenant show globex")

	s.explain("## A tenant is disabled while a program queries\n\nThe program's next statement is refused, and nobody restarts anything.")
	program := startProgram(t, f.registry, "acme")
	s.types("shardedpg tenant disable acme")
	disabled := time.Now()
	err := program.refused(t, disabled.Add(time.Second))
	require.ErrorIs(t, err, shardedpg.ErrTenantDisabled)
	s.text.WriteString("\nThe program gets, within a second:\n\n```text\n" + err.Error() + "\n```\n")
	s.types("shardedpg tenant enable acme")
	require.Eventually(t, func() bool { return program.query(t.Context()) == nil }, 5*time.Second, 10*time.Millisecond)

	s.explain("## A shard is full, another one is drained")
	s.types("shardedpg shard full eu1 --reason 'disk at 80%'", "shardedpg tenant add late --region eu", "shardedpg tenant add late",
		"shardedpg shard drain us1 --reason 'hardware is replaced'", "shardedpg shard remove us1", "shardedpg tenant add later",
		"shardedpg shard open eu1", "shardedpg shard list")

	s.explain("## Limits for a day, a tenant that is held down, and an end")
	s.types("shardedpg tenant override acme --statement-timeout 2m --for 24h --reason 'year-end report'",
		"shardedpg tenant throttle hooli --reason 'import without end'", "shardedpg tenant kill hooli", "shardedpg tenant throttle hooli --clear",
		"shardedpg tenant purge gratis --yes", "shardedpg tenant remove gratis", "shardedpg tenant purge gratis --dry-run", "shardedpg tenant purge gratis --yes")

	s.explain("## Policies, and whether they hold\n\nThis fleet has policies of its own. They are replaced by generated ones, looked at, and attacked.")
	s.types("shardedpg rls generate --shard us1 | grep -A 11 '^-- table public.orders$'",
		"shardedpg rls apply --shard us1 --drop-policies --indexes --dry-run | grep -A 8 '^table public.orders'",
		"shardedpg rls apply --shard us1 --drop-policies --indexes --yes --note 'generated from now on' | tail -n 1",
		"shardedpg rls audit --shard us1 | grep SPG083",
		"shardedpg rls verify --shard us1 --dry-run", "shardedpg rls verify --shard us1 --yes")
	s.explain("Somebody switches row security of a table off.")
	f.admin(t, "us1", "alter table orders disable row level security")
	s.types("shardedpg rls verify --shard us1 --table public.orders --yes | sed -n 1,6p",
		"shardedpg rls apply --shard us1 --dry-run --fail-on-drift", "shardedpg rls apply --shard us1 --yes --note 'somebody switched it off' | tail -n 1")
	s.explain("Two canaries are for a job that looks every minute.")
	s.types("shardedpg shard open us1", "shardedpg tenant add canary-a canary-b --shard us1")
	f.admin(t, "us1", "insert into orders (tenant_id, note) values ('canary-a', 'tweet'), ('canary-b', 'tweet')")
	s.explain("A program gives each of them a row in the tables that are to be watched.")
	s.types("shardedpg rls verify --canary canary-a,canary-b", "shardedpg rls verify --canary canary-a,canary-b -o json")

	s.explain("## Who did what")
	s.types("shardedpg registry audit-log --subject acme")

	file := filepath.Join("..", "..", "docs", "cli-session.md")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(s.text.String()), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), s.text.String(), "run: go test ./cmd/shardedpg -run Recorded -update")
	require.NotContains(t, s.text.String(), f.login, "a session shows no DSN")
}

// program queries as one tenant, all the time.
type program struct {
	db     *sql.DB
	tenant string
}

func startProgram(t *testing.T, registry, tenant string) *program {
	t.Helper()
	db, err := sql.Open("sharded-pg", registry)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	p := &program{db, tenant}
	require.NoError(t, p.query(t.Context()))
	return p
}

func (p *program) query(ctx context.Context) error {
	var n int
	return p.db.QueryRowContext(shardedpg.WithTenant(ctx, p.tenant), "select count(*) from orders").Scan(&n)
}

// refused queries until a statement is refused.
func (p *program) refused(t *testing.T, deadline time.Time) error {
	t.Helper()
	for {
		if err := p.query(t.Context()); err != nil {
			return err
		}
		require.True(t, time.Now().Before(deadline), "statements of a disabled tenant still run after a second")
	}
}
