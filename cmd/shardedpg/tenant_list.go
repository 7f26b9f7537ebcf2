package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

const (
	defaultLimit = 100
	largestLimit = 10000
	allPage      = 1000 // of --all
)

type tenantList struct {
	Shard    string            `help:"Only tenants on this shard."`
	Database string            `help:"Only tenants that name this database."`
	Plan     string            `help:"Only tenants on this plan."`
	State    []resolver.State  `enum:"provisioning,active,readonly,disabled,moving,deleting" help:"Only tenants in one of these states: ${enum}."`
	Model    []resolver.Model  `enum:"shared,partition,schema,database" help:"Only tenants of one of these models: ${enum}."`
	Slug     string            `help:"Only the tenant with this slug."`
	Label    map[string]string `placeholder:"NAME=VALUE" mapsep:"," help:"Only tenants with all of these labels."`
	Removed  string            `enum:"no,only,any" default:"no" help:"Removed tenants: ${enum}."`
	Limit    int               `placeholder:"N" help:"How many, at most 10000. Default 100."`
	After    string            `placeholder:"ID" help:"Only tenants behind this ID: the next page."`
	All      bool              `help:"All pages, printed as they are read."`
}

// Validate is called by kong.
func (c *tenantList) Validate() error {
	if c.After != "" {
		if err := resolver.ValidTenantID(c.After); err != nil {
			return fmt.Errorf("--after: %w", err)
		}
	}
	switch {
	case c.All && c.Limit != 0:
		return errors.New("--all prints all pages: leave --limit out")
	case c.All:
		c.Limit = allPage
	case c.Limit == 0:
		c.Limit = defaultLimit
	}
	return checkLimit(c.Limit)
}

func (c *tenantList) filter() registry.TenantFilter {
	return registry.TenantFilter{
		Shard: c.Shard, Database: c.Database, Plan: c.Plan, States: c.State, Models: c.Model, Slug: c.Slug, Labels: c.Label,
		Removed: map[string]registry.Presence{"only": registry.RemovedTenants, "any": registry.AnyTenants}[c.Removed],
		// One more than asked for, to know whether there is another page.
		Limit: min(c.Limit+1, largestLimit), After: c.After,
	}
}

func (c *tenantList) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		list := a.list("tenants", "TENANT", "STATE", "MODEL", "SHARD", "PLAN", "SLUG")
		filter := c.filter()
		for {
			page, next, err := c.page(ctx, reg, filter)
			if err != nil {
				return errors.Join(err, list.abandon())
			}
			for _, t := range page {
				list.add(t, t.ID, stateOf(t), string(t.Model), t.Shard, t.Plan, t.Slug)
			}
			if next != "" && c.All {
				filter.After = next
				if err := list.flush(); err != nil {
					return err
				}
				continue
			}
			if err := list.end(next); err != nil {
				return err
			}
			if next != "" && !a.json {
				a.note("more: --after %s, or --all", word(next))
			}
			return nil
		}
	})
}

// page reads a page, and the ID behind which the next one begins, if there is one.
func (c *tenantList) page(ctx context.Context, reg *registry.Postgres, f registry.TenantFilter) (page []registry.TenantInfo, next string, err error) {
	page, err = reg.ListTenants(ctx, f)
	if err != nil {
		return nil, "", invalid(err)
	}
	if len(page) == 0 {
		return nil, "", c.known(ctx, reg)
	}
	if len(page) > c.Limit || len(page) == largestLimit {
		page = page[:c.Limit]
		next = page[c.Limit-1].ID
	}
	return page, next, nil
}

// known refuses a shard or a plan that is none: nobody lives on a misspelt one.
func (c *tenantList) known(ctx context.Context, reg *registry.Postgres) error {
	if c.Shard != "" {
		if _, err := findShard(ctx, reg, c.Shard); err != nil {
			return err
		}
	}
	if c.Plan == "" {
		return nil
	}
	plans, err := reg.ListPlans(ctx)
	if err == nil && !slices.ContainsFunc(plans, func(p registry.Plan) bool { return p.Name == c.Plan }) {
		err = fmt.Errorf("%w: %q", registry.ErrPlanNotFound, c.Plan)
	}
	return err
}

func stateOf(t registry.TenantInfo) string {
	if !t.Removed.IsZero() {
		return "removed"
	}
	return string(t.State)
}
