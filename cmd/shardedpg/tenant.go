package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// oneTenant is the argument of commands on one tenant.
type oneTenant struct {
	ID tenantID `arg:"" help:"ID of the tenant."`
}

// change makes a change and prints the tenant after it.
func (c *oneTenant) change(a *app, done string, do func(ctx context.Context, reg *registry.Postgres, id string) error) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		id := string(c.ID)
		if err := do(ctx, reg, id); err != nil {
			return err
		}
		t, err := reg.Tenant(ctx, id)
		if err != nil {
			return err
		}
		return a.show(t, func() {
			a.say("tenant %q %s", id, done)
			if t.Throttle.InForce(time.Now()) { // which is above plan and override, whatever was done to them
				a.note("it is still throttled (shardedpg tenant throttle %s --clear ends that): %s", word(id), overrideText(t.Throttle))
			}
		})
	})
}

func (c *oneTenant) setState(a *app, state resolver.State, done string) error {
	return c.change(a, done, func(ctx context.Context, reg *registry.Postgres, id string) error {
		return reg.SetTenantState(ctx, id, state)
	})
}

type tenantShow struct{ oneTenant }

func (c *tenantShow) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		t, err := reg.Tenant(ctx, string(c.ID))
		if err != nil {
			return err
		}
		return a.show(t, func() {
			a.fields("tenant", t.ID, "state", stateOf(t), "shard", t.Shard, "chosen by", t.Assignment, "model", string(t.Model),
				"database", t.Database, "schema", t.Schema, "role", t.Role, "plan", t.Plan, "override", overrideText(t.Override), "throttle", overrideText(t.Throttle),
				"slug", t.Slug, "labels", pairs(t.Labels), "schema version", t.SchemaVersion,
				"epoch", strconv.FormatInt(t.Epoch, 10), "created", when(t.Created), "updated", when(t.Updated),
				"removed", when(t.Removed))
			if t.State == resolver.StateProvisioning {
				a.note("next: shardedpg tenant provision %s", word(t.ID))
			}
		})
	})
}

func overrideText(o *registry.Override) string {
	if o == nil {
		return ""
	}
	var parts []string
	add := func(set bool, name, value string) {
		if set {
			parts = append(parts, name+" "+value)
		}
	}
	add(o.StatementTimeout != 0, "statement timeout", registry.FormatTimeout(o.StatementTimeout))
	add(o.WorkMemKB != 0, "work mem", showSize(int64(o.WorkMemKB)<<10))
	add(o.MaxConns != 0, "max conns", strconv.Itoa(o.MaxConns))
	add(o.Rate != 0, "rate", showRate(o.Rate))
	add(o.Burst != 0, "burst", strconv.Itoa(o.Burst))
	add(o.Weight != 0, "weight", strconv.Itoa(o.Weight))
	switch {
	case o.Expires.IsZero():
		parts = append(parts, "never expires")
	case !o.InForce(time.Now()):
		parts = append(parts, "expired "+when(o.Expires)+" and no longer in force")
	default:
		parts = append(parts, "until "+when(o.Expires))
	}
	add(o.Reason != "", "because of:", o.Reason)
	return strings.Join(parts, ", ")
}

type tenantEnable struct{ oneTenant }

func (c *tenantEnable) Run(a *app) error {
	return c.change(a, "is active", func(ctx context.Context, reg *registry.Postgres, id string) error {
		t, err := reg.Tenant(ctx, id)
		if err != nil {
			return err
		}
		if t.State == resolver.StateProvisioning {
			// The registry would allow it; nothing has looked whether its tables are there.
			return usage("tenant %q was never provisioned: run shardedpg tenant provision %s", id, word(id))
		}
		if !t.Removed.IsZero() {
			if err := reg.RestoreTenant(ctx, id); err != nil {
				return err
			}
		}
		return reg.SetTenantState(ctx, id, resolver.StateActive)
	})
}

type tenantDisable struct{ oneTenant }

func (c *tenantDisable) Run(a *app) error {
	return c.setState(a, resolver.StateDisabled, "is disabled: its statements are refused; shardedpg tenant enable undoes it")
}

type tenantReadOnly struct{ oneTenant }

func (c *tenantReadOnly) Run(a *app) error {
	return c.setState(a, resolver.StateReadOnly, "is read-only: its writes are refused; shardedpg tenant enable undoes it")
}

type tenantPlan struct {
	oneTenant
	Plan string `arg:"" help:"Name of the plan."`
}

func (c *tenantPlan) Run(a *app) error {
	return c.change(a, "is on plan "+strconv.Quote(c.Plan), func(ctx context.Context, reg *registry.Postgres, id string) error {
		return reg.SetTenantPlan(ctx, id, c.Plan)
	})
}

type tenantOverride struct {
	oneTenant
	limits
	For    *time.Duration `placeholder:"24h" help:"How long. Default: until it is cleared."`
	Reason line           `help:"Why, for the next operator and the audit log."`
	Clear  bool           `help:"Back to the plan."`
}

func (c *tenantOverride) Run(a *app) error {
	done := "has another limit than its plan"
	var override *registry.Override
	switch {
	case c.Clear && (!c.empty() || c.For != nil || c.Reason != ""):
		return usage("--clear goes with no limits and no reason: leave them out, or leave --clear out")
	case c.Clear:
		done = "is back on its plan's limits"
	case c.empty():
		return usage("nothing to override: give at least one limit, or --clear; see shardedpg tenant override --help")
	case c.For != nil && *c.For <= 0:
		return usage("--for is %v: use a duration such as 24h, or leave it out for an override that never expires", *c.For)
	case c.Rate != nil && *c.Rate == 0:
		return usage("--rate is 0: an override cannot lift a rate; give a high one, or put the tenant on another plan")
	case c.Burst != nil && *c.Burst == 0:
		return usage("--burst is 0: a rate without a burst has that of two seconds; leave it out")
	default:
		var p registry.Plan
		c.onto(&p)
		override = &registry.Override{
			StatementTimeout: p.StatementTimeout, WorkMemKB: p.WorkMemKB, MaxConns: p.MaxConns, Weight: p.Weight, Rate: p.Rate,
			Burst: p.Burst, Reason: string(c.Reason),
		}
		done += ", and never expires: shardedpg tenant override --clear ends it"
		if c.For != nil {
			override.Expires = time.Now().Add(*c.For)
			done = "has another limit than its plan until " + when(override.Expires)
		}
	}
	return c.change(a, done, func(ctx context.Context, reg *registry.Postgres, id string) error {
		return invalid(reg.SetOverride(ctx, id, override))
	})
}

type tenantSlug struct {
	oneTenant
	Slug string `arg:"" optional:"" help:"The slug. Without it, the tenant has none."`
}

func (c *tenantSlug) Run(a *app) error {
	done := "has no slug"
	if c.Slug != "" {
		done = "has the slug " + strconv.Quote(c.Slug)
	}
	return c.change(a, done, func(ctx context.Context, reg *registry.Postgres, id string) error {
		return invalid(reg.SetTenantSlug(ctx, id, c.Slug))
	})
}

type tenantRemove struct{ oneTenant }

func (c *tenantRemove) Run(a *app) error {
	return c.change(a, "removed: its data are where they were; shardedpg tenant enable brings it back, purge destroys them",
		func(ctx context.Context, reg *registry.Postgres, id string) error { return reg.RemoveTenant(ctx, id) })
}
