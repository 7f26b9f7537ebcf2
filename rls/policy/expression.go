package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls"
)

// tenantTypes are the types that a tenant column may have. Others would need a cast of the column, which no index serves.
var tenantTypes = []string{"uuid", "text", "bigint", "integer"}

// value is the tenant that is in force, as a value of the type, or null if there is none. In a session that had a tenant
// before, the setting is empty and not null. An integer has many spellings (1, 01, +1), and tenants of different names must
// not be one: all but the shortest are nobody.
func value(guc, typ string) string { return typed("current_setting("+literal(guc)+", true)", typ) }

func typed(setting, typ string) string {
	switch typ {
	case "bigint", "integer":
		return "substring(" + setting + ", '^(0|-?[1-9][0-9]*)$')::" + typ
	case "uuid":
		return "nullif(" + setting + ", '')::uuid"
	}
	return "nullif(" + setting + ", '')"
}

// condition is that a row is the tenant's. The column's default is the setting in any case: it costs less for each row, and
// what it says of another tenant is refused by the condition.
//
// In a sub-select the tenant is looked up once for each statement, and a cached plan
// does not carry one tenant's estimates to another. A table partitioned by the tenant needs the bare form: with it
// PostgreSQL opens no other partition at all.
func condition(c Config, typ string, bare bool) string {
	expr := value(c.GUC, typ)
	if c.Identity == Signed {
		expr = typed(tenantFunction, typ)
	}
	if !bare {
		expr = "(select " + expr + ")"
	}
	return rls.QuoteIdent(c.TenantColumn) + " = " + expr
}

// printed is how this server prints what the generator writes, so that both can be compared.
type printed struct{ wrapped, bare, value string }

// learn asks the server, with a temporary table for each type that it drops again. search_path must be pg_catalog.
func learn(ctx context.Context, tx pgx.Tx, c Config, s identityState, types map[string]bool) (map[string]printed, error) {
	known := map[string]printed{}
	for _, typ := range slices.Sorted(maps.Keys(types)) {
		p, err := learnType(ctx, tx, c, s, typ)
		if err != nil {
			return nil, fmt.Errorf("asking the server how it prints policies: %w", err)
		}
		known[typ] = p
	}
	return known, nil
}

func learnType(ctx context.Context, tx pgx.Tx, c Config, s identityState, typ string) (p printed, err error) {
	trial, err := tx.Begin(ctx)
	if err != nil {
		return p, err
	}
	defer func() { _ = trial.Rollback(ctx) }()
	const table = "pg_temp.shardedpg_shape"
	var statements []string
	if c.Identity == Signed && s.tenant == "" { // a policy can only name what is there
		statements = append(statements, "create schema if not exists "+RecordSchema,
			"create function "+tenantFunction+" returns text language sql stable as 'select null::text'")
	}
	for _, statement := range append(statements,
		"create temporary table shardedpg_shape ("+rls.QuoteIdent(c.TenantColumn)+" "+typ+" default "+value(c.GUC, typ)+")",
		"create policy wrapped on "+table+" using ("+condition(c, typ, false)+")",
		"create policy bare on "+table+" using ("+condition(c, typ, true)+")",
	) {
		if _, err := trial.Exec(ctx, statement); err != nil {
			return p, err
		}
	}
	err = trial.QueryRow(ctx, `select
  (select pg_get_expr(polqual, polrelid) from pg_policy where polrelid = $1::regclass and polname = 'wrapped'),
  (select pg_get_expr(polqual, polrelid) from pg_policy where polrelid = $1::regclass and polname = 'bare'),
  (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = $1::regclass)`, table).Scan(&p.wrapped, &p.bare, &p.value)
	return p, err
}

// literal quotes a text constant, whatever standard_conforming_strings is.
func literal(text string) string {
	quoted := strings.ReplaceAll(text, "'", "''")
	if strings.Contains(quoted, `\`) {
		return "E'" + strings.ReplaceAll(quoted, `\`, `\\`) + "'"
	}
	return "'" + quoted + "'"
}

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }
