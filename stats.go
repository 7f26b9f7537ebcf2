package shardedpg

import (
	"context"
	"errors"
	"sort"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Stats is a snapshot of a connector. What sql.DB.Stats counts are virtual connections: they cost nothing while idle.
type Stats struct {
	// Shards is what each has done and holds; by name, those that were used.
	Shards []struct {
		Name     string
		Slots    limits.Stats // by plan as well
		Backends backend.Stats
	}
	Routes   resolver.CacheStats
	ShardDBs int64 // privileged handles given out
}

// Stats returns the counts up to now.
func (c *Connector) Stats() Stats {
	s := Stats{Routes: c.routes.Stats(), ShardDBs: c.adminOpened.Load()}
	c.mu.RLock()
	for _, sh := range c.shards {
		s.Shards = append(s.Shards, struct {
			Name     string
			Slots    limits.Stats
			Backends backend.Stats
		}{sh.name, sh.slots.Stats(), sh.pool.Stats()})
	}
	c.mu.RUnlock()
	sort.Slice(s.Shards, func(i, j int) bool { return s.Shards[i].Name < s.Shards[j].Name })
	return s
}

// BusiestTenants returns, for each shard, the n tenants with the most statements waiting, and among equals those that hold
// the most connections. It looks at all tenants that are at work now: meant for somebody who asks, not for each statement.
func (c *Connector) BusiestTenants(n int) map[string][]limits.TenantStats {
	busiest := make(map[string][]limits.TenantStats)
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, sh := range c.shards {
		busiest[sh.name] = sh.slots.Busiest(n)
	}
	return busiest
}

// pingRegistry reports whether the registry answers.
func (c *Connector) pingRegistry(ctx context.Context) error {
	_, err := c.store.Shards(ctx)
	if err != nil && !errors.Is(err, registry.ErrAdminDSN) { // programs are not given the passwords of administrators
		return &Error{Stage: StageRoute, Err: registryError(err)}
	}
	return nil
}
