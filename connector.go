package shardedpg

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

// Connector gives database/sql its connections: sql.OpenDB(connector). It is safe for concurrent use.
type Connector struct {
	cfg      Config
	store    registry.Store
	ownStore io.Closer // nil unless the connector opened the store
	routes   *resolver.Cache
	inputs   *lru.Cache[string, int] // statement text → number of parameters
	life     context.Context         // ends with Close
	keys     func() *rls.Keys        // nil: tenants are not signed
	stop     context.CancelFunc
	watching sync.WaitGroup

	mu     sync.RWMutex
	shards map[string]*shard // by name
	admin  map[string]*sql.DB
	closed bool

	adminOpened atomic.Int64
}

// shard is the driver's side of a shard: its slots and its connections. A changed connection string is another set of them.
type shard struct {
	name, dsn string
	slots     *limits.Slots
	pool      *backend.Pool
}

var (
	_ driver.Connector = (*Connector)(nil)
	_ io.Closer        = (*Connector)(nil)
)

// NewConnector returns a connector for cfg. It connects to nothing: a program may start while the registry or a shard is
// down.
func NewConnector(cfg Config) (*Connector, error) {
	cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Connector{cfg: cfg, store: cfg.Store, shards: make(map[string]*shard), admin: make(map[string]*sql.DB)}
	if cfg.Signed {
		file, err := rls.OpenKeyFile(cfg.KeyFile, func(err error) {
			cfg.Logger.Error("the key file has changed and cannot be read; the keys of before stay in use", "error", err)
		})
		if err != nil {
			return nil, fmt.Errorf("shardedpg: config: %w", err)
		}
		c.keys = file.Keys
	}
	if c.store == nil {
		store, err := registry.Open(cfg.DSN, &registry.Options{Schema: cfg.RegistrySchema, Logger: cfg.Logger})
		if err != nil {
			return nil, fmt.Errorf("shardedpg: config: %w", err)
		}
		c.store, c.ownStore = store, store
	}
	var err error
	if c.inputs, err = lru.New[string, int](statementCacheSize); err != nil {
		return nil, err
	}
	c.routes = resolver.NewCache(c.store, resolver.CacheConfig{
		Size: cfg.CacheSize, TTL: cfg.CacheTTL, LookupTimeout: cfg.LookupTimeout, FirstLookupTimeout: cfg.ConnectTimeout,
	})
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // what nobody waits for lives until Close
	c.life, c.stop = ctx, stop
	c.watching.Go(func() {
		err := c.store.Watch(ctx, c.handler(ctx))
		if err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("registry watch ended; changes arrive within the cache TTL only", "error", err)
		}
	})
	return c, nil
}

// statementCacheSize bounds the memory of statement texts seen by Prepare.
const statementCacheSize = 4096

// Connect returns an empty virtual connection. It never reads a tenant and opens nothing: database/sql opens some
// connections on a context of its own, and any of them will serve many tenants.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return nil, errClosed
	}
	conn := &Conn{c: c}
	conn.hint(ctx)
	return conn, nil
}

var errClosed = &Error{Stage: StageBackend, Err: errors.New("the database handle is closed")}

// Driver returns the registered driver.
func (c *Connector) Driver() driver.Driver { return virtualDriver{} }

// Close refuses new work and closes what is idle. It does not wait for rows and transactions that are still open: their
// connections close when they are given back. sql.DB.Close calls it.
func (c *Connector) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	shards, admin := c.shards, c.admin
	c.shards, c.admin = nil, nil
	c.mu.Unlock()

	c.stop()
	c.watching.Wait()
	errs := []error{c.routes.Close()}
	for _, s := range shards {
		s.slots.Close()
		s.pool.Close()
	}
	for _, db := range admin {
		errs = append(errs, db.Close())
	}
	if c.ownStore != nil {
		errs = append(errs, c.ownStore.Close())
	}
	return errors.Join(errs...)
}

// shard returns the slots and connections of a route's shard, made on first use.
func (c *Connector) shard(r *resolver.Route) (*shard, error) {
	c.mu.RLock()
	s, closed := c.known(r), c.closed
	c.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	if closed {
		return nil, errClosed
	}
	cc, err := backend.ParseConn(r.Shard.DSN)
	if err != nil {
		return nil, err
	}
	if c.cfg.ConfigureConn != nil {
		if err := c.cfg.ConfigureConn(r.Shard.Name, cc.ConnConfig); err != nil {
			return nil, fmt.Errorf("ConfigureConn: %w", err)
		}
	}
	var before func(context.Context, *pgx.ConnConfig) error
	if hook, name := c.cfg.BeforeConnect, r.Shard.Name; hook != nil {
		before = func(ctx context.Context, cc *pgx.ConnConfig) error { return hook(ctx, name, cc) }
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if s := c.known(r); s != nil {
		return s, nil
	}
	if old := c.shards[r.Shard.Name]; old != nil {
		go old.pool.Close()
		c.routes.Flush()  // others that still lead there would each put it back, if the word of the change was lost
		old.slots.Close() // who waits there goes to the new ones
	}
	s = &shard{
		name: r.Shard.Name, dsn: r.Shard.DSN,
		slots: limits.NewSlots(limits.Config{
			Size: c.cfg.MaxConns, Share: c.cfg.TenantShare, Wait: c.cfg.AcquireTimeout,
			TenantQueue: c.cfg.TenantQueue, ShardQueue: c.cfg.ShardQueue, Rates: c.cfg.RateLimiter,
		}),
		pool: backend.NewPool(backend.Config{
			Conn: cc.ConnConfig, Before: before, GUC: c.cfg.GUC, Tagged: c.cfg.Tag, Shard: r.Shard.Name, Keys: c.keys, MaxOpen: c.cfg.MaxConns, Verify: !c.cfg.SkipVerify,
			Strict: c.cfg.Guard == GuardStrict, Allow: c.cfg.GuardAllow,
			ConnectTimeout: c.cfg.ConnectTimeout, MaxLifetime: cc.MaxConnLifetime, MaxIdleTime: cc.MaxConnIdleTime,
			Changed: c.outageLog(r.Shard.Name), Life: c.life,
		}),
	}
	c.shards[s.name] = s
	return s, nil
}

// known returns the slots and connections that a route leads to, if there are any. Of a registry that is down the route is a stale one, and
// another connection string may be that of before. With the mutex held.
func (c *Connector) known(r *resolver.Route) *shard {
	s := c.shards[r.Shard.Name]
	if s == nil || s.dsn != r.Shard.DSN && c.routes.Fresh(r.Tenant) {
		return nil
	}
	return s
}

// ShardDB returns a plain *sql.DB on a shard's admin connection string: for migrations and other work that belongs to no
// tenant. No tenant's settings are in force on it, so what it may see is up to its login. Each call is logged with its
// reason and counted. Connecting takes Config.ConnectTimeout at most, or the connect_timeout of the string. Closing the connector closes
// it; the caller must not.
func (c *Connector) ShardDB(shard, reason string) (*sql.DB, error) {
	if reason == "" {
		return nil, &Error{Stage: StageTenant, Shard: shard, Err: errors.New(
			"ShardDB works without a tenant and is logged; say why in reason")}
	}
	//nolint:forbidigo // the signature has no context; the timeout bounds it
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.ConnectTimeout)
	defer cancel()
	record, err := c.store.Shard(ctx, shard)
	if err != nil {
		return nil, &Error{Stage: StageRoute, Shard: shard, Err: err}
	}
	if record.AdminDSN == "" {
		return nil, &Error{Stage: StageRoute, Shard: shard, Err: errors.New("the shard has no admin DSN; add one to the registry")}
	}
	c.adminOpened.Add(1)
	c.cfg.Logger.Warn("privileged access to a shard", "shard", shard, "reason", reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	key := shard + "\x00" + record.AdminDSN
	if db := c.admin[key]; db != nil {
		return db, nil
	}
	db, err := backend.OpenAdmin(record.AdminDSN, c.cfg.ConnectTimeout)
	if err != nil {
		return nil, &Error{Stage: StageBackend, Shard: shard, Err: err}
	}
	c.admin[key] = db
	return db, nil
}
