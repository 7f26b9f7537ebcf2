// Package libraries uses what wraps a *sql.DB.
package libraries

import (
	"context"
	"database/sql"

	"github.com/jmoiron/sqlx"
	shardedpg "github.com/sharded-pg/sharded-pg"
	"gorm.io/gorm"
)

func sqlxDB(ctx context.Context, db *sql.DB) {
	x := sqlx.NewDb(db, "pgx")
	x.Get(nil, "")    // want `Get has no context, so no tenant; use GetContext`
	x.Select(nil, "") // want `Select has no context, so no tenant; use SelectContext`
	x.Exec("")        // want `Exec has no context, so no tenant; use ExecContext`
	x.GetContext(ctx, nil, "")
	x.GetContext(context.Background(), nil, "") // want `the context of GetContext has no tenant; pass ctx on`
	tx, _ := x.Beginx()                         // want `Beginx has no context, so no tenant; use BeginTxx`
	tx.Get(nil, "")                             // want `Get has no context: it belongs to the transaction's tenant, and nothing ends it; use GetContext`
	other, _ := sqlx.Open("pgx", "")
	other.Get(nil, "")
	ours, _ := sqlx.Open("sharded-pg", "")
	ours.Get(nil, "") // want `Get has no context`
}

type repository struct{ db *gorm.DB }

var global, _ = gorm.Open(nil)

var filledElsewhere *gorm.DB

func gormDB(ctx context.Context, given *gorm.DB) {
	db, _ := gorm.Open(nil)
	db.Find(nil)                                           // want `Find has no context, so no tenant; begin with WithContext\(ctx\)`
	db.Where("").Find(nil)                                 // want `Find has no context`
	db.Transaction(func(tx *gorm.DB) error { return nil }) // want `Transaction has no context`
	db.WithContext(ctx).Where("").Find(nil)
	db.WithContext(context.Background()).Where("").Find(nil) // want `the context of Find has no tenant; pass ctx on`
	db.WithContext(shardedpg.WithTenant(context.Background(), "acme")).Create(nil)
	db.Session(&gorm.Session{Context: ctx}).Create(nil)
	given.Create(nil) // it may have a context
	db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		return tx.Create(nil).Where("").Find(nil).Session(nil).Create(nil).Transaction(nil)
	})
	global.Create(nil) // want `Create has no context`
	filledElsewhere.Create(nil)
	r := repository{db}
	r.db.Create(nil) // want `Create has no context`
}
