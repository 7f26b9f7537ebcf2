package sqlx

import (
	"context"
	"database/sql"
)

type DB struct{ *sql.DB }

type Tx struct{ *sql.Tx }

func NewDb(db *sql.DB, driverName string) *DB                                            { return &DB{db} }
func Open(driverName, dsn string) (*DB, error)                                           { return nil, nil }
func (db *DB) Get(dest any, query string, args ...any) error                             { return nil }
func (db *DB) GetContext(ctx context.Context, dest any, query string, args ...any) error { return nil }
func (db *DB) Select(dest any, query string, args ...any) error                          { return nil }
func (db *DB) Beginx() (*Tx, error)                                                      { return nil, nil }
func (db *DB) BeginTxx(ctx context.Context, opts *sql.TxOptions) (*Tx, error)            { return nil, nil }
func (tx *Tx) Get(dest any, query string, args ...any) error                             { return nil }
