package main

import (
	"context"
	"slices"
	"strconv"
	"time"

	rates "github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/registry"
)

// shownPlan is a plan in JSON.
type shownPlan struct {
	Name             string  `json:"name"`
	StatementTimeout string  `json:"statement_timeout"`
	WorkMemKB        int     `json:"work_mem_kb"`
	MaxConns         int     `json:"max_conns"`
	Rate             float64 `json:"rate,omitempty"`
	Burst            int     `json:"burst,omitempty"`
	Weight           int     `json:"weight"`
}

func publicPlan(p registry.Plan) shownPlan {
	return shownPlan{p.Name, registry.FormatTimeout(p.StatementTimeout), p.WorkMemKB, p.MaxConns, p.Rate, burst(p), p.Weight}
}

// burst is what is in force; a plan without a rate has none.
func burst(p registry.Plan) int {
	if p.Rate == 0 {
		return 0
	}
	return rates.Statement{Rate: p.Rate, Burst: p.Burst}.Most()
}

func (a *app) plans(plans []registry.Plan) {
	var rows [][]string
	for _, p := range plans {
		rate, most := "unlimited", ""
		if p.Rate > 0 {
			rate, most = showRate(p.Rate), strconv.Itoa(burst(p))
		}
		rows = append(rows, []string{
			p.Name, registry.FormatTimeout(p.StatementTimeout), showSize(int64(p.WorkMemKB) << 10), strconv.Itoa(p.MaxConns),
			rate, most, strconv.Itoa(p.Weight),
		})
	}
	a.table([]string{"PLAN", "STATEMENT TIMEOUT", "WORK MEM", "MAX CONNS", "RATE", "BURST", "WEIGHT"}, rows)
}

func showRate(perSecond float64) string { return strconv.FormatFloat(perSecond, 'g', -1, 64) + "/s" }

type planList struct{}

func (planList) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		plans, err := reg.ListPlans(ctx)
		if err != nil {
			return err
		}
		shown := make([]shownPlan, 0, len(plans))
		for _, p := range plans {
			shown = append(shown, publicPlan(p))
		}
		return a.show(map[string]any{"plans": shown}, func() { a.plans(plans) })
	})
}

type planSet struct {
	Name   string `arg:"" help:"Name of the plan."`
	DryRun bool   `help:"Show the plan as it would be, and change nothing."`
	limits
}

func (c *planSet) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		plans, err := reg.ListPlans(ctx)
		if err != nil {
			return err
		}
		plan := registry.Plan{Name: c.Name, Weight: 1}
		if i := slices.IndexFunc(plans, func(p registry.Plan) bool { return p.Name == c.Name }); i >= 0 {
			if c.empty() {
				return usage("nothing to set for plan %q: give at least one limit; see shardedpg plan set --help", c.Name)
			}
			plan = plans[i]
		} else if c.StatementTimeout == 0 || c.WorkMem == 0 || c.MaxConns == nil {
			return usage("plan %q would be new: give --statement-timeout, --work-mem and --max-conns", c.Name)
		}
		c.onto(&plan)
		var promises []registry.Commitment
		if c.DryRun { // a registry in memory has the same rules
			trial, err := registry.NewMemory(nil)
			if err != nil {
				return err
			}
			if err := trial.PutPlan(ctx, plan); err != nil {
				return invalid(err)
			}
		} else {
			if err := reg.PutPlan(ctx, plan); err != nil {
				return invalid(err)
			}
			if promises, err = reg.Overcommit(ctx, nil); err != nil {
				return err
			}
		}
		return a.show(publicPlan(plan), func() {
			a.plans([]registry.Plan{plan})
			for _, p := range promises {
				a.warn(p.Shard, p.Warnings())
			}
			if c.DryRun {
				a.note("dry run: nothing was changed")
			}
		})
	})
}

// onto sets what was given.
func (l *limits) onto(p *registry.Plan) {
	if l.StatementTimeout != 0 {
		p.StatementTimeout = time.Duration(l.StatementTimeout)
	}
	if l.WorkMem != 0 {
		p.WorkMemKB = int(l.WorkMem >> 10)
	}
	if l.MaxConns != nil {
		p.MaxConns = *l.MaxConns
	}
	if l.Rate != nil {
		p.Rate = *l.Rate
	}
	if l.Burst != nil {
		p.Burst = *l.Burst
	}
	if l.Weight != nil {
		p.Weight = *l.Weight
	}
}
