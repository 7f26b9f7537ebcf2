// Package adapter is how the tests of other projects open their database: on plain pgx, through this driver, or through
// this driver with a different server connection at each checkout. An environment variable decides, so that all three run
// the same code.
//
// Those tests know no tenants. The adapter gives each call that reaches the driver one, as an application would have put it
// into the context. It uses the public API only: a copy of it is compiled into a module beside the tests.
package adapter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Name is the driver for sql.Open. Its connection strings are those of pgx.
const Name = "suite"

// Variable is the environment variable that says what is below: Plain, Through or Chaos.
const Variable = "SHARDEDPG_SUITE"

// URL is the environment variable that holds the connection string of the suite's database, as pgx reads it.
const URL = "SHARDEDPG_SUITE_URL"

// Proof is the environment variable that names a file which the first connection through the driver makes. A suite that opens
// its database in some other way would pass everything, too.
const Proof = "SHARDEDPG_SUITE_PROOF"

// The values of Variable.
const (
	Plain   = "plain"
	Through = "through"
	Chaos   = "chaos"
)

//nolint:gochecknoinits // how database/sql finds a driver
func init() { sql.Register(Name, suiteDriver{}) }

// Open is sql.Open of this package's driver, for tests that have no place for an error.
func Open(dsn string) *sql.DB {
	db, err := sql.Open(Name, dsn)
	if err != nil {
		panic(err)
	}
	return db
}

// Fresh makes a database, on the server of the suite's, and opens it: for tests that start a server each.
func Fresh() (*sql.DB, error) {
	ctx := context.Background()
	where, err := url.Parse(os.Getenv(URL))
	if err != nil {
		return nil, err
	}
	maker, err := pgx.Connect(ctx, where.String())
	if err != nil {
		return nil, err
	}
	defer maker.Close(ctx)
	where.Path = fmt.Sprintf("/fresh%d_%d", os.Getpid(), databases.Add(1))
	if _, err := maker.Exec(ctx, "create database "+where.Path[1:]); err != nil {
		return nil, err
	}
	return sql.Open(Name, where.String())
}

var databases atomic.Uint32

// OpenDB stands for stdlib.OpenDB. The options are hooks of pgx's own connector, and reach nothing but that.
func OpenDB(config pgx.ConnConfig, options ...stdlib.OptionOpenDB) *sql.DB {
	if os.Getenv(Variable) == Plain {
		return stdlib.OpenDB(config, options...)
	}
	c, err := connect(config.ConnString(), func(_ string, cc *pgx.ConnConfig) error {
		cc.DefaultQueryExecMode, cc.Tracer = config.DefaultQueryExecMode, config.Tracer
		return nil
	})
	if err != nil {
		panic(err)
	}
	return sql.OpenDB(c)
}

type suiteDriver struct{}

var (
	_ driver.Driver        = suiteDriver{}
	_ driver.DriverContext = suiteDriver{}
)

// OpenConnector is what sql.Open calls.
func (suiteDriver) OpenConnector(dsn string) (driver.Connector, error) {
	if os.Getenv(Variable) == Plain {
		return stdlib.GetDefaultDriver().(driver.DriverContext).OpenConnector(dsn)
	}
	return connect(dsn, nil)
}

// Open is not called: the driver has OpenConnector.
func (suiteDriver) Open(string) (driver.Conn, error) { return nil, driver.ErrSkip }

// connector gives its connections a tenant, the next one at each checkout.
type connector struct {
	inner   *shardedpg.Connector
	tenants []string
	turn    atomic.Uint32
}

var (
	_ driver.Connector = (*connector)(nil)
	_ io.Closer        = (*connector)(nil)
)

// crowd is how many tenants share the database in chaos. Each has a shard of its own, so that the connection of one is
// never that of the next.
const crowd = 4

func connect(dsn string, configure func(string, *pgx.ConnConfig) error) (*connector, error) {
	n := 0
	switch v := os.Getenv(Variable); v {
	case Through:
		n = 1
	case Chaos:
		n = crowd
	default:
		return nil, fmt.Errorf("adapter: %s is %q; set it to %s, %s or %s", Variable, v, Plain, Through, Chaos)
	}
	c := &connector{}
	// No rate: tests send what they like, as fast as they can.
	plan := registry.Plan{Name: "suite", StatementTimeout: 5 * time.Minute, WorkMemKB: 256 << 10, MaxConns: 100, Weight: 1}
	fleet := registry.Fleet{Plans: []registry.Plan{plan}}
	for i := range n {
		name := fmt.Sprintf("suite%d", i)
		c.tenants = append(c.tenants, name)
		fleet.Shards = append(fleet.Shards, registry.Shard{Name: name, DSN: dsn})
		fleet.Tenants = append(fleet.Tenants, registry.Tenant{
			ID: name, Shard: name, Model: resolver.ModelDatabase, Plan: plan.Name,
		})
	}
	store, err := registry.NewStatic(fleet)
	if err != nil {
		return nil, err
	}
	c.inner, err = shardedpg.NewConnector(shardedpg.Config{Store: store, TenantShare: 1, ConfigureConn: configure})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *connector) next() string { return c.tenants[int(c.turn.Add(1))%len(c.tenants)] }

// Connect gives the connection the tenant of its first checkout.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	tenant := c.next()
	inner, err := c.inner.Connect(shardedpg.WithTenant(ctx, tenant))
	if err != nil {
		return nil, err
	}
	if name := os.Getenv(Proof); name != "" {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return nil, err
		}
	}
	return &conn{inner: inner.(*shardedpg.Conn), c: c, tenant: tenant}, nil
}

// Driver returns the registered driver.
func (c *connector) Driver() driver.Driver { return suiteDriver{} }

// Close is called by sql.DB.Close.
func (c *connector) Close() error { return c.inner.Close() }
