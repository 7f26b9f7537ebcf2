package shardedpg

import (
	"context"
	"fmt"
)

type tenantKey struct{}

// tenantValue is a pointer in the context, so that reading it does not allocate.
type tenantValue struct {
	id    string
	clash string // the tenant that was there first
}

// WithTenant returns a context for the work of one tenant. A different tenant in ctx already is a mistake that must not
// pass: every use of the new context then fails with [ErrTenantMismatch]. To change tenants on purpose use
// [SwitchTenant]. The ID is checked when it is used.
func WithTenant(ctx context.Context, id string) context.Context {
	v := &tenantValue{id: id}
	if old, ok := ctx.Value(tenantKey{}).(*tenantValue); ok {
		switch {
		case old.clash != "":
			return ctx
		case old.id == id:
			return ctx
		}
		v.clash = old.id
	}
	return context.WithValue(ctx, tenantKey{}, v)
}

// SwitchTenant returns a context for another tenant, whatever ctx named before.
func SwitchTenant(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, tenantKey{}, &tenantValue{id: id})
}

// TenantFrom returns the tenant of a context. It reports false when there is none, or when two different ones were put
// there with WithTenant.
func TenantFrom(ctx context.Context) (id string, ok bool) {
	v, ok := ctx.Value(tenantKey{}).(*tenantValue)
	if !ok || v.clash != "" {
		return "", false
	}
	return v.id, true
}

// tenantOf is TenantFrom with the reason why there is none.
func tenantOf(ctx context.Context) (string, error) {
	v, ok := ctx.Value(tenantKey{}).(*tenantValue)
	switch {
	case !ok:
		return "", errNoTenant
	case v.clash != "":
		return "", &Error{Stage: StageTenant, Tenant: v.id, Err: fmt.Errorf(
			"%w: the context already carries tenant %q; use SwitchTenant to change tenants on purpose", ErrTenantMismatch, v.clash)}
	}
	return v.id, nil
}

var errNoTenant = &Error{Stage: StageTenant, Err: fmt.Errorf(
	"%w; put one into the context with WithTenant, or use ShardDB for work that belongs to no tenant", ErrNoTenant)}
