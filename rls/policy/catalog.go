package policy

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// relation is a table, view, materialized view, foreign table or sequence, as the catalog has it.
type relation struct {
	OID                 uint32
	Schema, Name, Kind  string // Kind as in pg_class.relkind
	Owner               string
	RowSecurity, Forced bool
	Parents             []uint32 // what it is a partition or an inheritance child of
	HasTenant           bool     // it has the tenant column, and the next fields are about that
	Type                string
	Loose               string // its collation, if different texts are equal to that
	NotNull             bool
	Default             string
	Computed            bool // an identity or generated column takes no default
	ByTenant            bool // it is partitioned by the tenant column
	Invoker             string
	Indexed             bool   // an index begins with the tenant column
	Linked              bool   // of a sequence: its owner is that of its table
	UsedBy              uint32 // of a sequence: the table whose default takes values from it

	policies []storedPolicy
	grants   []grant
	rules    []string
	strays   []string    // partitions and children that the plan does not look at
	reads    []*relation // of a view: the tables that it reads, itself or through others
	beyond   bool        // of a view: it reads tables that the plan does not look at, too
}

const relationsSQL = `
select c.oid, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.relrowsecurity, c.relforcerowsecurity,
       array(select i.inhparent from pg_inherits i where i.inhrelid = c.oid order by i.inhseqno),
       a.attnum is not null, coalesce(format_type(a.atttypid, a.atttypmod), ''),
       coalesce((select l.collname from pg_collation l where l.oid = a.attcollation and not l.collisdeterministic), ''), coalesce(a.attnotnull, false),
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''), coalesce(a.attidentity <> '' or a.attgenerated <> '', false),
       coalesce(a.attnum = any (p.partattrs), false),
       coalesce((select option_value from pg_options_to_table(c.reloptions) where option_name = 'security_invoker'), ''),
       exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indpred is null and i.indkey[0] = a.attnum),
       exists (select from pg_depend l where l.classid = 'pg_class'::regclass and l.objid = c.oid and l.deptype in ('a', 'i')
                  and l.refclassid = 'pg_class'::regclass and c.relkind = 'S'),
       coalesce((select u.adrelid from pg_depend l join pg_attrdef u on u.oid = l.objid
                  where l.classid = 'pg_attrdef'::regclass and l.refclassid = 'pg_class'::regclass and l.refobjid = c.oid
                    and c.relkind = 'S' limit 1), 0)::oid
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join pg_attribute a on a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p')
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
  left join pg_partitioned_table p on p.partrelid = c.oid
 where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', $2)
   and (a.attnum is not null or not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e'))
 order by n.nspname, c.relname`

// storedPolicy is a policy as the server prints it.
type storedPolicy struct {
	Relation     uint32
	Name, Kind   string
	Command      string
	Roles        []string
	Using, Check string
}

const policiesSQL = `
select y.polrelid, y.polname, case when y.polpermissive then 'permissive' else 'restrictive' end,
       case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
       array(select case when r = 0 then 'public' else pg_get_userbyid(r)::text end from unnest(y.polroles) r order by 1),
       coalesce(pg_get_expr(y.polqual, y.polrelid), ''), coalesce(pg_get_expr(y.polwithcheck, y.polrelid), '')
  from pg_policy y order by y.polrelid, y.polname`

// grant is a right of PUBLIC, the app role or the maintenance role.
type grant struct {
	Relation  uint32
	Grantee   string // "" is PUBLIC
	Privilege string
	Column    string // a right on this column only
	Grantable bool
}

const (
	grantsSQL = `
select c.oid, case when g.grantee = 0 then '' else pg_get_userbyid(g.grantee) end, g.privilege_type, '', g.is_grantable
  from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) g
 where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and g.grantee <> c.relowner
   and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($1))
union all
select a.attrelid, case when g.grantee = 0 then '' else pg_get_userbyid(g.grantee) end, g.privilege_type, a.attname, g.is_grantable
  from pg_attribute a join pg_class c on c.oid = a.attrelid, aclexplode(a.attacl) g
 where g.grantee <> c.relowner and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($1))
 order by 1, 2, 3, 4`

	rulesSQL = `select ev_class, rulename from pg_rewrite where rulename <> '_RETURN' order by 1, 2`

	childrenSQL = `
select i.inhparent, c.oid, n.nspname || '.' || c.relname
  from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'f') order by 1, 3`

	// viewsSQL returns each view and materialized view with each table of whatever kind that it reads, itself or through others.
	viewsSQL = `
with recursive reads(view, base) as (
  select r.ev_class, d.refobjid from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
   where d.refobjid <> r.ev_class
), closure(view, base) as (
  select view, base from reads union select c.view, r.base from closure c join reads r on r.view = c.base
)
select c.view, c.base from closure c join pg_class v on v.oid = c.view join pg_class b on b.oid = c.base join pg_namespace n on n.oid = b.relnamespace
 where v.relkind in ('v', 'm') and b.relkind in ('r', 'p', 'f', 'm') and n.nspname not in ('pg_catalog', 'information_schema')`
)

// catalog is what a plan is made from.
type catalog struct {
	version   int
	database  string
	relations []*relation // without the schemas that are skipped
	byOID     map[uint32]*relation
	cluster   clusterState
}

func readCatalog(ctx context.Context, tx pgx.Tx, c Config) (*catalog, error) {
	cat := &catalog{byOID: map[uint32]*relation{}}
	if err := tx.QueryRow(ctx, `select current_setting('server_version_num')::int, current_database()`).Scan(&cat.version, &cat.database); err != nil {
		return nil, err
	}
	err := each(ctx, tx, func(r relation) {
		if !matches(c.SkipSchemas, r.Schema) {
			cat.relations = append(cat.relations, &r)
			cat.byOID[r.OID] = &r
		}
	}, relationsSQL, c.TenantColumn, RecordSchema)
	if err != nil {
		return nil, err
	}
	if err := each(ctx, tx, func(p storedPolicy) {
		if r := cat.byOID[p.Relation]; r != nil {
			r.policies = append(r.policies, p)
		}
	}, policiesSQL); err != nil {
		return nil, err
	}
	if err := each(ctx, tx, func(g grant) {
		if r := cat.byOID[g.Relation]; r != nil {
			r.grants = append(r.grants, g)
		}
	}, grantsSQL, []string{c.App, c.Maintenance}); err != nil {
		return nil, err
	}
	if err := each(ctx, tx, func(l struct {
		Relation uint32
		Name     string
	},
	) {
		if r := cat.byOID[l.Relation]; r != nil {
			r.rules = append(r.rules, l.Name)
		}
	}, rulesSQL); err != nil {
		return nil, err
	}
	if err := each(ctx, tx, func(c struct {
		Parent, Child uint32
		Name          string
	},
	) {
		if parent := cat.byOID[c.Parent]; parent != nil && cat.byOID[c.Child] == nil {
			parent.strays = append(parent.strays, c.Name)
		}
	}, childrenSQL); err != nil {
		return nil, err
	}
	if err := each(ctx, tx, func(v struct{ View, Base uint32 }) {
		switch view, base := cat.byOID[v.View], cat.byOID[v.Base]; {
		case view == nil:
		case base == nil:
			view.beyond = true
		default:
			view.reads = append(view.reads, base)
		}
	}, viewsSQL); err != nil {
		return nil, err
	}
	cat.cluster, err = readCluster(ctx, tx, c)
	return cat, err
}

// each calls take with each row.
func each[T any](ctx context.Context, tx pgx.Tx, take func(T), sql string, args ...any) error {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	for _, row := range all {
		take(row)
	}
	return err
}
