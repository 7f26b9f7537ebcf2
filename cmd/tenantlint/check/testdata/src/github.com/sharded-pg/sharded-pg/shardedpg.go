// Package shardedpg has the names of the driver that the linter asks for.
package shardedpg

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

type Config struct{ DSN string }

type Connector struct{}

func NewConnector(Config) (*Connector, error) { return nil, nil }

func (*Connector) Connect(context.Context) (driver.Conn, error)   { return nil, nil }
func (*Connector) Driver() driver.Driver                          { return nil }
func (*Connector) ShardDB(shard, reason string) (*sql.DB, error)  { return nil, nil }
func WithTenant(ctx context.Context, id string) context.Context   { return ctx }
func SwitchTenant(ctx context.Context, id string) context.Context { return ctx }
func TenantFrom(ctx context.Context) (id string, ok bool)         { return "", false }
