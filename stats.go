package shardedpg

import (
	"context"
	"sort"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Stats is a snapshot of a connector. What sql.DB.Stats counts are virtual connections: they cost nothing while idle.
type Stats struct {
	Shards   []ShardStats // by name; shards that were used
	Routes   resolver.CacheStats
	ShardDBs int64 // privileged handles given out
}

// ShardStats is what one shard has done and holds.
type ShardStats struct {
	Name     string
	Slots    limits.Stats
	Backends backend.Stats
}

// Stats returns the counts up to now.
func (c *Connector) Stats() Stats {
	s := Stats{Routes: c.routes.Stats(), ShardDBs: c.adminOpened.Load()}
	c.mu.RLock()
	for _, sh := range c.shards {
		s.Shards = append(s.Shards, ShardStats{Name: sh.name, Slots: sh.slots.Stats(), Backends: sh.pool.Stats()})
	}
	c.mu.RUnlock()
	sort.Slice(s.Shards, func(i, j int) bool { return s.Shards[i].Name < s.Shards[j].Name })
	return s
}

// pingRegistry reports whether the registry answers.
func (c *Connector) pingRegistry(ctx context.Context) error {
	if _, err := c.store.Shards(ctx); err != nil {
		return &Error{Stage: StageRoute, Err: registryError(err)}
	}
	return nil
}
