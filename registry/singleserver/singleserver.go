// Package singleserver is a registry for development: one PostgreSQL server, on which each tenant, or each group of
// tenants, gets a database the first time that somebody names it.
//
//	store, err := singleserver.Open(singleserver.Config{
//		DSN:      "host=localhost user=app",
//		AdminDSN: "host=localhost user=postgres",
//		Create:   migrations,
//	})
//	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store})
//
// It runs CREATE DATABASE on the path of a query, and whoever can name a tenant makes one: that is for development and
// nothing else. In production use registry.Postgres and package provision.
package singleserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

var (
	_ registry.Store = (*Store)(nil)
	_ io.Closer      = (*Store)(nil)
)

// Config describes a store. It is copied.
type Config struct {
	// DSN is what tenants' statements use. Required. Its database is not used.
	DSN string
	// AdminDSN may create databases. Required.
	AdminDSN string
	// Create makes the tables of a new database, with what DSN's login may do there. Default: databases are copied from
	// Template.
	Create func(ctx context.Context, tx pgx.Tx, tenant registry.TenantInfo) error
	// Template is the database that others are copied from. Default "tenant_template".
	Template string
	// Database names the database of a tenant; tenants with the same one share it, kept apart by row-level security.
	// Default: "tenant_" and the ID, for each tenant its own.
	Database func(tenant string) string
	// Plan is the plan of new tenants. Default "free".
	Plan string
	// Timeout bounds making a database, which outlives the lookup that asked for it. Default 30s.
	Timeout time.Duration
}

const shardName = "local"

// Store is a [registry.Store] on one server. It forgets its tenants with the program; their databases stay, and are
// found again. Changes of shards fail with [registry.ErrUnsupported]. Any number of goroutines may use it.
type Store struct {
	*registry.Memory
	cfg Config

	mu     sync.Mutex
	making map[string]*making // by database
	wg     sync.WaitGroup
	stop   context.CancelFunc
	life   context.Context // of what the store starts; ends with it
}

// making is the work on one database. Others who need it wait for done.
type making struct {
	done chan struct{}
	err  error
}

// Open returns a store. It does not connect.
func Open(cfg Config) (*Store, error) {
	if cfg.AdminDSN == "" {
		return nil, fmt.Errorf("%w: single server: AdminDSN is empty: give a login that may create databases", registry.ErrInvalid)
	}
	if cfg.Database == nil {
		cfg.Database = func(tenant string) string { return "tenant_" + tenant }
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	m, err := registry.NewMemory(nil)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background()) //nolint:forbidigo // until Close
	s := &Store{Memory: m, cfg: cfg, making: make(map[string]*making), stop: stop, life: life}
	err = m.PutShard(life, registry.Shard{
		Name: shardName, DSN: cfg.DSN, AdminDSN: cfg.AdminDSN, MaxTenants: registry.UnlimitedTenants,
	})
	if err != nil {
		stop()
		return nil, err
	}
	m.FixShards("this registry is for development and has one server: use registry.Postgres")
	return s, nil
}

// Lookup returns the tenant's route, and makes the tenant and its database if they are not there. A lookup that ends
// earlier than its database is made fails as a registry that could not be asked; the next one finds it.
func (s *Store) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	route, err := s.Memory.Lookup(ctx, tenant)
	if !errors.Is(err, resolver.ErrTenantNotFound) {
		return route, err
	}
	database := s.cfg.Database(tenant)
	if database == "" {
		return nil, fmt.Errorf("%w: %q: Config.Database names no database for it", resolver.ErrTenantNotFound, tenant)
	}
	// Model shared, so that the tenant's setting is in force whether or not others live in the database.
	wanted := registry.Tenant{ID: tenant, Shard: shardName, Database: database, Plan: s.cfg.Plan, State: resolver.StateActive}
	if known, err := s.known(ctx, wanted); err != nil {
		return nil, err
	} else if known {
		return s.Memory.Lookup(ctx, tenant)
	}
	m := s.make(ctx, tenant, database)
	select {
	case <-m.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("database %q is being made: try again: %w", database, ctx.Err())
	}
	if m.err != nil {
		return nil, m.err
	}
	if _, err := s.AddTenant(ctx, wanted, nil); err != nil && !errors.Is(err, registry.ErrExists) {
		return nil, err
	}
	return s.Memory.Lookup(ctx, tenant)
}

// known looks before a database is made whether it would be for nothing: the tenant was removed, was purged, or cannot
// become one.
func (s *Store) known(ctx context.Context, tenant registry.Tenant) (bool, error) {
	previews, err := s.PreviewTenants(ctx, []registry.Tenant{tenant}, nil)
	if err != nil {
		return false, err
	}
	switch err := previews[0].Err; {
	case errors.Is(err, registry.ErrExists):
		return true, nil
	case errors.Is(err, registry.ErrInvalid):
		return false, fmt.Errorf("%w: %w", resolver.ErrTenantNotFound, err)
	default:
		return false, err
	}
}

// make starts making a database, or returns who does already.
func (s *Store) make(ctx context.Context, tenant, database string) *making {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.making[database]; m != nil {
		return m
	}
	m := &making{done: make(chan struct{})}
	if s.life.Err() != nil {
		m.err = registry.ErrClosed
		close(m.done)
		return m
	}
	s.making[database] = m
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
	release := context.AfterFunc(s.life, cancel) //nolint:contextcheck // it ends with the store as well as in time
	s.wg.Go(func() {
		defer cancel()
		defer release()
		m.err = s.provision(ctx, tenant, database)
		close(m.done)
		if m.err != nil { // the next one tries again
			s.mu.Lock()
			delete(s.making, database)
			s.mu.Unlock()
		}
	})
	return m
}

// provision makes a database as package provision does, for a tenant that only it knows: what is routed is put into the
// store when the database is there.
func (s *Store) provision(ctx context.Context, tenant, database string) error {
	m, err := registry.NewMemory(nil)
	if err != nil {
		return err
	}
	err = m.PutShard(ctx, registry.Shard{Name: shardName, DSN: s.cfg.DSN, AdminDSN: s.cfg.AdminDSN})
	if err != nil {
		return err
	}
	_, err = m.AddTenant(ctx, registry.Tenant{ID: tenant, Model: resolver.ModelDatabase, Database: database}, nil)
	if err != nil {
		return err
	}
	return provision.Tenant(ctx, m.Admin, tenant, &provision.Options{Create: s.cfg.Create, TemplateDatabase: s.cfg.Template})
}

// Close ends Watch and waits until no database is being made. Lookups go on working, but for tenants that are not there.
func (s *Store) Close() error {
	s.mu.Lock() // nothing is begun any more
	s.stop()
	s.mu.Unlock()
	s.wg.Wait()
	return s.Memory.Close()
}
