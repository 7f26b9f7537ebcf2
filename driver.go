package shardedpg

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// DriverName is the name under which the driver is registered with database/sql.
const DriverName = "sharded-pg"

//nolint:gochecknoinits // how database/sql finds a driver
func init() { sql.Register(DriverName, virtualDriver{}) }

// virtualDriver has OpenConnector, without which database/sql would throw the context of Connect away.
type virtualDriver struct{}

var (
	_ driver.Driver        = virtualDriver{}
	_ driver.DriverContext = virtualDriver{}
)

// OpenConnector is what sql.Open calls, once.
func (virtualDriver) OpenConnector(dsn string) (driver.Connector, error) {
	cfg, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	return NewConnector(cfg)
}

// Open is the form that database/sql does not use for this driver; the connector made here lives as long as the process.
func (d virtualDriver) Open(dsn string) (driver.Conn, error) {
	c, err := d.OpenConnector(dsn)
	if err != nil {
		return nil, err
	}
	return c.Connect(context.Background()) //nolint:forbidigo // driver.Driver gives none, and Connect opens nothing
}
