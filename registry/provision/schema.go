package provision

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
)

// makeSchema makes the tenant's role, its schema and its tables in one transaction.
func (r *run) makeSchema(ctx context.Context, conn *pgx.Conn) error {
	return inTx(ctx, conn, func(tx pgx.Tx) error {
		for _, step := range []struct {
			name string
			do   func(context.Context, pgx.Tx) error
		}{
			{"role", r.makeRole},
			{"schema", r.makeNamespace},
			{"tables", r.makeTables},
			{"grants", r.grantSchema},
			{"check schema", r.checkSchema},
			{"commit", func(context.Context, pgx.Tx) error { return nil }},
		} {
			if err := r.step(step.name, func() error { return step.do(ctx, tx) }); err != nil {
				return err
			}
		}
		return nil
	})
}

const roleSQL = `select rolcanlogin or rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication,
       coalesce(shobj_description(oid, 'pg_authid'), ''),
       exists (select from pg_auth_members m where m.member = pg_authid.oid)
  from pg_roles pg_authid where rolname = $1`

// makeRole makes the role that the tenant's transactions run as. One that is there already must be as powerless.
func (r *run) makeRole(ctx context.Context, tx pgx.Tx) error {
	role := ident(r.tenant.Role)
	var powerful, member bool
	var comment string
	switch err := tx.QueryRow(ctx, roleSQL, r.tenant.Role).Scan(&powerful, &comment, &member); {
	case errors.Is(err, pgx.ErrNoRows):
		if err := exec(ctx, tx, "create role "+role+" nologin noinherit"); err != nil {
			return err
		}
	case err != nil:
		return err
	case powerful || member:
		return fmt.Errorf("%w: role %s exists and may log in, has rights of its own or is a member of other roles: set another role",
			registry.ErrConflict, role)
	case comment != "" && comment != mark(r.tenant.ID):
		return r.notOurs("role", role)
	}
	return exec(ctx, tx,
		"comment on role "+role+" is "+literal(mark(r.tenant.ID)),
		"grant "+role+" to "+ident(r.Login))
}

func (r *run) notOurs(what, name string) error {
	return fmt.Errorf("%w: %s %s exists and belongs to something else, as its comment says: set another %s for tenant %q",
		registry.ErrConflict, what, name, what, r.tenant.ID)
}

const namespaceSQL = `select coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace where nspname = $1`

func (r *run) makeNamespace(ctx context.Context, tx pgx.Tx) error {
	name := ident(r.tenant.Schema)
	if r.tenant.Schema == r.Template && r.Create == nil {
		return r.isTemplate("schema", name)
	}
	var comment string
	switch err := tx.QueryRow(ctx, namespaceSQL, r.tenant.Schema).Scan(&comment); {
	case errors.Is(err, pgx.ErrNoRows):
		if err := exec(ctx, tx, "create schema "+name); err != nil {
			return err
		}
	case err != nil:
		return err
	case comment != "" && comment != mark(r.tenant.ID):
		return r.notOurs("schema", name)
	}
	return exec(ctx, tx,
		"comment on schema "+name+" is "+literal(mark(r.tenant.ID)),
		// Whoever may not look into the schema cannot reach its tables, whatever is granted on them.
		"revoke all on schema "+name+" from public",
		"grant usage on schema "+name+" to "+ident(r.tenant.Role))
}

func (r *run) makeTables(ctx context.Context, tx pgx.Tx) error {
	if r.Create == nil {
		return r.copyTemplate(ctx, tx)
	}
	if err := exec(ctx, tx, "set local search_path to "+ident(r.tenant.Schema)+", pg_temp"); err != nil {
		return err
	}
	return r.Create(ctx, tx, r.tenant)
}

func (r *run) grantSchema(ctx context.Context, tx pgx.Tx) error {
	schema, role := ident(r.tenant.Schema), ident(r.tenant.Role)
	if err := r.maySet(ctx, tx); err != nil {
		return err
	}
	return exec(ctx, tx,
		"grant select, insert, update, delete on all tables in schema "+schema+" to "+role,
		"grant usage, select on all sequences in schema "+schema+" to "+role,
		"alter default privileges in schema "+schema+" grant select, insert, update, delete on tables to "+role,
		"alter default privileges in schema "+schema+" grant usage, select on sequences to "+role)
}

// maySet lets the role call what the driver calls as it in the middle of a transaction, where shardedpg rls apply --lockdown has taken
// that from everybody.
func (r *run) maySet(ctx context.Context, tx pgx.Tx) error {
	const setConfig = "pg_catalog.set_config(text,text,boolean)"
	may := func() (may bool, err error) {
		err = tx.QueryRow(ctx, "select has_function_privilege($1, $2, 'execute')", r.tenant.Role, setConfig).Scan(&may)
		return may, err
	}
	if ok, err := may(); ok || err != nil {
		return err
	}
	// Whoever may call it and not grant it gets a warning, and no error.
	err := exec(ctx, tx, "grant execute on function "+setConfig+" to "+ident(r.tenant.Role))
	if err == nil {
		var ok bool
		if ok, err = may(); ok {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("role %s has to call set_config, which is not everybody's here: grant execute on it to the "+
		"login of the admin DSN, with grant option", ident(r.tenant.Role)))
}

// columnsSQL describes the columns of a schema's tables, to be compared.
const columnsSQL = `select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
 where n.nspname = $1 and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped order by 1`

// checkSchema looks into the catalog whether the tenant has all tables of the template.
func (r *run) checkSchema(ctx context.Context, tx pgx.Tx) error {
	if r.Create != nil {
		return nil // only Create knows
	}
	// With neither schema on the path, types of both are printed in full, and types of the template are refused anyway.
	if err := exec(ctx, tx, "set local search_path to pg_catalog"); err != nil {
		return err
	}
	columns := func(schema string) (map[string]bool, error) {
		rows, err := tx.Query(ctx, columnsSQL, schema)
		if err != nil {
			return nil, err
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		set := make(map[string]bool, len(list))
		for _, column := range list {
			set[column] = true
		}
		return set, err
	}
	want, err := columns(r.Template)
	if err != nil {
		return err
	}
	got, err := columns(r.tenant.Schema)
	if err != nil {
		return err
	}
	for column := range want {
		if !got[column] {
			return fmt.Errorf("%w: schema %s lacks %s of schema %s: a table of that name was there before: migrate it",
				ErrTemplate, ident(r.tenant.Schema), column, ident(r.Template))
		}
	}
	return nil
}
