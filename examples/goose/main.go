// Command goose migrates all shards, and then the tenants named as arguments, which have a schema or a database of their
// own.
//
// # What to know
//
//   - The tables of shared tenants belong to their shard: migrate them once on each, through ShardDB. A new table needs its
//     tenant column, its policies and its grants in the same migration.
//   - The tables of a tenant with a schema or a database of its own are migrated through the ordinary *sql.DB, with the
//     tenant in the context. goose's version table is then in the tenant's schema, so each tenant has a version of its own.
//     The tenant's role needs the right to create there: grant create on schema ... to ....
//   - The tenant's plan limits migrations, too. Give a tenant that is migrated for minutes a plan with that time, or
//     migrate it through ShardDB.
//   - The session lock works: goose holds it on one *sql.Conn, which keeps one server connection. It is a lock of the
//     database, so schema tenants of one database are migrated one after the other.
//   - Use a Provider: goose's package-level functions without a context have no tenant.
package main

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func main() {
	ctx := context.Background()
	connector, db, err := open(os.Getenv("REGISTRY_DSN"))
	if err == nil {
		defer db.Close() // closes the connector as well
		for _, shard := range []string{"eu", "us"} {
			err = errors.Join(err, migrateShard(ctx, connector, shard))
		}
		for _, tenant := range os.Args[1:] {
			err = errors.Join(err, migrateTenant(shardedpg.WithTenant(ctx, tenant), db))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(dsn string) (*shardedpg.Connector, *sql.DB, error) {
	cfg, err := shardedpg.ParseDSN(dsn)
	if err != nil {
		return nil, nil, err
	}
	connector, err := shardedpg.NewConnector(cfg)
	if err != nil {
		return nil, nil, err
	}
	return connector, sql.OpenDB(connector), nil
}

//go:embed migrations
var migrations embed.FS

// migrateShard brings the tables of a shard's shared tenants to the newest version.
func migrateShard(ctx context.Context, connector *shardedpg.Connector, shard string) error {
	admin, err := connector.ShardDB(shard, "migrate the tables of shared tenants")
	if err != nil {
		return err
	}
	if err := up(ctx, admin, "migrations/shared"); err != nil {
		return fmt.Errorf("shard %s: %w", shard, err)
	}
	return nil
}

// migrateTenant brings the tables of the tenant in ctx to the newest version.
func migrateTenant(ctx context.Context, db *sql.DB) error {
	return up(ctx, db, "migrations/own")
}

// up runs what is missing. The lock keeps a second program from doing the same at the same time.
func up(ctx context.Context, db *sql.DB, folder string) error {
	files, err := fs.Sub(migrations, folder)
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}
