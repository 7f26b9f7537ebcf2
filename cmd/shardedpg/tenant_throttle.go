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
	Rate     *float64      `placeholder:"N" help:"Statements per second, in each program. Default: a tenth of its plan's, at least 1; 10 where that has none."`
	Burst    *int          `placeholder:"N" help:"Statements at once after a quiet time. Default: those of two seconds."`
	MaxConns int           `default:"1" placeholder:"1" help:"Connections that it may use at once, in each program."`
	Weight   int           `default:"1" placeholder:"1" help:"Share of a busy shard, against other tenants."`
	For      time.Duration `default:"1h" placeholder:"1h" help:"How long."`
	Reason   line          `help:"Why, for the next operator and the audit log. Default: throttled."`
	Clear    bool          `help:"End it: the tenant is back on its plan's limits."`
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
	if c.Clear {
		return c.change(a, "is back on its plan's limits", func(ctx context.Context, reg *registry.Postgres, id string) error {
			return reg.SetOverride(ctx, id, nil)
		})
	}
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		t, err := reg.Tenant(ctx, string(c.ID))
		if err != nil {
			return err
		}
		before := t.Override
		if before != nil && !before.Expires.IsZero() && !before.Expires.After(time.Now()) {
			before = nil
		}
		o, err := c.override(ctx, reg, t.Plan, before)
		if err != nil {
			return err
		}
		if err := reg.SetOverride(ctx, t.ID, o); err != nil {
			return invalid(err)
		}
		if t, err = reg.Tenant(ctx, t.ID); err != nil {
			return err
		}
		return a.show(t, func() {
			a.say("tenant %q is throttled: %s", t.ID, overrideText(t.Override))
			if before != nil {
				a.note("this replaces its override: %s", overrideText(before))
			}
			a.note("what runs already goes on: shardedpg tenant kill %s ends it; shardedpg tenant throttle %s --clear ends this", word(t.ID), word(t.ID))
		})
	})
}

// override keeps what another override says about the limits that this is not about: a throttle changes nothing else.
func (c *tenantThrottle) override(ctx context.Context, reg *registry.Postgres, plan string, before *registry.Override) (*registry.Override, error) {
	plans, err := reg.ListPlans(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(plans, func(p registry.Plan) bool { return p.Name == plan })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", registry.ErrPlanNotFound, strconv.Quote(plan))
	}
	o := &registry.Override{
		MaxConns: c.MaxConns, Weight: c.Weight, Rate: 10, Reason: string(c.Reason), Expires: time.Now().Add(c.For),
	}
	switch {
	case c.Rate != nil:
		o.Rate = *c.Rate
	case plans[i].Rate > 0:
		o.Rate = max(plans[i].Rate/10, min(plans[i].Rate, 1))
	}
	if c.Burst != nil {
		o.Burst = *c.Burst
	}
	if o.Reason == "" {
		o.Reason = "throttled"
	}
	if before != nil {
		o.StatementTimeout, o.WorkMemKB = before.StatementTimeout, before.WorkMemKB
	}
	return o, nil
}
