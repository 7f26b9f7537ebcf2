package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
)

var (
	_ Store     = (*Postgres)(nil)
	_ io.Closer = (*Postgres)(nil)
)

// Options adjust a [Postgres]. nil and the zero value mean the defaults.
type Options struct {
	// Schema is where the tables are. Change it to keep several registries in one database: letters, digits, dots,
	// hyphens and underscores. Default "sharded_pg".
	Schema string
	// MaxConns is how many connections Open's pool may use, the one of Watch included. Raise it if many tenants are
	// first seen at once. New does not use it. Default 4.
	MaxConns int
	// Keepalive is how often Watch makes sure that its idle connection still lives. Lower it where firewalls forget idle
	// connections earlier. Default 30s.
	Keepalive time.Duration
	// Actor is recorded in the audit log for changes whose context names nobody; see [WithActor]. Default: the operating
	// system's user and the name of the program.
	Actor string
	// Sizer measures shards that have MaxBytes when a tenant is added; an answer below MaxBytes is good for 30 s. Set it where the databases' size in PostgreSQL is
	// not what counts, for example the free space that a provider reports. Default [Bytes].
	Sizer Sizer
	// FirstSight adds unknown tenants when they are looked up. Default: they are refused.
	FirstSight *FirstSight
	// BeforeConnect changes a connection of Open's pool before each connect: a password that rotates, a token. Default:
	// connections are made as dsn says.
	BeforeConnect func(ctx context.Context, cfg *pgx.ConnConfig) error
	// Logger hears when Watch loses the registry and finds it again. Default: nobody does.
	Logger *slog.Logger
}

func (o *Options) withDefaults() (Options, error) {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Schema == "" {
		out.Schema = "sharded_pg"
	}
	if out.MaxConns <= 0 {
		out.MaxConns = 4
	}
	if out.Keepalive <= 0 {
		out.Keepalive = 30 * time.Second
	}
	if out.Sizer == nil {
		out.Sizer = Bytes{}
	}
	if out.Logger == nil {
		out.Logger = slog.New(slog.DiscardHandler)
	}
	// The channel of notifications is the schema with a suffix, and has to be an identifier, too.
	if most := maxIdentifier - len(channelSuffix); !plainName(out.Schema, most) || strings.HasPrefix(strings.ToLower(out.Schema), "pg_") {
		return out, fmt.Errorf("%w registry schema %q: use 1 to %d letters, digits, dots, hyphens and underscores, not pg_ in front",
			ErrInvalid, cut(out.Schema), most)
	}
	return out, out.FirstSight.check()
}

const channelSuffix = "_changes"

// Postgres is a [Store] in tables of a PostgreSQL database. Make one with [Open] or [New], and create the tables with
// Init. Any number of goroutines may use it.
type Postgres struct {
	*Admin

	db      *sql.DB
	owned   bool // Close closes db
	opts    Options
	schema  string // quoted
	channel string // not quoted

	lookupSQL, shardSQL, shardsSQL string // built once: they are asked often

	closeOnce sync.Once
	closed    chan struct{}
}

// New returns a store on a database that the caller opened with pgx's database/sql driver, and closes after the store.
// It does not connect. Watch holds one connection of db.
func New(db *sql.DB, opts *Options) (*Postgres, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Postgres{
		db: db, opts: o, schema: pgx.Identifier{o.Schema}.Sanitize(), channel: o.Schema + channelSuffix,
		closed: make(chan struct{}),
	}
	p.Admin = &Admin{store: &tables{p}, actor: o.Actor, sizer: o.Sizer, first: o.FirstSight}
	p.lookupSQL, p.shardSQL, p.shardsSQL = p.sql(lookupSQL), p.sql(shardSQL), p.sql(shardsSQL)
	return p, nil
}

// Open returns a store on the database that dsn names, a PostgreSQL URL or keyword/value string that may hold ${NAME}
// references. It does not connect: a program can start while its registry is down.
func Open(dsn string, opts *Options) (*Postgres, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	dsn, err = expand(dsn)
	if err != nil {
		return nil, fmt.Errorf("dsn of the registry: %w", err)
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%w dsn of the registry: %w; use a PostgreSQL URL or keyword/value string, and check the files it names",
			ErrInvalid, connstring.Reason(err))
	}
	if cfg.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		// One round trip without named statements: works behind each pooler, and lookups are rare.
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	db := sql.OpenDB(newConnector(cfg, o.MaxConns, o.BeforeConnect))
	db.SetMaxOpenConns(o.MaxConns)
	db.SetMaxIdleConns(o.MaxConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	p, err := New(db, &o)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	p.owned = true
	return p, nil
}

// Close ends Watch and, if Open made the store, closes its connections. It may be called more than once.
func (p *Postgres) Close() error {
	var err error
	p.closeOnce.Do(func() {
		close(p.closed)
		if p.owned {
			err = p.db.Close()
		}
	})
	return err
}

// sql puts the schema into a statement.
func (p *Postgres) sql(text string) string { return strings.ReplaceAll(text, "{s}", p.schema) }

// read runs a read, which may be repeated.
func (p *Postgres) read(ctx context.Context, what string, query func() error) error {
	return p.explain(ctx, what, p.repeat(ctx, query))
}

// repeat runs step, and once more if the connection turned out to be broken. A pool keeps connections whose server has
// gone, and a restart breaks all of them, so it may take as many repetitions as there are idle ones.
func (p *Postgres) repeat(ctx context.Context, step func() error) error {
	err := step()
	for left := 1 + p.db.Stats().Idle; left > 0 && err != nil && broken(ctx, err); left-- {
		if !pause(ctx, rand.N(10*time.Millisecond)) {
			break
		}
		err = step()
	}
	return err
}

// broken reports whether err says that a connection was lost, rather than that the server answered or cannot be reached.
func broken(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, sql.ErrNoRows) || errors.Is(err, sql.ErrConnDone) {
		return false
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return false
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return strings.HasPrefix(answer.Code, "08") || answer.Code == "57P01" || answer.Code == "57P02"
	}
	return lost(err)
}

// explain says what was attempted and, where it is known, what to do. It keeps [driver.ErrBadConn] from leaving: above a
// database/sql driver it would mean that the caller's connection is bad.
func (p *Postgres) explain(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	var answer *pgconn.PgError
	var connect *pgconn.ConnectError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case errors.As(err, &connect):
		// pgx's own text has user and database of the DSN in it.
		return fmt.Errorf("%s: the registry cannot be reached: %w: check that its server runs, and what its DSN names",
			what, connectError(err))
	case errors.Is(err, driver.ErrBadConn):
		return fmt.Errorf("%s: the connection to the registry was lost", what)
	case errors.As(err, &answer) && (answer.Code == "42P01" || answer.Code == "3F000" || answer.Code == "42703"):
		return fmt.Errorf("%s: %w in schema %s: run Init (shardedpg registry init), or a newer program if it has been run: %w",
			what, ErrNotInitialized, p.schema, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// pause waits, and reports whether ctx is still in force.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
