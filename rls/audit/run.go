package audit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls"
)

// Config says what to look at. Only App is required; the other fields take the stated default when empty.
type Config struct {
	App           []string // roles that tenants' statements run as
	TenantColumn  string   // default "tenant_id"
	GUC           string   // the tenant setting; default [rls.DefaultGUC]
	Global        []string // patterns (schema.table, * for any characters) of relations that all tenants may read
	TenantSchemas string   // regular expression of the names of schemas of tenants; default: tenant_ in front, but for the template
	Level         Level    // default [Standard]

	version int // instead of the server's own, for tests
}

// Finding is one fault of one object.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	Object   string   `json:"object"`
	Detail   string   `json:"detail"`
	Why      string   `json:"why"`
	Fix      string   `json:"fix"`
	Accepted string   `json:"accepted,omitempty"` // why it does not count: a waiver's reason, or the level
}

// Report is what an audit of one database found.
type Report struct {
	Shard    string    `json:"shard,omitempty"` // for the caller to set
	Database string    `json:"database"`
	Version  string    `json:"version"`
	Tables   int       `json:"tables"`   // with the tenant column
	Findings []Finding `json:"findings"` // worst first
	NotRun   []string  `json:"not_run"`  // rules that could not be run, and why: they may have found anything
	Notes    []string  `json:"notes"`    // about waivers
}

// Worst returns the severity of the worst finding that is not accepted. A rule that could not be run counts as its own.
func (r *Report) Worst() Severity {
	worst := None
	for _, f := range r.Findings {
		if f.Accepted == "" && f.Severity.AtLeast(worst) {
			worst = f.Severity
		}
	}
	for _, n := range r.NotRun {
		for _, rule := range Rules() {
			if strings.HasPrefix(n, rule.ID) && rule.Severity.AtLeast(worst) {
				worst = rule.Severity
			}
		}
	}
	return worst
}

// Beginner starts the audit's transaction; connections and transactions of pgx are ones.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Run runs all rules. It fails when the database cannot be asked, and when there is nothing to audit: no app role of that
// name, or no table with the tenant column.
func Run(ctx context.Context, db Beginner, c Config) (*Report, error) {
	report, err := c.run(ctx, db, Rules())
	if err != nil {
		return nil, fmt.Errorf("rls: audit: %w", err)
	}
	return report, nil
}

func (c Config) run(ctx context.Context, db Beginner, rules []Rule) (*Report, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := c.prepare(ctx, tx); err != nil {
		return nil, err
	}
	r := &Report{Findings: []Finding{}, NotRun: []string{}, Notes: []string{}}
	if err := c.check(ctx, tx, r); err != nil {
		return nil, err
	}
	for _, rule := range rules {
		found, err := c.one(ctx, tx, rule)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			r.NotRun = append(r.NotRun, fmt.Sprintf("%s: %v", rule.ID, err))
		}
		r.Findings = append(r.Findings, found...)
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return slices.Index(severities, b.Severity) - slices.Index(severities, a.Severity)
	})
	return r, nil
}

// prepare puts the configuration in force for the transaction. search_path is pg_catalog and pg_temp last, so that texts of the catalog name
// schemas.
func (c Config) prepare(ctx context.Context, tx pgx.Tx) error {
	if len(c.App) == 0 {
		return errors.New("which app role? Name the role that tenants' statements run as")
	}
	or := func(value, standard string) string {
		if value == "" {
			return standard
		}
		return value
	}
	guc := or(c.GUC, rls.DefaultGUC)
	if err := rls.CheckGUC(guc); err != nil {
		return err
	}
	version := ""
	if c.version != 0 {
		version = fmt.Sprint(c.version)
	}
	if _, err := tx.Exec(ctx, "set local transaction_read_only = on"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `select set_config(k, v, true) from unnest($1::text[], $2::text[]) s(k, v)`,
		[]string{
			"search_path", "audit.app_roles", "audit.tenant_column", "audit.guc", "audit.ctx_schema", "audit.global",
			"audit.tenant_schemas", "audit.version",
		},
		[]string{
			"pg_catalog, pg_temp", strings.Join(c.App, "\x1f"), or(c.TenantColumn, "tenant_id"), guc, "shardedpg", patterns(c.Global),
			or(c.TenantSchemas, `^tenant_(?!template$)`), version,
		})
	return err
}

// patterns makes one regular expression of patterns.
func patterns(globs []string) string {
	var all []string
	for _, g := range globs {
		all = append(all, strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(g)))
	}
	return "^(" + strings.Join(all, "|") + ")$" // without any it matches no name: none is empty
}

// check refuses a database in which the rules would find nothing because they look past it.
func (c Config) check(ctx context.Context, tx pgx.Tx, r *Report) error {
	var missing []string
	err := tx.QueryRow(ctx, head+`select (select datname from here), current_setting('server_version'), (select count(*) from ttab),
  array(select n from cfg, unnest(cfg.roles) n where n not in (select rolname from pool))`).Scan(&r.Database, &r.Version, &r.Tables, &missing)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		return fmt.Errorf("the server of database %q has no role %q: name the role that tenants' statements run as", r.Database, missing)
	case r.Tables == 0:
		return fmt.Errorf("database %q has no table with the tenant column: name the column, or connect to the database of the tenants", r.Database)
	}
	return nil
}

// one runs a rule in a savepoint, so that the next one can run when it fails.
func (c Config) one(ctx context.Context, tx pgx.Tx, rule Rule) (found []Finding, err error) {
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, head+rule.query)
		if err != nil {
			return err
		}
		type fault struct{ Object, Detail string }
		faults, err := pgx.CollectRows(rows, pgx.RowToStructByPos[fault])
		for _, f := range faults {
			finding := Finding{
				Rule: rule.ID, Severity: rule.Severity, Title: rule.Title, Object: f.Object, Detail: f.Detail,
				Why: rule.Why, Fix: rule.fix(f.Object, strings.Join(c.App, ", ")),
			}
			if rule.Level == Hardened && c.Level != Hardened {
				finding.Accepted = "level standard: takes a superuser"
			}
			found = append(found, finding)
		}
		slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Object+a.Detail, b.Object+b.Detail) })
		return err
	})
	return found, err
}
