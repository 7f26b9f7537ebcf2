// Package plain does not import the driver: what it cannot know it leaves alone.
package plain

import (
	"context"
	"database/sql"
)

func unknown(db *sql.DB) {
	db.Exec("")
	db.ExecContext(context.Background(), "")
}

func known(dsn string) {
	db, _ := sql.Open("sharded-pg", dsn)
	db.Exec("")                              // want `Exec has no context`
	db.ExecContext(context.Background(), "") // want `the context of ExecContext has no tenant`
}
