package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/verify"
)

type rlsVerify struct {
	databases
	declared
	AppDSN   string        `name:"app-dsn" placeholder:"DSN" help:"With --dsn: what tenants' statements connect with."`
	Table    []pattern     `placeholder:"PATTERN" help:"Attack these tables only: schema.table, * for any characters."`
	Except   []pattern     `placeholder:"PATTERN" help:"Leave these tables, views and functions out."`
	Strict   bool          `help:"Exit code 1 for what nothing stops at this level of the database, too."`
	All      bool          `help:"Show attacks that held, too."`
	Timeout  time.Duration `default:"5s" help:"The longest that one attack may take; of a canary, all of it."`
	Yes      bool          `help:"Make the two tenants' rows, and attack."`
	DryRun   bool          `help:"Show what would be attacked, and change nothing."`
	Cleanup  bool          `help:"With --yes: only remove what a run left that was killed. The next run does so, too."`
	Canary   []string      `placeholder:"A,B" help:"Look only, as two tenants that were added for it: for a job that runs every minute. Prints nothing if all is well, or one line with -o json."`
	Policies string        `placeholder:"FINGERPRINT" help:"With --canary: fail if the policies are others than when the canary printed this."`
}

func (c *rlsVerify) check() error {
	switch {
	case len(c.Canary) > 0 && (c.Yes || c.DryRun || c.Cleanup || c.DSN != "" || len(c.Shard)+len(c.Database) > 0):
		return usage("--canary only looks, where its two tenants live: leave --yes, --dry-run, --cleanup and the choice of databases out")
	case len(c.Canary) > 0 && len(c.Canary) != 2:
		return usage("--canary takes the IDs of two tenants, such as canary-a,canary-b")
	case len(c.Canary) == 0 && c.Policies != "":
		return usage("--policies is for --canary")
	case len(c.Canary) == 0 && c.DryRun == c.Yes:
		return usage("say --dry-run to see what would be attacked, or --yes to make rows of two tenants of the run's own, attack, and remove them")
	case c.Cleanup && !c.Yes:
		return usage("--cleanup deletes rows: say --yes, too")
	case (c.DSN == "") != (c.AppDSN == ""):
		return usage("--dsn is the administrator's and --app-dsn is tenants': give both, or neither to take them from the registry")
	case c.Timeout < time.Millisecond:
		return usage("--timeout is %v: use at least 1ms, such as 5s", c.Timeout)
	}
	return nil
}

func (c *rlsVerify) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if len(c.Canary) > 0 {
		return c.canary(a)
	}
	targets, err := c.targets(a, true)
	if err != nil {
		return err
	}
	if err := c.unknown(a); err != nil {
		return err
	}
	switch {
	case c.DryRun:
		return c.plan(a, targets)
	case c.Cleanup:
		return c.cleanup(a, targets)
	}
	reports := []*verify.Report{}
	failed := map[string]string{}
	for _, t := range targets {
		config, err := c.config(a, t)
		if err == nil {
			var r *verify.Report
			if r, err = verify.Run(a.ctx, config); err == nil {
				r.Shard = t.shard
				reports = append(reports, r)
			}
		}
		if a.ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		if err != nil {
			failed[t.String()] = clean(speak(err.Error()))
		}
	}
	if err := a.show(map[string]any{"databases": reports, "failed": failed}, func() {
		for _, r := range reports {
			a.verified(r, c.All)
		}
	}); err != nil {
		return err
	}
	for name, why := range failed {
		a.note("failed: %s: %s", name, why)
	}
	if len(failed) > 0 || slices.ContainsFunc(reports, func(r *verify.Report) bool {
		return !r.Proved() || c.Strict && r.Count(verify.Known) > 0
	}) {
		return errReported
	}
	return nil
}

// unknown refuses to work when a tenant of the registry has one of the reserved IDs: its rows would be taken for a run's.
func (c *rlsVerify) unknown(a *app) error {
	if c.DSN != "" {
		return nil
	}
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		for _, columnType := range []string{"text", "uuid", "bigint", "integer"} {
			attacker, victim, _ := verify.IDs(columnType)
			for _, id := range []string{attacker, victim} {
				if _, err := reg.Tenant(ctx, id); err == nil {
					return fmt.Errorf("the ID of tenant %q is reserved for this command, which would remove the rows of that tenant: move them to another ID", id)
				} else if !errors.Is(err, resolver.ErrTenantNotFound) {
					return err
				}
			}
		}
		return nil
	})
}

// config is what the run is to know about one database: what was declared when policies were applied there, too.
func (c *rlsVerify) config(a *app, t target) (verify.Config, error) {
	v := verify.Config{
		Shard: t.shard, DSN: t.login, AdminDSN: t.dsn, Database: t.database, Tables: texts(c.Table), Except: texts(c.Except), StatementTimeout: c.Timeout,
	}
	if c.AppDSN != "" {
		dsn, err := registry.ExpandDSN(c.AppDSN)
		if err != nil {
			return v, usage("--app-dsn: %w", err)
		}
		cfg, err := connstring.Parse(dsn)
		if err != nil {
			return v, usage("--app-dsn is no PostgreSQL URL or keyword/value string that can be used: %w", err)
		}
		v.DSN, t.app = dsn, cfg.User
	} else {
		driver, err := shardedpg.ParseDSN(a.dsn)
		if err != nil {
			return v, usage("the registry's DSN: %w", err)
		}
		v.Driver = func(cfg *shardedpg.Config) { *cfg = driver } // as programs have it
	}
	return v, t.on(a.ctx, func(conn *pgx.Conn) error {
		p, err := c.declared.config(a.ctx, conn, t)
		v.TenantColumn, v.GUC, v.Global, v.SkipSchemas = p.TenantColumn, p.GUC, p.Global, p.SkipSchemas
		return err
	})
}

func (c *rlsVerify) plan(a *app, targets []target) error {
	plans := []*verify.Plan{}
	for _, t := range targets {
		config, err := c.config(a, t)
		if err != nil {
			return err
		}
		p, err := verify.Read(a.ctx, config)
		if err != nil {
			return err
		}
		p.Shard = t.shard
		plans = append(plans, p)
	}
	return a.show(map[string]any{"dry_run": true, "databases": plans}, func() {
		for i, p := range plans {
			a.say("%s: would make a row for each of the tenants %s in these tables, attack, and remove the rows:", targets[i], strings.Join(p.Tenants, ", "))
			for _, t := range p.Tables {
				a.say("  %s", t)
			}
		}
		a.say("dry run, nothing was changed")
	})
}

func (c *rlsVerify) cleanup(a *app, targets []target) error {
	type cleaned struct {
		Shard    string   `json:"shard,omitempty"`
		Database string   `json:"database"`
		Removed  []string `json:"removed"`
		Left     []string `json:"left"`
	}
	all, left := []cleaned{}, 0
	for _, t := range targets {
		config, err := c.config(a, t)
		if err != nil {
			return err
		}
		one := cleaned{Shard: t.shard, Database: t.database}
		if one.Removed, one.Left, err = verify.Cleanup(a.ctx, config); err != nil {
			return err
		}
		all = append(all, one)
		left += len(one.Left)
	}
	if err := a.show(map[string]any{"databases": all}, func() {
		for i, one := range all {
			for _, r := range one.Removed {
				a.say("removed: %s", r)
			}
			for _, l := range one.Left {
				a.say("left: %s", l)
			}
			if len(one.Removed)+len(one.Left) == 0 {
				a.say("%s: nothing was left by a run", targets[i])
			}
		}
	}); err != nil {
		return err
	}
	if left > 0 {
		return errReported
	}
	return nil
}

// verified prints a report: what did not hold one by one, what nothing stops in groups, and how much held.
func (a *app) verified(r *verify.Report, all bool) {
	var rows [][]string
	type group struct{ detail, attack string }
	groups, counts := []group{}, map[group]int{}
	for _, one := range r.Results {
		switch {
		case all || one.Outcome == verify.Broken || one.Outcome == verify.NotTried:
			rows = append(rows, []string{string(one.Outcome), one.Object, one.Attack, one.Detail})
		case one.Outcome == verify.Known:
			attack := one.Attack
			for _, key := range []string{"unique key", "foreign key"} {
				if strings.HasPrefix(attack, key+" ") {
					attack = key
				}
			}
			g := group{attack: attack, detail: one.Detail}
			if i := strings.Index(one.Detail, " in "); attack == "foreign key" && i > 0 { // the other table
				g.detail = "rows may point at another tenant's, which tells that it is there: the key does not carry the tenant"
			}
			if counts[g]++; counts[g] == 1 {
				groups = append(groups, g)
			}
		}
	}
	if len(rows) > 0 {
		a.table([]string{"OUTCOME", "OBJECT", "ATTACK", "DETAIL"}, rows)
	}
	for _, g := range groups {
		a.say("known: %s (%s): %s", g.attack, count(counts[g], "time"), g.detail)
	}
	for _, l := range r.Left {
		a.say("left: %s", l)
	}
	for _, n := range r.Notes {
		a.note("%s", n)
	}
	place := r.Database
	if r.Shard != "" {
		place = r.Shard + "/" + place
	}
	a.say("%s: PostgreSQL %s, %s of tenants, %s: %d held, %d broken, %d not tried, %d known", place, r.Version, count(r.Tables, "table"),
		count(len(r.Results), "attack"), r.Count(verify.Held), r.Count(verify.Broken), r.Count(verify.NotTried), r.Count(verify.Known))
}

// canary looks as two tenants of the registry.
func (c *rlsVerify) canary(a *app) error {
	if a.dsn == "" {
		return usage("which registry? Set SHARDEDPG_REGISTRY, or --registry: the canary's tenants are in it")
	}
	cfg, err := shardedpg.ParseDSN(a.dsn)
	if err != nil {
		return usage("the registry's DSN: %w", err)
	}
	cfg.MaxConns, cfg.TenantShare = 1, 1
	connector, err := shardedpg.NewConnector(cfg)
	if err != nil {
		return usage("%w", err)
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(a.ctx, c.Timeout)
	defer cancel()
	r, err := verify.Canary(ctx, db, verify.CanaryConfig{
		A: c.Canary[0], B: c.Canary[1], TenantColumn: string(c.TenantColumn), Tables: texts(c.Table), Except: texts(c.Except), Policies: c.Policies,
	})
	if err != nil {
		return err
	}
	if a.json {
		out := json.NewEncoder(a.out) // one line, for a log
		out.SetEscapeHTML(false)
		if err := out.Encode(r); err != nil {
			return err
		}
	} else if !r.OK {
		for _, f := range r.Findings {
			a.say("finding: %s", f)
		}
		if len(r.Findings) == 0 {
			a.say("neither canary has a row in any of %s: nothing is proved", count(r.Tables, "table"))
		}
		a.say("policies: %s; %s ms", r.Policies, strconv.FormatInt(r.Elapsed, 10))
	}
	if !r.OK {
		return errReported
	}
	return nil
}
