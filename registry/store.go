package registry

import (
	"context"
	"errors"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Errors of this package; branch on them with errors.Is. Unknown tenants are [resolver.ErrTenantNotFound].
var (
	// ErrReadOnlyStore: this store is fixed when the program is built. Change its Fleet, or use [Postgres].
	ErrReadOnlyStore = errors.New("the registry is read-only")
	// ErrShardNotFound: the registry has no shard of that name. Add it with PutShard first.
	ErrShardNotFound = errors.New("shard not found")
	// ErrPlanNotFound: the registry has no plan of that name. Add it with PutPlan first.
	ErrPlanNotFound = errors.New("plan not found")
	// ErrInvalid: a value given to Put or SetTenantState breaks a rule that the text names. Nothing was changed.
	ErrInvalid = errors.New("invalid")
	// ErrConflict: two tenants would share a schema or a role. Nothing was changed.
	ErrConflict = errors.New("conflict")
	// ErrNotInitialized: the database holds no registry under the configured schema. Run Init first.
	ErrNotInitialized = errors.New("registry not initialized")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("registry closed")
)

// Shard is a PostgreSQL server that holds tenants. Stored DSNs may hold ${NAME} references.
type Shard = resolver.Shard

// Plan is the tier of a tenant.
type Plan = resolver.Plan

// Tenant is where a tenant shall live and on which plan. Optional fields that are empty take the stated default.
type Tenant struct {
	ID       string         // required; see [resolver.ValidTenantID]
	Shard    string         // required; the name of a shard
	Database string         // database on the shard; default: the one that the shard's DSN names
	Model    resolver.Model // default [resolver.ModelShared]
	Plan     string         // name of a plan; default "free"
	State    resolver.State // default: stays as it is, and [resolver.StateActive] for a new tenant
	Schema   string         // only with [resolver.ModelSchema]; default "tenant_<ID>"
	Role     string         // only with [resolver.ModelSchema]; default: the name of the schema
}

// Handler is what [Store.Watch] calls, from one goroutine. A nil func is not called. Make them quick: notifications
// wait meanwhile.
type Handler struct {
	Tenant func(id string) // this tenant changed
	Flush  func()          // anything may have changed
}

// Store is the registry as the driver and the command line need it. Any number of goroutines may use it.
//
// A Store returns resolver.ErrTenantNotFound, or an error that matches resolver.ErrRouteUnusable, only when it is sure;
// any other error of a read means that it could not be asked.
type Store interface {
	// Lookup returns the route of a tenant, in whatever state the tenant is. The route's shard has its DSN expanded and
	// no admin DSN: statements of tenants have no use for it.
	Lookup(ctx context.Context, tenant string) (*resolver.Route, error)
	// Shard returns a shard with both DSNs expanded, or an error that matches ErrShardNotFound.
	Shard(ctx context.Context, name string) (Shard, error)
	// Shards returns all shards by name, DSNs expanded. When a variable is not set for some of them, it returns the
	// others and an error that names those.
	Shards(ctx context.Context) ([]Shard, error)

	// PutShard adds or replaces a shard. Doing so again changes nothing.
	PutShard(ctx context.Context, shard Shard) error
	// PutPlan adds or replaces a plan. Doing so again changes nothing.
	PutPlan(ctx context.Context, plan Plan) error
	// PutTenant adds or replaces a tenant. Doing so again changes nothing; another placement (shard, database, model,
	// schema, role) gives the tenant a new epoch. It changes the registry only: it moves no rows.
	PutTenant(ctx context.Context, tenant Tenant) error
	// SetTenantState takes a tenant to another state. The state it is in already is no error.
	SetTenantState(ctx context.Context, tenant string, state resolver.State) error

	// Watch calls h for changes until ctx ends or the store is closed, and returns why it ended. It outlives failures
	// of the registry, and flushes each time it has (re)connected, since it may have missed changes before.
	Watch(ctx context.Context, h Handler) error
	// Close ends Watch and frees what the store holds.
	Close() error
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
