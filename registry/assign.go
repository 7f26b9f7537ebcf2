package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Assignment says where a new tenant may live. nil and the zero value mean: anywhere, by [Hash].
type Assignment struct {
	Strategy Strategy          // default Hash
	Region   string            // only shards of this region
	Labels   map[string]string // only shards with all of these
}

func (a *Assignment) withDefaults() Assignment {
	var out Assignment
	if a != nil {
		out = *a
	}
	if out.Strategy == nil {
		out.Strategy = Hash{}
	}
	return out
}

// AddTenant adds a tenant and chooses a shard for it, or takes the one that tenant names if that may take another one.
// The tenant is in provisioning unless told otherwise: package provision makes what its model needs on the shard, and
// then makes it active. A tenant of model database without a name for its database gets "tenant_<ID>".
//
// It fails with [ErrExists] if the tenant is known, removed and purged ones included, with [ErrNoShardFits] if no shard
// may take it, and with [ErrInvalid] or [ErrConflict]. Any number of processes may add tenants at once: no shard gets
// more than its MaxTenants.
func (a *Admin) AddTenant(ctx context.Context, tenant Tenant, where *Assignment) (TenantInfo, error) {
	chosen := tenant.Shard
	if chosen == "" {
		tenant.Shard = "to-be-chosen" // any valid name
	}
	if tenant.Model == resolver.ModelDatabase && tenant.Database == "" {
		tenant.Database = "tenant_" + tenant.ID
	}
	tenant, err := complete(tenant)
	if err != nil {
		return TenantInfo{}, err
	}
	if tenant.State == "" {
		tenant.State = resolver.StateProvisioning
	}
	asked := where.withDefaults()
	shards, err := a.ListShards(ctx)
	if err != nil {
		return TenantInfo{}, err
	}
	pick := &picker{Assignment: asked, tenant: tenant.ID, chosen: chosen, tooLarge: make(map[string]string)}
	if err := a.weigh(ctx, pick, shards); err != nil {
		return TenantInfo{}, err
	}

	var info TenantInfo
	err = a.store.change(ctx, fmt.Sprintf("adding tenant %q", cut(tenant.ID)), func(tx *change) error {
		// What can be known before the lock is asked before it: all assignments of the fleet wait for it. A tenant that
		// another program adds meanwhile makes the insert fail, and then all of this is run again.
		stored, err := tx.tenants.get(ctx, tenant.ID)
		if err != nil {
			return err
		}
		if stored != nil {
			return alreadyThere(stored)
		}
		if err := unused(ctx, tx, tenant.ID); err != nil {
			return err
		}
		if _, err := mustPlan(ctx, tx, tenant.Plan); err != nil {
			return err
		}
		if err := tx.lock(ctx); err != nil {
			return err
		}
		info = TenantInfo{Tenant: tenant}
		if info.Shard, info.Assignment, err = pick.shard(ctx, tx); err != nil {
			return err
		}
		return insertTenant(ctx, tx, "add_tenant", info)
	})
	if err != nil {
		return TenantInfo{}, err
	}
	return a.Tenant(ctx, tenant.ID)
}

// alreadyThere says what is there already.
func alreadyThere(t *TenantInfo) error {
	what := "is " + string(t.State)
	if !t.Removed.IsZero() {
		what = "was removed and can be restored"
	}
	return fmt.Errorf("%w: tenant %q on shard %q %s", ErrExists, cut(t.ID), t.Shard, what)
}

// weigh asks shards for their sizes where that is needed: before the lock, and never under it.
func (a *Admin) weigh(ctx context.Context, pick *picker, infos []ShardInfo) error {
	var able, limited []Shard
	for _, info := range infos {
		if pick.refusal(info) != "" {
			continue
		}
		able = append(able, info.Shard)
		if info.MaxBytes > 0 {
			limited = append(limited, info.Shard)
		}
	}
	if sizer, ok := pick.Strategy.(Sizer); ok && pick.chosen == "" && len(able) > 0 {
		// Shards that were not measured are no candidates; the error is told when no other shard fits.
		pick.sizes, pick.unmeasured = sizer.Sizes(ctx, able)
	}
	if len(limited) == 0 {
		return nil
	}
	bytes, err := a.sizer.Sizes(ctx, limited)
	for _, shard := range limited {
		size, measured := bytes[shard.Name]
		switch {
		case !measured:
			pick.tooLarge[shard.Name] = "its size against max bytes could not be measured"
			pick.unmeasured = err
		case size > float64(shard.MaxBytes):
			note := fmt.Sprintf("its databases hold %.0f bytes, more than its max bytes %d", size, shard.MaxBytes)
			pick.tooLarge[shard.Name] = note
			if err := a.SetShardState(ctx, shard.Name, ShardFull, note); err != nil {
				return err
			}
		}
	}
	return nil
}

// picker chooses the shard of one tenant.
type picker struct {
	Assignment
	tenant     string
	chosen     string             // by the caller
	sizes      map[string]float64 // what the strategy measured
	tooLarge   map[string]string  // why a shard is, by name
	unmeasured error
}

// shard chooses under the lock.
func (p *picker) shard(ctx context.Context, tx *change) (name, how string, err error) {
	shards, err := tx.shards.all(ctx)
	if err != nil {
		return "", "", err
	}
	counts, err := tx.population(ctx)
	if err != nil {
		return "", "", err
	}
	var fit []Candidate
	var refusals []string
	for _, shard := range shards {
		if p.chosen != "" && shard.Name != p.chosen {
			continue
		}
		why := p.refusal(ShardInfo{Shard: shard, Tenants: counts[shard.Name].tenants})
		size, measured := p.sizes[shard.Name]
		if why == "" && p.chosen == "" && !measured && needsSize(p.Strategy) {
			why = "it could not be measured"
		}
		if why != "" {
			refusals = append(refusals, fmt.Sprintf("%s: %s", shard.Name, why))
			continue
		}
		fit = append(fit, Candidate{Shard: shard, Tenants: counts[shard.Name].tenants, Size: size})
	}
	switch {
	case len(fit) == 0 && p.chosen != "" && len(refusals) == 0:
		return "", "", fmt.Errorf("%w: %q", ErrShardNotFound, cut(p.chosen))
	case len(fit) == 0:
		return "", "", p.noneFits(refusals)
	case p.chosen != "":
		return p.chosen, "explicit", nil
	}
	name, err = p.Strategy.Pick(p.tenant, fit)
	if err != nil {
		return "", "", fmt.Errorf("strategy %s: tenant %q: %w", p.Strategy.Name(), cut(p.tenant), err)
	}
	if !slices.ContainsFunc(fit, func(c Candidate) bool { return c.Shard.Name == name }) {
		return "", "", fmt.Errorf("%w: strategy %s chose shard %q, which was no candidate", ErrInvalid, p.Strategy.Name(), cut(name))
	}
	return name, p.Strategy.Name(), nil
}

// refusal says why a shard takes no tenant of this kind, or "".
func (p *picker) refusal(s ShardInfo) string {
	switch {
	case s.State != ShardOpen:
		return "it is " + string(s.State)
	case p.Region != "" && s.Region != p.Region:
		return fmt.Sprintf("its region is %q", s.Region)
	case !has(s.Labels, p.Labels):
		return "it lacks a label that is asked for"
	case s.MaxTenants != UnlimitedTenants && s.Tenants >= s.MaxTenants:
		return fmt.Sprintf("it has %d of %d tenants", s.Tenants, s.MaxTenants)
	}
	return p.tooLarge[s.Name]
}

func (p *picker) noneFits(refusals []string) error {
	if len(refusals) == 0 {
		return fmt.Errorf("%w tenant %q: there are no shards: add one", ErrNoShardFits, cut(p.tenant))
	}
	if p.unmeasured != nil {
		refusals = append(refusals, p.unmeasured.Error())
	}
	return fmt.Errorf("%w tenant %q: %s: add a shard, open one or raise its limits",
		ErrNoShardFits, cut(p.tenant), strings.Join(refusals, "; "))
}
