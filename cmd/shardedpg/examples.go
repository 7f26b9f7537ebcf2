package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// examples are shown by --help of each command; a test runs each through the parser.
var examples = map[string][]string{
	"registry init":      {`shardedpg registry init`},
	"registry status":    {`shardedpg registry status`, `shardedpg registry status -o json`},
	"registry apply":     {`shardedpg registry apply -f fleet.yaml --dry-run`, `shardedpg registry apply -f fleet.yaml`},
	"registry export":    {`shardedpg registry export > fleet.yaml`},
	"registry audit-log": {`shardedpg registry audit-log --kind tenant --subject acme`},

	"shard add": {
		`shardedpg shard add eu1 --dsn 'host=eu1 user=app dbname=app password=${EU1_PASSWORD}' --admin-dsn 'host=eu1 user=admin dbname=app password=${EU1_ADMIN}' --region eu`,
	},
	"shard list":    {`shardedpg shard list`},
	"shard show":    {`shardedpg shard show eu1`},
	"shard full":    {`shardedpg shard full eu1 --reason 'disk at 80%'`},
	"shard open":    {`shardedpg shard open eu1`},
	"shard drain":   {`shardedpg shard drain eu1 --reason 'hardware is replaced'`},
	"shard remove":  {`shardedpg shard remove eu1`},
	"shard health":  {`shardedpg shard health`, `shardedpg shard health eu1 -o json`},
	"shard set-dsn": {`shardedpg shard set-dsn eu1 --dsn 'host=eu1b user=app dbname=app password=${EU1_PASSWORD}' --reason failover`},

	"tenant add": {
		`shardedpg tenant add acme --plan growth`,
		`shardedpg tenant add acme --shard eu1 --model schema`,
		`shardedpg tenant add -f ids.txt --strategy smallest --dry-run`,
	},
	"tenant list":      {`shardedpg tenant list --shard eu1 --state disabled`, `shardedpg tenant list --limit 1000 --after acme -o json`},
	"tenant show":      {`shardedpg tenant show acme`},
	"tenant enable":    {`shardedpg tenant enable acme`},
	"tenant disable":   {`shardedpg tenant disable acme`},
	"tenant readonly":  {`shardedpg tenant readonly acme`},
	"tenant plan":      {`shardedpg tenant plan acme growth`},
	"tenant override":  {`shardedpg tenant override acme --statement-timeout 2m --for 24h --reason 'year-end report'`, `shardedpg tenant override acme --clear`},
	"tenant kill":      {`shardedpg tenant kill acme`, `shardedpg tenant kill acme --older-than 10s --terminate`},
	"tenant throttle":  {`shardedpg tenant throttle acme`, `shardedpg tenant throttle acme --rate 20 --for 8h --reason 'import without end'`, `shardedpg tenant throttle acme --clear`},
	"tenant slug":      {`shardedpg tenant slug 7c9e6679-7425-40de-944b-e07fc1f90ae7 acme`},
	"tenant provision": {`shardedpg tenant provision acme`},
	"tenant remove":    {`shardedpg tenant remove acme`},
	"tenant purge":     {`shardedpg tenant purge acme --dry-run`, `shardedpg tenant purge acme`},

	"top": {`shardedpg top`, `shardedpg top --once --shard eu1 -o json`},

	"plan list": {`shardedpg plan list`},
	"plan set": {
		`shardedpg plan set trial --statement-timeout 2s --work-mem 4MB --max-conns 1`,
		`shardedpg plan set growth --work-mem 128MB --dry-run`,
		`shardedpg plan set free --rate 50 --burst 500`,
	},
	"rls generate": {
		`shardedpg rls generate --shard eu1 --global 'public.countries' --private 'public.schema_migrations'`,
		`shardedpg rls generate --dsn 'host=localhost user=admin dbname=app' --app-role app > rls.sql`,
	},
	"rls apply": {
		`shardedpg rls apply --dry-run`,
		`shardedpg rls apply --shard eu1 --global 'public.countries' --private 'public.schema_migrations' --yes`,
		`shardedpg rls apply --dry-run --fail-on-drift`,
	},
	"rls rollback": {`shardedpg rls rollback --shard eu1 --dry-run`, `shardedpg rls rollback --shard eu1 --yes --note 'reports saw no rows'`},
	"rls history":  {`shardedpg rls history --shard eu1`},
	"rls audit": {
		`shardedpg rls audit`,
		`shardedpg rls audit --waivers waivers.yaml --sarif audit.sarif --fail-on medium`,
		`shardedpg rls audit --dsn 'host=localhost user=admin dbname=app' --app-role app --level hardened`,
	},
	"rls verify": {
		`shardedpg rls verify --dry-run`,
		`shardedpg rls verify --shard eu1 --except 'app.close_year' --yes`,
		`shardedpg rls verify --cleanup --yes`,
		`shardedpg rls verify --canary canary-a,canary-b -o json`,
	},
	"rls rules":         {`shardedpg rls rules`, `shardedpg rls rules SPG027`},
	"rls harden":        {`shardedpg rls harden --dry-run`, `shardedpg rls harden --shard eu1 --yes`},
	"rls keys generate": {`shardedpg rls keys generate --key-file /etc/shardedpg/keys`},
	"rls keys install":  {`shardedpg rls keys install --key-file /etc/shardedpg/keys`, `shardedpg rls keys install --dsn 'host=localhost user=admin dbname=app' --as eu1 --app-role app --key-file keys`},
	"rls keys list":     {`shardedpg rls keys list --key-file /etc/shardedpg/keys`},
	"rls keys forget":   {`shardedpg rls keys forget 1 --key-file /etc/shardedpg/keys`},
	"rls keys retire":   {`shardedpg rls keys retire 1 --key-file /etc/shardedpg/keys --dry-run`, `shardedpg rls keys retire 1 --key-file /etc/shardedpg/keys --yes`},

	"completion": {`source <(shardedpg completion bash)`},
}

// addExamples gives each command its examples.
func addExamples(parser *kong.Kong) error {
	for _, node := range parser.Model.Leaves(false) {
		word := "Example:"
		all := examples[commandPath(node)]
		if len(all) > 1 {
			word = "Examples:"
		}
		node.Detail = strings.TrimSpace(node.Detail + "\n\n" + word + "\n\n    " + strings.Join(all, "\n    "))
	}
	return nil
}

// commandPath is the words of a command behind the program's name.
func commandPath(node *kong.Node) string {
	if node.Parent == nil {
		return ""
	}
	return strings.TrimSpace(commandPath(node.Parent) + " " + node.Name)
}
