package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// slowSource answers after a millisecond, as a registry would, and counts the questions.
type slowSource struct {
	routes resolver.Static
	asked  atomic.Int64
	delay  time.Duration
}

func (s *slowSource) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	s.asked.Add(1)
	if s.delay > 0 {
		select {
		case <-time.After(s.delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.routes.Lookup(ctx, tenant)
}

func staticRoutes(tenants []string) resolver.Static {
	routes := make(resolver.Static, len(tenants))
	for _, t := range tenants {
		routes[t] = &resolver.Route{
			Tenant: t, Shard: resolver.Shard{Name: "s1"}, Model: resolver.ModelShared, State: resolver.StateActive,
			Plan: resolver.Plan{
				Name: "starter", StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10, MaxConns: 5,
				Weight: 1,
			}, Epoch: 1,
		}
	}
	return routes
}

const (
	hitTarget      = 150 // ns
	slotTarget     = 300 // ns
	stampedeSize   = 10_000
	memoryOfRoutes = 10_000
)

// measureRouting prints what the route cache costs without a server, and returns its targets.
func measureRouting(ctx context.Context, out io.Writer, tenants []string, burst int) ([]target, error) {
	routes := staticRoutes(tenants)
	cache := resolver.NewCache(&slowSource{routes: routes}, resolver.CacheConfig{Size: 2 * len(tenants)})
	defer cache.Close()
	for _, t := range tenants {
		if _, err := cache.Resolve(ctx, t); err != nil {
			return nil, err
		}
	}
	var failed error
	hit := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := cache.Resolve(ctx, tenants[i%len(tenants)]); err != nil {
				failed = err
			}
		}
	})
	hot := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := cache.Resolve(ctx, tenants[0]); err != nil {
				failed = err
			}
		}
	})
	miss := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			t := tenants[i%len(tenants)]
			cache.Invalidate(t)
			if _, err := cache.Resolve(ctx, t); err != nil {
				failed = err
			}
		}
	})
	if failed != nil {
		return nil, failed
	}
	lookups, took, err := stampede(ctx, routes, tenants[0], burst)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "\nroute cache, without a server\n")
	fmt.Fprintf(out, "  hit, one tenant        %8.0f ns/op %4d allocs/op\n", perOp(hot), hot.AllocsPerOp())
	fmt.Fprintf(out, "  hit, %6d tenants    %8.0f ns/op %4d allocs/op\n", len(tenants), perOp(hit), hit.AllocsPerOp())
	fmt.Fprintf(out, "  invalidate and miss    %8.0f ns/op %4d allocs/op (source in memory)\n", perOp(miss), miss.AllocsPerOp())
	fmt.Fprintf(out, "  %d concurrent misses of one tenant: %d source lookups, %s (source answers after 1 ms)\n",
		burst, lookups, took.Round(10*time.Microsecond))
	fmt.Fprintf(out, "  %d known tenants: %.1f MB of heap\n", memoryOfRoutes, float64(memoryOf(ctx))/(1<<20))
	free, rated, err := measureSlots(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "\nlimits, where nothing waits: a slot taken and given back, best of 3\n")
	fmt.Fprintf(out, "  plan without a rate    %8.0f ns/op %4d allocs/op\n", perOp(free), free.AllocsPerOp())
	fmt.Fprintf(out, "  plan with a rate       %8.0f ns/op %4d allocs/op\n", perOp(rated), rated.AllocsPerOp())
	return []target{
		{name: "limits where nothing waits", got: perOp(rated), want: slotTarget, unit: " ns"},
		{name: "limits where nothing waits: allocations", got: float64(rated.AllocsPerOp()), want: 1},
		{name: "route cache hit, one tenant", got: perOp(hot), want: hitTarget, unit: " ns"},
		{name: "route cache hit: allocations", got: float64(hot.AllocsPerOp()), want: 0},
		{name: fmt.Sprintf("%d concurrent misses: source lookups", burst), got: float64(lookups), want: 1},
	}, nil
}

// measureSlots is what a statement pays for the limits of its tenant, on a plan without and with a rate.
func measureSlots(ctx context.Context) (free, rated testing.BenchmarkResult, err error) {
	slots := limits.NewSlots(limits.Config{
		Size: 32, Share: 0.5, Wait: time.Second, TenantQueue: 1000, ShardQueue: 10_000, Rates: limits.NewLocalRates(tenantCount),
	})
	measure := func(rate float64) (best testing.BenchmarkResult) {
		request := limits.Request{Tenant: tenantID(0), Plan: "starter", Conns: 5, Weight: 2, Rate: rate}
		for range 3 { // the rest of the machine only adds
			r := testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					slot, failed := slots.Acquire(ctx, request)
					if failed != nil {
						err = failed
						return
					}
					slot.Release()
				}
			})
			if best.N == 0 || perOp(r) < perOp(best) {
				best = r
			}
		}
		return best
	}
	free, rated = measure(0), measure(1e9)
	return free, rated, err
}

func perOp(r testing.BenchmarkResult) float64 {
	return float64(r.T.Nanoseconds()) / float64(max(r.N, 1))
}

// stampede lets all goroutines ask for the same unknown tenant at the same time.
func stampede(ctx context.Context, routes resolver.Static, tenant string, burst int) (int64, time.Duration, error) {
	source := &slowSource{routes: routes, delay: time.Millisecond}
	// All must ask before the answer can be forgotten, and must not give up on a busy machine.
	cache := resolver.NewCache(source, resolver.CacheConfig{LookupTimeout: 10 * time.Second})
	defer cache.Close()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	gate := make(chan struct{})
	for range burst {
		wg.Go(func() {
			<-gate
			if _, err := cache.Resolve(ctx, tenant); err != nil {
				failed.Store(&err)
			}
		})
	}
	start := time.Now()
	close(gate)
	wg.Wait()
	took := time.Since(start)
	if err := failed.Load(); err != nil {
		return 0, took, *err
	}
	return source.asked.Load(), took, nil
}

// memoryOf is the heap that the routes of known tenants take, keys and cache included, in bytes.
func memoryOf(ctx context.Context) int64 {
	before := heap()
	tenants := make([]string, 0, memoryOfRoutes)
	for n := range memoryOfRoutes {
		tenants = append(tenants, tenantID(n))
	}
	cache := resolver.NewCache(&slowSource{routes: staticRoutes(tenants)}, resolver.CacheConfig{Size: memoryOfRoutes})
	defer cache.Close()
	for _, t := range tenants {
		_, _ = cache.Resolve(ctx, t)
	}
	used := heap() - before
	runtime.KeepAlive(cache)
	return used
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second one frees what finalizers of the first held
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
