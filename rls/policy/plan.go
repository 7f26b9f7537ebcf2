package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Change is one property of one object.
type Change struct {
	Object   string   `json:"object"`   // "table app.orders"
	Property string   `json:"property"` // "policy shardedpg_tenant"
	Was      string   `json:"was"`      // empty: it has none
	Want     string   `json:"want"`     // empty: it shall have none
	Do       []string `json:"do"`
	Undo     []string `json:"undo,omitempty"` // empty: a rollback leaves it as it is

	Relation string `json:"relation,omitempty"` // the relation that Undo needs, if any
	OID      uint32 `json:"oid,omitempty"`      // of Relation: one that is made again has another
}

// Advice is what the generator does not do by itself, with the SQL for it.
type Advice struct {
	Object  string `json:"object"`
	Finding string `json:"finding"`
	SQL     string `json:"sql,omitempty"`
}

// Plan is how a database shall be, and what of it is so already.
type Plan struct {
	Config   Config   `json:"config"`
	Database string   `json:"database"`
	Changes  []Change `json:"changes"` // all properties, also those that are as they should be
	Problems []string `json:"problems"`
	Advice   []Advice `json:"advice"`
	Tables   int      `json:"tables"` // with a tenant
}

// Drift returns the changes whose property is not as it should be.
func (p *Plan) Drift() []Change {
	drift := []Change{}
	for _, c := range p.Changes {
		if c.Was != c.Want {
			drift = append(drift, c)
		}
	}
	return drift
}

// Read makes the plan of the database that conn is connected to, and changes nothing there. It needs the right to make
// temporary tables.
func Read(ctx context.Context, conn *pgx.Conn, c Config) (*Plan, error) {
	if err := c.withDefaults().check(); err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	tx, err := begin(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("rls: reading the catalog: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return read(ctx, tx, c)
}

// begin starts a transaction in which texts of the catalog are qualified, and no name of the generator's means something
// that a schema in the search path holds; pg_temp would come first if it were not named. Each statement sees what others
// have committed, whatever the owner of the database made the default: what is locked is looked at as it is then.
func begin(ctx context.Context, conn *pgx.Conn) (pgx.Tx, error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "set local search_path = pg_catalog, pg_temp"); err != nil {
		return nil, errors.Join(err, tx.Rollback(ctx))
	}
	return tx, nil
}

func read(ctx context.Context, tx pgx.Tx, c Config) (*Plan, error) {
	c = c.withDefaults()
	cat, err := readCatalog(ctx, tx, c)
	if err != nil {
		return nil, fmt.Errorf("rls: reading the catalog: %w", err)
	}
	types := map[string]bool{}
	for _, r := range cat.relations {
		if supported(r.Type) {
			types[r.Type] = true
		}
	}
	identity, err := readIdentity(ctx, tx, c)
	if err != nil {
		return nil, fmt.Errorf("rls: reading the tenant's identity: %w", err)
	}
	shapes, err := learn(ctx, tx, c, identity, types)
	if err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	p := &planner{Config: c, catalog: cat, shapes: shapes, wanted: map[uint32][]string{}, plan: &Plan{
		Config: c, Database: cat.database, Changes: []Change{}, Problems: []string{}, Advice: []Advice{},
	}}
	p.relationsInPlay()
	p.rolesAndRights()
	if c.Identity == Signed {
		p.signed(identity)
	}
	for _, r := range p.relations {
		p.relation(r)
	}
	p.groupRights()
	if c.Lockdown {
		p.lockdown()
	}
	if p.plan.Tables == 0 {
		p.problem("database %q has no table with a column %q: name the column, or the tables, or connect to the database of the tenants",
			cat.database, c.TenantColumn)
	}
	if err := p.keys(ctx, tx); err != nil {
		return nil, fmt.Errorf("rls: reading keys: %w", err)
	}
	return p.plan, nil
}

// planner fills a plan.
type planner struct {
	Config
	*catalog
	shapes    map[string]printed
	relations []*relation         // those that the plan is about
	wanted    map[uint32][]string // what the app role may do with them
	plan      *Plan
}

func (p *planner) add(c Change) { p.plan.Changes = append(p.plan.Changes, c) }

func (p *planner) problem(format string, args ...any) {
	p.plan.Problems = append(p.plan.Problems, fmt.Sprintf(format, args...))
}

func (p *planner) advise(object, finding, sql string) {
	p.plan.Advice = append(p.plan.Advice, Advice{object, finding, sql})
}

// Script is the whole plan as a script for psql. It may be run again, and on a database that already has part of it.
func (p *Plan) Script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "-- Keeps the tenants of database %s apart: %d tables with column %s, role %s.\n", line(p.Database), p.Tables, line(p.Config.TenantColumn), line(p.Config.App))
	for _, problem := range p.Problems {
		fmt.Fprintf(&b, "-- PROBLEM: %s\n", line(problem))
	}
	b.WriteString("begin;\nset local lock_timeout = '5s';\nset local search_path = pg_catalog, pg_temp;\n")
	object := ""
	for _, c := range p.Changes {
		if c.Object != object {
			object = c.Object
			fmt.Fprintf(&b, "\n-- %s\n", line(object))
		}
		for _, statement := range c.Do {
			b.WriteString(statement + ";\n")
		}
	}
	b.WriteString("\ncommit;\n")
	if len(p.Advice) > 0 {
		b.WriteString("\n-- Not part of the above: look at each, and run it by itself.\n")
	}
	for _, a := range p.Advice {
		fmt.Fprintf(&b, "-- %s: %s\n", line(a.Object), line(a.Finding))
		for _, text := range strings.FieldsFunc(a.SQL, func(r rune) bool { return r == '\n' || r == '\r' }) { // both end a comment
			b.WriteString("--   " + text + "\n")
		}
	}
	return b.String()
}

// Diff shows the drift: what is there with a minus, what should be with a plus.
func (p *Plan) Diff() string { return Diff(p.Drift()) }

// Diff shows changes as Plan.Diff does.
func Diff(changes []Change) string {
	var b strings.Builder
	object := ""
	for _, c := range changes {
		if c.Object != object {
			object = c.Object
			b.WriteString(line(object) + "\n")
		}
		if c.Was != "" {
			fmt.Fprintf(&b, "  - %s: %s\n", line(c.Property), line(c.Was))
		}
		if c.Want != "" {
			fmt.Fprintf(&b, "  + %s: %s\n", line(c.Property), line(c.Want))
		}
	}
	return b.String()
}

// line keeps a name with a line break in it from ending a comment.
func line(text string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(text) }
