package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharded-pg/sharded-pg/resolver"
)

var (
	_ Store     = (*Static)(nil)
	_ io.Closer = (*Static)(nil)
)

// Fleet is a registry written down: for tests, for development and for fleets that change with the program. Several
// tenants may live on one database, and several databases on one shard. Package fleetfile reads one from a YAML file,
// [Admin.Apply] puts one into a registry, and [Admin.Export] takes it out.
type Fleet struct {
	Shards  []Shard
	Plans   []Plan // besides DefaultPlans, which are always there; one of the same name replaces it
	Tenants []Tenant
}

// Static is a [Store] that never changes; its mutations fail with [ErrReadOnlyStore]. Make one with [NewStatic].
type Static struct {
	*Admin // lists only
	m      *Memory
}

// NewStatic copies fleet and returns all of its problems joined, if it has any.
func NewStatic(fleet Fleet) (*Static, error) {
	m, err := NewMemory(nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fleet.twice(), fleet.load(m)); err != nil {
		return nil, err
	}
	m.t.mu.Lock()
	m.t.log, m.t.frozen = nil, true
	m.t.mu.Unlock()
	return &Static{Admin: m.Admin, m: m}, nil
}

// load puts all of the fleet into m, as far as that goes.
func (f Fleet) load(m *Memory) error {
	ctx := context.Background() //nolint:forbidigo // maps have no use for one
	var errs []error
	for _, shard := range f.Shards {
		errs = append(errs, m.PutShard(ctx, shard))
	}
	for _, plan := range f.Plans {
		errs = append(errs, m.PutPlan(ctx, plan))
	}
	for _, tenant := range f.Tenants {
		errs = append(errs, m.PutTenant(ctx, tenant))
	}
	return errors.Join(errs...)
}

// twice refuses names that are listed more than once: the later one would win, and nobody would see it.
func (f Fleet) twice() error {
	var errs []error
	seen := make(map[string]bool)
	look := func(kind, name string) {
		if key := kind + "\x00" + name; seen[key] {
			errs = append(errs, fmt.Errorf("%w: %s %q is listed twice: remove one", ErrInvalid, kind, cut(name)))
		} else {
			seen[key] = true
		}
	}
	for _, shard := range f.Shards {
		look("shard", shard.Name)
	}
	for _, plan := range f.Plans {
		look("plan", plan.Name)
	}
	for _, tenant := range f.Tenants {
		look("tenant", tenant.ID)
	}
	return errors.Join(errs...)
}

// Lookup returns the tenant's route; see [Store].
func (s *Static) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	return s.m.Lookup(ctx, tenant)
}

// Shard returns a shard; see [Store].
func (s *Static) Shard(ctx context.Context, name string) (resolver.Shard, error) {
	return s.m.Shard(ctx, name)
}

// Shards returns all shards; see [Store].
func (s *Static) Shards(ctx context.Context) ([]resolver.Shard, error) { return s.m.Shards(ctx) }

// Watch flushes once and waits; see [Store].
func (s *Static) Watch(ctx context.Context, h Handler) error { return s.m.Watch(ctx, h) }

// Close ends Watch. Lookups go on working.
func (s *Static) Close() error { return s.m.Close() }
