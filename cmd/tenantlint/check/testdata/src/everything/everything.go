// Package everything is plain, looked at with -unknown or -packages.
package everything

import (
	"context"
	"database/sql"
)

func unknown(db *sql.DB) {
	db.Exec("")                              // want `Exec has no context`
	db.ExecContext(context.Background(), "") // want `the context of ExecContext has no tenant`
}

func known(dsn string) {
	db, _ := sql.Open("pgx", dsn)
	db.Exec("")
}
