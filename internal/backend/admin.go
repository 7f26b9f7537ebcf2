package backend

import (
	"database/sql"

	"github.com/jackc/pgx/v5/stdlib"
)

// OpenAdmin opens a plain pool on a shard's admin DSN: no tenant, no prologue.
func OpenAdmin(dsn string) (*sql.DB, error) {
	cc, err := ParseConn(dsn)
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*cc.ConnConfig), nil
}
