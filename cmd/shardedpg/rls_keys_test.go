package main

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func TestAFleetBecomesSignedAndItsKeyIsChangedFromAShell(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	f.ok(t, "tenant", "add", "globex", "--shard", "us1")
	keyRole := []string{"--key-role", f.login + "_keys"}
	apply := func(args ...string) result {
		return f.rls(t, append(append([]string{"apply", "--yes"}, args...), keyRole...)...)
	}
	keys := func(args ...string) result { return f.run(t, "", append([]string{"rls", "keys"}, args...)...) }
	require.Zero(t, apply("--drop-policies").code)

	file := filepath.Join(t.TempDir(), "keys")
	f.registry += " sharded_identity=signed sharded_key_file=" + file
	f.env = append(f.env, "SHARDEDPG_REGISTRY="+f.registry)
	none := keys("install")
	require.Equal(t, exitUsage, none.code)
	require.Contains(t, none.notes, "no such file or directory; make one with shardedpg rls keys generate")
	refused := apply("--identity", "signed")
	require.Equal(t, exitFailed, refused.code)
	require.Contains(t, refused.notes, "run shardedpg rls keys install first")

	made := keys("generate")
	require.Zero(t, made.code, made.notes)
	require.Equal(t, file+": key \"1\" added; it holds 1\n", made.out)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	secrets := func() (all []string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, field := range strings.Fields(string(text)) {
			if len(field) == 44 {
				all = append(all, field)
			}
		}
		return all
	}
	require.Len(t, secrets(), 1)
	installed := keys("install")
	require.Zero(t, installed.code, installed.notes)
	require.Contains(t, installed.out, `installed 1; it has 1`)
	require.Contains(t, keys("install").out, "nothing to install; it has 1")

	db, err := sql.Open("sharded-pg", f.registry)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	kid := func(tenant string) (kid string) {
		t.Helper()
		ctx := shardedpg.WithTenant(t.Context(), tenant)
		_, err := db.ExecContext(ctx, "insert into orders (note) values ('x')")
		require.NoError(t, err)
		require.NoError(t, db.QueryRowContext(ctx, "select split_part(current_setting('shardedpg.ctx'), ':', 2) from orders limit 1").Scan(&kid))
		return kid
	}
	require.Equal(t, "1", kid("acme"), "programs sign before policies ask for it")
	require.Regexp(t, `known +public.orders +switch inside the statement`, f.ok(t, "rls", "verify", "--shard", "eu1", "--yes", "--all"))
	signed := apply("--identity", "signed")
	require.Zero(t, signed.code, signed.notes)
	require.Contains(t, signed.out, "shardedpg.current_tenant()")
	require.Zero(t, f.run(t, "", "rls", "apply", "--dry-run", "--fail-on-drift").code, "what was declared need not be said again")
	require.Equal(t, "1", kid("acme"))
	require.Equal(t, "1", kid("globex"))
	f.ok(t, "tenant", "add", "part", "--model", "partition", "--shard", "eu1")
	part := shardedpg.WithTenant(t.Context(), "part")
	_, err = db.ExecContext(part, "insert into events (what) values ('new')")
	require.NoError(t, err)
	var what string
	require.NoError(t, db.QueryRowContext(part, "select what from events").Scan(&what))
	require.Zero(t, f.run(t, "", "rls", "apply", "--dry-run", "--fail-on-drift").code, "a new partition gets signed policies")

	tried := f.ok(t, "rls", "verify", "--shard", "eu1", "--yes", "--all")
	require.Regexp(t, `held +public.orders +switch inside the statement`, tried)
	require.Regexp(t, `held +public.orders +forged token`, tried)
	admin, err := pgx.Connect(t.Context(), f.admins["eu1"])
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close(context.WithoutCancel(t.Context()))) }()
	_, err = admin.Exec(t.Context(), `create or replace function shardedpg.current_tenant() returns text language sql stable security definer
 as $$ select split_part(current_setting('shardedpg.ctx', true), ':', 5) $$`)
	require.NoError(t, err)
	credulous := f.run(t, "", "rls", "verify", "--shard", "eu1", "--yes")
	require.Equal(t, exitFailed, credulous.code)
	require.Regexp(t, `broken +public.orders +forged token`, credulous.out)
	require.Zero(t, apply().code)
	require.Zero(t, f.run(t, "", "rls", "apply", "--dry-run", "--fail-on-drift").code)

	require.Equal(t, "1", strings.TrimSpace(strings.Split(keys("generate").out, "holds ")[1][:1]))
	require.Contains(t, keys("list").out, "missing")
	require.Zero(t, keys("install", "--shard", "eu1").code)
	require.Contains(t, keys("list", "--shard", "us1").out, "missing")
	require.Zero(t, keys("install").code)
	early := keys("retire", "1", "--yes")
	require.Equal(t, exitUsage, early.code)
	require.Contains(t, early.notes, "programs sign with it: run shardedpg rls keys forget 1")
	forgotten := keys("forget", "1")
	require.Zero(t, forgotten.code, forgotten.notes)
	require.Contains(t, forgotten.out, `key "1" removed; it holds 2`)
	last := keys("forget", "2")
	require.Equal(t, exitUsage, last.code)
	require.Contains(t, last.notes, "is the only key")
	for _, tenant := range []string{"acme", "globex"} {
		require.Eventually(t, func() bool { return kid(tenant) == "2" }, 20*time.Second, 20*time.Millisecond, "programs read the file again")
	}
	preview := keys("retire", "1", "--dry-run")
	require.Zero(t, preview.code, preview.notes)
	require.Equal(t, 2, strings.Count(preview.out, "would lose it; dry run"))
	list := keys("list").out
	require.Regexp(t, `eu1 +\S+ +signed +1 +\d{4}-\S+ \S+ +not in the file\n`, list)
	require.Regexp(t, `us1 +\S+ +signed +2 +\d{4}-\S+ \S+ +ok\n`, list)
	retired := keys("retire", "1", "--yes")
	require.Zero(t, retired.code, retired.notes)
	require.Equal(t, 2, strings.Count(retired.out, `key "1" is retired; it has 2`))
	require.Contains(t, keys("retire", "1", "--yes").out, "does not have it")
	require.Equal(t, "2", kid("acme"))

	plain := apply("--identity", "plain")
	require.Zero(t, plain.code, plain.notes)
	require.Equal(t, "2", kid("globex"), "and back: programs go on to sign")

	for _, r := range []result{made, installed, signed, forgotten, retired, keys("list"), keys("list", "-o", "json"), keys("install", "-o", "json")} {
		for _, secret := range secrets() {
			require.NotContains(t, r.out+r.notes, secret)
		}
	}
	require.NoError(t, os.Chmod(file, 0o644))
	open := keys("list")
	require.Equal(t, exitFailed, open.code)
	require.Contains(t, open.notes, "chmod o= it")
	lone := keys("list", "--dsn", f.admins["eu1"])
	require.Equal(t, exitUsage, lone.code)
	require.Contains(t, lone.notes, "--dsn and --as go together")
}

func TestAFleetIsHardenedAsFarAsItsServersLet(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	require.Zero(t, f.rls(t, "apply", "--yes", "--drop-policies").code)
	harden := func(args ...string) result { return f.run(t, "", append([]string{"rls", "harden"}, args...)...) }
	require.Equal(t, exitUsage, harden().code)
	preview := harden("--dry-run")
	require.Zero(t, preview.code, preview.notes)
	require.Contains(t, preview.out, "would take away: function pg_notify(text,text)\n")
	require.Contains(t, preview.out, "rights; dry run, nothing was changed")
	done := harden("--shard", "eu1", "--yes", "--note", "review")
	require.Zero(t, done.code, done.notes)
	require.Contains(t, done.out, "taken away:      language plpgsql\n")
	require.Contains(t, done.out, " taken away, 0 refused, record 2")
	require.Contains(t, harden("--shard", "eu1", "--yes").out, "nothing to take away")
	audit := f.run(t, "", "rls", "audit", "--shard", "eu1", "--level", "hardened", "--all", "-o", "json")
	require.NotContains(t, audit.out, "SPG073")
	require.Contains(t, f.run(t, "", "rls", "audit", "--shard", "us1", "--level", "hardened", "-o", "json").out, "SPG073")

	// As on a managed server: the operator is no superuser.
	operator := f.login + "_operator"
	config := f.database(t, "us1")
	f.admin(t, "us1", "create role "+operator+" login createrole in role "+f.login+"_owner", "alter database "+config+" owner to "+operator, "alter schema shardedpg owner to "+operator,
		"alter table shardedpg.rls_records owner to "+operator)
	refused := harden("--dsn", strings.Replace(f.admins["us1"], "user=postgres", "user="+operator, 1), "--yes")
	require.Equal(t, exitFailed, refused.code, refused.notes)
	require.Contains(t, refused.out, "refused:         function pg_notify(text,text): the server keeps it: only the owner of what is built in")
	require.Contains(t, refused.out, "none taken away, ")
	require.Zero(t, f.run(t, "", "rls", "rollback", "--shard", "eu1", "--yes").code)
	require.Contains(t, harden("--shard", "eu1", "--dry-run").out, "would take away: language plpgsql")
}

// database is the name of a shard's own.
func (f *fleet) database(t testing.TB, shard string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(f.admins[shard])
	require.NoError(t, err)
	return cfg.Database
}
