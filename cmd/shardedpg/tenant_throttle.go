package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sharded-pg/sharded-pg/registry"
)

type tenantThrottle struct {
	oneTenant
	Rate     *float64      `placeholder:"N" help:"Statements per second, in each program. Default: a tenth of what it has, at least 1; 10 where it has no rate."`
	Burst    *int          `placeholder:"N" help:"Statements at once after a quiet time. Default: those of two seconds."`
	MaxConns int           `default:"1" placeholder:"1" help:"Connections that it may use at once, in each program."`
	Weight   int           `default:"1" placeholder:"1" help:"Share of a busy shard, against other tenants."`
	For      time.Duration `default:"1h" placeholder:"1h" help:"How long."`
	Reason   line          `help:"Why, for the next operator and the audit log. Default: throttled."`
	Clear    bool          `help:"End it: the tenant is back on its override, or its plan."`
}

// Validate is called by kong.
func (c *tenantThrottle) Validate() error {
	l := limits{Rate: c.Rate, Burst: c.Burst, MaxConns: &c.MaxConns, Weight: &c.Weight}
	switch {
	case c.Clear && (c.Rate != nil || c.Burst != nil || c.Reason != ""):
		return errors.New("--clear goes with no limits and no reason: leave them out, or leave --clear out")
	case c.For <= 0:
		return fmt.Errorf("--for is %v: use a duration such as 1h; shardedpg tenant override sets limits for good", c.For)
	case c.Rate != nil && *c.Rate == 0:
		return errors.New("--rate is 0: shardedpg tenant disable refuses all statements")
	}
	return l.Validate()
}

func (c *tenantThrottle) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		before, err := reg.Tenant(ctx, string(c.ID))
		if err != nil {
			return err
		}
		var o *registry.Override
		if !c.Clear {
			if o, err = c.throttle(ctx, reg, before); err != nil {
				return err
			}
		}
		if err := reg.SetThrottle(ctx, before.ID, o); err != nil {
			return invalid(err)
		}
		t, err := reg.Tenant(ctx, before.ID)
		if err != nil {
			return err
		}
		return a.show(t, func() { c.tell(a, before, t) })
	})
}

func (c *tenantThrottle) tell(a *app, before, t registry.TenantInfo) {
	now := time.Now()
	was, below := before.Throttle.InForce(now), t.Override.InForce(now)
	switch {
	case !c.Clear:
		a.say("tenant %q is throttled: %s", t.ID, overrideText(t.Throttle))
		if was {
			a.note("this replaces its throttle: %s", overrideText(before.Throttle))
		}
		if below {
			a.note("its override stays, below the throttle: %s", overrideText(t.Override))
		}
		a.note("what runs already goes on: shardedpg tenant kill %s ends it; shardedpg tenant throttle %s --clear ends this", word(t.ID), word(t.ID))
	case was && below:
		a.say("tenant %q is back on its override: %s", t.ID, overrideText(t.Override))
	case was:
		a.say("tenant %q is back on its plan's limits", t.ID)
	case below:
		a.say("tenant %q is not throttled; its override stays: %s", t.ID, overrideText(t.Override))
		a.note("shardedpg tenant override %s --clear ends that", word(t.ID))
	default:
		a.say("tenant %q is not throttled", t.ID)
	}
}

// throttle says nothing about the limits that it is not about: those of the override, or of the plan, go on.
func (c *tenantThrottle) throttle(ctx context.Context, reg *registry.Postgres, t registry.TenantInfo) (*registry.Override, error) {
	plans, err := reg.ListPlans(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(plans, func(p registry.Plan) bool { return p.Name == t.Plan })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", registry.ErrPlanNotFound, strconv.Quote(t.Plan))
	}
	now, has := time.Now(), plans[i].Rate
	if t.Override.InForce(now) && t.Override.Rate > 0 {
		has = t.Override.Rate
	}
	o := &registry.Override{
		MaxConns: c.MaxConns, Weight: c.Weight, Rate: 10, Reason: string(c.Reason), Expires: now.Add(c.For),
	}
	switch {
	case c.Rate != nil:
		o.Rate = *c.Rate
	case has > 0:
		o.Rate = max(has/10, min(has, 1))
	}
	if c.Burst != nil {
		o.Burst = *c.Burst
	}
	if o.Reason == "" {
		o.Reason = "throttled"
	}
	return o, nil
}
