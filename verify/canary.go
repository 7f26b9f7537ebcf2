package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/rls"
)

// CanaryConfig says what a canary looks at. A and B are required; the other fields take the stated default when empty.
type CanaryConfig struct {
	A, B         string   // two tenants of models shared or partition that live in one database, with a row in each table that is to be watched
	TenantColumn string   // default "tenant_id"
	Tables       []string // patterns: no other table is looked at; default: all with the tenant column that tenants may read
	Except       []string // patterns of tables that are left out
	// Policies is the Policies of an earlier report: another one is a finding. Default: they are not compared.
	Policies string
}

// CanaryReport is what a canary saw. It is small: one line in a log.
type CanaryReport struct {
	OK        bool     `json:"ok"`
	Tables    int      `json:"tables"`            // that were looked at
	Unwatched []string `json:"unwatched"`         // tables in which a canary has no row, so that nothing is proved
	Findings  []string `json:"findings"`          // what is wrong
	Policies  string   `json:"policies"`          // a fingerprint of the policies of the tables
	Elapsed   int64    `json:"elapsed_ms"`        // milliseconds
	Shard     string   `json:"shard,omitempty"`   // for the caller to set
	Tenants   []string `json:"tenants,omitempty"` // the two
}

const (
	canaryTablesSQL = `
select format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and pg_catalog.has_schema_privilege(n.oid, 'USAGE') and pg_catalog.has_table_privilege(c.oid, 'SELECT') order by 2`

	policiesSQL = `
select pg_catalog.md5(coalesce(pg_catalog.string_agg(pg_catalog.concat_ws('|', c.oid::regclass, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole,
         (select pg_catalog.string_agg(pg_catalog.concat_ws('|', y.polname, y.polcmd, y.polpermissive, y.polroles::regrole[],
            pg_catalog.pg_get_expr(y.polqual, y.polrelid), pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid)), ';' order by y.polname)
            from pg_catalog.pg_policy y where y.polrelid = c.oid)), E'\n' order by n.nspname, c.relname), ''))
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped
 where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'`

	perStatement = 50 // tables
)

// Canary looks as each of two tenants whether rows of anybody else show, whether the driver refuses a statement without a
// tenant, and whether policies are what they were. It only reads, a few index lookups for each table, so it may run every
// minute while tenants work; set a deadline. It fails when it could not look, and that is not OK either.
func Canary(ctx context.Context, db *sql.DB, c CanaryConfig) (*CanaryReport, error) {
	begun := time.Now()
	if c.A == c.B || c.A == "" || c.B == "" {
		return nil, errors.New("verify: canary: name two tenants")
	}
	if c.TenantColumn == "" {
		c.TenantColumn = "tenant_id"
	}
	r := &CanaryReport{Unwatched: []string{}, Findings: []string{}, Tenants: []string{c.A, c.B}}
	if err := c.look(ctx, db, r); err != nil {
		return nil, fmt.Errorf("verify: canary: %w", err)
	}
	r.Elapsed = time.Since(begun).Milliseconds()
	r.OK = len(r.Findings) == 0 && len(r.Unwatched) < r.Tables
	return r, nil
}

func (c CanaryConfig) look(ctx context.Context, db *sql.DB, r *CanaryReport) error {
	if err := nobodys(ctx); err != nil {
		return err
	}
	a := shardedpg.WithTenant(ctx, c.A)
	tables, err := c.tables(a, db)
	if err != nil {
		return err
	}
	r.Tables = len(tables)
	if len(tables) == 0 {
		return fmt.Errorf("tenants may read no table with a column %q", c.TenantColumn)
	}
	own := map[string]bool{}
	for i, id := range []string{c.A, c.B} {
		seen, err := c.see(shardedpg.WithTenant(ctx, id), db, tables, id)
		if err != nil {
			return err
		}
		for t, s := range seen {
			if s.foreign {
				r.Findings = append(r.Findings, fmt.Sprintf("%s shows tenant %q rows of others", t, id))
			}
			own[t] = s.own && (i == 0 || own[t])
		}
	}
	for _, t := range tables {
		if !own[t.name] {
			r.Unwatched = append(r.Unwatched, t.name)
		}
	}
	var one int
	switch err := db.QueryRowContext(ctx, "select 1").Scan(&one); {
	case err == nil:
		r.Findings = append(r.Findings, "a statement without a tenant ran")
	case !errors.Is(err, shardedpg.ErrNoTenant):
		return err
	}
	if err := db.QueryRowContext(a, policiesSQL, c.TenantColumn).Scan(&r.Policies); err != nil {
		return short(err)
	}
	if c.Policies != "" && c.Policies != r.Policies {
		r.Findings = append(r.Findings, "policies, owners or row security of tables are not what they were: shardedpg rls apply --dry-run shows the difference to what they should be")
	}
	return nil
}

type canaryTable struct{ ident, name string }

func (c CanaryConfig) tables(ctx context.Context, db *sql.DB) (found []canaryTable, err error) {
	rows, err := db.QueryContext(ctx, canaryTablesSQL, c.TenantColumn)
	if err != nil {
		return nil, short(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var t canaryTable
		if err := rows.Scan(&t.ident, &t.name); err != nil {
			return nil, err
		}
		if !matches(c.Except, t.name) && (len(c.Tables) == 0 || matches(c.Tables, t.name)) {
			found = append(found, t)
		}
	}
	return found, rows.Err()
}

type sight struct{ own, foreign bool }

// see looks at many tables in one statement. An index that begins with the tenant gives both answers; where the policy is
// gone, the first row of somebody else ends the search.
func (c CanaryConfig) see(ctx context.Context, db *sql.DB, tables []canaryTable, id string) (map[string]sight, error) {
	seen := map[string]sight{}
	col := rls.QuoteIdent(c.TenantColumn) + "::text"
	for len(tables) > 0 {
		n := min(perStatement, len(tables))
		var parts []string
		for i, t := range tables[:n] {
			parts = append(parts, fmt.Sprintf("select %d, f, not f and exists (select from %s where %s = $1) from (select exists (select from %[2]s where %[3]s is distinct from $1) as f) x", i, t.ident, col))
		}
		if err := c.ask(ctx, db, strings.Join(parts, " union all "), id, func(i int, s sight) { seen[tables[i].name] = s }); err != nil {
			return nil, err
		}
		tables = tables[n:]
	}
	return seen, nil
}

func (c CanaryConfig) ask(ctx context.Context, db *sql.DB, query, id string, take func(i int, s sight)) error {
	rows, err := db.QueryContext(ctx, query, id)
	if err != nil {
		return short(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var i int
		var s sight
		if err := rows.Scan(&i, &s.foreign, &s.own); err != nil {
			return err
		}
		take(i, s)
	}
	return rows.Err()
}
