package provision

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Check looks on the tenant's shard for what [Tenant] would start from: the login, and the tables or the template of the
// tenant's model. It changes nothing, and the tenant need not be in the registry: a misspelt template is better found before.
func Check(ctx context.Context, reg *registry.Admin, t registry.Tenant, opts *Options) error {
	r, err := place(ctx, reg, registry.TenantInfo{Tenant: t}, opts)
	if err != nil {
		return err
	}
	database := r.database
	if t.Model == resolver.ModelDatabase { // which is not there yet
		database = r.home
	}
	return r.connected(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		return r.step("check", func() error {
			if err := r.checkLogin(ctx, conn); err != nil {
				return err
			}
			switch t.Model {
			case resolver.ModelShared:
				return r.checkShared(ctx, conn)
			case resolver.ModelPartition:
				_, err := r.partitioned(ctx, conn)
				return err
			case resolver.ModelSchema:
				if r.Create != nil {
					return nil
				}
				return inTx(ctx, conn, func(tx pgx.Tx) error { _, err := r.templateTables(ctx, tx); return err })
			case resolver.ModelDatabase:
				return r.checkTemplateDatabase(ctx, conn)
			}
			return nil
		})
	})
}

func (r *run) checkLogin(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	err := conn.QueryRow(ctx, `select exists (select from pg_roles where rolname = $1)`, r.Login).Scan(&there)
	if err == nil && !there {
		err = fmt.Errorf("%w: the server has no role %s, which is the login of tenants' statements: create it, or name another login",
			registry.ErrInvalid, ident(r.Login))
	}
	return err
}

func (r *run) checkTemplateDatabase(ctx context.Context, conn *pgx.Conn) error {
	if r.Create != nil {
		return nil
	}
	var there bool
	err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, r.TemplateDatabase).Scan(&there)
	if err == nil && !there {
		err = fmt.Errorf("%w: database %s is not there: fill one with your tables, grants included, or set Options.Create",
			ErrTemplate, ident(r.TemplateDatabase))
	}
	return err
}

// partitioned returns the tenants' tables if they are fit for model partition: at least one is partitioned by tenant.
func (r *run) partitioned(ctx context.Context, conn *pgx.Conn) ([]table, error) {
	found, err := r.tables(ctx, conn)
	if err != nil {
		return nil, err
	}
	fit := false
	for _, t := range found {
		if err := t.check(r.Login); err != nil {
			return nil, err
		}
		fit = fit || t.Partitioned
	}
	if !fit {
		return nil, fmt.Errorf("%w: database %q has no table that is partitioned by LIST (%s): use model shared, or partition them",
			ErrTemplate, r.database, r.TenantColumn)
	}
	return found, nil
}

// templateTables returns the names of the template's tables, and refuses a template that cannot be copied.
func (r *run) templateTables(ctx context.Context, tx pgx.Tx) ([]string, error) {
	from := ident(r.Template)
	uncopied, err := texts(ctx, tx, uncopiedSQL, from)
	if err != nil {
		return nil, err
	}
	if len(uncopied) > 0 {
		return nil, fmt.Errorf("%w: schema %s holds more than plain tables (%s): set Options.Create to your migrations",
			ErrTemplate, from, strings.Join(uncopied, ", "))
	}
	tables, err := texts(ctx, tx, templateTablesSQL, from)
	if err == nil && len(tables) == 0 {
		err = fmt.Errorf("%w: schema %s is not there or holds no tables: create it, or set Options.Create", ErrTemplate, from)
	}
	return tables, err
}
