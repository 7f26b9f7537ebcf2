package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
)

// table is a table of tenants in the catalog.
type table struct {
	OID            uint32
	Schema, Name   string
	Owner          string
	Partitioned    bool // by LIST of the tenant column alone
	Enabled        bool // row-level security
	Forced         bool
	Policies       int
	LoginMaySelect bool
}

func (t table) ident() string { return ident(t.Schema, t.Name) }

// tablesSQL finds the tables that have the tenant column. Partitions are reached through their tables; schemas of single
// tenants and their template are none of shared tenants' business.
const tablesSQL = `select c.oid, n.nspname, c.relname, pg_get_userbyid(c.relowner),
       coalesce(p.partstrat = 'l' and p.partnatts = 1 and p.partattrs[0] = a.attnum, false),
       c.relrowsecurity, c.relforcerowsecurity, (select count(*) from pg_policy y where y.polrelid = c.oid)::int,
       has_table_privilege($2, c.oid, 'select')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attname = $1 and not a.attisdropped
  left join pg_partitioned_table p on p.partrelid = c.oid
 where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $3)
   and coalesce(obj_description(n.oid, 'pg_namespace'), '') !~ '^sharded-pg: tenant '
 order by n.nspname, c.relname`

// tables returns the tenants' tables of the database.
func (r *run) tables(ctx context.Context, conn *pgx.Conn) ([]table, error) {
	rows, err := conn.Query(ctx, tablesSQL, r.TenantColumn, r.Login, r.Template)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%w: database %q has no table with a column %q: create the tables first, or set Options.TenantColumn to "+
			"the column that they have",
			ErrTemplate, r.database, r.TenantColumn)
	}
	return found, err
}

// checkShared makes nothing: it refuses tables that would show a tenant the rows of others.
func (r *run) checkShared(ctx context.Context, conn *pgx.Conn) error {
	return r.step("check tables", func() error {
		found, err := r.tables(ctx, conn)
		if err != nil {
			return err
		}
		var errs []error
		for _, t := range found {
			errs = append(errs, t.check(r.Login))
		}
		return errors.Join(errs...)
	})
}

// check refuses a table whose rows are not kept apart.
func (t table) check(login string) error {
	var wrong []string
	if !t.Enabled {
		wrong = append(wrong, "row-level security is off")
	}
	if !t.Forced {
		wrong = append(wrong, "row-level security is not forced")
	}
	if t.Policies == 0 {
		wrong = append(wrong, "it has no policy")
	}
	if !t.LoginMaySelect {
		wrong = append(wrong, fmt.Sprintf("%q may not select from it", login))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%w: table %s: %s: see Tables of shared tenants in docs/operations.md", registry.ErrInvalid, t.ident(),
		strings.Join(wrong, ", "))
}
