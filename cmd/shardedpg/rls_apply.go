package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls/policy"
)

// generated says what to generate, beyond what the audit has to know.
type generated struct {
	declared
	Private      []pattern       `placeholder:"PATTERN" help:"Tables and views that tenants may not touch."`
	Table        []pattern       `placeholder:"PATTERN" help:"Look at no relations but these; at schemas and roles all the same."`
	SkipSchema   []pattern       `placeholder:"PATTERN" help:"Schemas to leave alone. Default sharded_pg and tenant_*."`
	Identity     policy.Identity `enum:"plain,signed," default:"" placeholder:"plain|signed" help:"What policies take the tenant from: plain, the setting; signed, a token that only programs with a key can make. Default: as it is, or plain."`
	KeepTemp     *bool           `negatable:"" help:"Leave the right to make temporary tables alone."`
	Lockdown     *bool           `negatable:"" help:"Take built-in functions from PUBLIC that reach across tenants. Needs a superuser."`
	DropPolicies bool            `help:"Drop policies that are not the generator's."`
	Indexes      bool            `help:"Make missing indexes of the tenant column. Writes wait while they are built."`
}

func (g *generated) config(ctx context.Context, conn *pgx.Conn, t target) (policy.Config, error) {
	c, err := g.declared.config(ctx, conn, t)
	for _, list := range []struct {
		to    *[]string
		given []pattern
	}{{&c.Private, g.Private}, {&c.Tables, g.Table}, {&c.SkipSchemas, g.SkipSchema}} {
		if len(list.given) > 0 {
			*list.to = texts(list.given)
		}
	}
	if g.Identity != "" {
		c.Identity = g.Identity
	}
	if g.KeepTemp != nil {
		c.KeepTemp = *g.KeepTemp
	}
	if g.Lockdown != nil {
		c.Lockdown = *g.Lockdown
	}
	c.DropPolicies, c.Indexes = g.DropPolicies, g.Indexes
	return c, err
}

type rlsGenerate struct {
	databases
	generated
}

func (c *rlsGenerate) Run(a *app) error {
	targets, err := c.targets(a, true)
	if err != nil {
		return err
	}
	type shown struct {
		Shard string `json:"shard,omitempty"`
		*policy.Plan
	}
	var plans []shown
	problems := 0
	for _, t := range targets {
		err := t.on(a.ctx, func(conn *pgx.Conn) error {
			config, err := c.config(a.ctx, conn, t)
			if err != nil {
				return err
			}
			plan, err := policy.Read(a.ctx, conn, config)
			if err != nil {
				return err
			}
			plans = append(plans, shown{t.shard, plan})
			problems += len(plan.Problems)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := a.show(map[string]any{"databases": plans}, func() {
		for _, p := range plans {
			if p.Shard != "" {
				fmt.Fprintf(a.out, "-- shard %s\n", clean(p.Shard))
			}
			fmt.Fprint(a.out, clean(p.Script()))
		}
	}); err != nil {
		return err
	}
	if problems > 0 {
		a.note("%s: the script is not complete, and shardedpg rls apply would refuse; look for PROBLEM in it", count(problems, "problem"))
		return errReported
	}
	return nil
}

// carefully is how changes are made.
type carefully struct {
	DryRun      bool          `help:"Show what would change, and change nothing."`
	Yes         bool          `help:"Make the changes."`
	LockTimeout time.Duration `default:"5s" help:"How long to wait for a lock; statements of tenants queue behind it meanwhile."`
	Note        line          `help:"Kept in the record: why."`
}

func (c *carefully) check(what string) error {
	if c.DryRun == c.Yes {
		return usage("say --dry-run to see what %s would change, or --yes to change it", what)
	}
	if c.LockTimeout < time.Millisecond {
		return usage("--lock-timeout is %v: use at least 1ms, such as 5s", c.LockTimeout)
	}
	return nil
}

func (c *carefully) options() *policy.ApplyOptions {
	return &policy.ApplyOptions{LockTimeout: c.LockTimeout, Note: string(c.Note)}
}

type rlsApply struct {
	databases
	generated
	carefully
	FailOnDrift bool `help:"With --dry-run: exit code 1 if anything would change."`
}

// outcome is what happened to one database, in JSON.
type outcome struct {
	Shard    string          `json:"shard,omitempty"`
	Database string          `json:"database"`
	Record   int64           `json:"record,omitempty"`
	Undoes   int64           `json:"undoes,omitempty"`
	Changes  []policy.Change `json:"changes"`
	Problems []string        `json:"problems,omitempty"`
	Advice   []policy.Advice `json:"advice,omitempty"`
	Left     []string        `json:"left,omitempty"`
}

func (c *rlsApply) Run(a *app) error {
	if err := c.check("apply"); err != nil {
		return err
	}
	targets, err := c.targets(a, true)
	if err != nil {
		return err
	}
	return a.oneByOne(targets, c.carefully, c.FailOnDrift, func(conn *pgx.Conn, t target) (outcome, error) {
		config, err := c.config(a.ctx, conn, t)
		if err != nil {
			return outcome{}, err
		}
		if c.DryRun {
			plan, err := policy.Read(a.ctx, conn, config)
			if err != nil {
				return outcome{}, err
			}
			return outcome{Changes: plan.Drift(), Problems: plan.Problems, Advice: plan.Advice}, nil
		}
		result, err := policy.Apply(a.ctx, conn, config, c.options())
		if err != nil {
			return outcome{}, err
		}
		return outcome{Record: result.Record, Changes: result.Changes, Advice: result.Plan.Advice}, nil
	})
}

// oneByOne works on databases one after the other, and ends at the first that fails: the next would most likely fail, too.
func (a *app) oneByOne(targets []target, c carefully, failOnDrift bool, work func(conn *pgx.Conn, t target) (outcome, error)) error {
	done := make([]outcome, 0, len(targets))
	var failed error
	for _, t := range targets {
		var o outcome
		failed = t.on(a.ctx, func(conn *pgx.Conn) (err error) {
			o, err = work(conn, t)
			return err
		})
		if failed != nil {
			break
		}
		o.Shard, o.Database = t.shard, t.database
		done = append(done, o)
	}
	notTried := []string{}
	for _, t := range targets[min(len(done)+1, len(targets)):] {
		notTried = append(notTried, t.String())
	}
	if failed == nil || len(done) > 0 {
		if err := a.show(map[string]any{"dry_run": c.DryRun, "databases": done, "not_tried": notTried}, func() {
			for i, o := range done {
				a.outcome(targets[i], o, c.DryRun)
			}
		}); err != nil {
			return err
		}
	}
	for _, t := range notTried {
		a.note("not tried: %s", t)
	}
	if failed != nil {
		return failed
	}
	for _, o := range done {
		if len(o.Problems) > 0 || failOnDrift && len(o.Changes) > 0 {
			return errReported
		}
	}
	return nil
}

func (a *app) outcome(t target, o outcome, dryRun bool) {
	if len(o.Changes) > 0 {
		fmt.Fprint(a.out, clean(policy.Diff(o.Changes)))
	}
	for _, left := range o.Left {
		a.say("left: %s", left)
	}
	for _, p := range o.Problems {
		a.say("problem: %s", p)
	}
	if len(o.Advice) > 0 {
		a.note("%s: %s of advice on keys, indexes and other policies: shardedpg rls generate has the SQL", t, count(len(o.Advice), "piece"))
	}
	switch {
	case dryRun:
		a.say("%s: %s; dry run, nothing was changed", t, count(len(o.Changes), "change"))
	case o.Record == 0:
		a.say("%s: as it should be; nothing to change", t)
	default:
		a.say("%s: %s made, record %d", t, count(len(o.Changes), "change"), o.Record)
	}
}

type rlsRollback struct {
	databases
	carefully
}

func (c *rlsRollback) Run(a *app) error {
	if err := c.check("rollback"); err != nil {
		return err
	}
	t, err := c.one(a, true)
	if err != nil {
		return err
	}
	return a.oneByOne([]target{t}, c.carefully, false, func(conn *pgx.Conn, _ target) (outcome, error) {
		work := func() (*policy.Result, error) { return policy.Rollback(a.ctx, conn, c.options()) }
		if c.DryRun {
			work = func() (*policy.Result, error) { return policy.Newest(a.ctx, conn) }
		}
		result, err := work()
		if errors.Is(err, policy.ErrNothing) {
			return outcome{}, fmt.Errorf("%w; shardedpg rls history shows what was applied", err)
		}
		if err != nil {
			return outcome{}, err
		}
		return outcome{Record: result.Record, Undoes: result.Undoes, Changes: result.Changes, Left: result.Left}, nil
	})
}

// one finds the one database of a command that must not touch several.
func (d *databases) one(a *app, admin bool) (target, error) {
	targets, err := d.targets(a, admin)
	if err != nil {
		return target{}, err
	}
	if len(targets) > 1 {
		return target{}, usage("that is %d databases: choose one with --shard and --database", len(targets))
	}
	return targets[0], nil
}

type rlsHistory struct{ databases }

func (c *rlsHistory) Run(a *app) error {
	t, err := c.one(a, true)
	if err != nil {
		return err
	}
	return t.on(a.ctx, func(conn *pgx.Conn) error {
		entries, err := policy.Records(a.ctx, conn)
		if err != nil {
			return err
		}
		return a.show(map[string]any{"records": entries}, func() {
			var rows [][]string
			for _, e := range entries {
				what := e.Action
				if e.Undoes != 0 {
					what += " of " + strconv.FormatInt(e.Undoes, 10)
				} else if e.Undone {
					what += ", rolled back"
				}
				rows = append(rows, []string{strconv.FormatInt(e.ID, 10), when(e.At), e.Login, what, strconv.Itoa(e.Count), e.Note})
			}
			a.table([]string{"RECORD", "AT", "LOGIN", "ACTION", "CHANGES", "NOTE"}, rows)
		})
	})
}
