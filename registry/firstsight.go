package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// FirstSight lets a lookup add a tenant that the registry does not know, instead of refusing it. Whoever can name a
// tenant can then make one: use it only where IDs come from something trusted, such as a signed token.
//
// It runs no DDL and asks no shard whether the tenant's tables are there. A tenant of model shared is active at once; one
// of another model stays in provisioning, and its statements are refused, until somebody provisions it. Removed and
// purged tenants stay unknown. The registry's login needs the right to write.
type FirstSight struct {
	Tenant Tenant      // what a new tenant gets: model, plan, labels. ID, state, schema, role and slug must be empty
	Where  *Assignment // where it may live
}

func (f *FirstSight) check() error {
	if f == nil {
		return nil
	}
	if t := f.Tenant; t.ID != "" || t.State != "" || t.Schema != "" || t.Role != "" || t.Slug != "" {
		return fmt.Errorf("%w: ID, state, schema, role and slug of tenants at first sight follow from their ID: leave them empty", ErrInvalid)
	}
	return f.Where.check()
}

// meet adds an unknown tenant, and reports whether it is known now. Another program may have been faster.
func (a *Admin) meet(ctx context.Context, id string) (known bool, err error) {
	if a.first == nil {
		return false, nil
	}
	tenant := a.first.Tenant
	tenant.ID = id
	if tenant.Model == "" || tenant.Model == resolver.ModelShared {
		tenant.State = resolver.StateActive
	}
	_, err = a.AddTenant(ctx, tenant, a.first.Where)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrExists):
		info, err := a.Tenant(ctx, id)
		if errors.Is(err, resolver.ErrTenantNotFound) {
			return false, nil // purged
		}
		return err == nil && info.Removed.IsZero(), err
	case errors.Is(err, ErrInvalid):
		return false, fmt.Errorf("%w: %q: %w", resolver.ErrTenantNotFound, cut(id), err) // it cannot become one
	}
	return false, fmt.Errorf("adding tenant %q at first sight: %w", cut(id), err)
}
