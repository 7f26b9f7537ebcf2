package provision

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
)

// databaseMark is the comment on a database once all that a tenant needs is in it. Several tenants may share one.
const databaseMark = "sharded-pg: tenants"

// unfinishedMark is the comment until then, so that purging knows what it may drop.
func unfinishedMark(tenant string) string { return "sharded-pg: being made for tenant " + tenant }

const databaseSQL = `select coalesce(shobj_description(oid, 'pg_database'), '') from pg_database where datname = $1`

// makeDatabase makes the tenant's database. CREATE DATABASE cannot be part of a transaction: what comes after it is, and
// ends with the mark.
func (r *run) makeDatabase(ctx context.Context, reg *registry.Admin) error {
	if err := r.ownDatabase(ctx, reg); err != nil {
		return r.fail("database", err)
	}
	name := ident(r.tenant.Database)
	marked := false
	err := r.on(ctx, "", func(ctx context.Context, conn *pgx.Conn) error {
		return r.step("database", func() error {
			var comment string
			switch err := conn.QueryRow(ctx, databaseSQL, r.tenant.Database).Scan(&comment); {
			case errors.Is(err, pgx.ErrNoRows):
				from := ident(r.TemplateDatabase)
				if r.Create != nil {
					from = "template0"
				}
				if _, err := conn.Exec(ctx, "create database "+name+" template "+from); err != nil {
					return err
				}
				_, err := conn.Exec(ctx, "comment on database "+name+" is "+literal(unfinishedMark(r.tenant.ID)))
				return err
			case err != nil:
				return err
			case comment != "" && comment != databaseMark && comment != unfinishedMark(r.tenant.ID):
				return r.notOurs("database", name)
			default:
				marked = comment == databaseMark
				return nil
			}
		})
	})
	if err != nil || marked {
		return err
	}
	return r.onTenant(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return inTx(ctx, conn, func(tx pgx.Tx) error {
			if err := r.step("tables", func() error {
				if r.Create == nil {
					return r.checkTables(ctx, tx)
				}
				return r.Create(ctx, tx, r.tenant)
			}); err != nil {
				return err
			}
			return r.step("grants", func() error {
				return exec(ctx, tx,
					"revoke all on database "+name+" from public",
					"grant connect on database "+name+" to "+ident(r.Login),
					"comment on database "+name+" is "+literal(databaseMark))
			})
		})
	})
}

// ownDatabase refuses a database in which another tenant of the shard lives, removed or not. Tenants of model database have
// no policies against each other, and purging one drops all.
func (r *run) ownDatabase(ctx context.Context, reg *registry.Admin) error {
	name := ident(r.tenant.Database)
	switch {
	case r.tenant.Database == "":
		return fmt.Errorf("%w: the tenant names no database: set one", registry.ErrInvalid)
	case r.tenant.Database == r.home:
		return fmt.Errorf("%w: database %s is the one of the shard's DSN, where tenants live that name none: set another database",
			registry.ErrConflict, name)
	case r.tenant.Database == r.TemplateDatabase && r.Create == nil:
		return r.isTemplate("database", name)
	}
	others, err := reg.ListTenants(ctx, registry.TenantFilter{
		Shard: r.tenant.Shard, Database: r.tenant.Database, Removed: registry.AnyTenants, Limit: 2,
	})
	if err != nil {
		return err
	}
	for _, other := range others {
		if other.ID != r.tenant.ID {
			return fmt.Errorf("%w: tenant %q lives in database %s, too: a database for several tenants is for model shared, which has policies",
				registry.ErrConflict, other.ID, name)
		}
	}
	return nil
}

// isTemplate refuses what all tenants are copied from: the tenant would write into it, and purging it would drop it.
func (r *run) isTemplate(what, name string) error {
	return fmt.Errorf("%w: %s %s is the template: set another %s for tenant %q", registry.ErrConflict, what, name, what, r.tenant.ID)
}

// checkTables refuses a database that was there before and is not a copy of the template.
func (r *run) checkTables(ctx context.Context, tx pgx.Tx) error {
	var usable int
	err := tx.QueryRow(ctx, `select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and has_table_privilege($1, c.oid, 'select')`, r.Login).Scan(&usable)
	if err == nil && usable == 0 {
		err = fmt.Errorf("%w: database %s holds no table that %q may read: fill template %s, grants included, or set Options.Create",
			ErrTemplate, ident(r.tenant.Database), r.Login, ident(r.TemplateDatabase))
	}
	return err
}
