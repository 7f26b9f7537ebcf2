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

// check refuses what no shard could have.
func (a *Assignment) check() error {
	if a == nil {
		return nil
	}
	var p problems
	if a.Region != "" {
		checkName(&p, "region", a.Region)
	}
	checkLabels(&p, a.Labels)
	return p.err("assignment in region", a.Region)
}

// AddTenant adds a tenant and chooses a shard for it, or takes the one that tenant names if that may take another one.
// The tenant is in provisioning unless told otherwise: package provision makes what its model needs on the shard, and
// then makes it active. A tenant of model database without a name for its database gets "tenant_<ID>".
//
// It fails with [ErrExists] if the tenant is known, removed and purged ones included, with [ErrNoShardFits] if no shard
// may take it, and with [ErrInvalid] or [ErrConflict]. Any number of processes may add tenants at once: no shard gets
// more than its MaxTenants.
func (a *Admin) AddTenant(ctx context.Context, tenant Tenant, where *Assignment) (TenantInfo, error) {
	tenant, chosen, err := newTenant(tenant)
	if err != nil {
		return TenantInfo{}, err
	}
	if err := where.check(); err != nil {
		return TenantInfo{}, err
	}
	pick := newPicker(where, tenant.ID, chosen)
	if err := a.weigh(ctx, pick); err != nil {
		return TenantInfo{}, err
	}
	if err := a.closeOutgrown(ctx, pick); err != nil {
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

// newTenant returns a tenant with its defaults, and apart from it the shard that the caller chose.
func newTenant(tenant Tenant) (_ Tenant, chosen string, err error) {
	if chosen = tenant.Shard; chosen == "" {
		tenant.Shard = "to-be-chosen" // any valid name
	}
	if tenant.Model == resolver.ModelDatabase && tenant.Database == "" {
		tenant.Database = "tenant_" + tenant.ID
	}
	if tenant, err = complete(tenant); err != nil {
		return tenant, chosen, err
	}
	if tenant.State == "" {
		tenant.State = resolver.StateProvisioning
	}
	return tenant, chosen, nil
}

// alreadyThere says what is there already.
func alreadyThere(t *TenantInfo) error {
	what := "is " + string(t.State)
	if !t.Removed.IsZero() {
		what = "was removed and can be restored"
	}
	return fmt.Errorf("%w: tenant %q on shard %q %s", ErrExists, cut(t.ID), t.Shard, what)
}

// picker chooses the shard of one tenant.
type picker struct {
	Assignment
	tenant     string
	chosen     string             // by the caller
	sizes      map[string]float64 // what the strategy measured
	tooLarge   map[string]string  // why a shard is, or may be, by name
	outgrown   []Shard            // that surely are
	unmeasured error
	refusals   []string // why shards take it not, in the end
}

func newPicker(where *Assignment, tenant, chosen string) *picker {
	return &picker{Assignment: where.withDefaults(), tenant: tenant, chosen: chosen, tooLarge: make(map[string]string)}
}

// shard chooses under the lock.
func (p *picker) shard(ctx context.Context, tx *change) (name, how string, err error) {
	shards, err := tx.shards.all(ctx)
	if err != nil {
		return "", "", err
	}
	found := false
	p.refusals = nil // it may be run again
	var fit []Candidate
	for _, shard := range shards {
		if p.chosen != "" && shard.Name != p.chosen {
			continue
		}
		found = true
		why := p.refusal(ShardInfo{Shard: shard})
		size, measured := p.sizes[shard.Name]
		if why == "" && p.chosen == "" && !measured && needsSize(p.Strategy) {
			why = "it could not be measured"
		}
		if why != "" {
			p.refuse(shard.Name, why)
			continue
		}
		fit = append(fit, Candidate{Shard: shard, Size: size})
	}
	if !found && p.chosen != "" {
		return "", "", fmt.Errorf("%w: %q", ErrShardNotFound, cut(p.chosen))
	}
	if _, blind := p.Strategy.(Hash); !blind && p.chosen == "" {
		if fit, err = p.counted(ctx, tx, fit); err != nil {
			return "", "", err
		}
	}
	return p.first(ctx, tx, fit)
}

// counted adds the numbers of tenants, and drops shards that have enough.
func (p *picker) counted(ctx context.Context, tx *change, fit []Candidate) ([]Candidate, error) {
	counts, err := tx.population(ctx)
	if err != nil {
		return nil, err
	}
	for i, c := range fit {
		fit[i].Tenants = counts[c.Shard.Name].tenants
	}
	return slices.DeleteFunc(fit, func(c Candidate) bool { return p.full(c.Shard, c.Tenants) }), nil
}

// first takes the candidate that the caller or the strategy prefers and that has room. Only that one's tenants are
// counted: with all of them the hundred-thousandth tenant would hold the lock for as long as it takes to read a hundred
// thousand rows, and Hash does not look at numbers.
func (p *picker) first(ctx context.Context, tx *change, fit []Candidate) (name, how string, err error) {
	for len(fit) > 0 {
		name, how = p.chosen, "explicit"
		if p.chosen == "" {
			how = p.Strategy.Name()
			if name, err = p.Strategy.Pick(p.tenant, fit); err != nil {
				return "", "", fmt.Errorf("strategy %s: tenant %q: %w", how, cut(p.tenant), err)
			}
		}
		i := slices.IndexFunc(fit, func(c Candidate) bool { return c.Shard.Name == name })
		if i < 0 {
			return "", "", fmt.Errorf("%w: strategy %s chose shard %q, which was no candidate", ErrInvalid, how, cut(name))
		}
		if fit[i].Shard.MaxTenants == UnlimitedTenants {
			return name, how, nil
		}
		tenants, err := tx.inhabitants(ctx, name)
		if err != nil || !p.full(fit[i].Shard, tenants) {
			return name, how, err
		}
		fit = slices.Delete(fit, i, i+1)
	}
	return "", "", p.noneFits()
}

// full reports whether a shard has as many tenants as it may, and keeps that as the reason.
func (p *picker) full(shard Shard, tenants int) bool {
	why := p.refusal(ShardInfo{Shard: shard, Tenants: tenants})
	if why != "" {
		p.refuse(shard.Name, why)
	}
	return why != ""
}

func (p *picker) refuse(shard, why string) { p.refusals = append(p.refusals, shard+": "+why) }

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

func (p *picker) noneFits() error {
	if len(p.refusals) == 0 {
		return fmt.Errorf("%w tenant %q: there are no shards: add one", ErrNoShardFits, cut(p.tenant))
	}
	slices.Sort(p.refusals)
	refusals := p.refusals
	if p.unmeasured != nil {
		refusals = append(refusals, p.unmeasured.Error())
	}
	return fmt.Errorf("%w tenant %q: %s: add a shard, open one or raise its limits",
		ErrNoShardFits, cut(p.tenant), strings.Join(refusals, "; "))
}
