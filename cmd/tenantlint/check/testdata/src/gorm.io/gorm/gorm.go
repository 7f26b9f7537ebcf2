package gorm

import "context"

type (
	DB        struct{}
	Config    struct{}
	Session   struct{ Context context.Context }
	Dialector any
)

func Open(Dialector, ...any) (*DB, error)                           { return nil, nil }
func (db *DB) WithContext(context.Context) *DB                      { return db }
func (db *DB) Session(*Session) *DB                                 { return db }
func (db *DB) Where(query any, args ...any) *DB                     { return db }
func (db *DB) Find(dest any, conds ...any) *DB                      { return db }
func (db *DB) Create(value any) *DB                                 { return db }
func (db *DB) Transaction(fc func(tx *DB) error, opts ...any) error { return nil }
