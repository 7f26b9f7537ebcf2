package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// maxJobs is how many connections to the registry a command has at most.
const maxJobs = 16

type tenantAdd struct {
	IDs         []tenantID        `arg:"" optional:"" name:"id" help:"IDs of the tenants."`
	File        string            `short:"f" placeholder:"FILE" help:"A file with one ID a line; - for standard input. Empty lines and lines with # are left out. Tenants that are there stay as they are, so an interrupted run can be repeated."`
	Shard       string            `help:"The shard. Default: one is chosen."`
	Strategy    string            `placeholder:"NAME" enum:"hash,smallest,smallest-bytes,smallest-load," default:"" help:"How it is chosen: hash, smallest, smallest-bytes or smallest-load. Default hash."`
	Region      string            `help:"Choose among shards of this region."`
	ShardLabel  map[string]string `placeholder:"NAME=VALUE" mapsep:"," help:"Choose among shards with all of these labels."`
	Model       resolver.Model    `enum:"shared,partition,schema,database" default:"shared" help:"How its rows are kept apart: ${enum}."`
	Database    string            `help:"Database on the shard. Default: the one of its DSN; for model database tenant_<ID>."`
	Plan        string            `default:"free" help:"The plan."`
	Slug        string            `help:"A second name, for one tenant."`
	Label       map[string]string `placeholder:"NAME=VALUE" mapsep:"," help:"Labels of the tenants; may be repeated."`
	NoProvision bool              `help:"Leave them in provisioning: their statements are refused until tenant provision."`
	Jobs        int               `default:"4" help:"How many at once, at most 16."`
	DryRun      bool              `help:"Say who would be added to which shard, and change nothing."`
	layout
}

// Validate is called by kong.
func (c *tenantAdd) Validate() error {
	switch {
	case len(c.IDs) == 0 && c.File == "":
		return errors.New("which tenants? Give IDs, or --file")
	case len(c.IDs) > 0 && c.File != "":
		return errors.New("give IDs or --file, not both")
	case c.Jobs < 1 || c.Jobs > maxJobs:
		return fmt.Errorf("--jobs is %d: use 1 to %d", c.Jobs, maxJobs)
	case c.Slug != "" && (len(c.IDs) != 1 || c.File != ""):
		return errors.New("--slug is for one tenant: leave it out, or give one ID")
	case c.Shard != "" && (c.Strategy != "" || c.Region != "" || len(c.ShardLabel) > 0):
		return errors.New("--shard names the shard: leave --strategy, --region and --shard-label out")
	case c.Model == resolver.ModelDatabase && c.Database != "" && (len(c.IDs) != 1 || c.File != ""):
		return errors.New("--database with --model database is for one tenant: give one ID, or --model shared for several in one database")
	}
	return c.layout.Validate()
}

func (c *tenantAdd) Run(a *app) error {
	ids, err := c.ids(a)
	if err != nil {
		return err
	}
	if err := c.check(ids); err != nil {
		return err
	}
	return a.withConfig(func(ctx context.Context, reg *registry.Postgres, cfg shardedpg.Config) error {
		b := &batch{tenantAdd: c, reg: reg.Admin, options: c.options(cfg), where: registry.Assignment{Region: c.Region, Labels: c.ShardLabel}}
		if c.Strategy != "" {
			if b.where.Strategy, err = registry.StrategyByName(c.Strategy); err != nil {
				return invalid(err)
			}
		}
		previews, err := b.previews(ctx, ids)
		if err != nil {
			return invalid(err)
		}
		if err := b.ready(ctx, previews); err != nil {
			return err
		}
		switch {
		case c.DryRun:
			return b.preview(a, ids, previews)
		case len(ids) == 1 && c.File == "":
			return b.one(ctx, a, ids[0])
		}
		return b.all(ctx, a, ids, b.add)
	})
}

// check refuses all of a batch when one of its tenants could not be added to any registry. It shows the first few.
func (c *tenantAdd) check(ids []string) error {
	var errs []error
	for _, id := range ids {
		if err := c.tenant(id).Check(); err != nil {
			if errs = append(errs, err); len(errs) == 5 {
				break
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		if c.Model == resolver.ModelSchema {
			err = fmt.Errorf("%w\na fleet file can name another schema: shardedpg registry apply", err)
		}
		return usage("%w\nnothing was added", err)
	}
	return nil
}

func (c *tenantAdd) tenant(id string) registry.Tenant {
	return registry.Tenant{
		ID: id, Shard: c.Shard, Database: c.Database, Model: c.Model, Plan: c.Plan, Slug: c.Slug, Labels: c.Label,
	}
}

// ids returns what was asked for, each once, and all IDs that break the rule joined.
func (c *tenantAdd) ids(a *app) (ids []string, err error) {
	for _, id := range c.IDs {
		ids = append(ids, string(id))
	}
	if c.File != "" {
		err = a.read(c.File, func(r io.Reader) (err error) {
			ids, err = readIDs(r)
			return err
		})
		if err != nil {
			return nil, usage("%s: %w", c.File, err)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// readIDs reads one ID a line. It shows the first few that are wrong.
func readIDs(r io.Reader) (ids []string, _ error) {
	lines := bufio.NewScanner(r)
	var errs []error
	for n := 1; lines.Scan(); n++ {
		id := strings.TrimSpace(lines.Text())
		if id == "" || strings.HasPrefix(id, "#") {
			continue
		}
		if err := resolver.ValidTenantID(id); err != nil {
			if errs = append(errs, fmt.Errorf("line %d: %w", n, err)); len(errs) == 5 {
				break
			}
		}
		ids = append(ids, id)
	}
	if err := errors.Join(append(errs, lines.Err())...); err != nil {
		return nil, fmt.Errorf("%w\nnothing was added", err)
	}
	if len(ids) == 0 {
		return nil, errors.New("no IDs in it")
	}
	return ids, nil
}

// batch adds tenants.
type batch struct {
	*tenantAdd
	reg     *registry.Admin
	options *provision.Options
	where   registry.Assignment

	mu     sync.Mutex
	result batchResult
}

// batchResult is what happened, in JSON.
type batchResult struct {
	DryRun   bool              `json:"dry_run,omitempty"`
	Added    []string          `json:"added"` // with --dry-run: would be added
	Existing []string          `json:"existing"`
	Failed   map[string]string `json:"failed"`
	NotTried []string          `json:"not_tried"`
	Shards   map[string]string `json:"shards,omitempty"` // with --dry-run: of those that would be added, by ID
}

// one adds the only tenant of the command line.
func (b *batch) one(ctx context.Context, a *app, id string) error {
	if _, err := b.reg.AddTenant(ctx, b.tenant(id), &b.where); err != nil {
		return invalid(err)
	}
	if err := b.provision(ctx, id); err != nil {
		return err
	}
	t, err := b.reg.Tenant(ctx, id)
	if err != nil {
		return err
	}
	return a.show(t, func() {
		a.say("tenant %q (%s, plan %s) added to shard %q, and is %s", id, t.Model, t.Plan, t.Shard, t.State)
		if b.NoProvision {
			a.note("next: shardedpg tenant provision %s", word(id))
		}
	})
}

func (b *batch) provision(ctx context.Context, id string) error {
	if b.NoProvision {
		return nil
	}
	if err := provision.Tenant(ctx, b.reg, id, b.options); err != nil {
		return fmt.Errorf("%w\ntenant %q is in the registry, in provisioning: when the cause is gone, run shardedpg tenant provision %s%s",
			err, id, word(id), b.given())
	}
	return nil
}

// add adds one of many. One that is there stays as it is, and is completed if it was left in provisioning.
func (b *batch) add(ctx context.Context, id string) (added bool, _ error) {
	_, err := b.reg.AddTenant(ctx, b.tenant(id), &b.where)
	if err == nil {
		return true, b.provision(ctx, id)
	}
	if !errors.Is(err, registry.ErrExists) {
		return false, err
	}
	there, lookErr := b.reg.Tenant(ctx, id)
	if lookErr != nil {
		return false, err // purged: its ID is taken and nothing is there
	}
	if there.State == resolver.StateProvisioning && there.Removed.IsZero() {
		return false, b.provision(ctx, id)
	}
	return false, nil
}
