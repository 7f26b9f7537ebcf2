package main

import (
	"context"
	"strconv"
	"sync"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/health"
)

type shardHealth struct {
	Names []string `arg:"" optional:"" name:"name" help:"Shards to look at. Default: all."`
}

func (c *shardHealth) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		shards, err := reg.ListShards(ctx)
		if err != nil {
			return err
		}
		if len(c.Names) > 0 {
			shards = shards[:0]
			for _, name := range c.Names {
				s, err := findShard(ctx, reg, name)
				if err != nil {
					return err
				}
				shards = append(shards, s)
			}
		}
		reports := make([]health.Report, len(shards))
		var wg sync.WaitGroup
		for i, s := range shards {
			wg.Go(func() { reports[i] = health.Check(ctx, s.Shard, nil) })
		}
		wg.Wait()
		if err := overcommitted(ctx, reg, shards, reports); err != nil {
			return err
		}
		if err := a.show(map[string]any{"shards": reports}, func() { a.health(reports) }); err != nil {
			return err
		}
		for _, r := range reports {
			if len(r.Problems) > 0 {
				return errReported
			}
		}
		return nil
	})
}

const unsized = "a pooler is in front of it, and how many connections its pool has is not known: set the label " + registry.SlotsLabel +
	" to its default_pool_size, and keep sharded_max_conns of all programs together at or below that"

// overcommitted adds warnings where plans promise more than the servers have, or than the shards' labels say.
func overcommitted(ctx context.Context, reg *registry.Postgres, shards []registry.ShardInfo, reports []health.Report) error {
	capacities := make(map[string]registry.Capacity, len(shards))
	for i, s := range shards {
		if c := s.Capacity(); c.Slots != 0 {
			continue
		}
		capacities[s.Name] = registry.Capacity{Slots: reports[i].Slots}
		if reports[i].Pooled {
			reports[i].Warnings = append(reports[i].Warnings, unsized)
		}
	}
	promises, err := reg.Overcommit(ctx, capacities)
	if err != nil {
		return err
	}
	for _, c := range promises {
		for i := range reports {
			if reports[i].Shard == c.Shard {
				reports[i].Warnings = append(reports[i].Warnings, c.Warnings()...)
			}
		}
	}
	return nil
}

func (a *app) health(reports []health.Report) {
	var rows [][]string
	for _, r := range reports {
		state := "ok"
		switch {
		case !r.Reachable:
			state = "unreachable"
		case len(r.Problems) > 0:
			state = "problem"
		}
		if r.Version == 0 { // its server was not asked
			rows = append(rows, []string{r.Shard, state, "", "", "", ""})
			continue
		}
		rows = append(rows, []string{
			r.Shard, state, strconv.Itoa(r.Version / 10000), roughSize(r.Bytes),
			strconv.Itoa(r.FreeConns) + " of " + strconv.Itoa(r.MaxConns), r.WALLevel,
		})
	}
	a.table([]string{"SHARD", "HEALTH", "POSTGRESQL", "SIZE", "FREE CONNS", "WAL LEVEL"}, rows)
	for _, r := range reports {
		for _, problem := range r.Problems {
			a.say("shard %q: %s", r.Shard, problem)
		}
		a.warn(r.Shard, r.Warnings)
	}
	if len(reports) == 0 {
		a.note("next: shardedpg shard add")
	}
}
