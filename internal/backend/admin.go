package backend

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sharded-pg/sharded-pg/internal/hosts"
)

// OpenAdmin opens a plain pool on a shard's admin DSN: no tenant, no prologue. Connecting takes limit at most, unless the DSN has a
// connect_timeout.
func OpenAdmin(dsn string, limit time.Duration) (*sql.DB, error) {
	cc, err := ParseConn(dsn)
	if err != nil {
		return nil, err
	}
	host := new(hosts.Memory)
	return stdlib.OpenDB(*cc.ConnConfig, stdlib.OptionBeforeConnect(func(ctx context.Context, cc *pgx.ConnConfig) error {
		host.Bound(ctx, &cc.Config, limit)
		return nil
	})), nil
}
