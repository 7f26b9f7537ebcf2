package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// ErrTemplate: the tables that a tenant should get are not there, or cannot be copied. The text says what to do.
var ErrTemplate = errors.New("template")

// Options adjust [Tenant] and [Purge]. nil and the zero value mean the defaults.
type Options struct {
	// TenantColumn is the column of shared tables that holds the tenant's ID. Default "tenant_id".
	TenantColumn string
	// GUC is the setting that policies read. Default "app.current_tenant_id".
	GUC string
	// Template is the schema whose tables a tenant of model schema gets. Default "tenant_template".
	Template string
	// TemplateDatabase is the database that a tenant of model database is copied from. Nobody may be connected to it
	// meanwhile. Default "tenant_template".
	TemplateDatabase string
	// Create makes the tables instead of the templates, in the transaction tx with search_path set to the tenant's schema
	// (model schema) or on the tenant's empty database (model database): run your migrations here. Default: templates.
	Create func(ctx context.Context, tx pgx.Tx, tenant registry.TenantInfo) error
	// Login is the role that the shard's DSN logs in as, if a pooler makes it another one. Default: the DSN's user.
	Login string

	before func(step string) error // tests fail here
}

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	set(&out.TenantColumn, "tenant_id")
	set(&out.GUC, "app.current_tenant_id")
	set(&out.Template, "tenant_template")
	set(&out.TemplateDatabase, "tenant_template")
	if out.before == nil {
		out.before = func(string) error { return nil }
	}
	return out
}

// run is the work on one tenant.
type run struct {
	Options
	tenant   registry.TenantInfo
	shard    resolver.Shard
	admin    *pgx.ConnConfig
	home     string // the database of tenants that name none
	database string // the tenant's
}

// Tenant makes what the tenant's model needs on its shard and then makes the tenant active, if it was in provisioning. A
// tenant in another state keeps it: Tenant repairs what is missing, for example partitions of new tables. Running it
// again, or in several programs at once, is safe.
func Tenant(ctx context.Context, reg *registry.Admin, id string, opts *Options) error {
	r, err := prepare(ctx, reg, id, opts)
	if err != nil {
		return err
	}
	switch {
	case !r.tenant.Removed.IsZero():
		return r.fail("state", fmt.Errorf("%w: it was removed: restore it first", registry.ErrInvalid))
	case r.tenant.State == resolver.StateMoving || r.tenant.State == resolver.StateDeleting:
		return r.fail("state", fmt.Errorf("%w: it is %s", registry.ErrInvalid, r.tenant.State))
	}
	switch r.tenant.Model {
	case resolver.ModelShared:
		err = r.onTenant(ctx, r.checkShared)
	case resolver.ModelPartition:
		err = r.onTenant(ctx, r.makePartitions)
	case resolver.ModelSchema:
		err = r.onTenant(ctx, r.makeSchema)
	case resolver.ModelDatabase:
		err = r.makeDatabase(ctx, reg)
	default:
		err = r.fail("model", fmt.Errorf("%w: unknown model %q: use a newer program", registry.ErrInvalid, r.tenant.Model))
	}
	if err != nil || r.tenant.State != resolver.StateProvisioning {
		return err
	}
	return r.step("activate", func() error {
		// Only now: a tenant whose tables are not all there must not run statements.
		return reg.SetTenantState(ctx, id, resolver.StateActive)
	})
}

// prepare reads the tenant and where it lives.
func prepare(ctx context.Context, reg *registry.Admin, id string, opts *Options) (*run, error) {
	tenant, err := reg.Tenant(ctx, id)
	if err != nil {
		return nil, err
	}
	return place(ctx, reg, tenant, opts)
}

// place reads where the tenant lives.
func place(ctx context.Context, reg *registry.Admin, tenant registry.TenantInfo, opts *Options) (*run, error) {
	shard, err := reg.ShardDSNs(ctx, tenant.Shard)
	if err != nil {
		return nil, err
	}
	r := &run{Options: opts.withDefaults(), tenant: tenant, shard: shard}
	if shard.AdminDSN == "" {
		return nil, r.fail("connect", fmt.Errorf("%w: the shard has no admin DSN: set one with SetShardDSN", registry.ErrInvalid))
	}
	app, err := connstring.Parse(shard.DSN)
	if err == nil {
		r.admin, err = connstring.Parse(shard.AdminDSN)
	}
	if err != nil {
		return nil, r.fail("connect", fmt.Errorf("%w: a DSN of the shard is no connection string: %w: set it with SetShardDSN", registry.ErrInvalid, err))
	}
	if r.Login == "" {
		r.Login = app.User
	}
	if r.home = app.Database; r.home == "" {
		r.home = app.User // as libpq and pgx do
	}
	if r.database = tenant.Database; r.database == "" {
		r.database = r.home
	}
	return r, nil
}

// step runs one step, unless the tests want it to fail.
func (r *run) step(name string, do func() error) error {
	if err := r.before(name); err != nil {
		return r.fail(name, err)
	}
	if err := do(); err != nil {
		return r.fail(name, err)
	}
	return nil
}

// fail says whose step it was. Errors of PostgreSQL stay in the chain; their text holds names, and no DSN.
func (r *run) fail(step string, err error) error {
	var failed *Error
	if errors.As(err, &failed) {
		return err
	}
	return &Error{Step: step, Tenant: r.tenant.ID, Shard: r.tenant.Shard, Err: err}
}

// Error is a step that failed. The tenant is in the state it was in; run the same again when the cause is gone.
type Error struct {
	Step   string
	Tenant string
	Shard  string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("provision: %s: tenant %q on shard %q: %v", e.Step, e.Tenant, e.Shard, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// onTenant runs work on a connection to the tenant's database, while no other provisioner works on this tenant.
func (r *run) onTenant(ctx context.Context, work func(ctx context.Context, conn *pgx.Conn) error) error {
	return r.on(ctx, r.database, work)
}

const lockSQL = `select pg_advisory_lock(hashtextextended('sharded-pg provision ' || $1, 0))`

// on runs work on a connection of an administrator under the tenant's lock, which ends with the connection.
func (r *run) on(ctx context.Context, database string, work func(ctx context.Context, conn *pgx.Conn) error) error {
	return r.connected(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, lockSQL, r.tenant.ID); err != nil {
			return err
		}
		return work(ctx, conn)
	})
}

// connected runs work on a connection of an administrator.
func (r *run) connected(ctx context.Context, database string, work func(ctx context.Context, conn *pgx.Conn) error) error {
	return r.step("connect", func() error {
		cfg := r.admin.Copy()
		if database != "" {
			cfg.Database = database
		}
		conn, err := hosts.Connect(ctx, cfg)
		if err != nil {
			return connerr.Failed(err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = conn.Close(ctx)
		}()
		return work(ctx, conn)
	})
}

// inTx runs work in a transaction.
func inTx(ctx context.Context, conn *pgx.Conn, work func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, work)
}

// exec runs statements one by one.
func exec(ctx context.Context, tx pgx.Tx, statements ...string) error {
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
