package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

const (
	registryTenants   = 100_000
	registryShards    = 10
	registryJobs      = 4    // as many as tenant add has, unless told otherwise
	registryPage      = 1000 // as ListTenants has
	registryLookups   = 5000
	registryProvision = 50
)

// registryTemplate is what a schema tenant of the benchmark gets.
var registryTemplate = []string{
	`create role ` + benchRole + ` login noinherit`,
	`create schema tenant_template`,
	`create table tenant_template.customers (id bigint primary key generated always as identity, name text not null unique)`,
	`create table tenant_template.orders (id bigint primary key generated always as identity,
	 customer bigint not null references tenant_template.customers, total numeric not null)`,
	`create index on tenant_template.orders (customer)`,
	`create table tenant_template.items (id bigint primary key generated always as identity,
	 order_id bigint not null references tenant_template.orders, what text not null)`,
}

// measureRegistry prints what the control plane costs on a server of its own: adding, listing and resolving tenants, and
// making what a schema tenant needs.
func measureRegistry(ctx context.Context, out io.Writer, tenants int) (_ results, err error) {
	server, err := pgtest.Start(ctx, pgtest.Options{Name: "registry"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if err := server.Exec(ctx, "postgres", registryTemplate...); err != nil {
		return nil, err
	}
	store, err := registry.Open(server.DSN("postgres", "postgres"), &registry.Options{MaxConns: registryJobs})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	for n := range registryShards {
		if err := store.PutShard(ctx, registry.Shard{
			Name: fmt.Sprintf("s%d", n), DSN: server.DSN(benchRole, "postgres"), AdminDSN: server.DSN("postgres", "postgres"),
			MaxTenants: registry.UnlimitedTenants,
		}); err != nil {
			return nil, err
		}
	}
	m := registryRun{store: store, tenants: tenants}
	for _, step := range []func(context.Context) error{m.add, m.list, m.resolve, m.provision} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return m.results, m.print(out)
}

// registryRun is the section's work on one registry.
type registryRun struct {
	store   *registry.Postgres
	tenants int
	results results
}

func (m *registryRun) record(name string, concurrency int, took time.Duration, nanos []int64) {
	s := summarize(nanos)
	m.results = append(m.results, result{
		Case: name, Peer: ownPeer, Concurrency: concurrency, P50us: s.p50, P99us: s.p99,
		OpsPerS: float64(len(nanos)) / took.Seconds(),
	})
}

// timed runs do n times, one after the other.
func (m *registryRun) timed(name string, n int, do func(i int) error) error {
	nanos := make([]int64, 0, n)
	begin := time.Now()
	for i := range n {
		start := time.Now()
		if err := do(i); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		nanos = append(nanos, time.Since(start).Nanoseconds())
	}
	m.record(name, 1, time.Since(begin), nanos)
	return nil
}

// add adds all tenants, a shard chosen for each, as a batch of the command line does.
func (m *registryRun) add(ctx context.Context) error {
	var (
		nanos = make([]int64, m.tenants)
		errs  = make([]error, registryJobs)
		wg    sync.WaitGroup
		begin = time.Now()
	)
	for job := range registryJobs {
		wg.Go(func() {
			for i := job; i < m.tenants; i += registryJobs {
				start := time.Now()
				if _, err := m.store.AddTenant(ctx, registry.Tenant{ID: tenantID(i), State: resolver.StateActive}, nil); err != nil {
					errs[job] = fmt.Errorf("registry_add: %w", err)
					return
				}
				nanos[i] = time.Since(start).Nanoseconds()
			}
		})
	}
	wg.Wait()
	m.record("registry_add", registryJobs, time.Since(begin), nanos)
	return errors.Join(errs...)
}

// list reads all tenants, a page at a time, and counts them.
func (m *registryRun) list(ctx context.Context) error {
	filter, seen := registry.TenantFilter{Limit: registryPage}, 0
	err := m.timed("registry_list_page", (m.tenants+registryPage-1)/registryPage, func(int) error {
		page, err := m.store.ListTenants(ctx, filter)
		if err != nil || len(page) == 0 {
			return errors.Join(err, errEmptyPage)
		}
		seen, filter.After = seen+len(page), page[len(page)-1].ID
		return nil
	})
	if err == nil && seen != m.tenants {
		err = fmt.Errorf("registry_list_page: %d tenants are listed, %d were added", seen, m.tenants)
	}
	return err
}

var errEmptyPage = errors.New("the list ended early")

// resolve asks for tenants all over the registry: those that the cache does not know, and then the same again.
func (m *registryRun) resolve(ctx context.Context) error {
	// A lookup that waits for the machine is measured, and not given up on.
	cache := resolver.NewCache(m.store, resolver.CacheConfig{Size: registryLookups, LookupTimeout: 10 * time.Second})
	defer cache.Close()
	n := min(registryLookups, m.tenants)
	ask := func(i int) error {
		_, err := cache.Resolve(ctx, tenantID(i*(m.tenants/n)))
		return err
	}
	if err := m.timed("registry_resolve_cold", n, ask); err != nil {
		return err
	}
	asked := cache.Stats().Misses
	if err := m.timed("registry_resolve_cached", n, ask); err != nil {
		return err
	}
	if again := cache.Stats().Misses - asked; again > 0 {
		return fmt.Errorf("registry_resolve_cached: %d of %d were not in the cache", again, n)
	}
	return nil
}

// provision makes schema tenants of the template's three tables, each on connections of its own, until they are active.
func (m *registryRun) provision(ctx context.Context) error {
	id := func(i int) string { return fmt.Sprintf("own-%d", i) }
	for i := range registryProvision {
		if _, err := m.store.AddTenant(ctx, registry.Tenant{ID: id(i), Shard: "s0", Model: resolver.ModelSchema}, nil); err != nil {
			return err
		}
	}
	return m.timed("registry_provision_schema", registryProvision, func(i int) error {
		return provision.Tenant(ctx, m.store.Admin, id(i), nil)
	})
}

func (m *registryRun) print(out io.Writer) error {
	fmt.Fprintf(out, "\nregistry of %d tenants on %d shards\n", m.tenants, registryShards)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tconcurrency\tp50\tp99\tops/s\t")
	for _, r := range m.results {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%.0f\t\n", r.Case, r.Concurrency, microseconds(r.P50us), microseconds(r.P99us), r.OpsPerS)
	}
	return w.Flush()
}

// microseconds writes a figure with three digits and the unit that suits it.
func microseconds(us float64) string {
	d := time.Duration(us * 1000)
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond, time.Nanosecond} {
		if d >= unit*100 {
			return d.Round(unit).String()
		}
		if d >= unit {
			return d.Round(max(unit/100, 1)).String()
		}
	}
	return d.String()
}
