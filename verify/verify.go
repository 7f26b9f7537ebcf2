package verify

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/rls"
)

// Config says what to break into. DSN and AdminDSN are required; the other fields take the stated default when empty.
//
// Patterns are compared with schema.name; * stands for any characters, as in "app.log_*".
type Config struct {
	Shard    string // name of the shard, for the report
	DSN      string // secret; what tenants' statements use
	AdminDSN string // secret; of a superuser, or of a role that has BYPASSRLS or may become one: it makes rows where tenants may not, and removes all
	Database string // default: the one that DSN names

	TenantColumn string   // default "tenant_id"
	Template     string   // schema that tenants of model schema are copied from, if it is there; default "tenant_template"
	GUC          string   // the tenant setting; default [rls.DefaultGUC]
	Tables       []string // patterns: no other table is tried; default: all with the tenant column
	Except       []string // patterns of tables, views and functions that are left out
	Global       []string // patterns of relations that are meant to show rows of all tenants
	SkipSchemas  []string // patterns of schemas that are left alone; default "sharded_pg" and "tenant_*": the registry's, and schema tenants'

	// StatementTimeout is the longest that one attack may take, so that none burdens the server. Default 5s.
	StatementTimeout time.Duration
	// Driver adjusts the driver that the attacks go through, so that it is configured as the programs' is. Store, pool and
	// GUC are the run's own.
	Driver func(*shardedpg.Config)
}

// Outcome of an attack.
type Outcome string

// The outcomes; see the package documentation.
const (
	Held     Outcome = "held"
	Broken   Outcome = "broken"
	Known    Outcome = "known"
	NotTried Outcome = "not tried"
)

// Result is one attack on one object.
type Result struct {
	Object  string  `json:"object"` // schema.table, or what else was attacked
	Attack  string  `json:"attack"`
	Outcome Outcome `json:"outcome"`
	Detail  string  `json:"detail,omitempty"` // what got through, or why it was not tried
}

// Report is what a run on one database found.
type Report struct {
	Shard    string   `json:"shard,omitempty"`
	Database string   `json:"database"`
	Version  string   `json:"version"`
	Tables   int      `json:"tables"` // that were attacked
	Results  []Result `json:"results"`
	Notes    []string `json:"notes"`
	Left     []string `json:"left"` // what could not be removed, and why
}

// Count returns how many attacks had the outcome.
func (r *Report) Count(o Outcome) (n int) {
	for _, one := range r.Results {
		if one.Outcome == o {
			n++
		}
	}
	return n
}

// Proved reports whether every attack was tried, none got through but those that nothing stops, and nothing is left.
func (r *Report) Proved() bool {
	return r.Count(Broken)+r.Count(NotTried)+len(r.Left) == 0 && r.Count(Held) > 0
}

// IDs returns the reserved IDs of the attacker and of the victim for tenant columns of a type: uuid, text, bigint or integer.
// A real tenant must not have one. It is false for other types.
func IDs(columnType string) (attacker, victim string, ok bool) {
	switch columnType {
	case "uuid":
		return "5ba2ded0-7e57-4000-8000-00000000000a", "5ba2ded0-7e57-4000-8000-00000000000b", true
	case "bigint":
		return "-7135500000000000001", "-7135500000000000002", true
	case "integer":
		return "-2135500001", "-2135500002", true
	}
	if columnType == "text" || strings.HasPrefix(columnType, "character varying") {
		return "shardedpg-verify-a", "shardedpg-verify-b", true
	}
	return "", "", false
}

func (c Config) withDefaults() (Config, error) {
	app, err := connstring.Parse(c.DSN)
	if err != nil || c.DSN == "" { // pgx's text has parts of the DSN in it
		return c, errors.New("the DSN of tenants' statements is no connection string")
	}
	or := func(to *string, values ...string) {
		for _, value := range values {
			if *to == "" {
				*to = value
			}
		}
	}
	or(&c.Database, app.Database, app.User)
	or(&c.TenantColumn, "tenant_id")
	or(&c.Template, "tenant_template")
	or(&c.GUC, rls.DefaultGUC)
	or(&c.Shard, "verify")
	if len(c.SkipSchemas) == 0 {
		c.SkipSchemas = []string{"sharded_pg", "tenant_*"}
	}
	if c.StatementTimeout <= 0 {
		c.StatementTimeout = 5 * time.Second
	}
	for _, p := range slices.Concat(c.Tables, c.Except, c.Global, c.SkipSchemas) {
		if _, err := path.Match(p, ""); err != nil {
			return c, fmt.Errorf("pattern %q is malformed: write schema.name, with * for any characters", p)
		}
	}
	return c, rls.CheckGUC(c.GUC)
}

// nobodys refuses a context that carries a tenant: the statement without one would have it.
func nobodys(ctx context.Context) error {
	if tenant, ok := shardedpg.TenantFrom(ctx); ok {
		return fmt.Errorf("the context already carries tenant %q: give one without", tenant)
	}
	return nil
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok })
}

// skipped reports whether the run leaves a relation or function alone.
func (c Config) skipped(name string) bool { return matches(c.Except, name) }

// admin runs work on an administrator's connection, alone on this database. Rows of all tenants are in its reach.
func (c Config) admin(ctx context.Context, work func(conn *pgx.Conn) error) error {
	cfg, err := connstring.Parse(c.AdminDSN)
	if err != nil || c.AdminDSN == "" {
		return errors.New("the admin DSN is no connection string")
	}
	cfg.Database = c.Database
	conn, err := hosts.Connect(ctx, cfg)
	if err != nil {
		return connerr.Failed(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if err := c.prepare(ctx, conn); err != nil {
		return err
	}
	return work(conn)
}

const (
	lockWait = "10s" // a run that was killed ends on the server a moment later

	exemptSQL = `select rolname from pg_roles where (rolsuper or rolbypassrls) and pg_has_role(current_user, oid, 'MEMBER')
 order by rolname = current_user desc, rolsuper, rolname limit 1`
)

func (c Config) prepare(ctx context.Context, conn *pgx.Conn) error {
	var role string
	switch err := conn.QueryRow(ctx, exemptSQL).Scan(&role); {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("the admin login neither passes policies nor may become a role that does: use a superuser's, or grant it the maintenance role")
	case err != nil:
		return err
	}
	for _, statement := range []string{
		"set search_path = pg_catalog, pg_temp", "set lock_timeout = '" + lockWait + "'", "set statement_timeout = '60s'", "set role " + rls.QuoteIdent(role),
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, "select pg_advisory_lock(hashtextextended('sharded-pg rls verify', 0))")
	if code(err) == "55P03" {
		return errors.New("another run works on this database: wait until it has ended")
	}
	return err
}

// code is the SQLSTATE of an error of the server, "" of others.
func code(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// Cleanup removes what a run left that was killed. It returns what it removed, and what it could not.
func Cleanup(ctx context.Context, c Config) (removed, left []string, err error) {
	if c, err = c.withDefaults(); err == nil {
		err = c.admin(ctx, func(conn *pgx.Conn) error {
			cat, err := readCatalog(ctx, conn, c)
			if err != nil {
				return err
			}
			removed, left, err = cat.remove(ctx, conn)
			return err
		})
	}
	if err != nil {
		return nil, nil, fmt.Errorf("verify: cleanup: %w", err)
	}
	return removed, left, nil
}
