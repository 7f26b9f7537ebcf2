package registry

import (
	"context"
	"errors"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Errors of this package; branch on them with errors.Is. Unknown tenants are [resolver.ErrTenantNotFound]. Whatever the
// error, nothing was changed.
var (
	// ErrReadOnlyStore: this store is fixed when the program is built. Change its Fleet, or use [Postgres].
	ErrReadOnlyStore = errors.New("the registry is read-only")
	// ErrUnsupported: this kind of store cannot do it; the text says which can.
	ErrUnsupported = errors.New("not supported by this registry")
	// ErrShardNotFound: the registry has no shard of that name. Add it first.
	ErrShardNotFound = errors.New("shard not found")
	// ErrAdminDSN: a variable in the admin DSN of a shard is not set. What tenants' statements use is complete.
	ErrAdminDSN = errors.New("admin DSN incomplete")
	// ErrPlanNotFound: the registry has no plan of that name. Add it with PutPlan first.
	ErrPlanNotFound = errors.New("plan not found")
	// ErrInvalid: a value breaks a rule that the text names.
	ErrInvalid = errors.New("invalid")
	// ErrConflict: two tenants would share a schema, a role or a slug.
	ErrConflict = errors.New("conflict")
	// ErrExists: the name or ID is taken. IDs of tenants stay taken after a purge.
	ErrExists = errors.New("exists already")
	// ErrNoShardFits: no shard may take another tenant of this kind. The text gives the reason for each shard.
	ErrNoShardFits = errors.New("no shard fits")
	// ErrShardInUse: tenants live on the shard. Move or purge them first.
	ErrShardInUse = errors.New("shard in use")
	// ErrNotInitialized: the database holds no registry under the configured schema, or an older one. Run Init first.
	ErrNotInitialized = errors.New("registry not initialized")
	// ErrNewerRegistry: a newer program has upgraded the registry. Use a newer program.
	ErrNewerRegistry = errors.New("registry is newer than this program")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("registry closed")
)

// Plan is the tier of a tenant.
type Plan = resolver.Plan

// Handler is what [Store.Watch] calls, from one goroutine. A nil func is not called. Make them quick: notifications
// wait meanwhile.
type Handler struct {
	Tenant func(id string) // this tenant changed
	Flush  func()          // anything may have changed
}

// Store is the registry as the driver needs it. Any number of goroutines may use it. What operators need is [Admin].
//
// A Store returns resolver.ErrTenantNotFound, or an error that matches resolver.ErrRouteUnusable, only when it is sure;
// any other error of a read means that it could not be asked.
type Store interface {
	// Lookup returns the route of a tenant, in whatever state the tenant is. The route's shard has its DSN expanded and
	// no admin DSN: statements of tenants have no use for it.
	Lookup(ctx context.Context, tenant string) (*resolver.Route, error)
	// Shard returns a shard with both DSNs expanded, or an error that matches ErrShardNotFound.
	Shard(ctx context.Context, name string) (resolver.Shard, error)
	// Shards returns all shards by name, DSNs expanded. When a variable is not set for some of them, it returns the
	// others and an error that names those; it matches ErrAdminDSN if only admin DSNs lack one.
	Shards(ctx context.Context) ([]resolver.Shard, error)
	// Watch calls h for changes until ctx ends or the store is closed, and returns why it ended. It outlives failures
	// of the registry, and flushes each time it has (re)connected, since it may have missed changes before.
	Watch(ctx context.Context, h Handler) error
}

func (h Handler) tenant(id string) {
	if h.Tenant != nil {
		h.Tenant(id)
	}
}

func (h Handler) flush() {
	if h.Flush != nil {
		h.Flush()
	}
}
