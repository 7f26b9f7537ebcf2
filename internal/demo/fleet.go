package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

var (
	//go:embed shared.sql
	sharedSQL string
	//go:embed own.sql
	ownSQL string
)

// customer is a tenant of the demo and how many orders it makes.
type customer struct {
	registry.Tenant
	orders int
}

// customers live on two shards in all models. wayne and wonka are a group: two shared tenants in a database of their own.
var customers = []customer{
	{registry.Tenant{ID: "acme", Shard: "eu", Plan: "growth"}, 48},
	{registry.Tenant{ID: "globex", Shard: "eu", Plan: "starter"}, 31},
	{registry.Tenant{ID: "initech", Shard: "eu", Plan: "free"}, 17},
	{registry.Tenant{ID: "umbrella", Shard: "eu", Plan: "growth", Model: resolver.ModelSchema}, 29},
	{registry.Tenant{ID: "hooli", Shard: "us", Plan: "starter"}, 36},
	{registry.Tenant{ID: "soylent", Shard: "us", Plan: "free"}, 13},
	{registry.Tenant{ID: "stark", Shard: "us", Plan: "growth", Model: resolver.ModelSchema}, 23},
	{registry.Tenant{ID: "wayne", Shard: "us", Plan: "enterprise", Database: "group_w"}, 41},
	{registry.Tenant{ID: "wonka", Shard: "us", Plan: "enterprise", Database: "group_w"}, 19},
	{registry.Tenant{ID: "tyrell", Shard: "us", Plan: "enterprise", Model: resolver.ModelDatabase, Database: "tenant_tyrell"}, 27},
}

const (
	mainDatabase     = "app"     // what a shard's DSN names
	registryDatabase = "control" // where the registry is
	appLogin         = "app"     // runs the tenants' statements
	routerLogin      = "router"  // reads the registry
)

// database is where a tenant's table is.
func (c *customer) database() string {
	if c.Database != "" {
		return c.Database
	}
	return mainDatabase
}

// table is the tenant's table as somebody who is no tenant names it.
func (c *customer) table() string {
	if c.Model == resolver.ModelSchema {
		return "tenant_" + c.ID + ".orders"
	}
	return "public.orders"
}

func (c *customer) model() resolver.Model {
	if c.Model == "" {
		return resolver.ModelShared
	}
	return c.Model
}

// fleet is the servers of the demo: the registry's and one for each shard.
type fleet struct {
	registry *pgtest.Server
	shards   map[string]*pgtest.Server
}

var shardNames = []string{"eu", "us"}

// startFleet starts the servers side by side, and creates the tenants on them and in the registry. After a failure
// nothing is left running.
func startFleet(ctx context.Context) (f *fleet, err error) {
	f = &fleet{shards: make(map[string]*pgtest.Server)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	servers := make([]*pgtest.Server, 1+len(shardNames))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, name := range append([]string{"registry"}, shardNames...) {
		group.Go(func() (err error) {
			servers[i], err = pgtest.Start(groupCtx, pgtest.Options{Name: name})
			return err
		})
	}
	err = group.Wait()
	f.registry = servers[0]
	for i, name := range shardNames {
		f.shards[name] = servers[1+i]
	}
	if err != nil {
		return f, err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.Go(func() error { return f.fillRegistry(groupCtx) })
	for _, name := range shardNames {
		group.Go(func() error { return f.fillShard(groupCtx, name) })
	}
	return f, group.Wait()
}

func (f *fleet) stop() error {
	var errs []error
	for _, s := range append([]*pgtest.Server{f.registry}, f.shards["eu"], f.shards["us"]) {
		if s != nil {
			errs = append(errs, s.Stop())
		}
	}
	return errors.Join(errs...)
}

// fillShard makes the roles, the databases and the tables of the tenants that live on a shard.
func (f *fleet) fillShard(ctx context.Context, shard string) error {
	server := f.shards[shard]
	// NOINHERIT: app is a member of the schema tenants' roles, to become one of them for a transaction, and must not have
	// the rights of all of them in between.
	err := server.Exec(ctx, "postgres",
		"create role orders_owner nologin", "create role app login noinherit", "create database "+mainDatabase)
	if err != nil {
		return err
	}
	if err := server.Exec(ctx, mainDatabase, "revoke create on schema public from public", sharedSQL); err != nil {
		return err
	}
	made := []string{mainDatabase}
	for _, c := range customers {
		if c.Shard != shard {
			continue
		}
		switch {
		case c.model() == resolver.ModelSchema:
			role := "tenant_" + c.ID
			err = server.Exec(ctx, c.database(), fmt.Sprintf(`create role %[1]s nologin; grant %[1]s to app;
				create schema %[1]s; set search_path = %[1]s; %[2]s reset search_path;
				grant usage on schema %[1]s to %[1]s;
				grant select, insert, update, delete on all tables in schema %[1]s to %[1]s`, role, ownSQL))
		case slices.Contains(made, c.database()):
		default:
			made = append(made, c.database())
			if err := server.Exec(ctx, "postgres", "create database "+c.database()); err != nil {
				return err
			}
			text := sharedSQL
			if c.model() == resolver.ModelDatabase {
				text = ownSQL + "grant select, insert, update, delete on orders to app"
			}
			err = server.Exec(ctx, c.database(), "revoke create on schema public from public", text)
		}
		if err != nil {
			return fmt.Errorf("tenant %s: %w", c.ID, err)
		}
	}
	return nil
}

// fillRegistry writes shards and tenants down, and makes the login that the driver reads them with.
func (f *fleet) fillRegistry(ctx context.Context) (err error) {
	if err := f.registry.Exec(ctx, "postgres", "create database "+registryDatabase); err != nil {
		return err
	}
	store, err := registry.Open(f.registry.DSN("postgres", registryDatabase), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Init(ctx); err != nil {
		return err
	}
	for _, name := range shardNames {
		err := store.PutShard(ctx, registry.Shard{
			Name: name, DSN: f.shards[name].DSN(appLogin, mainDatabase), AdminDSN: f.shards[name].DSN("postgres", mainDatabase),
		})
		if err != nil {
			return err
		}
	}
	for _, c := range customers {
		if err := store.PutTenant(ctx, c.Tenant); err != nil {
			return err
		}
	}
	return f.registry.Exec(ctx, registryDatabase, "create role "+routerLogin+` login;
		grant usage on schema sharded_pg to router; grant select on all tables in schema sharded_pg to router`)
}
