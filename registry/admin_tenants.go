package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// PutTenant adds or replaces a tenant where the caller says, whether the shard is full or not, and makes a new one
// active unless told otherwise. Doing so again changes nothing; another placement (shard, database, model, schema, role)
// gives the tenant a new epoch. It changes the registry only: it moves no rows and creates no schema. What people type
// goes through [Admin.AddTenant].
func (a *Admin) PutTenant(ctx context.Context, tenant Tenant) error {
	tenant, err := complete(tenant)
	if err != nil {
		return err
	}
	return a.store.change(ctx, fmt.Sprintf("storing tenant %q", cut(tenant.ID)), func(tx *change) error {
		_, err := putTenant(ctx, tx, tenant)
		return err
	})
}

func putTenant(ctx context.Context, tx *change, tenant Tenant) (changed bool, err error) {
	if err := known(ctx, tx, tenant); err != nil {
		return false, err
	}
	stored, err := tx.tenants.get(ctx, tenant.ID)
	if err != nil {
		return false, err
	}
	if stored == nil {
		if tenant.State == "" {
			tenant.State = resolver.StateActive
		}
		if err := unused(ctx, tx, tenant.ID); err != nil {
			return false, err
		}
		return true, insertTenant(ctx, tx, "put_tenant", TenantInfo{Tenant: tenant, Assignment: "explicit"})
	}
	if err := present(stored); err != nil {
		return false, err
	}
	after := *stored
	after.Tenant = tenant.onto(stored.Tenant)
	if err := checkTransition(stored.State, after.State); err != nil {
		return false, err
	}
	if moved(stored.Tenant, after.Tenant) {
		after.Epoch++
		after.Assignment = "explicit"
	}
	return save(ctx, tx, tenantKind, tx.tenants, "put_tenant", "", stored, &after)
}

// onto returns the tenant with what its empty fields leave as it is stored.
func (t Tenant) onto(stored Tenant) Tenant {
	if t.State == "" {
		t.State = stored.State
	}
	if t.Slug == "" {
		t.Slug = stored.Slug
	}
	if t.Labels == nil {
		t.Labels = stored.Labels
	}
	return t
}

// unused refuses an ID that a purged tenant had.
func unused(ctx context.Context, tx *change, id string) error {
	buried, err := tx.graves.get(ctx, id)
	if err == nil && buried != nil {
		err = purged(id)
	}
	return err
}

func purged(id string) error {
	return fmt.Errorf("%w: tenant %q was purged, and backups and logs go on naming it: use another ID", ErrExists, cut(id))
}

// insertTenant stores a new tenant, whose ID must be unused.
func insertTenant(ctx context.Context, tx *change, action string, info TenantInfo) error {
	info.Epoch, info.Labels = 1, maps.Clone(info.Labels)
	_, err := save(ctx, tx, tenantKind, tx.tenants, action, "", nil, &info)
	return err
}

// known refuses a tenant whose shard or plan the registry does not have.
func known(ctx context.Context, tx *change, t Tenant) error {
	shard, err := tx.shards.get(ctx, t.Shard)
	if err != nil {
		return err
	}
	plan, err := tx.plans.get(ctx, t.Plan)
	if err != nil {
		return err
	}
	return missing(t, shard != nil, plan != nil)
}

// moved reports whether two placements differ.
func moved(a, b Tenant) bool {
	return a.Shard != b.Shard || a.Database != b.Database || a.Model != b.Model || a.Schema != b.Schema || a.Role != b.Role
}

func present(t *TenantInfo) error {
	if !t.Removed.IsZero() {
		return fmt.Errorf("%w: tenant %q was removed: restore it first", ErrInvalid, cut(t.ID))
	}
	return nil
}

// updateTenant reads a tenant, lets edit change it, and stores it.
func (a *Admin) updateTenant(ctx context.Context, action, id, note string, edit func(tx *change, t *TenantInfo) error) error {
	if err := resolver.ValidTenantID(id); err != nil {
		return err
	}
	return a.store.change(ctx, fmt.Sprintf("changing tenant %q", cut(id)), func(tx *change) error {
		stored, err := tx.tenants.get(ctx, id)
		if stored, err = must(stored, err, resolver.ErrTenantNotFound, id); err != nil {
			return err
		}
		after := *stored
		if err := edit(tx, &after); err != nil {
			return err
		}
		_, err = save(ctx, tx, tenantKind, tx.tenants, action, note, stored, &after)
		return err
	})
}

// editTenant is updateTenant for what a removed tenant does not take.
func (a *Admin) editTenant(ctx context.Context, action, id, note string, edit func(tx *change, t *TenantInfo) error) error {
	return a.updateTenant(ctx, action, id, note, func(tx *change, t *TenantInfo) error {
		if err := present(t); err != nil {
			return err
		}
		return edit(tx, t)
	})
}

// SetTenantState takes a tenant to another state, as the diagram in the package documentation allows. The state it is in
// already is no error.
func (a *Admin) SetTenantState(ctx context.Context, id string, state resolver.State) error {
	return a.editTenant(ctx, "set_state", id, "", func(_ *change, t *TenantInfo) error {
		from := t.State
		t.State = state
		return checkTransition(from, state)
	})
}

// SetTenantPlan puts a tenant on another plan.
func (a *Admin) SetTenantPlan(ctx context.Context, id, plan string) error {
	return a.editTenant(ctx, "set_plan", id, "", func(tx *change, t *TenantInfo) error {
		if _, err := mustPlan(ctx, tx, plan); err != nil {
			return err
		}
		t.Plan = plan
		return nil
	})
}

func mustPlan(ctx context.Context, tx *change, name string) (*Plan, error) {
	plan, err := tx.plans.get(ctx, name)
	return must(plan, err, ErrPlanNotFound, name)
}

// SetTenantSlug gives a tenant another slug, or none. Nothing is routed by slugs, and IDs never change.
func (a *Admin) SetTenantSlug(ctx context.Context, id, slug string) error {
	var p problems
	if slug != "" {
		checkName(&p, "slug", slug)
	}
	if err := p.err("tenant", id); err != nil {
		return err
	}
	return a.editTenant(ctx, "set_slug", id, "", func(_ *change, t *TenantInfo) error {
		t.Slug = slug
		return nil
	})
}

// SetTenantLabels replaces the labels of a tenant.
func (a *Admin) SetTenantLabels(ctx context.Context, id string, labels map[string]string) error {
	var p problems
	checkLabels(&p, labels)
	if err := p.err("tenant", id); err != nil {
		return err
	}
	return a.editTenant(ctx, "set_labels", id, "", func(_ *change, t *TenantInfo) error {
		t.Labels = maps.Clone(labels)
		return nil
	})
}

// SetOverride replaces limits of a tenant's plan until the override expires or is cleared; nil clears it. It replaces an
// earlier override whole, and is below a throttle that the tenant has: what that limits stays limited until it ends. Its
// reason is the note of the audit log, too.
func (a *Admin) SetOverride(ctx context.Context, id string, o *Override) error {
	return a.setLimits(ctx, "override", id, o, func(t *TenantInfo, o *Override) { t.Override = o })
}

// SetThrottle holds a tenant down for a while: o is over its override, or its plan, until it expires or is cleared, and
// then that holds again. nil clears it. It replaces an earlier throttle whole, must have Expires, and is otherwise as
// SetOverride.
func (a *Admin) SetThrottle(ctx context.Context, id string, o *Override) error {
	if o != nil && o.Expires.IsZero() {
		return fmt.Errorf("%w: the throttle of tenant %q has no end: set Expires", ErrInvalid, cut(id))
	}
	return a.setLimits(ctx, "throttle", id, o, func(t *TenantInfo, o *Override) { t.Throttle = o })
}

func (a *Admin) setLimits(ctx context.Context, what, id string, o *Override, set func(t *TenantInfo, o *Override)) error {
	now, reason := time.Now(), ""
	if o != nil {
		if err := validateOverride(what, id, o, now); err != nil {
			return err
		}
		stored := *o
		// PostgreSQL keeps microseconds; what it gives back has to equal what was put in.
		stored.Expires = stored.Expires.UTC().Truncate(time.Microsecond)
		o, reason = &stored, stored.Reason
	}
	return a.editTenant(ctx, "set_"+what, id, reason, func(_ *change, t *TenantInfo) error {
		if !t.Throttle.InForce(now) {
			t.Throttle = nil // one that has ended hides the override from drivers of version 3
		}
		set(t, o)
		return nil
	})
}

// Tenant returns a tenant, removed or not, or an error that matches resolver.ErrTenantNotFound.
func (a *Admin) Tenant(ctx context.Context, id string) (TenantInfo, error) {
	if err := resolver.ValidTenantID(id); err != nil {
		return TenantInfo{}, err
	}
	found, err := a.store.find(ctx, TenantFilter{ids: []string{id}, Removed: AnyTenants, Limit: 1})
	switch {
	case err != nil:
		return TenantInfo{}, err
	case len(found) == 0:
		return TenantInfo{}, fmt.Errorf("%w: %q", resolver.ErrTenantNotFound, cut(id))
	}
	return found[0], nil
}

// RemoveTenant takes a tenant out of the registry's answers: lookups no longer find it. Its rows stay where they are,
// and so does its ID: [Admin.RestoreTenant] brings it back as it was.
func (a *Admin) RemoveTenant(ctx context.Context, id string) error {
	return a.updateTenant(ctx, "remove_tenant", id, "", func(_ *change, t *TenantInfo) error {
		if t.State == resolver.StateMoving || t.State == resolver.StateDeleting {
			return fmt.Errorf("%w: a tenant that is %s cannot be removed: let that end first", ErrInvalid, t.State)
		}
		if t.Removed.IsZero() {
			t.Removed = time.Now().UTC().Truncate(time.Microsecond)
		}
		return nil
	})
}

// RestoreTenant undoes [Admin.RemoveTenant]. The tenant's state is what it was.
func (a *Admin) RestoreTenant(ctx context.Context, id string) error {
	return a.updateTenant(ctx, "restore_tenant", id, "", func(_ *change, t *TenantInfo) error {
		t.Removed = time.Time{}
		return nil
	})
}

// BeginPurge takes a tenant into the state deleting, from which there is no way back. It refuses a tenant that may run
// statements: disable or remove it first. confirm repeats its ID. Package provision calls it, destroys the rows, and
// calls [Admin.BuryTenant].
func (a *Admin) BeginPurge(ctx context.Context, id, confirm string) error {
	if confirm != id {
		return fmt.Errorf("%w: purging destroys the tenant's data: repeat its ID %q to confirm", ErrInvalid, cut(id))
	}
	return a.updateTenant(ctx, "begin_purge", id, "", func(_ *change, t *TenantInfo) error {
		switch {
		case t.State == resolver.StateMoving:
			return fmt.Errorf("%w: tenant %q is being moved: let that end first", ErrInvalid, cut(id))
		case t.Removed.IsZero() && (t.State == resolver.StateActive || t.State == resolver.StateReadOnly):
			return fmt.Errorf("%w: tenant %q is %s: disable or remove it first, and see that nobody misses it", ErrInvalid, cut(id), t.State)
		}
		t.State = resolver.StateDeleting
		return nil
	})
}

// PurgeStep records that rows of a table were destroyed. Package provision calls it.
func (a *Admin) PurgeStep(ctx context.Context, id, table string, rows int64) error {
	return a.store.change(ctx, fmt.Sprintf("recording the purge of tenant %q", cut(id)), func(tx *change) error {
		stored, err := tx.tenants.get(ctx, id)
		if stored, err = must(stored, err, resolver.ErrTenantNotFound, id); err != nil {
			return err
		}
		if stored.State != resolver.StateDeleting {
			return fmt.Errorf("%w: tenant %q is %s, not deleting", ErrInvalid, cut(id), stored.State)
		}
		if tx.refusal != nil {
			return tx.refusal
		}
		return tx.record(ctx, AuditEntry{
			Action: "purge_step", Kind: tenantKind.name, Subject: id, After: map[string]any{"table": table, "rows": rows},
		}, "")
	})
}

// BuryTenant takes a tenant whose data are destroyed out of the registry. Its ID stays taken.
func (a *Admin) BuryTenant(ctx context.Context, id string, rows map[string]int64) error {
	return a.store.change(ctx, fmt.Sprintf("burying tenant %q", cut(id)), func(tx *change) error {
		stored, err := tx.tenants.get(ctx, id)
		if stored, err = must(stored, err, resolver.ErrTenantNotFound, id); err != nil {
			return err
		}
		if stored.State != resolver.StateDeleting {
			return fmt.Errorf("%w: tenant %q is %s: only BeginPurge leads to its grave", ErrInvalid, cut(id), stored.State)
		}
		if err := tx.graves.put(ctx, nil, &grave{ID: id, Shard: stored.Shard, Rows: rows}); err != nil {
			return err
		}
		_, err = save(ctx, tx, tenantKind, tx.tenants, "bury_tenant", "", stored, nil)
		return err
	})
}

// errAgain makes a store run a change again, because another one got in between.
var errAgain = errors.New("another change got in between: try again")
