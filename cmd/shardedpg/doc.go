// Command shardedpg runs a fleet of sharded-pg: it creates the registry, adds shards, and gives tenants a shard, a plan and
// a state.
//
//	export SHARDEDPG_REGISTRY='host=registry user=operator dbname=fleet'
//	shardedpg registry init
//	shardedpg shard add eu1 --dsn 'host=eu1 user=app dbname=app' --admin-dsn 'host=eu1 user=admin dbname=app'
//	shardedpg tenant add acme --plan growth
//
// Each command is one change through package registry, with its rules: it is checked, written, recorded in the audit log and
// told to all running drivers, or nothing of it happens. docs/cli.md is the operator's guide.
package main
