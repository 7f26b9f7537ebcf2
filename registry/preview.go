package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Preview is what [Admin.AddTenant] would do with one tenant.
type Preview struct {
	Tenant TenantInfo // as it would be stored, or as it is there when Err matches ErrExists; without an ID it was purged
	Err    error      // what AddTenant would return
}

// PreviewTenants says what [Admin.AddTenant] would do with tenants if it were given one after the other now, and changes
// nothing. It takes no lock, so it is no promise where others add tenants, too. It does not see that another tenant was
// given the schema or the role that one of tenants would get.
func (a *Admin) PreviewTenants(ctx context.Context, tenants []Tenant, where *Assignment) ([]Preview, error) {
	if err := where.check(); err != nil {
		return nil, err
	}
	pick := newPicker(where, "", "")
	if err := a.weigh(ctx, pick); err != nil {
		return nil, err
	}
	there, err := a.among(ctx, tenants)
	if err != nil {
		return nil, err
	}
	return view(ctx, a, "previewing tenants", func(tx *change) ([]Preview, error) {
		if tx.refusal != nil {
			return nil, tx.refusal
		}
		p := &preview{pick: pick, there: maps.Clone(there)} // it may be run again
		if err := p.read(ctx, tx); err != nil {
			return nil, err
		}
		all := make([]Preview, 0, len(tenants))
		for _, tenant := range tenants {
			info, err := p.add(ctx, tenant)
			if err != nil {
				err = fmt.Errorf("adding tenant %q: %w", cut(tenant.ID), err)
			}
			all = append(all, Preview{Tenant: info, Err: err})
		}
		return all, nil
	})
}

// among returns those tenants that the registry has, by ID, and whoever has one of their slugs, by slug.
func (a *Admin) among(ctx context.Context, tenants []Tenant) (map[string]TenantInfo, error) {
	there := make(map[string]TenantInfo)
	for chunk := range slices.Chunk(tenants, defaultPage) {
		ids := make([]string, 0, len(chunk))
		for _, tenant := range chunk {
			if resolver.ValidTenantID(tenant.ID) == nil {
				ids = append(ids, tenant.ID)
			}
			if tenant.Slug == "" {
				continue
			}
			owner, err := a.store.find(ctx, TenantFilter{Slug: tenant.Slug, Removed: AnyTenants, Limit: 1})
			if err != nil {
				return nil, err
			}
			for _, t := range owner {
				there[slugKey+t.Slug] = t
			}
		}
		found, err := a.store.find(ctx, TenantFilter{ids: ids, Removed: AnyTenants, Limit: len(ids)})
		if err != nil {
			return nil, err
		}
		for _, t := range found {
			there[t.ID] = t
		}
	}
	return there, nil
}

const slugKey = "slug\x00" // no ID holds a NUL

// preview is a registry as it would be after what was previewed so far.
type preview struct {
	pick   *picker
	tx     change // of which only what is set here is used
	there  map[string]TenantInfo
	graves map[string]bool
	plans  map[string]bool
	counts map[string]population
	shards []Shard
}

func (p *preview) read(ctx context.Context, tx *change) (err error) {
	if p.shards, err = tx.shards.all(ctx); err != nil {
		return err
	}
	if p.counts, err = tx.population(ctx); err != nil {
		return err
	}
	plans, err := tx.plans.all(ctx)
	if err != nil {
		return err
	}
	graves, err := tx.graves.all(ctx)
	if err != nil {
		return err
	}
	p.plans, p.graves = make(map[string]bool), make(map[string]bool)
	for _, plan := range plans {
		p.plans[plan.Name] = true
	}
	for _, grave := range graves {
		p.graves[grave.ID] = true
	}
	p.tx = change{census: p, shards: previewShards{p: p}}
	return nil
}

func (p *preview) add(ctx context.Context, asked Tenant) (info TenantInfo, err error) {
	if stored, known := p.there[asked.ID]; known {
		return stored, alreadyThere(&stored)
	}
	if p.graves[asked.ID] {
		return info, purged(asked.ID)
	}
	info.Epoch = 1
	if info.Tenant, p.pick.chosen, err = newTenant(asked); err != nil {
		return info, err
	}
	if !p.plans[info.Plan] {
		return info, fmt.Errorf("%w: %q", ErrPlanNotFound, cut(info.Plan))
	}
	p.pick.tenant = info.ID
	if info.Shard, info.Assignment, err = p.pick.shard(ctx, &p.tx); err != nil {
		return info, err
	}
	if _, taken := p.there[slugKey+info.Slug]; taken {
		return info, conflict(info.ID, claim{what: "slug", name: info.Slug})
	}
	n := p.counts[info.Shard]
	n.tenants++
	p.counts[info.Shard] = n
	p.there[info.ID] = info
	if info.Slug != "" {
		p.there[slugKey+info.Slug] = info
	}
	return info, nil
}

func (p *preview) population(context.Context) (map[string]population, error) { return p.counts, nil }

func (p *preview) inhabitants(_ context.Context, shard string) (int, error) {
	return p.counts[shard].tenants, nil
}

// previewShards gives the shards that were read once: a picker reads them for each tenant.
type previewShards struct {
	rows[Shard]
	p *preview
}

func (s previewShards) all(context.Context) ([]Shard, error) { return s.p.shards, nil }
