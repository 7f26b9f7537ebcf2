package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// bad is a command line that cannot work, its words joined by |, and what an operator has to be told.
type bad struct {
	line, says string
	code       int
}

var (
	long = strings.Repeat("x", 64)

	// badLayout is for the flags that name things on shards, behind a command.
	badLayout = func(command string) map[string][]bad {
		all := make(map[string][]bad)
		for _, flag := range []string{"--tenant-column", "--template", "--template-database", "--login"} {
			all[flag] = []bad{
				{command + "|" + flag + "|" + long, flag + " is no name in PostgreSQL", exitUsage},
				{command + "|" + flag + "|a\tb", flag + " is no name in PostgreSQL", exitUsage},
			}
		}
		return all
	}

	// badLimits is for those of the limits that a command has; none means all.
	badLimits = func(command string, only ...string) map[string][]bad {
		all := map[string][]bad{
			"--statement-timeout": {
				{command + "|--statement-timeout|fast", "30s, or unlimited", exitUsage},
				{command + "|--statement-timeout|0s", "unlimited for no limit", exitUsage},
				{command + "|--statement-timeout|1500us", "whole milliseconds", exitUsage},
			},
			"--work-mem": {
				{command + "|--work-mem|64", "such as 64MB", exitUsage},
				{command + "|--work-mem|1kB", "64kB to", exitUsage},
				{command + "|--work-mem|99999999999TB", "such as 64MB", exitUsage},
			},
			"--max-conns": {{command + "|--max-conns|0", "at least 1", exitUsage}, {command + "|--max-conns|few", "--max-conns", exitUsage}},
			"--weight":    {{command + "|--weight|0", "at least 1", exitUsage}, {command + "|--weight|heavy", "--weight", exitUsage}},
			"--burst":     {{command + "|--burst=-1", "--burst is -1", exitUsage}, {command + "|--burst|many", "--burst", exitUsage}},
			"--rate":      {{command + "|--rate|nan", "statements per second", exitUsage}, {command + "|--rate=-1", "statements per second", exitUsage}},
		}
		if len(only) > 0 {
			maps.DeleteFunc(all, func(flag string, _ []bad) bool { return !slices.Contains(only, flag) })
		}
		return all
	}

	badDatabases = func(command, dsn string) map[string][]bad {
		return map[string][]bad{
			"--dsn": {
				{command + "|--dsn|host=/nowhere user=a", "no connection", exitFailed},
				{command + "|--dsn|nonsense", "no PostgreSQL URL", exitUsage},
				{command + "|--dsn|host=${", "closing brace", exitUsage},
				{command + "|--dsn|" + dsn + "|--shard|eu1", "leave --shard", exitUsage},
			},
			"--shard":    {{command + "|--shard|eu9", "next: shardedpg shard list", exitFailed}},
			"--database": {{command + "|--database|nowhere", "no such database", exitUsage}, {command + "|--database|" + long, "no name in PostgreSQL", exitUsage}},
		}
	}

	badDeclared = func(command string) map[string][]bad {
		all := map[string][]bad{
			"--guc":    {{command + "|--guc|tenant", "app.current_tenant_id", exitUsage}},
			"--global": {{command + "|--global|[", "that is no pattern", exitUsage}},
		}
		for _, flag := range []string{"--app-role", "--owner-role", "--maintenance-role", "--key-role", "--tenant-column"} {
			all[flag] = []bad{{command + "|" + flag + "|" + long, "no name in PostgreSQL", exitUsage}, {command + "|" + flag + "|", "no name in PostgreSQL", exitUsage}}
		}
		return all
	}

	badKeyed = func(command, dsn, file string) map[string][]bad {
		command += "|--key-file|" + file
		all := badDatabases(command+"|--as|eu1", dsn)
		delete(all, "--shard")
		delete(all, "--database")
		named := badDatabases(command, dsn)
		delete(named, "--dsn")
		return merged(all, named, badDeclared(command), map[string][]bad{
			"--as":       {{command + "|--as|eu1", "--dsn and --as go together", exitUsage}, {command + "|--dsn|" + dsn + "|--as|" + long, "no name in PostgreSQL", exitUsage}},
			"--key-file": {{strings.Replace(command, file, "/nowhere", 1), "make one with shardedpg rls keys generate", exitUsage}, {strings.Replace(command, file, "/", 1), "key file /", exitFailed}},
		}, map[string][]bad{"--dsn": {{command + "|--dsn|" + dsn, "--dsn and --as go together", exitUsage}}})
	}

	badGenerated = func(command string) map[string][]bad {
		all := map[string][]bad{"--identity": {{command + "|--identity|maybe", "--identity must be one of", exitUsage}}}
		for _, flag := range []string{"--private", "--table", "--skip-schema"} {
			all[flag] = []bad{{command + "|" + flag + "|[", "that is no pattern", exitUsage}}
		}
		return all
	}

	badChange = func(command string) map[string][]bad {
		return map[string][]bad{
			"--lock-timeout": {{command + "|--dry-run|--lock-timeout|0s", "at least 1ms", exitUsage}, {command + "|--dry-run|--lock-timeout|soon", "--lock-timeout", exitUsage}},
			"--note":         {{command + "|--dry-run|--note|a\tb", "no line of text", exitUsage}, {command + "|--dry-run|--yes", "say --dry-run", exitUsage}},
		}
	}

	badShard = func(command string) map[string][]bad {
		return map[string][]bad{
			"<name>":   {{command + "|eu9", "next: shardedpg shard list", exitFailed}},
			"--reason": {{command + "|eu1|--reason|a\tb", "no line of text", exitUsage}, {command + "|eu1|--reason|" + strings.Repeat("x", 501), "500 bytes", exitUsage}},
		}
	}

	badTenant = func(command string) map[string][]bad {
		return map[string][]bad{"<id>": {
			{strings.ReplaceAll(command, "ID", "a b"), "not allowed", exitUsage},
			{strings.ReplaceAll(command, "ID", "nobody"), "next: shardedpg tenant list", exitFailed},
		}}
	}
)

// badInput has wrong values for each argument and each flag with a value of each command.
func badInput(f *fleet, files string) map[string]map[string][]bad {
	dsn, file := f.shards["eu1"], func(name string) string { return filepath.Join(files, name) }
	return map[string]map[string][]bad{
		"": {
			"--registry": {{"plan|list|--registry|", "SHARDEDPG_REGISTRY", exitUsage}, {"plan|list|--registry|nonsense", "the registry's DSN", exitUsage}},
			"--output":   {{"plan|list|-o|xml", "--output must be one of", exitUsage}},
		},
		"registry apply": {"--file": {
			{"registry|apply|-f|/nowhere", "no such file", exitUsage},
			{"registry|apply|-f|/", "is a directory", exitUsage},
			{"registry|apply|-f|" + file("typo.yaml"), "dns", exitUsage},
			{"registry|apply|-f|" + file("orphan.yaml"), "shard not found", exitFailed},
		}},
		"registry audit-log": {
			"--kind":    {{"registry|audit-log|--kind|dog", "--kind must be one of", exitUsage}},
			"--subject": {{"registry|audit-log|--subject|a\tb", "--subject: that is no line", exitUsage}},
			"--actor":   {{"registry|audit-log|--actor|a\tb", "--actor: that is no line", exitUsage}},
			"--before":  {{"registry|audit-log|--before|x", "--before", exitUsage}, {"registry|audit-log|--before=-1", "number of an entry", exitUsage}},
			"--limit":   {{"registry|audit-log|--limit|0", "use 1 to 10000", exitUsage}, {"registry|audit-log|--limit|10001", "use 1 to 10000", exitUsage}},
		},
		"shard add": {
			"<name>":        {{"shard|add|a b|--dsn|" + dsn, "not allowed", exitUsage}, {"shard|add|" + long + "|--dsn|" + dsn, "1 to 63", exitUsage}, {"shard|add|eu1|--dsn|" + dsn, "exists already", exitFailed}},
			"--dsn":         {{"shard|add|eu2", "--dsn", exitUsage}, {"shard|add|eu2|--dsn|", "dsn is empty", exitUsage}, {"shard|add|eu2|--dsn|host=/nowhere user=a", "nothing was stored", exitFailed}, {"shard|add|eu2|--dsn|host=${", "closing brace", exitUsage}},
			"--admin-dsn":   {{"shard|add|eu2|--dsn|" + dsn + "|--admin-dsn|host=/nowhere user=a", "admin dsn cannot be used", exitFailed}},
			"--region":      {{"shard|add|eu2|--dsn|" + dsn + "|--region|a b", `region "a b" is not allowed`, exitUsage}},
			"--label":       {{"shard|add|eu2|--dsn|" + dsn + "|--label|x", "--label", exitUsage}, {"shard|add|eu2|--dsn|" + dsn + "|--label|x=a b", "label", exitUsage}},
			"--max-tenants": {{"shard|add|eu2|--dsn|" + dsn + "|--max-tenants|0", "or unlimited", exitUsage}},
			"--max-bytes":   {{"shard|add|eu2|--dsn|" + dsn + "|--max-bytes|lots", "such as 64MB", exitUsage}},
		},
		"shard show":   {"<name>": {{"shard|show|eu9", "next: shardedpg shard list", exitFailed}}},
		"shard full":   badShard("shard|full"),
		"shard open":   badShard("shard|open"),
		"shard drain":  badShard("shard|drain"),
		"shard remove": {"<name>": {{"shard|remove|eu9", "next: shardedpg shard list", exitFailed}}},
		"shard health": {"<name>": {{"shard|health|eu1|eu9", "next: shardedpg shard list", exitFailed}}},
		"shard set-dsn": {
			"<name>":      {{"shard|set-dsn|eu9|--reason|x|--dsn|" + dsn, "next: shardedpg shard list", exitFailed}},
			"--dsn":       {{"shard|set-dsn|eu1|--reason|x", "nothing to set", exitUsage}, {"shard|set-dsn|eu1|--reason|x|--dsn|host=/nowhere user=a", "nothing was stored", exitFailed}},
			"--admin-dsn": {{"shard|set-dsn|eu1|--reason|x|--admin-dsn|host=/nowhere user=a", "nothing was stored", exitFailed}},
			"--reason":    {{"shard|set-dsn|eu1|--dsn|" + dsn, "--reason", exitUsage}, {"shard|set-dsn|eu1|--dsn|" + dsn + "|--reason|", "give one", exitUsage}, {"shard|set-dsn|eu1|--dsn|" + dsn + "|--reason|a\tb", "no line of text", exitUsage}},
		},
		"tenant add": merged(badLayout("tenant|add|a"), map[string][]bad{
			"--tenant-column":     {{"tenant|add|a|--tenant-column|customer", `no table with a column "customer"`, exitFailed}, {"tenant|add|a|b|--dry-run|--tenant-column|customer", "nothing was added", exitFailed}},
			"--template":          {{"tenant|add|a|--model|schema|--template|nowhere", "is not there or holds no tables", exitFailed}},
			"--template-database": {{"tenant|add|a|--model|database|--template-database|nowhere", "or name another one with --template-database", exitFailed}},
			"--login":             {{"tenant|add|a|--login|nobody", "has no role", exitFailed}},
			"<id>":                {{"tenant|add", "Give IDs, or --file", exitUsage}, {"tenant|add|a b", "not allowed", exitUsage}, {"tenant|add|" + long + "|--model|schema", "set a shorter schema", exitUsage}, {"tenant|add|a|b/c|--model|schema", "not safe", exitUsage}},
			"--file":              {{"tenant|add|a|-f|-", "not both", exitUsage}, {"tenant|add|-f|/nowhere", "no such file", exitUsage}, {"tenant|add|-f|" + file("ids"), "line 2", exitUsage}, {"tenant|add|-f|" + file("empty"), "no IDs in it", exitUsage}},
			"--shard":             {{"tenant|add|a|--shard|eu9", "next: shardedpg shard list", exitFailed}, {"tenant|add|a|--shard|e u", "not allowed", exitUsage}, {"tenant|add|a|--shard|eu1|--strategy|hash", "leave --strategy", exitUsage}},
			"--strategy":          {{"tenant|add|a|--strategy|best", "--strategy must be one of", exitUsage}},
			"--region":            {{"tenant|add|a|--region|a b", `region "a b" is not allowed`, exitUsage}, {"tenant|add|a|--region|mars", "shardedpg shard add", exitFailed}},
			"--shard-label":       {{"tenant|add|a|--shard-label|x", "--shard-label", exitUsage}, {"tenant|add|a|--shard-label|x=a b", "label", exitUsage}, {"tenant|add|a|--shard-label|x=y", "lacks a label", exitFailed}},
			"--model":             {{"tenant|add|a|--model|own", "--model must be one of", exitUsage}},
			"--database":          {{"tenant|add|a|--database|" + long, "no name of a database", exitUsage}, {"tenant|add|a|b|--model|database|--database|d", "for one tenant", exitUsage}},
			"--plan":              {{"tenant|add|a|--plan|gold", "next: shardedpg plan list", exitFailed}, {"tenant|add|a|--plan|go ld", "not allowed", exitUsage}},
			"--slug":              {{"tenant|add|a|--slug|x y", "slug", exitUsage}, {"tenant|add|a|b|--slug|x", "one tenant", exitUsage}},
			"--label":             {{"tenant|add|a|--label|x", "--label", exitUsage}, {"tenant|add|a|--label|x=a b", "label", exitUsage}},
			"--jobs":              {{"tenant|add|a|--jobs|0", "use 1 to 16", exitUsage}, {"tenant|add|a|--jobs|99", "use 1 to 16", exitUsage}},
		}),
		"tenant list": {
			"--shard":    {{"tenant|list|--shard|eu9", "next: shardedpg shard list", exitFailed}},
			"--database": {{"tenant|list|--database|" + long, "no name of a database", exitUsage}},
			"--plan":     {{"tenant|list|--plan|gold", "next: shardedpg plan list", exitFailed}},
			"--state":    {{"tenant|list|--state|gone", "--state must be one of", exitUsage}},
			"--model":    {{"tenant|list|--model|own", "--model must be one of", exitUsage}},
			"--slug":     {{"tenant|list|--slug|x y", "slug", exitUsage}},
			"--label":    {{"tenant|list|--label|x", "--label", exitUsage}, {"tenant|list|--label|x=a b", "label", exitUsage}},
			"--removed":  {{"tenant|list|--removed|maybe", "--removed must be one of", exitUsage}},
			"--limit":    {{"tenant|list|--limit|10001", "use 1 to 10000", exitUsage}, {"tenant|list|--limit=-1", "use 1 to 10000", exitUsage}, {"tenant|list|--limit|5|--all", "leave --limit out", exitUsage}},
			"--after":    {{"tenant|list|--after|a b", "--after", exitUsage}},
		},
		"tenant show":     badTenant("tenant|show|ID"),
		"tenant enable":   badTenant("tenant|enable|ID"),
		"tenant disable":  badTenant("tenant|disable|ID"),
		"tenant readonly": badTenant("tenant|readonly|ID"),
		"tenant remove":   badTenant("tenant|remove|ID"),
		"tenant plan": merged(badTenant("tenant|plan|ID|free"), map[string][]bad{
			"<plan>": {{"tenant|plan|acme|gold", "next: shardedpg plan list", exitFailed}},
		}),
		"tenant override": merged(badTenant("tenant|override|ID|--weight|2"), badLimits("tenant|override|acme"), map[string][]bad{
			"--for":    {{"tenant|override|acme|--weight|2|--for|1", "--for", exitUsage}, {"tenant|override|acme|--weight|2|--for|0s", "such as 24h", exitUsage}, {"tenant|override|acme|--clear|--for|1h", "leave", exitUsage}},
			"--reason": {{"tenant|override|acme|--weight|2|--reason|a\tb", "no line of text", exitUsage}},
			"--burst":  {{"tenant|override|acme|--burst|0", "leave it out", exitUsage}},
		}),
		"tenant kill": merged(badTenant("tenant|kill|ID"), map[string][]bad{
			"--older-than": {{"tenant|kill|acme|--older-than=-1s", "use a duration such as 1s", exitUsage}, {"tenant|kill|acme|--older-than|1", "--older-than", exitUsage}},
			"--reason":     {{"tenant|kill|acme|--reason|a\tb", "no line of text", exitUsage}},
		}),
		"tenant throttle": merged(badTenant("tenant|throttle|ID"), badLimits("tenant|throttle|acme", "--max-conns", "--weight", "--rate", "--burst"), map[string][]bad{
			"--rate":   {{"tenant|throttle|acme|--rate|0", "shardedpg tenant disable", exitUsage}},
			"--for":    {{"tenant|throttle|acme|--for|0s", "such as 1h", exitUsage}, {"tenant|throttle|acme|--for|1", "--for", exitUsage}},
			"--reason": {{"tenant|throttle|acme|--reason|a\tb", "no line of text", exitUsage}, {"tenant|throttle|acme|--clear|--reason|x", "leave", exitUsage}},
		}),
		"top": {
			"--interval": {{"top|--interval|1ms", "use 200ms to 1h", exitUsage}, {"top|--interval|1", "--interval", exitUsage}},
			"--shard":    {{"top|--shard|eu9", "next: shardedpg shard list", exitFailed}},
			"--rows":     {{"top|-n|0", "use at least 1", exitUsage}, {"top|-n|some", "--rows", exitUsage}},
		},
		"tenant slug": merged(badTenant("tenant|slug|ID|x"), map[string][]bad{
			"<slug>": {{"tenant|slug|acme|x y", "slug", exitUsage}},
		}),
		"tenant provision": merged(badTenant("tenant|provision|ID"), badLayout("tenant|provision|acme")),
		"tenant purge":     merged(badTenant("tenant|purge|ID|--yes"), badLayout("tenant|purge|acme|--yes")),
		"plan set": merged(badLimits("plan|set|free"), map[string][]bad{
			"--burst":   {{"plan|set|free|--rate|0|--burst|10", "burst is 10 without a rate", exitUsage}},
			"--dry-run": {{"plan|set|free|--rate|0|--burst|10|--dry-run", "burst is 10 without a rate", exitUsage}, {"plan|set|a b|--statement-timeout|1s|--work-mem|1MB|--max-conns|1|--dry-run", "not allowed", exitUsage}},
			"<name>":    {{"plan|set|a b|--statement-timeout|1s|--work-mem|1MB|--max-conns|1", "not allowed", exitUsage}, {"plan|set|gold|--max-conns|3", "would be new", exitUsage}, {"plan|set|free", "nothing to set", exitUsage}},
		}),
		"rls generate": merged(badDatabases("rls|generate", dsn), badDeclared("rls|generate"), badGenerated("rls|generate")),
		"rls apply": merged(badDatabases("rls|apply|--dry-run", dsn), badDeclared("rls|apply|--dry-run"), badGenerated("rls|apply|--dry-run"),
			badChange("rls|apply")),
		"rls rollback": merged(badDatabases("rls|rollback|--dry-run", dsn), badChange("rls|rollback")),
		"rls history":  badDatabases("rls|history", dsn),
		"rls audit": merged(badDatabases("rls|audit", dsn), badDeclared("rls|audit"), map[string][]bad{
			"--level":   {{"rls|audit|--level|high", "--level must be one of", exitUsage}},
			"--fail-on": {{"rls|audit|--fail-on|maybe", "--fail-on must be one of", exitUsage}},
			"--waivers": {{"rls|audit|--waivers|/nowhere", "no such file", exitUsage}, {"rls|audit|--waivers|" + file("typo.yaml"), "shards", exitUsage}},
			"--sarif":   {{"rls|audit|--sarif|/nowhere/a.sarif", "there is no folder", exitUsage}},
			"--jobs":    {{"rls|audit|--jobs|0", "use 1 to 16", exitUsage}, {"rls|audit|--jobs|17", "use 1 to 16", exitUsage}},
		}),
		"rls verify": merged(badDeclared("rls|verify|--dry-run"), map[string][]bad{
			"--shard":    {{"rls|verify|--dry-run|--shard|eu9", "next: shardedpg shard list", exitFailed}},
			"--database": {{"rls|verify|--dry-run|--database|nowhere", "no such database", exitUsage}},
			"--dsn": { // unlike other commands it takes two
				{"rls|verify|--dry-run|--dsn|" + dsn, "give both", exitUsage},
				{"rls|verify|--dry-run|--app-dsn|" + dsn + "|--dsn|host=/nowhere user=a", "no connection", exitFailed},
				{"rls|verify|--dry-run|--app-dsn|" + dsn + "|--dsn|nonsense", "no PostgreSQL URL", exitUsage},
				{"rls|verify|--dry-run|--app-dsn|" + dsn + "|--dsn|" + dsn + "|--shard|eu1", "leave --shard", exitUsage},
			},
			"--app-dsn": {
				{"rls|verify|--dry-run|--app-dsn|" + dsn, "give both", exitUsage},
				{"rls|verify|--dry-run|--dsn|" + dsn + "|--app-dsn|nonsense", "no PostgreSQL URL", exitUsage},
				{"rls|verify|--dry-run|--dsn|" + dsn + "|--app-dsn|host=${", "closing brace", exitUsage},
			},
			"--table":    {{"rls|verify|--dry-run|--table|[", "that is no pattern", exitUsage}},
			"--except":   {{"rls|verify|--dry-run|--except|[", "that is no pattern", exitUsage}},
			"--timeout":  {{"rls|verify|--dry-run|--timeout|0s", "use at least 1ms", exitUsage}, {"rls|verify|--dry-run|--timeout|soon", "--timeout", exitUsage}},
			"--canary":   {{"rls|verify|--canary|a", "takes the IDs of two tenants", exitUsage}, {"rls|verify|--canary|a,a", "name two tenants", exitFailed}},
			"--policies": {{"rls|verify|--dry-run|--policies|x", "--policies is for --canary", exitUsage}},
		}),
		"rls harden": merged(badDatabases("rls|harden|--dry-run", dsn), badDeclared("rls|harden|--dry-run"), badChange("rls|harden")),
		"rls keys generate": {
			"--key-file": {{"rls|keys|generate|--key-file|/nowhere/keys", "no such file", exitFailed}, {"rls|keys|generate|--key-file|" + file("ids"), "line 1 is no key", exitFailed}, {"rls|keys|generate", "which key file?", exitUsage}},
			"--id":       {{"rls|keys|generate|--key-file|" + file("keys") + "|--id|a b", "write its ID (letters", exitUsage}, {"rls|keys|generate|--key-file|" + file("keys") + "|--id|1", "another key has this ID", exitUsage}},
		},
		"rls keys forget": {
			"<id>":       {{"rls|keys|forget|9|--key-file|" + file("keys"), `has no key "9", but 1, 2`, exitUsage}},
			"--key-file": {{"rls|keys|forget|1|--key-file|/nowhere", "make one with shardedpg rls keys generate", exitUsage}},
		},
		"rls keys install": badKeyed("rls|keys|install", dsn, file("keys")),
		"rls keys list":    badKeyed("rls|keys|list", dsn, file("keys")),
		"rls keys retire": merged(badKeyed("rls|keys|retire|9|--dry-run", dsn, file("keys")), map[string][]bad{
			"<id>": {{"rls|keys|retire|1|--yes|--key-file|" + file("keys"), "is still in", exitUsage}, {"rls|keys|retire|9|--key-file|" + file("keys"), "say --dry-run", exitUsage}},
		}),
		"rls rules":  {"<id>": {{"rls|rules|SPG000", "shardedpg rls rules lists them", exitUsage}}},
		"completion": {"<shell>": {{"completion|tcsh", "bash", exitUsage}, {"completion", "<shell>", exitUsage}}},
	}
}

func merged(maps ...map[string][]bad) map[string][]bad {
	all := make(map[string][]bad)
	for _, m := range maps {
		for name, cases := range m {
			all[name] = append(all[name], cases...)
		}
	}
	return all
}

func TestBadInputForEachArgumentIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme", "--shard", "eu1", "--no-provision")
	files := t.TempDir()
	for name, text := range map[string]string{
		"typo.yaml": "shards: {eu2: {dns: x}}\n", "orphan.yaml": "tenants: {a: {shard: eu9}}\n", "ids": "good\nnot good\n", "empty": "# nobody\n",
		"keys": "1 " + strings.Repeat("ab", 32) + "\n2 " + strings.Repeat("cd", 32),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(files, name), []byte(text), 0o600))
	}
	log, exported := f.ok(t, "registry", "audit-log"), f.ok(t, "registry", "export")
	all := badInput(f, files)
	for path, arguments := range all {
		for argument, cases := range arguments {
			for _, c := range cases {
				r := f.run(t, "", strings.Split(c.line, "|")...)
				require.Equal(t, c.code, r.code, "%s %s: %q: %s%s", path, argument, c.line, r.out, r.notes)
				require.Contains(t, r.notes, c.says, "%s %s: %q", path, argument, c.line)
				require.Empty(t, r.out, "%q", c.line)
				require.NotContains(t, r.notes, f.login, "%q: a DSN is never shown", c.line)
			}
		}
	}
	require.Equal(t, log, f.ok(t, "registry", "audit-log"))
	require.Equal(t, exported, f.ok(t, "registry", "export"))

	// Whoever adds an argument or a flag adds what is wrong with it.
	parser, err := newParser(&commands{})
	require.NoError(t, err)
	for _, flag := range parser.Model.Flags {
		if !flag.IsBool() {
			require.NotEmpty(t, all[""]["--"+flag.Name], "--%s", flag.Name)
		}
	}
	for _, node := range parser.Model.Leaves(false) {
		path := commandPath(node)
		for _, argument := range node.Positional {
			require.NotEmpty(t, all[path]["<"+argument.Name+">"], "%s <%s>", path, argument.Name)
		}
		for _, flag := range node.Flags {
			if !flag.IsBool() {
				require.NotEmpty(t, all[path]["--"+flag.Name], "%s --%s", path, flag.Name)
			}
		}
	}
}

func TestEachFlagSaysWhenItsValueIsMissingOrTooMuch(t *testing.T) {
	t.Parallel()
	parser, err := newParser(&commands{})
	require.NoError(t, err)
	for _, node := range parser.Model.Leaves(false) {
		path := strings.Fields(commandPath(node))
		for _, group := range node.AllFlags(true) {
			for _, flag := range group {
				word := "--" + flag.Name
				if flag.IsBool() {
					word += "=maybe"
				}
				parseFails(t, "--"+flag.Name, append(path, word)...)
			}
		}
		parseFails(t, "unknown flag --nonsense", append(path, "--nonsense")...)
	}
}

// parseFails parses what cannot be parsed.
func parseFails(t *testing.T, says string, args ...string) {
	t.Helper()
	fresh, err := newParser(&commands{})
	require.NoError(t, err)
	fresh.Exit = func(int) {}
	_, err = fresh.Parse(args)
	require.Error(t, err, "%q", args)
	text := parseError(err).Error()
	require.Contains(t, text, says, "%q", args)
	require.Contains(t, text, "--help", "%q", args)
}
