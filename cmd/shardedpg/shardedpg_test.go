package main

import (
	"os"
	"os/exec"
	"path/filepath"
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

func TestUsageErrorsExitWithTwoAndChangeNothing(t *testing.T) {
	t.Parallel()
	f := ready(t)
	before := f.ok(t, "registry", "audit-log")
	broken := filepath.Join(t.TempDir(), "ids.txt")
	require.NoError(t, os.WriteFile(broken, []byte("good\nnot good\n"), 0o600))
	typo := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(typo, []byte("shards: {eu2: {dns: x}}\n"), 0o600))
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no such command":          {[]string{"tenant", "mvoe", "a"}, "unexpected argument mvoe"},
		"no such flag":             {[]string{"tenant", "list", "--limt", "3"}, "--limt"},
		"output":                   {[]string{"plan", "list", "-o", "xml"}, "--output must be one of"},
		"tenant ID":                {[]string{"tenant", "show", "a b"}, "not allowed"},
		"no tenant":                {[]string{"tenant", "add"}, "Give IDs, or --file"},
		"IDs and file":             {[]string{"tenant", "add", "a", "-f", broken}, "not both"},
		"ID in a file":             {[]string{"tenant", "add", "-f", broken}, "line 2"},
		"no such file":             {[]string{"tenant", "add", "-f", "/nowhere"}, "no such file"},
		"jobs":                     {[]string{"tenant", "add", "a", "--jobs", "99"}, "use 1 to 16"},
		"model":                    {[]string{"tenant", "add", "a", "--model", "own"}, "--model must be one of"},
		"strategy":                 {[]string{"tenant", "add", "a", "--strategy", "best"}, "--strategy must be one of"},
		"shard and strategy":       {[]string{"tenant", "add", "a", "--shard", "eu1", "--strategy", "hash"}, "leave --strategy"},
		"shard and region":         {[]string{"tenant", "add", "a", "--shard", "eu1", "--region", "eu"}, "--region and --shard-label out"},
		"slug of many":             {[]string{"tenant", "add", "a", "b", "--slug", "x"}, "one tenant"},
		"slug":                     {[]string{"tenant", "add", "a", "--slug", "x y"}, "slug"},
		"label":                    {[]string{"tenant", "add", "a", "--label", "x"}, "--label"},
		"state":                    {[]string{"tenant", "list", "--state", "gone"}, "--state must be one of"},
		"limit":                    {[]string{"tenant", "list", "--limit", "0"}, "use 1 to 10000"},
		"large limit":              {[]string{"registry", "audit-log", "--limit", "10001"}, "use 1 to 10000"},
		"audit kind":               {[]string{"registry", "audit-log", "--kind", "dog"}, "--kind must be one of"},
		"timeout":                  {[]string{"plan", "set", "free", "--statement-timeout", "fast"}, "30s, or unlimited"},
		"zero timeout":             {[]string{"plan", "set", "free", "--statement-timeout", "0s"}, "unlimited for no limit"},
		"work mem without unit":    {[]string{"plan", "set", "free", "--work-mem", "64"}, "such as 64MB"},
		"too little work mem":      {[]string{"plan", "set", "free", "--work-mem", "1kB"}, "64kB"},
		"conns":                    {[]string{"plan", "set", "free", "--max-conns=-1"}, "at least 1"},
		"rate":                     {[]string{"plan", "set", "free", "--rate=-1"}, "statements per second"},
		"weight":                   {[]string{"plan", "set", "free", "--weight", "heavy"}, "--weight"},
		"nothing to set":           {[]string{"plan", "set", "free"}, "nothing to set"},
		"new plan of half limits":  {[]string{"plan", "set", "gold", "--max-conns", "3"}, "would be new"},
		"name of a plan":           {[]string{"plan", "set", "a b", "--statement-timeout", "1s", "--work-mem", "1MB", "--max-conns", "1"}, "not allowed"},
		"name of a shard":          {[]string{"shard", "add", "a b", "--dsn", f.shards["eu1"]}, "not allowed"},
		"shard without DSN":        {[]string{"shard", "add", "eu2"}, "--dsn"},
		"max tenants":              {[]string{"shard", "add", "eu2", "--dsn", f.shards["eu1"], "--max-tenants", "0"}, "or unlimited"},
		"max bytes":                {[]string{"shard", "add", "eu2", "--dsn", f.shards["eu1"], "--max-bytes", "lots"}, "such as 64MB"},
		"set-dsn of nothing":       {[]string{"shard", "set-dsn", "eu1", "--reason", "x"}, "nothing to set"},
		"set-dsn without a reason": {[]string{"shard", "set-dsn", "eu1", "--dsn", f.shards["eu1"]}, "--reason"},
		"override of nothing":      {[]string{"tenant", "override", "a"}, "nothing to override"},
		"override and clear":       {[]string{"tenant", "override", "a", "--clear", "--weight", "2"}, "leave"},
		"override backwards":       {[]string{"tenant", "override", "a", "--weight", "2", "--for=-1h"}, "such as 24h"},
		"unconfirmed purge":        {[]string{"tenant", "purge", "a"}, "--yes"},
		"unknown field in a fleet": {[]string{"registry", "apply", "-f", typo}, "dns"},
		"shell":                    {[]string{"completion", "tcsh"}, "bash"},
	} {
		r := f.run(t, "", c.args...)
		require.Equal(t, exitUsage, r.code, "%s: %s%s", name, r.out, r.notes)
		require.Contains(t, r.notes, c.says, name)
		require.Empty(t, r.out, name)
	}
	require.Equal(t, before, f.ok(t, "registry", "audit-log"))
}

func TestErrorsSayWhatToDoAndNameNoSecret(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1")
	const secret = "hunter2"
	for name, c := range map[string]struct {
		args []string
		says string
		code int
	}{
		"unknown shard":       {[]string{"shard", "show", "eu9"}, "next: shardedpg shard list", exitFailed},
		"unknown plan":        {[]string{"tenant", "plan", "acme", "gold"}, "next: shardedpg plan list", exitFailed},
		"unknown tenant":      {[]string{"tenant", "disable", "nobody"}, "next: shardedpg tenant list", exitFailed},
		"known tenant":        {[]string{"tenant", "add", "acme"}, "exists already", exitFailed},
		"known shard":         {[]string{"shard", "add", "eu1", "--dsn", f.shards["eu1"]}, "shardedpg shard set-dsn", exitFailed},
		"shard in use":        {[]string{"shard", "remove", "eu1"}, "shardedpg tenant list --shard", exitFailed},
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
		"provisioning failed": {[]string{"tenant", "add", "own", "--model", "schema", "--template", "nope"}, "shardedpg tenant provision own", exitFailed},
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
	require.Equal(t, "registry shard tenant plan completion --help --registry --output", complete(""))
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
