package verify

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
)

// table is one with the tenant column, or one that others refer to.
type table struct {
	OID          uint32
	Schema, Name string
	Kind         string
	Root         uint32 // of a partition or an inheritance child: the table at the top; 0 for others
	Type         string // of the tenant column; "" if there is none
	ByList       bool   // partitioned by LIST of the tenant column, and no default partition takes tenants without one of their own

	columns []column
	keys    []key
	foreign []foreignKey

	rows   [2]row // of the attacker and the victim
	reason string // why there are none
	seeded bool   // that was tried
}

// row is one that was made, as texts.
type row struct {
	values map[string]*string
	ctid   string
	tid    string // of the table that it is in, which may be a partition
}

type column struct {
	Table                        uint32
	Name, Type                   string // Type as in a cast
	Required, Default, Generated bool
	Base, Kind, Category         string // typname, typtype and typcategory below domains
	Label                        string // the first one of an enum
	Length                       int32  // of varchar(n) and char(n)
}

// key is a unique index.
type key struct {
	Table   uint32
	Name    string
	Primary bool
	Plain   bool     // of columns, and for all rows
	Columns []string // also those of its expressions and its predicate
}

type foreignKey struct {
	Table, Parent uint32
	Name          string
	From, To      []string
}

const (
	tablesSQL = `
with recursive top(oid, root) as (
  select i.inhrelid, i.inhparent from pg_inherits i union select t.oid, i.inhparent from top t join pg_inherits i on i.inhrelid = t.root),
roots(oid, root) as (
  select t.oid, min(t.root) from top t join pg_attribute a on a.attrelid = t.root and a.attname = $1 and not a.attisdropped
   where not exists (select from pg_inherits i where i.inhrelid = t.root) group by 1)
select c.oid, n.nspname, c.relname, c.relkind::text, coalesce(r.root, 0)::oid,
       coalesce(format_type(a.atttypid, a.atttypmod), ''),
       coalesce(p.partstrat = 'l' and p.partnatts = 1 and p.partattrs[0] = a.attnum and p.partdefid = 0, false)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join pg_attribute a on a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped
  left join pg_partitioned_table p on p.partrelid = c.oid left join roots r on r.oid = c.oid
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
 order by n.nspname, c.relname`

	columnsSQL = `
select a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull or t.typnotnull, a.atthasdef or a.attidentity <> '',
       a.attgenerated <> '', b.typname, b.typtype::text, b.typcategory::text,
       coalesce((select e.enumlabel from pg_enum e where e.enumtypid = b.oid order by e.enumsortorder limit 1), ''),
       case when b.typname in ('varchar', 'bpchar') then greatest(case when t.typtype = 'd' then t.typtypmod else a.atttypmod end - 4, 0) else 0 end
  from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_type t on t.oid = a.atttypid join pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
 where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
 order by a.attrelid, a.attnum`

	keysSQL = `
select i.indrelid, c.relname, i.indisprimary, i.indexprs is null and i.indpred is null,
       array(select a.attname from pg_attribute a where a.attrelid = i.indrelid and not a.attisdropped and a.attnum > 0
                and (a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                  or (i.indexprs is not null or i.indpred is not null) and exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                        and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid and d.refobjsubid = a.attnum)) order by a.attnum)
  from pg_index i join pg_class c on c.oid = i.indexrelid where i.indisunique and i.indisvalid order by not i.indisprimary, c.relname`

	foreignSQL = `
select f.conrelid, f.confrelid, f.conname,
       array(select a.attname from unnest(f.conkey) with ordinality k(n, i) join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.n order by i),
       array(select a.attname from unnest(f.confkey) with ordinality k(n, i) join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.n order by i)
  from pg_constraint f where f.contype = 'f' and f.conparentid = 0 order by f.conrelid, f.conname`
)

// catalog is what the run is about.
type catalog struct {
	Config
	version int
	server  string
	app     string    // the role of tenants' statements
	schemas [2]string // of the two tenants of model schema
	roles   [2]string // roles belong to the server: they are named after the database
	tables  []*table
	byOID   map[uint32]*table
}

func readCatalog(ctx context.Context, conn *pgx.Conn, c Config) (*catalog, error) {
	cfg, err := connstring.Parse(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("the DSN of tenants' statements is no connection string")
	}
	cat := &catalog{Config: c, app: cfg.User, byOID: map[uint32]*table{}}
	var oid uint32
	if err := conn.QueryRow(ctx, `select current_setting('server_version_num')::int, current_setting('server_version'),
 (select oid from pg_database where datname = current_database())`).Scan(&cat.version, &cat.server, &oid); err != nil {
		return nil, err
	}
	for i, letter := range []string{"a", "b"} {
		cat.schemas[i] = "shardedpg_verify_" + letter
		cat.roles[i] = fmt.Sprintf("%s_%d", cat.schemas[i], oid)
	}
	if err := each(ctx, conn, func(t table) {
		cat.tables = append(cat.tables, &t)
		cat.byOID[t.OID] = &t
	}, tablesSQL, c.TenantColumn); err != nil {
		return nil, err
	}
	if err := each(ctx, conn, func(col column) {
		if t := cat.byOID[col.Table]; t != nil {
			t.columns = append(t.columns, col)
		}
	}, columnsSQL); err != nil {
		return nil, err
	}
	if err := each(ctx, conn, func(k key) {
		if t := cat.byOID[k.Table]; t != nil {
			t.keys = append(t.keys, k)
		}
	}, keysSQL); err != nil {
		return nil, err
	}
	return cat, each(ctx, conn, func(f foreignKey) {
		if t := cat.byOID[f.Table]; t != nil {
			t.foreign = append(t.foreign, f)
		}
	}, foreignSQL)
}

// each calls take with each row.
func each[T any](ctx context.Context, conn *pgx.Conn, take func(T), sql string, args ...any) error {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	for _, row := range all {
		take(row)
	}
	return err
}

func (t *table) name() string  { return t.Schema + "." + t.Name }
func (t *table) ident() string { return ident(t.Schema, t.Name) }
func (t *table) id() string    { return strconv.FormatUint(uint64(t.OID), 10) }

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

func (t *table) column(name string) *column {
	i := slices.IndexFunc(t.columns, func(c column) bool { return c.Name == name })
	return &t.columns[i]
}

// alone reports whether a table is in a schema that is left alone.
func (c *catalog) alone(t *table) bool {
	return matches(c.SkipSchemas, t.Schema) || slices.Contains(c.schemas[:], t.Schema)
}

// targets are the tables of tenants that the run attacks, tables before their parts.
func (c *catalog) targets() (found []*table) {
	for _, t := range c.tables {
		if t.Type != "" && !c.alone(t) && !c.skipped(t.name()) && (len(c.Tables) == 0 || matches(c.Tables, t.name())) {
			found = append(found, t)
		}
	}
	slices.SortStableFunc(found, func(a, b *table) int { return min(1, int(a.Root)) - min(1, int(b.Root)) })
	return found
}
