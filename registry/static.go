package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sharded-pg/sharded-pg/resolver"
)

var _ Store = (*Static)(nil)

// Fleet is a registry written down: for tests, for development and for fleets that change with the program. Several
// tenants may live on one database, and several databases on one shard.
type Fleet struct {
	Shards  []Shard
	Plans   []Plan // besides DefaultPlans, which are always there; one of the same name replaces it
	Tenants []Tenant
}

// Static is a [Store] that never changes; its mutations fail with [ErrReadOnlyStore]. Make one with [NewStatic].
type Static struct {
	shards []Shard // by name
	routes map[string]*resolver.Route

	closeOnce sync.Once
	closed    chan struct{}
}

// NewStatic copies fleet and returns all of its problems joined, if it has any.
func NewStatic(fleet Fleet) (*Static, error) {
	var errs []error
	shards := make(map[string]Shard)
	for _, shard := range fleet.Shards {
		if _, twice := shards[shard.Name]; twice {
			errs = append(errs, fmt.Errorf("%w: shard %q is listed twice: remove one", ErrInvalid, cut(shard.Name)))
		}
		errs = append(errs, validateShard(shard))
		shards[shard.Name] = shard
	}
	plans := make(map[string]Plan)
	for _, plan := range fleet.Plans {
		if _, twice := plans[plan.Name]; twice {
			errs = append(errs, fmt.Errorf("%w: plan %q is listed twice: remove one", ErrInvalid, cut(plan.Name)))
		}
		errs = append(errs, validatePlan(plan))
		plans[plan.Name] = plan
	}
	for _, plan := range DefaultPlans() {
		if _, replaced := plans[plan.Name]; !replaced {
			plans[plan.Name] = plan
		}
	}

	s := &Static{routes: make(map[string]*resolver.Route, len(fleet.Tenants)), closed: make(chan struct{})}
	owners := make(map[string]string)
	for _, tenant := range fleet.Tenants {
		route, err := staticRoute(tenant, shards, plans)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if _, twice := s.routes[route.Tenant]; twice {
			errs = append(errs, fmt.Errorf("%w: tenant %q is listed twice: remove one", ErrInvalid, cut(route.Tenant)))
		}
		errs = append(errs, claim(owners, route))
		s.routes[route.Tenant] = route
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, shard := range shards {
		s.shards = append(s.shards, shard)
	}
	slices.SortFunc(s.shards, func(a, b Shard) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

func staticRoute(t Tenant, shards map[string]Shard, plans map[string]Plan) (*resolver.Route, error) {
	t, err := complete(t)
	if err != nil {
		return nil, err
	}
	if t.State == "" {
		t.State = resolver.StateActive
	}
	shard, shardKnown := shards[t.Shard]
	plan, planKnown := plans[t.Plan]
	if err := missing(t, shardKnown, planKnown); err != nil {
		return nil, err
	}
	shard.AdminDSN = ""
	return &resolver.Route{
		Tenant: t.ID, Shard: shard, Database: t.Database, Model: t.Model, Schema: t.Schema, Role: t.Role,
		Plan: plan, State: t.State, Epoch: 1,
	}, nil
}

// missing returns the error for a tenant whose shard or plan the registry does not have.
func missing(t Tenant, shardKnown, planKnown bool) error {
	var errs []error
	if !shardKnown {
		errs = append(errs, fmt.Errorf("tenant %q: %w: %q: add the shard first", cut(t.ID), ErrShardNotFound, t.Shard))
	}
	if !planKnown {
		errs = append(errs, fmt.Errorf("tenant %q: %w: %q: add the plan first", cut(t.ID), ErrPlanNotFound, t.Plan))
	}
	return errors.Join(errs...)
}

// claim refuses a second tenant for one schema of a database, or for one role of a shard (roles are server-wide).
func claim(owners map[string]string, r *resolver.Route) error {
	if r.Model != resolver.ModelSchema {
		return nil
	}
	var errs []error
	for _, c := range []struct{ key, what, name string }{
		{"schema\x00" + r.Shard.Name + "\x00" + r.Database + "\x00" + r.Schema, "schema", r.Schema},
		{"role\x00" + r.Shard.Name + "\x00" + r.Role, "role", r.Role},
	} {
		if owner, taken := owners[c.key]; taken && owner != r.Tenant {
			errs = append(errs, conflict(r.Tenant, c.what, c.name, r.Shard.Name))
		}
		owners[c.key] = r.Tenant
	}
	return errors.Join(errs...)
}

func conflict(tenant, what, name, shard string) error {
	return fmt.Errorf("%w: tenant %q: %s %q on shard %q belongs to another tenant: set another %s",
		ErrConflict, cut(tenant), what, name, shard, what)
}

// Lookup returns the tenant's route; see [Store].
func (s *Static) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := resolver.ValidTenantID(tenant); err != nil {
		return nil, err
	}
	known, ok := s.routes[tenant]
	if !ok {
		return nil, fmt.Errorf("%w: %q", resolver.ErrTenantNotFound, cut(tenant))
	}
	route := *known
	var err error
	if route.Shard.DSN, err = expandField(route.Shard.Name, "dsn", route.Shard.DSN); err != nil {
		return nil, resolver.UnusableRoute(err)
	}
	return &route, nil
}

// Shard returns a shard; see [Store].
func (s *Static) Shard(ctx context.Context, name string) (Shard, error) {
	if err := ctx.Err(); err != nil {
		return Shard{}, err
	}
	for _, shard := range s.shards {
		if shard.Name == name {
			return expandShard(shard)
		}
	}
	return Shard{}, fmt.Errorf("%w: %q", ErrShardNotFound, cut(name))
}

// Shards returns all shards; see [Store].
func (s *Static) Shards(ctx context.Context) ([]Shard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return expandShards(s.shards)
}

func expandShards(stored []Shard) ([]Shard, error) {
	shards := make([]Shard, 0, len(stored))
	var errs []error
	for _, shard := range stored {
		expanded, err := expandShard(shard)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		shards = append(shards, expanded)
	}
	return shards, errors.Join(errs...)
}

// PutShard returns [ErrReadOnlyStore].
func (s *Static) PutShard(context.Context, Shard) error { return ErrReadOnlyStore }

// PutPlan returns [ErrReadOnlyStore].
func (s *Static) PutPlan(context.Context, Plan) error { return ErrReadOnlyStore }

// PutTenant returns [ErrReadOnlyStore].
func (s *Static) PutTenant(context.Context, Tenant) error { return ErrReadOnlyStore }

// SetTenantState returns [ErrReadOnlyStore].
func (s *Static) SetTenantState(context.Context, string, resolver.State) error {
	return ErrReadOnlyStore
}

// Watch flushes once and waits; see [Store].
func (s *Static) Watch(ctx context.Context, h Handler) error {
	h.flush()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return ErrClosed
	}
}

// Close ends Watch. Lookups go on working.
func (s *Static) Close() error {
	s.closeOnce.Do(func() { close(s.closed) })
	return nil
}
