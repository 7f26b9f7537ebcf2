// Package handles opens databases: some are a tenant's, some are not.
package handles

import (
	"context"
	"database/sql"
	"database/sql/driver"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func opened(dsn string, other driver.Connector) {
	db, _ := sql.Open("sharded-pg", dsn)
	db.Query("") // want `Query has no context`
	plain, _ := sql.Open("pgx", dsn)
	plain.Query("")
	plain.ExecContext(context.Background(), "")
	stmt, _ := plain.Prepare("")
	stmt.Query()
	connector, _ := shardedpg.NewConnector(shardedpg.Config{})
	sql.OpenDB(connector).Exec("")                    // want `Exec has no context`
	sql.OpenDB(other).Exec("")                        // want `Exec has no context`
	admin, _ := connector.ShardDB("eu", "migrations") //tenantlint:allow migrations belong to no tenant
	admin.Exec("")
	tx, _ := admin.Begin()
	tx.Exec("")
	migrate(admin)
	run(db)
	both(db)
	both(admin)
	fromOpen(dsn).Exec("") // want `Exec has no context`
	fromAdmin(connector).Exec("")
	s := store{db: db, admin: admin}
	s.use()
	func() { admin.Exec("") }()
}

func migrate(db *sql.DB) { db.Exec("") }
func run(db *sql.DB) {
	db.Exec("") // want `Exec has no context`
}

// both is called with either, and fails with one.
func both(db *sql.DB) {
	db.Exec("") // want `Exec has no context`
}

func fromOpen(dsn string) *sql.DB {
	db, err := sql.Open("sharded-pg", dsn)
	if err != nil {
		return nil
	}
	return db
}

func fromAdmin(c *shardedpg.Connector) *sql.DB {
	db, _ := c.ShardDB("eu", "x") //tenantlint:allow a reason
	return db
}

type store struct{ db, admin *sql.DB }

func (s *store) use() {
	s.db.Exec("") // want `Exec has no context`
	s.admin.Exec("")
}

var global, _ = sql.Open("pgx", "")

func useGlobal() { global.Exec("") }

// Filled is filled by other packages, with whatever.
type Filled struct{ Admin *sql.DB }

func (f *Filled) use() {
	f.Admin.Exec("")
	for _, db := range map[string]*sql.DB{"admin": f.Admin} {
		defer func() { db.Exec("") }()
	}
}

func Passed(db *sql.DB) {
	db.Exec("") // want `Exec has no context`
}
