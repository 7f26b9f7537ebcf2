package registry

import (
	"context"
	"errors"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Watcher tells of changes; each [Store] is one.
type Watcher interface {
	Watch(ctx context.Context, h Handler) error
}

// TenantWatch is what [WatchTenants] calls, from one goroutine.
type TenantWatch struct {
	Started func(TenantInfo) // the tenant may run statements: it is new, was enabled or restored
	Stopped func(id string)  // it may no longer
}

// WatchTenants is for workers that must do something for each tenant: a scheduler, a consumer of a queue. It calls
// Started for each tenant that may run statements and that filter selects, now and whenever one comes, and Stopped when
// one no longer may, until ctx ends or the store is closed. No tenant is started twice without having been stopped.
//
// It holds the IDs of all started tenants in memory, and looks through the registry whenever the store says that
// anything may have changed. A failure to read ends it; start it again.
func WatchTenants(ctx context.Context, store Watcher, source Lister, filter TenantFilter, w TenantWatch) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	started := make(map[string]bool)
	seen := func(id string, tenant *TenantInfo) {
		switch runs := tenant != nil && tenant.runs() && filter.matches(tenant); {
		case runs && !started[id]:
			started[id] = true
			w.Started(*tenant)
		case !runs && started[id]:
			delete(started, id)
			w.Stopped(id)
		}
	}
	look := func(f TenantFilter, gone map[string]bool) {
		f.Removed = AnyTenants
		err := pages(ctx, source, f, func(tenant TenantInfo) {
			delete(gone, tenant.ID)
			seen(tenant.ID, &tenant)
		})
		if err != nil {
			cancel(err)
			return
		}
		for id := range gone {
			seen(id, nil)
		}
	}
	err := store.Watch(ctx, Handler{
		Tenant: func(id string) {
			if resolver.ValidTenantID(id) == nil {
				look(TenantFilter{ids: []string{id}}, map[string]bool{id: true})
			}
		},
		Flush: func() {
			gone := make(map[string]bool, len(started))
			for id := range started {
				gone[id] = true
			}
			look(TenantFilter{}, gone)
		},
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}
