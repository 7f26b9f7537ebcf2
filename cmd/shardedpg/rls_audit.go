package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls/audit"
	"github.com/sharded-pg/sharded-pg/rls/audit/waiverfile"
	"github.com/sharded-pg/sharded-pg/rls/policy"
)

type rlsAudit struct {
	databases
	declared
	Level   audit.Level `enum:"standard,hardened" default:"standard" help:"standard accepts what only a superuser can change; hardened does not."`
	FailOn  string      `enum:"critical,high,medium,low,info,never" default:"high" help:"Exit code 1 for a finding as bad as this, or worse: ${enum}."`
	Waivers string      `placeholder:"FILE" help:"Findings that are accepted, with reason and expiry, in YAML."`
	SARIF   string      `name:"sarif" placeholder:"FILE" help:"Write the result for code scanners, too."`
	All     bool        `help:"Show findings that are accepted, too."`
	Jobs    int         `default:"4" help:"How many databases at once, at most 16."`
}

// Validate is called by kong.
func (c *rlsAudit) Validate() error {
	if c.Jobs < 1 || c.Jobs > maxJobs {
		return fmt.Errorf("--jobs is %d: use 1 to %d", c.Jobs, maxJobs)
	}
	if c.SARIF != "" { // not after minutes of looking
		if folder, err := os.Stat(filepath.Dir(c.SARIF)); err != nil || !folder.IsDir() {
			return fmt.Errorf("--sarif: there is no folder for %s", c.SARIF)
		}
	}
	return nil
}

func (c *rlsAudit) Run(a *app) error {
	var waivers []audit.Waiver
	if c.Waivers != "" {
		if err := a.read(c.Waivers, func(r io.Reader) (err error) {
			waivers, err = waiverfile.Read(r)
			return err
		}); err != nil {
			return usage("%s: %w", c.Waivers, err)
		}
	}
	targets, err := c.targets(a, false)
	if err != nil {
		return err
	}
	reports, failed := c.audit(a, targets)
	if len(targets) == 1 && failed[0] != nil {
		return failed[0]
	}
	worst := audit.None
	for _, r := range reports {
		r.Waive(waivers, r.Shard, time.Now())
		if w := r.Worst(); w.AtLeast(worst) {
			worst = w
		}
	}
	if c.SARIF != "" {
		if err := writeFile(c.SARIF, func(w io.Writer) error { return audit.WriteSARIF(w, reports) }); err != nil {
			return err
		}
	}
	texts := map[string]string{}
	for i, err := range failed {
		if err != nil {
			texts[targets[i].String()] = clean(speak(err.Error()))
		}
	}
	if err := a.show(map[string]any{"worst": worst, "databases": reports, "failed": texts}, func() { a.auditReport(reports, c.All) }); err != nil {
		return err
	}
	for _, err := range failed {
		if err != nil {
			a.note("failed: %v", err)
		}
	}
	if len(texts) > 0 || c.FailOn != "never" && worst != audit.None && worst.AtLeast(audit.Severity(c.FailOn)) {
		return errReported
	}
	return nil
}

// audit looks at databases, some at once.
func (c *rlsAudit) audit(a *app, targets []target) ([]*audit.Report, []error) {
	bar, done := a.bar("databases", len(targets))
	defer done()
	found, failed := make([]*audit.Report, len(targets)), make([]error, len(targets))
	slots := make(chan struct{}, c.Jobs)
	var wg sync.WaitGroup
	for i, t := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			failed[i] = t.on(a.ctx, func(conn *pgx.Conn) (err error) {
				found[i], err = c.database(a.ctx, conn, t)
				return err
			})
			bar()
		})
	}
	wg.Wait()
	return slices.DeleteFunc(found, func(r *audit.Report) bool { return r == nil }), failed
}

func (c *rlsAudit) database(ctx context.Context, conn *pgx.Conn, t target) (*audit.Report, error) {
	config, err := c.config(ctx, conn, t)
	if errors.Is(err, policy.ErrForeignRecords) { // a rule reports them
		config, err = c.over(policy.Config{}, t)
	}
	if err != nil {
		return nil, err
	}
	r, err := audit.Run(ctx, conn, audit.Config{
		App: []string{config.App}, TenantColumn: config.TenantColumn, GUC: config.GUC, Global: config.Global, Level: c.Level,
	})
	if err != nil {
		return nil, err
	}
	r.Shard = t.shard
	return r, nil
}

func (a *app) auditReport(reports []*audit.Report, all bool) {
	var rows [][]string
	explain := map[string]audit.Finding{}
	header := []string{"SEVERITY", "RULE", "DATABASE", "OBJECT", "FINDING"}
	if all {
		header = append(header, "ACCEPTED")
	}
	for _, r := range reports {
		for _, f := range r.Findings {
			if f.Accepted != "" && !all {
				continue
			}
			row := []string{string(f.Severity), f.Rule, place(r), f.Object, f.Title}
			if all {
				row = append(row, f.Accepted)
			}
			rows = append(rows, row)
			if _, known := explain[f.Rule]; !known {
				explain[f.Rule] = f
			}
		}
	}
	if len(rows) > 0 {
		a.table(header, rows)
		for _, rule := range audit.Rules() { // in order
			if f, found := explain[rule.ID]; found {
				a.say("\n%s: %s\n  fix: %s", rule.ID, f.Why, f.Fix)
			}
		}
		a.say("")
	}
	for _, r := range reports {
		open, accepted := 0, 0
		for _, f := range r.Findings {
			if f.Accepted == "" {
				open++
			} else {
				accepted++
			}
		}
		for _, n := range r.NotRun {
			a.say("%s: not run: %s", place(r), n)
		}
		for _, n := range r.Notes {
			a.note("%s: %s", place(r), n)
		}
		a.say("%s: PostgreSQL %s, %s of tenants: %s, %d accepted", place(r), r.Version, count(r.Tables, "table"), count(open, "finding"), accepted)
	}
}

func place(r *audit.Report) string {
	if r.Shard == "" {
		return r.Database
	}
	return r.Shard + "/" + r.Database
}

func writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644) //nolint:gosec // the operator says which file, and others read it
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	return write(f)
}

type rlsRules struct {
	ID string `arg:"" optional:"" help:"One rule. Default: all."`
}

func (c *rlsRules) Run(a *app) error {
	rules := audit.Rules()
	if c.ID != "" {
		rules = slices.DeleteFunc(rules, func(r audit.Rule) bool { return r.ID != c.ID })
		if len(rules) == 0 {
			return usage("there is no rule %q: shardedpg rls rules lists them", c.ID)
		}
	}
	return a.show(map[string]any{"rules": rules}, func() {
		if c.ID != "" {
			r := rules[0]
			a.fields("rule", r.ID, "severity", string(r.Severity), "level", string(r.Level), "finds", r.Title, "why", r.Why, "fix", r.Fix)
			return
		}
		var rows [][]string
		for _, r := range rules {
			rows = append(rows, []string{r.ID, string(r.Severity), string(r.Level), r.Title})
		}
		a.table([]string{"RULE", "SEVERITY", "LEVEL", "FINDS"}, rows)
	})
}
