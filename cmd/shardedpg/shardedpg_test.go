package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

func TestEachCommandShowsExamplesThatParse(t *testing.T) {
	t.Parallel()
	parser, err := newParser(&commands{})
	require.NoError(t, err)
	leaves := parser.Model.Leaves(false)
	require.Len(t, examples, len(leaves), "an example without a command, or a command without an example")
	for _, node := range leaves {
		path := commandPath(node)
		require.NotEmpty(t, examples[path], "shardedpg %s has no example", path)
		for _, line := range examples[path] {
			line, _, _ = strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "source <("), ")"), " > ")
			// A shell splits the words, as the operator's does.
			out, err := exec.Command("bash", "-c", `printf '%s\n' `+line).Output()
			require.NoError(t, err, line)
			words := strings.Split(strings.TrimSpace(string(out)), "\n")
			require.True(t, strings.HasPrefix(strings.Join(words[1:], " "), path), line)
			fresh, err := newParser(&commands{})
			require.NoError(t, err)
			_, err = fresh.Parse(words[1:])
			require.NoError(t, err, line)
		}
	}
}

func TestErrorsSayWhatToDoAndNameNoSecret(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	f.admin(t, "eu1", `create schema tenant_own`, `comment on schema tenant_own is 'sharded-pg: tenant somebody'`)
	const secret = "hunter2"
	for name, c := range map[string]struct {
		args []string
		says string
		code int
	}{
		"no such command":     {[]string{"tenant", "mvoe", "a"}, "unexpected argument mvoe", exitUsage},
		"unconfirmed purge":   {[]string{"tenant", "purge", "acme"}, "--yes", exitUsage},
		"clear for a reason":  {[]string{"tenant", "override", "acme", "--clear", "--reason", "it ended"}, "no reason", exitUsage},
		"override backwards":  {[]string{"tenant", "override", "acme", "--weight", "2", "--for=-1h"}, "such as 24h", exitUsage},
		"unknown shard":       {[]string{"shard", "show", "eu9"}, "next: shardedpg shard list", exitFailed},
		"unknown plan":        {[]string{"tenant", "plan", "acme", "gold"}, "next: shardedpg plan list", exitFailed},
		"unknown tenant":      {[]string{"tenant", "disable", "nobody"}, "next: shardedpg tenant list", exitFailed},
		"known tenant":        {[]string{"tenant", "add", "acme"}, "exists already", exitFailed},
		"known shard":         {[]string{"shard", "add", "eu1", "--dsn", f.shards["eu1"]}, "shardedpg shard set-dsn", exitFailed},
		"shard in use":        {[]string{"shard", "remove", "eu1"}, "shardedpg tenant list --shard", exitFailed},
		"another column":      {[]string{"tenant", "add", "b", "--tenant-column", "org"}, "name the column that they have with --tenant-column", exitFailed},
		"no room":             {[]string{"tenant", "add", "b", "--region", "mars"}, "shardedpg shard add", exitFailed},
		"purge of an active":  {[]string{"tenant", "purge", "acme", "--yes"}, "disable or remove it first", exitFailed},
		"shard out of reach":  {[]string{"shard", "add", "eu9", "--dsn", "host=/nowhere user=app password=" + secret}, "nothing was stored", exitFailed},
		"shard of no DSN":     {[]string{"shard", "add", "eu9", "--dsn", "postgres://app:" + secret + "@:bad:port/"}, "dsn", exitFailed},
		"variable":            {[]string{"shard", "add", "eu9", "--dsn", "host=x password=${NO_SUCH_VARIABLE}"}, "NO_SUCH_VARIABLE", exitFailed},
		"DSN without quotes":  {[]string{"shard", "add", "eu9", "--dsn", "host=x", "password=" + secret}, "quotes around", exitUsage},
		"URL in place":        {[]string{"tenant", "list", "postgres://app:" + secret + "@eu9/app"}, "quotes around", exitUsage},
		"registry of no DSN":  {[]string{"plan", "list", "--registry", "postgres://a:" + secret + "@:bad:port/"}, "the registry's DSN", exitUsage},
		"registry's option":   {[]string{"plan", "list", "--registry", "host=x password=" + secret + " sharded_tga=on"}, "sharded_tga", exitUsage},
		"registry is away":    {[]string{"plan", "list", "--registry", "host=/nowhere user=app password=" + secret}, "registry", exitFailed},
		"no registry":         {[]string{"plan", "list", "--registry", ""}, "SHARDEDPG_REGISTRY", exitUsage},
		"not initialized":     {[]string{"plan", "list", "--registry", f.admins["us1"]}, `run "shardedpg registry init"`, exitFailed},
		"never provisioned":   {[]string{"tenant", "enable", "raw"}, "shardedpg tenant provision raw", exitUsage},
		"provisioning failed": {[]string{"tenant", "add", "own", "--model", "schema", "--shard", "eu1"}, "shardedpg tenant provision own", exitFailed},
	} {
		if name == "never provisioned" {
			f.ok(t, "tenant", "add", "raw", "--no-provision")
		}
		r := f.run(t, "", c.args...)
		require.Equal(t, c.code, r.code, "%s: %s%s", name, r.out, r.notes)
		require.Contains(t, r.notes, c.says, name)
		require.Empty(t, r.out, name)
		require.NotContains(t, r.notes, secret, name)
		for _, api := range []string{"SetShardDSN", "UpdateShard", "AddShard", "PutPlan", "BeginPurge", "ChangeDSNs"} {
			require.NotContains(t, r.notes, api, "%s: an operator knows no Go", name)
		}
	}
}

func TestTheVersionIsThatOfTheBuild(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(binary, "--version").Output()
	require.NoError(t, err)
	require.Regexp(t, `^shardedpg (\(devel\)|v\S+) go1\.\S+\n$`, string(out))
}

func TestBashCompletesCommandsAndTheirFlags(t *testing.T) {
	t.Parallel()
	script, err := exec.Command(binary, "completion", "bash").Output()
	require.NoError(t, err)
	complete := func(words ...string) string {
		line := `COMP_WORDS=(shardedpg "$@"); COMP_CWORD=$#; _shardedpg; printf '%s ' "${COMPREPLY[@]}"`
		out, err := exec.Command("bash", append([]string{"-c", string(script) + line, "bash"}, words...)...).Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	require.Equal(t, "registry shard tenant top plan rls completion --help --registry --output --version", complete(""))
	require.Equal(t, "disable", complete("tenant", "dis"))
	require.Equal(t, "disable", complete("-o", "json", "tenant", "dis"))
	require.Equal(t, "--strategy", complete("tenant", "add", "acme", "--strateg"))
	require.Equal(t, "plan provision purge", complete("tenant", "p"), "a word of another command is no command here")
}

func TestEveryShellKnowsEachCommand(t *testing.T) {
	t.Parallel()
	parser, err := newParser(&commands{})
	require.NoError(t, err)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := exec.Command(binary, "completion", shell).Output()
		require.NoError(t, err)
		_ = kong.Visit(parser.Model, func(v kong.Visitable, next kong.Next) error {
			if node, ok := v.(*kong.Node); ok {
				require.Contains(t, string(script), commandPath(node), shell)
			}
			return next(nil)
		})
	}
}
