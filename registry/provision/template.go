package provision

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	// uncopiedSQL names what a template holds that copyTemplate does not copy.
	uncopiedSQL = `select kind || ' ' || name from (
  select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'p' then 'partitioned table' when 'f' then 'foreign table' end as kind,
         c.relname::text as name, c.relnamespace as nsp
    from pg_class c where c.relkind in ('v', 'm', 'p', 'f')
  union all select 'function', p.proname::text, p.pronamespace from pg_proc p
  union all select 'trigger', t.tgname::text, c.relnamespace from pg_trigger t join pg_class c on c.oid = t.tgrelid where not t.tgisinternal
  union all select 'policy', y.polname::text, c.relnamespace from pg_policy y join pg_class c on c.oid = y.polrelid
  union all select 'type', t.typname::text, t.typnamespace from pg_type t
    where t.typtype in ('e', 'd', 'r') or t.typtype = 'c' and (select c.relkind = 'c' from pg_class c where c.oid = t.typrelid)
) o where nsp = to_regnamespace($1) order by 1 limit 5`

	templateTablesSQL = `select c.relname from pg_class c where c.relnamespace = to_regnamespace($1) and c.relkind = 'r' order by 1`

	// sequencesSQL finds sequences other than those of identity columns, which LIKE makes.
	sequencesSQL = `select c.relname, format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle
  from pg_class c join pg_sequence s on s.seqrelid = c.oid
 where c.relnamespace = to_regnamespace($1)
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i')
 order by 1`

	// The next two print names of the template without its schema, because it is on the search_path when they run.
	defaultsSQL = `select c.relname, a.attname, pg_get_expr(d.adbin, d.adrelid)
  from pg_attrdef d join pg_class c on c.oid = d.adrelid join pg_attribute a on a.attrelid = c.oid and a.attnum = d.adnum
 where c.relnamespace = to_regnamespace($1) and c.relkind = 'r' and a.attgenerated = '' and pg_get_expr(d.adbin, d.adrelid) ~ 'nextval'
 order by 1, 2`

	foreignKeysSQL = `select c.relname, k.conname, pg_get_constraintdef(k.oid)
  from pg_constraint k join pg_class c on c.oid = k.conrelid
 where c.relnamespace = to_regnamespace($1) and k.contype = 'f' order by 1, 2`

	// ownedSQL finds the columns that own a sequence, which then goes with its table.
	ownedSQL = `select s.relname, c.relname, a.attname
  from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_class c on c.oid = d.refobjid
  join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
 where d.classid = 'pg_class'::regclass and d.deptype = 'a' and s.relnamespace = to_regnamespace($1) order by 1`
)

// copyTemplate makes the tables of the template in the tenant's schema: columns, defaults, identities, indexes,
// constraints, comments and foreign keys, with sequences of their own. What it cannot copy it refuses.
func (r *run) copyTemplate(ctx context.Context, tx pgx.Tx) error {
	from, to := ident(r.Template), ident(r.tenant.Schema)
	tables, err := r.templateTables(ctx, tx)
	if err != nil {
		return err
	}
	if err := r.copySequences(ctx, tx, from, to); err != nil {
		return err
	}
	made := make(map[string]bool, len(tables))
	for _, name := range tables {
		var there bool
		if err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, ident(r.tenant.Schema, name)).Scan(&there); err != nil {
			return err
		}
		if there {
			continue // checkSchema compares it
		}
		if err := exec(ctx, tx, fmt.Sprintf("create table %s (like %s including all)",
			ident(r.tenant.Schema, name), ident(r.Template, name))); err != nil {
			return err
		}
		made[name] = true
	}
	return r.copyReferences(ctx, tx, made)
}

func texts(ctx context.Context, tx pgx.Tx, query string, args ...any) ([]string, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (r *run) copySequences(ctx context.Context, tx pgx.Tx, from, to string) error {
	type sequence struct {
		Name, Type                        string
		Start, Increment, Min, Max, Cache int64
		Cycle                             bool
	}
	rows, err := tx.Query(ctx, sequencesSQL, from)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sequence])
	if err != nil {
		return err
	}
	for _, s := range found {
		cycle := "no cycle"
		if s.Cycle {
			cycle = "cycle"
		}
		if err := exec(ctx, tx, fmt.Sprintf("create sequence if not exists %s.%s as %s increment %d minvalue %d maxvalue %d start %d cache %d %s",
			to, ident(s.Name), s.Type, s.Increment, s.Min, s.Max, s.Start, s.Cache, cycle)); err != nil {
			return err
		}
	}
	return nil
}

// copyReferences points defaults and foreign keys of the new tables at what is beside them: LIKE leaves the template's
// sequences in defaults and copies no foreign keys. PostgreSQL prints names that the search_path finds without their
// schema, so what it prints with the template on the path means the tenant's with the tenant's schema there.
func (r *run) copyReferences(ctx context.Context, tx pgx.Tx, made map[string]bool) error {
	if err := exec(ctx, tx, "set local search_path to "+ident(r.Template)); err != nil {
		return err
	}
	type reference struct{ Table, Name, Definition string }
	read := func(query string) ([]reference, error) {
		rows, err := tx.Query(ctx, query, ident(r.Template))
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[reference])
	}
	defaults, err := read(defaultsSQL)
	if err != nil {
		return err
	}
	keys, err := read(foreignKeysSQL)
	if err != nil {
		return err
	}
	owned, err := read(ownedSQL)
	if err != nil {
		return err
	}
	statements := []string{"set local search_path to " + ident(r.tenant.Schema)}
	for _, d := range defaults {
		if made[d.Table] {
			statements = append(statements, fmt.Sprintf("alter table %s alter column %s set default %s", ident(d.Table), ident(d.Name), d.Definition))
		}
	}
	for _, k := range keys {
		if made[k.Table] {
			statements = append(statements, fmt.Sprintf("alter table %s add constraint %s %s", ident(k.Table), ident(k.Name), k.Definition))
		}
	}
	for _, o := range owned {
		if made[o.Name] {
			statements = append(statements, fmt.Sprintf("alter sequence %s owned by %s", ident(o.Table), ident(o.Name, o.Definition)))
		}
	}
	return exec(ctx, tx, statements...)
}
