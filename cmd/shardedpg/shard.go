package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/sharded-pg/sharded-pg/registry"
)

// shardName is the argument of commands on one shard.
type shardName struct {
	Name string `arg:"" help:"Name of the shard."`
}

func findShard(ctx context.Context, reg *registry.Postgres, name string) (registry.ShardInfo, error) {
	shards, err := reg.ListShards(ctx)
	if err != nil {
		return registry.ShardInfo{}, err
	}
	i := slices.IndexFunc(shards, func(s registry.ShardInfo) bool { return s.Name == name })
	if i < 0 {
		return registry.ShardInfo{}, fmt.Errorf("%w: %q", registry.ErrShardNotFound, name)
	}
	return shards[i], nil
}

// showShard prints a shard after a change of it.
func (a *app) showShard(ctx context.Context, reg *registry.Postgres, name, done string) error {
	shard, err := findShard(ctx, reg, name)
	if err != nil {
		return err
	}
	return a.show(shard, func() { a.say("shard %q %s", name, done) })
}

type shardAdd struct {
	shardName
	DSN        string            `required:"" placeholder:"DSN" help:"What tenants' statements use. $${NAME} in it stands for an environment variable, read where the DSN is used: so the registry holds no password. Put single quotes around it."`
	AdminDSN   string            `placeholder:"DSN" help:"What an administrator connects with: provisioning, rls and ShardDB need it; health, top and tenant kill see more with it."`
	Region     string            `help:"Where it is, for tenants that must be there."`
	Label      map[string]string `placeholder:"NAME=VALUE" mapsep:"," help:"What tenants may ask for; may be repeated. capacity.memory=48GB is what the server has for work_mem, capacity.slots=200 what a pooler in front allows: status and health compare."`
	MaxTenants most              `placeholder:"N" help:"How many tenants it takes, or unlimited. Default 500."`
	MaxBytes   size              `placeholder:"100GB" help:"Size of its databases above which it takes no more tenants. Default: any."`
}

func (c *shardAdd) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		err := reg.AddShard(ctx, registry.Shard{
			Name: c.Name, DSN: c.DSN, AdminDSN: c.AdminDSN, Region: c.Region, Labels: c.Label,
			MaxTenants: int(c.MaxTenants), MaxBytes: int64(c.MaxBytes),
		})
		if err != nil {
			return invalid(err)
		}
		return a.showShard(ctx, reg, c.Name, "added")
	})
}

type shardList struct{}

func (shardList) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		shards, err := reg.ListShards(ctx)
		if err != nil {
			return err
		}
		if shards == nil {
			shards = []registry.ShardInfo{}
		}
		return a.show(map[string]any{"shards": shards}, func() {
			var rows [][]string
			for _, s := range shards {
				rows = append(rows, []string{
					s.Name, string(s.State), strconv.Itoa(s.Tenants), showMost(s.MaxTenants), s.Region, pairs(s.Labels),
				})
			}
			a.table([]string{"SHARD", "STATE", "TENANTS", "MAX TENANTS", "REGION", "LABELS"}, rows)
			for _, s := range shards {
				a.warn(s.Name, s.Warnings())
			}
			if len(shards) == 0 {
				a.note("next: shardedpg shard add")
			}
		})
	})
}

func (a *app) warn(shard string, warnings []string) {
	for _, warning := range warnings {
		a.note("warning: shard %q: %s", shard, warning)
	}
}

type shardShow struct{ shardName }

func (c *shardShow) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		s, err := findShard(ctx, reg, c.Name)
		if err != nil {
			return err
		}
		return a.show(s, func() {
			admin, most := "no", ""
			if s.AdminDSN != "" {
				admin = "yes"
			}
			if s.MaxBytes > 0 {
				most = showSize(s.MaxBytes)
			}
			a.fields("shard", s.Name, "state", string(s.State), "tenants", strconv.Itoa(s.Tenants),
				"of model schema", strconv.Itoa(s.Schemas), "max tenants", showMost(s.MaxTenants), "max bytes", most,
				"region", s.Region, "labels", pairs(s.Labels), "admin DSN", admin)
			a.warn(s.Name, s.Warnings())
		})
	})
}

// shardState is the arguments of commands that open and close shards.
type shardState struct {
	shardName
	Reason line `help:"Why, for the audit log."`
}

func (c *shardState) set(a *app, state registry.ShardState, done string) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		if err := reg.SetShardState(ctx, c.Name, state, string(c.Reason)); err != nil {
			return err
		}
		return a.showShard(ctx, reg, c.Name, done)
	})
}

type shardFull struct{ shardState }

func (c *shardFull) Run(a *app) error {
	return c.set(a, registry.ShardFull, "is full: it takes no new tenants")
}

type shardOpen struct{ shardState }

func (c *shardOpen) Run(a *app) error { return c.set(a, registry.ShardOpen, "is open for new tenants") }

type shardDrain struct{ shardState }

func (c *shardDrain) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		if err := reg.SetShardState(ctx, c.Name, registry.ShardDraining, string(c.Reason)); err != nil {
			return err
		}
		s, err := findShard(ctx, reg, c.Name)
		if err != nil {
			return err
		}
		return a.show(s, func() {
			a.say("shard %q is draining: it takes no new tenants", c.Name)
			if s.Tenants > 0 {
				a.say("%s live there until they are moved or purged: shardedpg tenant list --shard %s", count(s.Tenants, "tenant"), c.Name)
			} else {
				a.say("nobody lives there: shardedpg shard remove %s", c.Name)
			}
		})
	})
}

type shardRemove struct{ shardName }

func (c *shardRemove) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		if err := reg.RemoveShard(ctx, c.Name); err != nil {
			return err
		}
		return a.show(map[string]string{"removed": c.Name}, func() { a.say("shard %q removed; its server was not touched", c.Name) })
	})
}

type shardSetDSN struct {
	shardName
	DSN      string `placeholder:"DSN" help:"The new one. Default: stays as it is."`
	AdminDSN string `placeholder:"DSN" help:"The new one. Default: stays as it is."`
	Reason   line   `required:"" help:"Why, for the audit log: a wrong DSN sends all tenants of the shard to other databases."`
}

func (c *shardSetDSN) Run(a *app) error {
	if c.DSN == "" && c.AdminDSN == "" {
		return usage("nothing to set: give --dsn, --admin-dsn or both")
	}
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		stored, err := findShard(ctx, reg, c.Name)
		if err != nil {
			return err
		}
		dsn, admin := c.DSN, c.AdminDSN
		if dsn == "" {
			dsn = stored.DSN
		}
		if admin == "" {
			admin = stored.AdminDSN
		}
		if err := reg.SetShardDSN(ctx, c.Name, dsn, admin, string(c.Reason)); err != nil {
			return invalid(err)
		}
		return a.showShard(ctx, reg, c.Name, "has another DSN: its tenants are routed there from now on")
	})
}
