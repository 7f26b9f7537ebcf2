package registry

import (
	"context"
	"fmt"
	"sync"
)

// Lister lists tenants; [Admin] is one.
type Lister interface {
	ListTenants(ctx context.Context, filter TenantFilter) ([]TenantInfo, error)
}

// EachOptions adjust [ForEachTenant]. nil and the zero value mean the defaults.
type EachOptions struct {
	Filter      TenantFilter // which tenants; Limit is the size of a page
	Concurrency int          // how many at once; default 1
	StopAfter   int          // how many failures end it; default: none does
}

// PartialError is what happened to each tenant, by ID. It is an error when not all of them were done.
type PartialError struct {
	Done     []string
	Failed   map[string]error
	NotTried []string // the context ended, or too many others had failed
}

// Error says how many there are of each, and quotes one failure.
func (p *PartialError) Error() string {
	text := fmt.Sprintf("%d tenants done, %d failed, %d not tried", len(p.Done), len(p.Failed), len(p.NotTried))
	first := ""
	for id := range p.Failed {
		if first == "" || id < first {
			first = id
		}
	}
	if first != "" {
		text += fmt.Sprintf("; the first: tenant %q: %v", cut(first), p.Failed[first])
	}
	return text
}

// Unwrap returns the failures.
func (p *PartialError) Unwrap() []error {
	errs := make([]error, 0, len(p.Failed))
	for _, err := range p.Failed {
		errs = append(errs, err)
	}
	return errs
}

// ForEachTenant calls do for each tenant that the filter selects, some of them at once. It goes on after failures. It
// returns what happened to each, also as an error of type *[PartialError] unless all were done; another error means that the
// tenants could not be listed, and then the result tells what was done before.
//
// With the driver, do gets a context that carries the tenant: shardedpg.WithTenant(ctx, tenant.ID).
func ForEachTenant(
	ctx context.Context, source Lister, opts *EachOptions, do func(ctx context.Context, tenant TenantInfo) error,
) (*PartialError, error) {
	var o EachOptions
	if opts != nil {
		o = *opts
	}
	if o.Concurrency < 0 || o.StopAfter < 0 {
		return nil, fmt.Errorf("%w: concurrency and stop after are not negative", ErrInvalid)
	}
	e := &each{out: &PartialError{Failed: make(map[string]error)}, stopAfter: o.StopAfter, do: do}
	work := make(chan TenantInfo)
	var wg sync.WaitGroup
	for range max(o.Concurrency, 1) {
		wg.Go(func() {
			for tenant := range work {
				e.one(ctx, tenant)
			}
		})
	}
	err := pages(context.WithoutCancel(ctx), source, o.Filter, func(tenant TenantInfo) { work <- tenant })
	close(work)
	wg.Wait()
	if err != nil {
		return e.out, fmt.Errorf("listing tenants: %w", err)
	}
	if len(e.out.Failed)+len(e.out.NotTried) > 0 {
		return e.out, e.out
	}
	return e.out, nil
}

// pages calls with for each tenant of all pages.
func pages(ctx context.Context, source Lister, filter TenantFilter, with func(TenantInfo)) error {
	if filter.Limit == 0 {
		filter.Limit = defaultPage
	}
	for {
		page, err := source.ListTenants(ctx, filter)
		if err != nil {
			return err
		}
		for _, tenant := range page {
			with(tenant)
		}
		if len(page) < filter.Limit {
			return nil
		}
		filter.After = page[len(page)-1].ID
	}
}

type each struct {
	do        func(context.Context, TenantInfo) error
	stopAfter int

	mu  sync.Mutex
	out *PartialError
}

func (e *each) one(ctx context.Context, tenant TenantInfo) {
	e.mu.Lock()
	stop := ctx.Err() != nil || e.stopAfter > 0 && len(e.out.Failed) >= e.stopAfter
	if stop {
		e.out.NotTried = append(e.out.NotTried, tenant.ID)
	}
	e.mu.Unlock()
	if stop {
		return
	}
	err := guarded(ctx, tenant, e.do)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.out.Failed[tenant.ID] = err
		return
	}
	e.out.Done = append(e.out.Done, tenant.ID)
}

// guarded makes a panic for one tenant that tenant's failure.
func guarded(ctx context.Context, tenant TenantInfo, do func(context.Context, TenantInfo) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return do(ctx, tenant)
}
