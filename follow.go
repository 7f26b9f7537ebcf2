package shardedpg

import (
	"context"

	"github.com/sharded-pg/sharded-pg/registry"
)

// handler is what the driver does when the registry changes. New statements bring the new limits of their tenant; those
// that wait in a queue have to be told, and what counts the statements of a *sql.Conn that is held.
func (c *Connector) handler(ctx context.Context) registry.Handler {
	return registry.Handler{
		Tenant: func(id string) {
			c.routes.Invalidate(id)
			c.watching.Go(func() { c.retune(ctx, func(tenant string) bool { return tenant == id }) })
		},
		Flush: func() {
			c.routes.Flush()
			c.watching.Go(func() { c.retune(ctx, func(string) bool { return true }) })
		},
	}
}

// retune brings the limits of tenants that wait or hold up to date. A tenant whose route cannot be had keeps those it has.
func (c *Connector) retune(ctx context.Context, concerns func(tenant string) bool) {
	c.mu.RLock()
	shards := make([]*shard, 0, len(c.shards))
	for _, s := range c.shards {
		shards = append(shards, s)
	}
	c.mu.RUnlock()
	for _, s := range shards {
		for _, tenant := range s.slots.Present() {
			if !concerns(tenant) {
				continue
			}
			route, err := c.routes.Resolve(ctx, tenant)
			if err != nil || route.Shard.Name != s.name {
				continue
			}
			if now, err := c.shard(route); err == nil { // another one if its address has changed, and then who waits goes there
				now.slots.Update(slotRequest(tenant, route))
			}
		}
	}
}

// outageLog returns what tells the log that a shard is dead, or back. It does not wait for the log.
func (c *Connector) outageLog(shard string) func(down error) {
	return func(down error) {
		if down != nil {
			go c.cfg.Logger.Error("shard is down; its tenants are refused until it can be connected to", "shard", shard, "error", down)
			return
		}
		go c.cfg.Logger.Warn("shard is back", "shard", shard)
	}
}
