// Package resolver answers where a tenant lives now.
//
// A [Route] is the answer. A [Resolver] gives it; [Cache] is the one the driver uses: an LRU in front of a [Source]
// (normally the registry) that collapses concurrent misses into one lookup, remembers refusals for a short time and
// goes on serving known tenants for a bounded time while the source is down.
package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Errors of this package. The root package re-exports them; branch on them with errors.Is.
var (
	// ErrTenantNotFound: the registry answered and does not know the tenant.
	ErrTenantNotFound = errors.New("tenant not found")
	// ErrTenantDisabled: the tenant is known and must not run statements now (disabled, provisioning or deleting).
	ErrTenantDisabled = errors.New("tenant disabled")
	// ErrRegistryUnavailable: the registry could not be asked and nothing usable is cached.
	ErrRegistryUnavailable = errors.New("registry unavailable")
)

// Model is how a tenant's rows are kept apart from those of its neighbours.
type Model string

// The isolation models. One fleet, and one database, may mix them.
const (
	ModelShared    Model = "shared"    // tenant column and row-level security
	ModelPartition Model = "partition" // shared, with a LIST partition per tenant
	ModelSchema    Model = "schema"    // a schema and a NOLOGIN role per tenant
	ModelDatabase  Model = "database"  // a database per tenant, or per group of tenants
)

// State is where a tenant is in its life. Only active and readonly tenants run statements.
type State string

// The states of a tenant.
const (
	StateProvisioning State = "provisioning"
	StateActive       State = "active"
	StateReadOnly     State = "readonly"
	StateDisabled     State = "disabled"
	StateMoving       State = "moving"
	StateDeleting     State = "deleting"
)

// Unlimited as a StatementTimeout means that the plan sets no limit.
const Unlimited time.Duration = 1<<63 - 1

// Plan is the tier of a tenant: the limits in force for each of its statements.
type Plan struct {
	Name             string
	StatementTimeout time.Duration // per statement; whole milliseconds, at least 1ms; Unlimited for none
	WorkMemKB        int           // work_mem in kB; PostgreSQL's minimum is 64
	MaxConns         int           // connections the tenant may use at once, at least 1
	Weight           int           // share under contention, at least 1
	Rate             float64       // statements per second; 0 until a rate is set means none is enforced
	Burst            int           // statements at once after a quiet time; 0 means those of two seconds of the rate
}

// Shard is one PostgreSQL server (or one database on it) that holds tenants. Its DSNs may hold ${ENV} references.
type Shard struct {
	Name     string
	DSN      string // secret; what tenants' statements use
	AdminDSN string // secret; what ShardDB uses; empty when the shard has none
}

// String names the shard and never its DSN.
func (s Shard) String() string { return "shard " + s.Name }

// GoString keeps DSNs out of %#v, too.
func (s Shard) GoString() string { return "resolver.Shard{" + s.Name + "}" }

// MarshalJSON keeps DSNs out of JSON, which routes and shards end up in as parts of logged values.
func (s Shard) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct{ Name string }{s.Name})
}

// Route is where a tenant lives and what it may use there. A Route is immutable once published: share it freely,
// never change it.
type Route struct {
	Tenant   string
	Shard    Shard
	Database string // database on the shard; empty: the one that the shard's DSN names
	Model    Model
	Schema   string // model schema: the tenant's schema
	Role     string // model schema: the tenant's NOLOGIN role
	Plan     Plan
	State    State
	Epoch    int64 // grows each time the tenant's placement changes
}

// Resolver finds the route of a tenant. Resolve is called for each statement by any number of goroutines; a hit must not
// allocate. It fails with [ErrTenantNotFound] or [ErrRegistryUnavailable], or with the context's error.
type Resolver interface {
	Resolve(ctx context.Context, tenant string) (*Route, error)
}

// Source is where a [Cache] gets routes from. Lookup returns an error that matches [ErrTenantNotFound] when the source
// is sure that the tenant does not exist; any other error means that the source is not sure.
type Source interface {
	Lookup(ctx context.Context, tenant string) (*Route, error)
}
