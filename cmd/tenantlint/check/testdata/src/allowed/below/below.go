// Package below is allowed what admin is not.
package below

import (
	"context"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func privileged(ctx context.Context, c *shardedpg.Connector) {
	c.ShardDB("eu", "migrations")
	shardedpg.SwitchTenant(ctx, "globex")
}
