package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// fewTenants are shown one by one; of more, people want numbers.
const fewTenants = 20

// previews is what adding the tenants would do.
func (b *batch) previews(ctx context.Context, ids []string) ([]registry.Preview, error) {
	tenants := make([]registry.Tenant, 0, len(ids))
	for _, id := range ids {
		tenants = append(tenants, b.tenant(id))
	}
	return b.reg.PreviewTenants(ctx, tenants, &b.where)
}

// ready looks on each shard that tenants would get for what they are made from. Without it, a misspelt template would leave
// them in provisioning.
func (b *batch) ready(ctx context.Context, previews []registry.Preview) error {
	if b.NoProvision {
		return nil
	}
	seen := make(map[string]bool)
	for _, p := range previews {
		if p.Err != nil || seen[p.Tenant.Shard] {
			continue
		}
		seen[p.Tenant.Shard] = true
		if err := provision.Check(ctx, b.reg, p.Tenant.Tenant, b.options); err != nil {
			return fmt.Errorf("%w\nnothing was added", err)
		}
	}
	return nil
}

// preview says what adding the tenants would do.
func (b *batch) preview(a *app, ids []string, previews []registry.Preview) error {
	if len(ids) == 1 && b.File == "" && previews[0].Err != nil {
		return invalid(previews[0].Err)
	}
	r := newResult()
	r.DryRun, r.Shards = true, make(map[string]string)
	var first error
	unfinished := 0
	for i, p := range previews {
		switch {
		case p.Err == nil:
			r.Added = append(r.Added, ids[i])
			r.Shards[ids[i]] = p.Tenant.Shard
		case errors.Is(p.Err, registry.ErrExists) && p.Tenant.ID != "":
			r.Existing = append(r.Existing, ids[i])
			if p.Tenant.State == resolver.StateProvisioning && p.Tenant.Removed.IsZero() && !b.NoProvision {
				unfinished++
			}
		default:
			r.Failed[ids[i]] = clean(speak(p.Err.Error()))
			if first == nil {
				first = p.Err
			}
		}
	}
	if err := a.show(r, func() { a.preview(&r, previews, unfinished) }); err != nil || first == nil {
		return err
	}
	a.note("%s would fail", count(len(r.Failed), "tenant"))
	if next := hint(first); next != "" {
		a.note("next: %s", next)
	}
	return errReported
}

func (a *app) preview(r *batchResult, previews []registry.Preview, unfinished int) {
	a.say("dry run, nothing was changed: %s would be added; %d there already", count(len(r.Added), "tenant"), len(r.Existing))
	if unfinished > 0 {
		a.say("%d of those there were left in provisioning and would be completed", unfinished)
	}
	var rows [][]string
	header := []string{"TENANT", "SHARD", "CHOSEN BY"}
	if len(r.Added) <= fewTenants {
		for _, p := range previews {
			if p.Err == nil {
				rows = append(rows, []string{p.Tenant.ID, p.Tenant.Shard, p.Tenant.Assignment})
			}
		}
	} else {
		header = []string{"SHARD", "NEW TENANTS"}
		counts := make(map[string]int)
		for _, shard := range r.Shards {
			counts[shard]++
		}
		for _, shard := range slices.Sorted(maps.Keys(counts)) {
			rows = append(rows, []string{shard, strconv.Itoa(counts[shard])})
		}
	}
	if len(rows) > 0 {
		a.table(header, rows)
	}
	for i, id := range slices.Sorted(maps.Keys(r.Failed)) {
		if i == fewTenants {
			a.note("failed: and %d more: see -o json", len(r.Failed)-fewTenants)
			break
		}
		a.note("would fail: %s: %s", id, r.Failed[id])
	}
}
