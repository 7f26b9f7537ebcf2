package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

var (
	_ Store     = (*Memory)(nil)
	_ io.Closer = (*Memory)(nil)
)

// Memory is a [Store] that lives as long as the program: for tests, and below [Static]. It follows the same rules as
// [Postgres]. Any number of goroutines may use it.
type Memory struct {
	*Admin
	t *memory
}

// NewMemory returns a store with [DefaultPlans] in it. opts may be nil.
func NewMemory(opts *Options) (*Memory, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &memory{
		shards: make(map[string]Shard), plans: make(map[string]Plan), tenants: make(map[string]TenantInfo),
		graves: make(map[string]grave), owners: make(map[string]string), closed: make(chan struct{}),
	}
	for _, plan := range DefaultPlans() {
		t.plans[plan.Name] = plan
	}
	m := &Memory{Admin: &Admin{store: t, actor: o.Actor, sizer: o.Sizer, first: o.FirstSight}, t: t}
	t.admin = m.Admin
	return m, nil
}

// FixShards makes all later changes of shards fail with an error that matches [ErrUnsupported] and says why: for stores
// that are made of a Memory and have the servers that they have.
func (m *Memory) FixShards(why string) {
	m.t.mu.Lock()
	defer m.t.mu.Unlock()
	m.t.fixed = fmt.Errorf("%w: %s", ErrUnsupported, why)
}

// memory is the rows of a [Memory].
type memory struct {
	admin  *Admin
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	frozen   bool
	fixed    error // why shards are not changed, if they are not
	shards   map[string]Shard
	plans    map[string]Plan
	tenants  map[string]TenantInfo
	graves   map[string]grave
	owners   map[string]string // of claims, by their key
	log      []AuditEntry
	watchers []*watcher
}

// memoryTx is one transaction: what it did is undone if it fails, and told if it does not.
type memoryTx struct {
	*memory
	undo  []func()
	told  []string
	since int // length of the log at the start
}

// change runs do while nobody else reads or writes.
func (m *memory) change(ctx context.Context, what string, do func(tx *change) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{memory: m, since: len(m.log)}
	var refusal error
	if m.frozen {
		refusal = ErrReadOnlyStore
	}
	err := do(&change{
		refusal: refusal,
		ledger:  tx,
		census:  tx,
		shards:  memoryShards{memoryRows[Shard]{tx, m.shards, shardKind.key}},
		plans:   memoryRows[Plan]{tx, m.plans, planKind.key},
		tenants: memoryTenants{memoryRows[TenantInfo]{tx, m.tenants, tenantKind.key}},
		graves:  memoryRows[grave]{tx, m.graves, func(g *grave) string { return g.ID }},
	})
	if err != nil {
		for _, undo := range slices.Backward(tx.undo) {
			undo()
		}
		m.log = m.log[:tx.since]
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, notification := range tx.told {
		for _, w := range m.watchers {
			w.tell(notification)
		}
	}
	return nil
}

func (tx *memoryTx) lock(context.Context) error { return nil } // the whole transaction is alone

func (tx *memoryTx) inhabitants(ctx context.Context, shard string) (int, error) {
	counts, err := tx.population(ctx)
	return counts[shard].tenants, err
}

func (tx *memoryTx) population(context.Context) (map[string]population, error) {
	counts := make(map[string]population)
	for _, t := range tx.tenants {
		n := counts[t.Shard]
		n.tenants++
		if t.Model == resolver.ModelSchema {
			n.schemas++
		}
		counts[t.Shard] = n
	}
	return counts, nil
}

func (tx *memoryTx) record(ctx context.Context, entry AuditEntry, notification string) error {
	entry.ID, entry.At, entry.Actor = int64(len(tx.log)+1), time.Now(), tx.admin.who(ctx)
	tx.log = append(tx.log, entry)
	if notification != "" {
		tx.told = append(tx.told, notification)
	}
	return nil
}

// memoryRows is a map as a table.
type memoryRows[T any] struct {
	tx   *memoryTx
	rows map[string]T
	key  func(*T) string
}

func (r memoryRows[T]) get(_ context.Context, key string) (*T, error) {
	row, ok := r.rows[key]
	if !ok {
		return nil, nil
	}
	return &row, nil
}

func (r memoryRows[T]) all(context.Context) ([]T, error) {
	all := make([]T, 0, len(r.rows))
	for _, key := range slices.Sorted(maps.Keys(r.rows)) {
		all = append(all, r.rows[key])
	}
	return all, nil
}

func (r memoryRows[T]) put(_ context.Context, before, after *T) error {
	if before != nil {
		key, old := r.key(before), *before
		delete(r.rows, key)
		r.tx.undo = append(r.tx.undo, func() { r.rows[key] = old })
	}
	if after != nil {
		key := r.key(after)
		r.rows[key] = *after
		r.tx.undo = append(r.tx.undo, func() { delete(r.rows, key) })
	}
	return nil
}

// memoryShards may be fixed.
type memoryShards struct{ memoryRows[Shard] }

func (r memoryShards) put(ctx context.Context, before, after *Shard) error {
	if r.tx.fixed != nil {
		return r.tx.fixed
	}
	return r.memoryRows.put(ctx, before, after)
}

// memoryTenants keeps the claims and the times, too, as a table's unique indexes and defaults do.
type memoryTenants struct{ memoryRows[TenantInfo] }

func (r memoryTenants) put(ctx context.Context, before, after *TenantInfo) error {
	owners := r.tx.owners
	if before != nil {
		for _, c := range before.claims() {
			delete(owners, c.key)
			r.tx.undo = append(r.tx.undo, func() { owners[c.key] = before.ID })
		}
	}
	if after != nil {
		var errs []error
		for _, c := range after.claims() {
			if _, taken := owners[c.key]; taken {
				errs = append(errs, conflict(after.ID, c))
				continue
			}
			owners[c.key] = after.ID
			r.tx.undo = append(r.tx.undo, func() { delete(owners, c.key) })
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		stored := *after
		stored.Updated = time.Now()
		if before == nil {
			stored.Created = stored.Updated
		}
		after = &stored
	}
	return r.memoryRows.put(ctx, before, after)
}

func (m *memory) find(ctx context.Context, filter TenantFilter) ([]TenantInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []TenantInfo
	for _, t := range m.tenants {
		if filter.matches(&t) {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, func(a, b TenantInfo) int { return cmp.Compare(a.ID, b.ID) })
	return found[:min(len(found), filter.Limit)], nil
}

func (m *memory) entries(ctx context.Context, filter AuditFilter) ([]AuditEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []AuditEntry
	for _, e := range slices.Backward(m.log) {
		if len(found) < filter.Limit && (filter.Kind == "" || e.Kind == filter.Kind) &&
			(filter.Subject == "" || e.Subject == filter.Subject) && (filter.Actor == "" || e.Actor == filter.Actor) &&
			(filter.Before == 0 || e.ID < filter.Before) {
			found = append(found, e)
		}
	}
	return found, nil
}

// Lookup returns the tenant's route; see [Store].
func (m *Memory) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := resolver.ValidTenantID(tenant); err != nil {
		return nil, err
	}
	m.t.mu.Lock()
	t, ok := m.t.tenants[tenant]
	shard, plan := m.t.shards[t.Shard], m.t.plans[t.Plan]
	m.t.mu.Unlock()
	if !ok || !t.Removed.IsZero() {
		if known, err := m.meet(ctx, tenant); err != nil {
			return nil, err
		} else if known {
			return m.Lookup(ctx, tenant)
		}
		return nil, fmt.Errorf("%w: %q", resolver.ErrTenantNotFound, cut(tenant))
	}
	route := &resolver.Route{
		Tenant: t.ID, Shard: shard.route(), Database: t.Database, Model: t.Model, Schema: t.Schema, Role: t.Role,
		Plan: t.limits(plan, time.Now()), State: t.State, Epoch: t.Epoch,
	}
	var err error
	if route.Shard.DSN, err = expandField(shard.Name, "dsn", shard.DSN); err != nil {
		return nil, resolver.UnusableRoute(err)
	}
	return route, nil
}

// Shard returns a shard; see [Store].
func (m *Memory) Shard(ctx context.Context, name string) (resolver.Shard, error) {
	if err := ctx.Err(); err != nil {
		return resolver.Shard{}, err
	}
	m.t.mu.Lock()
	shard, ok := m.t.shards[name]
	m.t.mu.Unlock()
	if !ok {
		return resolver.Shard{}, fmt.Errorf("%w: %q", ErrShardNotFound, cut(name))
	}
	return expandShard(shard)
}

// Shards returns all shards; see [Store].
func (m *Memory) Shards(ctx context.Context) ([]resolver.Shard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.t.mu.Lock()
	shards := slices.SortedFunc(maps.Values(m.t.shards), byName)
	m.t.mu.Unlock()
	return expandShards(shards)
}

// watcher holds what one Watch has not been told yet.
type watcher struct {
	mu      sync.Mutex
	pending []string
	wake    chan struct{}
}

func (w *watcher) tell(notification string) {
	w.mu.Lock()
	w.pending = append(w.pending, notification)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	pending := w.pending
	w.pending = nil
	return pending
}

// Watch tells h of changes; see [Store].
func (m *Memory) Watch(ctx context.Context, h Handler) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	m.t.mu.Lock()
	m.t.watchers = append(m.t.watchers, w)
	m.t.mu.Unlock()
	defer func() {
		m.t.mu.Lock()
		defer m.t.mu.Unlock()
		m.t.watchers = slices.DeleteFunc(m.t.watchers, func(other *watcher) bool { return other == w })
	}()
	h.flush()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.t.closed:
			return ErrClosed
		case <-w.wake:
			for _, notification := range w.take() {
				h.notify(notification)
			}
		}
	}
}

// notify calls what a notification asks for.
func (h Handler) notify(notification string) {
	if id, ok := strings.CutPrefix(notification, tenantNotification); ok {
		h.tenant(id)
	} else {
		h.flush()
	}
}

// Close ends Watch. Lookups go on working.
func (m *Memory) Close() error {
	m.t.once.Do(func() { close(m.t.closed) })
	return nil
}
