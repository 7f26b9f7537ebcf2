package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// layout says how tables of tenants look on shards.
type layout struct {
	TenantColumn     string `placeholder:"NAME" help:"Column of shared tables that holds the tenant's ID. Default tenant_id."`
	Template         string `placeholder:"SCHEMA" help:"Schema whose tables a tenant of model schema gets. Default tenant_template."`
	TemplateDatabase string `placeholder:"NAME" help:"Database that a tenant of model database is copied from. Default tenant_template."`
	Login            string `placeholder:"ROLE" help:"Role of tenants' statements, if a pooler makes it another one than the shard's DSN says."`
}

func (l *layout) options(cfg shardedpg.Config) *provision.Options {
	return &provision.Options{
		TenantColumn: l.TenantColumn, GUC: cfg.GUC, Template: l.Template, TemplateDatabase: l.TemplateDatabase, Login: l.Login,
	}
}

// Validate is called by kong. PostgreSQL cuts longer names silently, and then it may be another one's.
func (l *layout) Validate() error {
	for _, flag := range l.flags() {
		if name := *flag.value; len(name) > 63 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			return fmt.Errorf("--%s is no name in PostgreSQL: use at most 63 bytes without control characters", flag.name)
		}
	}
	return nil
}

type layoutFlag struct {
	name  string
	value *string
}

func (l *layout) flags() []layoutFlag {
	return []layoutFlag{
		{"tenant-column", &l.TenantColumn}, {"template", &l.Template}, {"template-database", &l.TemplateDatabase}, {"login", &l.Login},
	}
}

// given returns the flags as they were typed, for a command that goes on with the same.
func (l *layout) given() (text string) {
	for _, flag := range l.flags() {
		if *flag.value != "" {
			text += " --" + flag.name + "='" + strings.ReplaceAll(*flag.value, "'", `'\''`) + "'"
		}
	}
	return text
}

type tenantProvision struct {
	oneTenant
	layout
}

func (c *tenantProvision) Run(a *app) error {
	return a.withConfig(func(ctx context.Context, reg *registry.Postgres, cfg shardedpg.Config) error {
		id := string(c.ID)
		if err := provision.Tenant(ctx, reg.Admin, id, c.options(cfg)); err != nil {
			return err
		}
		t, err := reg.Tenant(ctx, id)
		if err != nil {
			return err
		}
		return a.show(t, func() {
			a.say("tenant %q has what its model %s needs on shard %q, and is %s", id, t.Model, t.Shard, stateOf(t))
		})
	})
}

type tenantPurge struct {
	oneTenant
	Yes    bool `help:"Do not ask for the ID again."`
	DryRun bool `help:"Show whose data would be destroyed, and change nothing."`
	layout
}

func (c *tenantPurge) Run(a *app) error {
	if !c.Yes && !c.DryRun && !a.prompt {
		return usage("purging destroys data for good: confirm with --yes where nobody can be asked")
	}
	return a.withConfig(func(ctx context.Context, reg *registry.Postgres, cfg shardedpg.Config) error {
		id := string(c.ID)
		t, err := reg.Tenant(ctx, id)
		if err != nil {
			return err
		}
		if t.Removed.IsZero() && (t.State == resolver.StateActive || t.State == resolver.StateReadOnly) {
			return fmt.Errorf("tenant %q is %s: disable or remove it first, and see that nobody misses it", id, t.State)
		}
		what := fmt.Sprintf("all data of tenant %q (%s) on shard %q", id, t.Model, t.Shard)
		if c.DryRun {
			return a.show(map[string]any{"dry_run": true, "tenant": t}, func() { a.say("would destroy %s; nothing was changed", what) })
		}
		if !c.Yes {
			if err := a.confirm(what, id); err != nil {
				return err
			}
		}
		rows, err := provision.Purge(ctx, reg.Admin, id, id, c.options(cfg))
		if err != nil {
			return fmt.Errorf("%w; run the same again to go on", err)
		}
		return a.show(map[string]any{"purged": id, "rows": rows}, func() {
			a.say("tenant %q purged; its ID stays taken", id)
			for _, table := range slices.Sorted(maps.Keys(rows)) {
				a.say("  %s: %d rows", table, rows[table])
			}
		})
	})
}

// confirm asks for the ID again.
func (a *app) confirm(what, id string) error {
	fmt.Fprintf(a.notes, "This destroys %s, for good.\nType the ID of the tenant again: ", clean(what))
	answer := make(chan string, 1)
	go func() { // a read of a terminal cannot be cancelled; the process ends soon after an interrupt
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-a.ctx.Done():
		return errors.New("interrupted: nothing was destroyed")
	case line := <-answer:
		if line != id {
			return errors.New("that is another ID: nothing was destroyed")
		}
	}
	return nil
}
