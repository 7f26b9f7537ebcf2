package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Run makes the two tenants' rows, attacks, and removes everything again, also when ctx ends. It fails when the database
// cannot be worked on; what an attack shows is in the report. Runs on one database do not overlap: one that finds another at
// work waits, and fails after ten seconds.
func Run(ctx context.Context, c Config) (*Report, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if err := nobodys(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	var report *Report
	err = c.admin(ctx, func(conn *pgx.Conn) error {
		cat, err := readCatalog(ctx, conn, c)
		if err != nil {
			return err
		}
		report = &Report{Shard: c.Shard, Database: c.Database, Version: cat.server, Results: []Result{}, Notes: []string{}, Left: []string{}}
		return cat.run(ctx, conn, report)
	})
	if err != nil {
		return nil, fmt.Errorf("verify: database %q: %w", c.Database, err)
	}
	return report, nil
}

// Plan is what a run would do.
type Plan struct {
	Shard    string   `json:"shard,omitempty"`
	Database string   `json:"database"`
	Tenants  []string `json:"tenants"` // the reserved IDs that rows would be made with
	Tables   []string `json:"tables"`
}

// Read returns what Run would attack, and changes nothing.
func Read(ctx context.Context, c Config) (*Plan, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	p := &Plan{Shard: c.Shard, Database: c.Database, Tenants: []string{}, Tables: []string{}}
	err = c.admin(ctx, func(conn *pgx.Conn) error {
		cat, err := readCatalog(ctx, conn, c)
		if err != nil {
			return err
		}
		for _, pair := range cat.pairs() {
			p.Tenants = append(p.Tenants, pair[:]...)
		}
		for _, t := range cat.targets() {
			p.Tables = append(p.Tables, t.name())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify: database %q: %w", c.Database, err)
	}
	return p, nil
}

func (c *catalog) run(ctx context.Context, conn *pgx.Conn, report *Report) (err error) {
	if len(c.targets()) == 0 && !c.templated() {
		return fmt.Errorf("it has no table with a column %q to attack: name the column, or the tables", c.TenantColumn)
	}
	removed, left, err := c.remove(ctx, conn)
	if err != nil {
		return err
	}
	for _, r := range removed {
		report.Notes = append(report.Notes, "left by an earlier run, and removed: "+r)
	}
	if len(left) > 0 { // they would be taken for the run's own
		report.Left = left
		return nil
	}
	defer report.sort()
	defer func() {
		left, failed := c.tidy(ctx, conn)
		report.Left = append(report.Left, left...)
		if failed != nil || err != nil && len(left) > 0 {
			err = errors.Join(err, failed, fmt.Errorf("rows of the run are left (%s): remove them with shardedpg rls verify --cleanup", strings.Join(left, "; ")))
		}
	}()
	if slices.ContainsFunc(c.targets(), func(t *table) bool { return t.ByList }) {
		for _, pair := range c.pairs() {
			if err := c.partition(ctx, pair); err != nil {
				report.Notes = append(report.Notes, fmt.Sprintf("no partitions for the two tenants: %v", err))
			}
		}
	}
	now, err := readCatalog(ctx, conn, c.Config) // with the partitions
	if err != nil {
		return err
	}
	byPair := map[[2]string][]*table{}
	for _, t := range now.targets() {
		a, b, ok := IDs(t.Type)
		if !ok {
			report.Results = append(report.Results, Result{t.name(), "all", NotTried, fmt.Sprintf("its tenant column is of type %s", t.Type)})
			continue
		}
		byPair[[2]string{a, b}] = append(byPair[[2]string{a, b}], t)
	}
	for _, pair := range now.pairs() {
		if len(byPair[pair]) == 0 {
			continue
		}
		if err := now.attack(ctx, conn, pair, byPair[pair], report); err != nil {
			return err
		}
	}
	if c.templated() {
		return c.attackSchemas(ctx, conn, report)
	}
	return nil
}

// attack runs everything for the tables whose tenants' IDs are of one type.
func (c *catalog) attack(ctx context.Context, conn *pgx.Conn, ids [2]string, targets []*table, report *Report) error {
	store, err := c.tenants(ctx, ids, resolver.ModelShared)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	s, done, err := c.open(ctx, conn, ids, store, report)
	if err != nil {
		return err
	}
	defer done()
	if err := s.login(ctx); errors.Is(err, shardedpg.ErrUnsafeRole) {
		return nil
	} else if err != nil {
		return err
	}
	for _, t := range targets {
		if t.Root == 0 {
			if err := s.seed(ctx, t); err != nil {
				return err
			}
		}
	}
	for _, t := range targets {
		if t.Root != 0 {
			s.inPart(t)
		}
		report.Tables++
		s.attackTable(ctx, t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	watch, err := s.objects(ctx, targets)
	if err != nil {
		return err
	}
	s.sessions(ctx)
	for _, t := range targets {
		s.add(t.name(), "afterwards", s.untouched(ctx, t))
	}
	if len(watch) > 0 {
		if _, _, err := c.removeRows(ctx, conn, func(id [2]string) []string { return id[1:] }); err != nil {
			return err
		}
		for _, w := range watch {
			s.compare(ctx, w)
		}
	}
	return ctx.Err()
}

// tidy removes what the run made, also when ctx has ended, and with it the connection.
func (c *catalog) tidy(ctx context.Context, conn *pgx.Conn) (left []string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	remove := func(conn *pgx.Conn) (err error) {
		_, left, err = c.remove(ctx, conn)
		return err
	}
	if conn.IsClosed() {
		return left, c.admin(ctx, remove)
	}
	err = remove(conn)
	return left, err
}

// inPart gives a partition or child the rows of its table that lie in it.
func (s *scene) inPart(t *table) {
	root := s.byOID[t.Root]
	if root.rows[1].values == nil {
		t.reason = root.reason
		return
	}
	for i, r := range root.rows {
		if r.tid == t.id() {
			t.rows[i] = r
		}
	}
}

// sort puts what got through first, then by object, in the order of the attacks.
func (r *Report) sort() {
	order := []Outcome{Broken, NotTried, Known, Held}
	slices.SortStableFunc(r.Results, func(a, b Result) int {
		return slices.Index(order, a.Outcome) - slices.Index(order, b.Outcome)
	})
}
