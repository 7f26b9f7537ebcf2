package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls/policy"
)

// databases says which databases a command is about.
type databases struct {
	DSN      string       `name:"dsn" placeholder:"DSN" help:"One database, without a registry: what an administrator connects with."`
	Shard    []string     `placeholder:"NAME" help:"Only these shards of the registry; may be repeated. Default: all."`
	Database []identifier `placeholder:"NAME" help:"Only databases of this name; may be repeated. Default: each shard's own, and those that tenants of model shared or partition live in."`
}

// declared says what the tables of a database are. Whatever is not given is as at the newest apply there.
type declared struct {
	AppRole         identifier `placeholder:"ROLE" help:"Role of tenants' statements. Default: the one in the shard's DSN."`
	OwnerRole       identifier `placeholder:"ROLE" help:"Role that owns the tables. Default shardedpg_owner."`
	MaintenanceRole identifier `placeholder:"ROLE" help:"Role with BYPASSRLS, for work on rows of all tenants. Default shardedpg_maintenance."`
	KeyRole         identifier `placeholder:"ROLE" help:"Role that owns the keys of signed tenants. Default shardedpg_keys."`
	TenantColumn    identifier `placeholder:"NAME" help:"Column that holds the tenant's ID. Default tenant_id."`
	GUC             setting    `name:"guc" placeholder:"NAME" help:"The tenant setting. Default: that of the registry's DSN, app.current_tenant_id."`
	Global          []pattern  `placeholder:"PATTERN" help:"Relations without a tenant, which all tenants may read: schema.table, * for any characters."`
}

// target is one database.
type target struct {
	shard, database string
	dsn             string // secret
	login           string // secret: the DSN of tenants' statements; "" if unknown
	app             string // the role that it logs in as
	guc             string // of the registry's DSN
}

func (t target) String() string {
	if t.shard == "" {
		return fmt.Sprintf("database %q", t.database)
	}
	return fmt.Sprintf("shard %q, database %q", t.shard, t.database)
}

// targets finds the databases, in order.
func (d *databases) targets(a *app, admin bool) ([]target, error) {
	if d.DSN != "" {
		if len(d.Shard)+len(d.Database) > 0 {
			return nil, usage("--dsn is one database: leave --shard and --database out")
		}
		dsn, err := registry.ExpandDSN(d.DSN)
		if err != nil {
			return nil, usage("--dsn: %w", err)
		}
		cfg, err := connstring.Parse(dsn)
		if err != nil {
			return nil, usage("--dsn is no PostgreSQL URL or keyword/value string that can be used: %w", err)
		}
		return []target{{database: databaseOf(cfg), dsn: dsn}}, nil
	}
	var all []target
	err := a.withConfig(func(ctx context.Context, reg *registry.Postgres, cfg shardedpg.Config) error {
		shards, err := reg.ListShards(ctx)
		if err != nil {
			return err
		}
		for _, name := range d.Shard {
			if _, err := findShard(ctx, reg, name); err != nil {
				return err
			}
		}
		for _, s := range shards {
			if len(d.Shard) > 0 && !slices.Contains(d.Shard, s.Name) {
				continue
			}
			found, err := d.ofShard(ctx, reg, s.Name, cfg.GUC, admin)
			if err != nil {
				return err
			}
			all = append(all, found...)
		}
		if len(all) == 0 {
			return usage("there is no such database in the registry: see shardedpg shard list, shardedpg tenant list")
		}
		return nil
	})
	return all, err
}

func (d *databases) ofShard(ctx context.Context, reg *registry.Postgres, name, guc string, admin bool) ([]target, error) {
	s, err := reg.ShardDSNs(ctx, name)
	if err != nil {
		return nil, err
	}
	cfg, err := connstring.Parse(s.DSN)
	if err != nil {
		return nil, fmt.Errorf("shard %q: its DSN is no connection string: %w: set it with shardedpg shard set-dsn", name, err)
	}
	dsn := s.AdminDSN
	if dsn == "" {
		if admin {
			return nil, fmt.Errorf("shard %q has no admin DSN, and the login of tenants' statements may change nothing: set one with shardedpg shard set-dsn", name)
		}
		dsn = s.DSN
	}
	names := []string{databaseOf(cfg)}
	filter := registry.TenantFilter{
		Shard: name, Models: []resolver.Model{resolver.ModelShared, resolver.ModelPartition}, Removed: registry.AnyTenants, Limit: 10000,
	}
	for {
		page, err := reg.ListTenants(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, t := range page {
			if t.Database != "" && !slices.Contains(names, t.Database) {
				names = append(names, t.Database)
			}
			filter.After = t.ID
		}
		if len(page) < filter.Limit {
			break
		}
	}
	slices.Sort(names[1:])
	var all []target
	for _, database := range names {
		if len(d.Database) == 0 || slices.Contains(d.Database, identifier(database)) {
			all = append(all, target{shard: name, database: database, dsn: dsn, login: s.DSN, app: cfg.User, guc: guc})
		}
	}
	return all, nil
}

func databaseOf(cfg *pgx.ConnConfig) string {
	if cfg.Database == "" {
		return cfg.User // as libpq and pgx do
	}
	return cfg.Database
}

// on runs work on a connection to the database. Its errors hold no part of the DSN.
func (t target) on(ctx context.Context, work func(conn *pgx.Conn) error) error {
	err := func() error {
		cfg, err := connstring.Parse(t.dsn)
		if err != nil {
			return fmt.Errorf("its admin DSN is no connection string: %w: set it with shardedpg shard set-dsn", err)
		}
		if t.shard != "" {
			cfg.Database = t.database
		}
		conn, err := hosts.Connect(ctx, cfg)
		if err != nil {
			return connerr.Failed(err)
		}
		defer closeSoon(ctx, conn)
		return work(conn)
	}()
	if err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	return nil
}

// config is what was declared at the newest apply, and what is given now.
func (d *declared) config(ctx context.Context, conn *pgx.Conn, t target) (policy.Config, error) {
	c, _, err := policy.Applied(ctx, conn)
	var answer *pgconn.PgError
	if err != nil && !(errors.As(err, &answer) && answer.Code == "42501") { // a login that may not read it has nothing to go by
		return c, err
	}
	return d.over(c, t)
}

// over is what is given now, where it is given, and c.
func (d *declared) over(c policy.Config, t target) (policy.Config, error) {
	c.DropPolicies, c.Indexes = false, false // asked for each time
	or := func(to *string, values ...string) {
		for _, value := range values {
			if value != "" {
				*to = value
				return
			}
		}
	}
	or(&c.App, string(d.AppRole), c.App, t.app)
	or(&c.Owner, string(d.OwnerRole))
	or(&c.Maintenance, string(d.MaintenanceRole))
	or(&c.KeyOwner, string(d.KeyRole))
	or(&c.TenantColumn, string(d.TenantColumn))
	or(&c.GUC, string(d.GUC), c.GUC, t.guc)
	if len(d.Global) > 0 {
		c.Global = texts(d.Global)
	}
	if c.App == "" {
		return c, usage("which role do tenants' statements run as? Name it with --app-role")
	}
	return c, nil
}
