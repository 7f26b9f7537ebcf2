// Package admin does what has to be allowed.
package admin

import (
	"context"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func privileged(ctx context.Context, c *shardedpg.Connector) {
	c.ShardDB("eu", "migrations")         // want `ShardDB works past every tenant; allow this package with -allow=admin, or give the reason in a comment //tenantlint:allow <reason>`
	shardedpg.SwitchTenant(ctx, "globex") // want `SwitchTenant replaces the tenant of a context; allow this package with -allow=admin`
	c.ShardDB("eu", "x")                  //tenantlint:allow migrations belong to no tenant
	//tenantlint:allow support looks at other tenants
	shardedpg.SwitchTenant(ctx, "globex")
	/* want `say why: //tenantlint:allow <reason>` */ //tenantlint:allow
	c.ShardDB("eu", "x")                              // want `ShardDB works past every tenant`
	/* want `say why` */ //tenantlint:allowed
	shardedpg.WithTenant(ctx, "acme")
}
