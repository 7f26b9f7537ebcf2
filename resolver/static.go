package resolver

import (
	"context"
	"fmt"
)

var (
	_ Resolver = Static(nil)
	_ Source   = Static(nil)
)

// Static is a fixed set of routes by tenant ID, for tests and for fleets that are known when the program is built. Any
// number of goroutines may use it while nobody changes the map.
type Static map[string]*Route

// Resolve returns the tenant's route, or an error that matches [ErrTenantNotFound].
func (s Static) Resolve(ctx context.Context, tenant string) (*Route, error) {
	if route := s[tenant]; route != nil {
		return route, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s is not in the static set", ErrTenantNotFound, quoteID(tenant))
}

// Lookup is Resolve under the name that [Source] asks for.
func (s Static) Lookup(ctx context.Context, tenant string) (*Route, error) {
	return s.Resolve(ctx, tenant)
}
