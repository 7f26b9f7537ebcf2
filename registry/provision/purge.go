package provision

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Purge destroys all that a tenant has on its shard and then takes it out of the registry for good; its ID stays taken.
// confirm repeats the ID. It refuses a tenant that may run statements: disable or remove it, and wait until nobody misses
// it. There is no way back: [registry.Admin.RemoveTenant] is the one that has.
//
// It returns the number of rows destroyed, by table, those of earlier attempts included. After a crash or an error run it
// again: the tenant stays in the state deleting until all is gone. A crash between the end of one table and its record in
// the audit log loses that table's number.
//
// Statements that were sent before a driver heard of the change may still write. For models shared and partition Purge
// looks again until it finds nothing; a schema or a database is locked by dropping it.
func Purge(ctx context.Context, reg *registry.Admin, id, confirm string, opts *Options) (map[string]int64, error) {
	if err := reg.BeginPurge(ctx, id, confirm); err != nil {
		return nil, err
	}
	r, err := prepare(ctx, reg, id, opts)
	if err != nil {
		return nil, err
	}
	p := &purge{run: r, reg: reg}
	switch r.tenant.Model {
	case resolver.ModelShared, resolver.ModelPartition:
		err = r.onTenant(ctx, p.rows)
	case resolver.ModelSchema:
		err = r.onTenant(ctx, p.schema)
	case resolver.ModelDatabase:
		err = p.dropDatabase(ctx)
	default:
		err = r.fail("model", fmt.Errorf("%w: unknown model %q: use a newer program", registry.ErrInvalid, r.tenant.Model))
	}
	if err != nil {
		return nil, err
	}
	destroyed, err := p.destroyed(ctx)
	if err != nil {
		return nil, err
	}
	return destroyed, r.step("bury", func() error { return reg.BuryTenant(ctx, id, destroyed) })
}

type purge struct {
	*run
	reg *registry.Admin
}

// note records what was destroyed.
func (p *purge) note(ctx context.Context, table string, rows int64) error {
	if rows == 0 {
		return nil
	}
	return p.reg.PurgeStep(ctx, p.tenant.ID, table, rows)
}

// destroyed adds up the records of all attempts.
func (p *purge) destroyed(ctx context.Context) (map[string]int64, error) {
	sums := make(map[string]int64)
	filter := registry.AuditFilter{Kind: "tenant", Subject: p.tenant.ID, Limit: 1000}
	for {
		page, err := p.reg.Audit(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			table, _ := e.After["table"].(string)
			if e.Action != "purge_step" || table == "" {
				continue
			}
			switch n := e.After["rows"].(type) {
			case float64: // as JSON gives it back
				sums[table] += int64(n)
			case int64:
				sums[table] += n
			}
		}
		if len(page) < filter.Limit {
			return sums, nil
		}
		filter.Before = page[len(page)-1].ID
	}
}

// rows drops the tenant's partitions and deletes its rows, until there are none.
func (p *purge) rows(ctx context.Context, conn *pgx.Conn) error {
	tables, err := p.tables(ctx, conn)
	if err != nil {
		return p.fail("read tables", err)
	}
	for {
		gone, blocked, err := p.pass(ctx, conn, tables)
		if err != nil {
			return err
		}
		switch {
		case gone == 0 && blocked != nil:
			return p.fail("delete", fmt.Errorf("rows of other tables refer to these, and not by the tenant column: %w", blocked))
		case gone == 0:
			return p.dropPartitions(ctx, conn, tables)
		}
	}
}

// pass deletes from each table once. Rows that others refer to go in a later pass.
func (p *purge) pass(ctx context.Context, conn *pgx.Conn, tables []table) (gone int64, blocked, _ error) {
	for _, t := range tables {
		err := p.step("delete from "+t.ident(), func() error {
			n, err := p.deleteFrom(ctx, conn, t)
			gone += n
			if err == nil {
				err = p.note(ctx, t.Schema+"."+t.Name, n)
			}
			return err
		})
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == "23503" {
			blocked = refused
		} else if err != nil {
			return gone, nil, err
		}
	}
	return gone, blocked, nil
}

// deleteFrom deletes a tenant's rows in a transaction that has the tenant's setting: forced policies hold for the owner.
func (p *purge) deleteFrom(ctx context.Context, conn *pgx.Conn, t table) (n int64, err error) {
	err = inTx(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config($1, $2, true)`, p.GUC, p.tenant.ID); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "delete from "+t.ident()+" where "+ident(p.TenantColumn)+" = "+literal(p.tenant.ID))
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// dropPartitions drops what model partition made. It is empty by now.
func (p *purge) dropPartitions(ctx context.Context, conn *pgx.Conn, tables []table) error {
	if p.tenant.Model != resolver.ModelPartition {
		return nil
	}
	for _, t := range tables {
		name := partitionName(t.Name, p.tenant.ID)
		err := p.step("drop partition of "+t.ident(), func() error {
			var parent uint32
			switch err := conn.QueryRow(ctx, partitionSQL, t.Schema, name).Scan(&parent); {
			case errors.Is(err, pgx.ErrNoRows):
				return nil
			case err != nil:
				return err
			case parent != t.OID:
				return nil // somebody else's
			}
			_, err := conn.Exec(ctx, "drop table "+ident(t.Schema, name))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// schema drops the tenant's schema and role.
func (p *purge) schema(ctx context.Context, conn *pgx.Conn) error {
	counts := make(map[string]int64)
	err := p.step("drop schema", func() error {
		return inTx(ctx, conn, func(tx pgx.Tx) error {
			var comment string
			switch err := tx.QueryRow(ctx, namespaceSQL, p.tenant.Schema).Scan(&comment); {
			case errors.Is(err, pgx.ErrNoRows):
			case err != nil:
				return err
			case comment != mark(p.tenant.ID):
				return p.unmarked("schema", ident(p.tenant.Schema), mark(p.tenant.ID))
			case p.tenant.Schema == p.Template && p.Create == nil:
				return p.isTemplate("schema", ident(p.tenant.Schema))
			default:
				if err := countTables(ctx, tx, p.tenant.Schema, counts); err != nil {
					return err
				}
				if err := exec(ctx, tx, "drop schema "+ident(p.tenant.Schema)+" cascade"); err != nil {
					return err
				}
			}
			return p.dropRole(ctx, tx)
		})
	})
	if err != nil {
		return err
	}
	return p.noteAll(ctx, counts)
}

func (p *purge) dropRole(ctx context.Context, tx pgx.Tx) error {
	var powerful, member bool
	var comment string
	switch err := tx.QueryRow(ctx, roleSQL, p.tenant.Role).Scan(&powerful, &comment, &member); {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case comment != mark(p.tenant.ID):
		return p.unmarked("role", ident(p.tenant.Role), mark(p.tenant.ID))
	}
	return exec(ctx, tx, "drop owned by "+ident(p.tenant.Role), "drop role "+ident(p.tenant.Role))
}

// unmarked refuses to destroy what provisioning has not made.
func (p *purge) unmarked(what, name, comment string) error {
	return fmt.Errorf("%w: %s %s is not marked as made for this tenant: drop it by hand, or set its comment to %q",
		registry.ErrConflict, what, name, comment)
}

func (p *purge) noteAll(ctx context.Context, counts map[string]int64) error {
	for table, n := range counts {
		if err := p.note(ctx, table, n); err != nil {
			return err
		}
	}
	return nil
}

const ownTablesSQL = `select n.nspname || '.' || c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and not c.relispartition and ($1 = '' or n.nspname = $1)
   and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'`

// countTables counts the rows of a schema's tables, or of all of the database's.
func countTables(ctx context.Context, tx pgx.Tx, schema string, counts map[string]int64) error {
	rows, err := tx.Query(ctx, ownTablesSQL, schema)
	if err != nil {
		return err
	}
	type named struct{ Name, Ident string }
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[named])
	if err != nil {
		return err
	}
	for _, t := range found {
		var n int64
		if err := tx.QueryRow(ctx, "select count(*) from "+t.Ident).Scan(&n); err != nil {
			return err
		}
		counts[t.Name] = n
	}
	return nil
}

// dropDatabase drops the tenant's database, unless other tenants live there, too.
func (p *purge) dropDatabase(ctx context.Context) error {
	if err := p.ownDatabase(ctx, p.reg); err != nil {
		return p.fail("drop database", err)
	}
	return p.on(ctx, "", func(ctx context.Context, conn *pgx.Conn) error {
		var comment string
		switch err := conn.QueryRow(ctx, databaseSQL, p.tenant.Database).Scan(&comment); {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return err
		case comment != databaseMark && comment != unfinishedMark(p.tenant.ID):
			return p.fail("drop database", p.unmarked("database", ident(p.tenant.Database), databaseMark))
		}
		counts := make(map[string]int64)
		// Not under the lock of on, which this session holds already.
		cfg := p.admin.Copy()
		cfg.Database = p.tenant.Database
		inside, err := hosts.Connect(ctx, cfg)
		if err != nil {
			return connerr.Failed(err)
		}
		err = inTx(ctx, inside, func(tx pgx.Tx) error { return countTables(ctx, tx, "", counts) })
		if err := errors.Join(err, inside.Close(ctx)); err != nil {
			return p.fail("count rows", err)
		}
		return p.step("drop database", func() error {
			if _, err := conn.Exec(ctx, "drop database "+ident(p.tenant.Database)+" with (force)"); err != nil {
				return err
			}
			return p.noteAll(ctx, counts)
		})
	})
}
