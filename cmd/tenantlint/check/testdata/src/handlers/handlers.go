// Package handlers imports the driver, so that its handles are a tenant's wherever they come from.
package handlers

import (
	"context"
	"database/sql"
	"net/http"
	"os/signal"
	"sync"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"golang.org/x/sync/errgroup"
)

type server struct{ db *sql.DB }

func withoutContext(db *sql.DB) {
	db.Query("")              // want `Query has no context, so no tenant; use QueryContext`
	db.QueryRow("")           // want `QueryRow has no context, so no tenant; use QueryRowContext`
	db.Exec("")               // want `Exec has no context, so no tenant; use ExecContext`
	db.Ping()                 // want `Ping has no context, so it asks the registry and no tenant's shard; use PingContext`
	tx, _ := db.Begin()       // want `Begin has no context, so no tenant; use BeginTx`
	tx.Exec("")               // want `Exec has no context: it belongs to the transaction's tenant, and nothing ends it; use ExecContext`
	stmt, _ := db.Prepare("") // want `Prepare has no context, so no tenant; use PrepareContext`
	stmt.Query()              // want `Query has no context, so no tenant; use QueryContext`
	defer db.Exec("")         // want `Exec has no context, so no tenant`
	go db.Exec("")            // want `Exec has no context, so no tenant`
}

func good(ctx context.Context, s *server, r *http.Request) {
	s.db.QueryContext(ctx, "")
	s.db.QueryContext(r.Context(), "")
	s.db.PingContext(context.Background()) // asks the registry
	tenant := shardedpg.WithTenant(context.Background(), "acme")
	s.db.ExecContext(tenant, "")
	limited, cancel := context.WithTimeout(tenant, time.Second)
	defer cancel()
	s.db.ExecContext(limited, "")
	s.db.ExecContext(context.WithoutCancel(ctx), "")
	tx, _ := s.db.BeginTx(ctx, nil)
	defer tx.Rollback()
	tx.ExecContext(context.Background(), "") // the transaction's tenant
	stmt, _ := tx.PrepareContext(ctx, "")
	stmt.ExecContext(context.Background()) // the same
	conn, _ := s.db.Conn(ctx)
	conn.ExecContext(context.Background(), "") // the checkout's tenant
}

func begins(db *sql.DB) {
	db.QueryContext(context.Background(), "") // want `the context of QueryContext has no tenant: it comes from context.Background or TODO; use shardedpg.WithTenant`
	db.ExecContext(context.TODO(), "")        // want `the context of ExecContext has no tenant`
	ctx := context.Background()
	db.BeginTx(ctx, nil)                               // want `the context of BeginTx has no tenant`
	ctx, cancel := context.WithTimeout(ctx, time.Hour) // still none
	defer cancel()
	stmt, _ := db.PrepareContext(ctx, "") // want `the context of PrepareContext has no tenant`
	stmt.QueryRowContext(ctx)             // want `the context of QueryRowContext has no tenant`
	ctx, stop := signal.NotifyContext(context.WithValue(ctx, "key", "value"))
	defer stop()
	db.QueryRowContext(ctx, "") // want `the context of QueryRowContext has no tenant`
	ctx = shardedpg.WithTenant(ctx, "acme")
	db.QueryRowContext(ctx, "")
}

func either(db *sql.DB, tenant string) {
	ctx := context.Background()
	if tenant != "" {
		ctx = shardedpg.WithTenant(ctx, tenant)
	}
	db.ExecContext(ctx, "") // not for sure
	for range 3 {
		ctx, _ = context.WithCancel(ctx)
	}
	db.ExecContext(ctx, "")
	plain := context.Background()
	for range 3 {
		plain, _ = context.WithCancel(plain)
	}
	db.ExecContext(plain, "") // want `the context of ExecContext has no tenant`
}

func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	s.db.ExecContext(context.Background(), "") // want `the context of ExecContext has no tenant; pass r.Context\(\) on`
	go func() {
		s.db.ExecContext(context.Background(), "") // want `this goroutine drops the tenant of r.Context\(\), which ExecContext needs; use context.WithoutCancel\(r.Context\(\)\) to keep it`
	}()
}

func goroutines(ctx context.Context, db *sql.DB) {
	go func() {
		limited, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		db.ExecContext(limited, "") // want `this goroutine drops the tenant of ctx, which ExecContext needs; use context.WithoutCancel\(ctx\) to keep it`
	}()
	background := context.Background()
	var group errgroup.Group
	group.Go(func() error {
		_, err := db.ExecContext(background, "") // want `this goroutine drops the tenant of ctx`
		return err
	})
	both, ctx2 := errgroup.WithContext(context.Background())
	both.Go(func() error {
		_, err := db.ExecContext(ctx2, "") // want `this goroutine drops the tenant of ctx`
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		func() { db.Query("") }()                // want `Query has no context, so no tenant`
		db.ExecContext(context.Background(), "") // want `this goroutine drops the tenant of ctx`
	})
	time.AfterFunc(time.Second, func() {
		db.ExecContext(context.Background(), "") // want `this goroutine drops the tenant of ctx`
	})
	func() {
		db.ExecContext(context.Background(), "") // want `the context of ExecContext has no tenant; pass ctx on`
	}()
	go func() {
		db.ExecContext(context.WithoutCancel(ctx), "")
		db.ExecContext(ctx, "")
	}()
	go func(ctx context.Context) { db.ExecContext(ctx, "") }(context.WithoutCancel(ctx))
	go func(ctx context.Context) {
		db.ExecContext(ctx, "") // want `the context of ExecContext has no tenant`
	}(context.Background())
}

// Variables that closures share are followed, unless their address goes somewhere else.
func shared(db *sql.DB) {
	ctx := context.Background()
	set := func() { ctx = shardedpg.WithTenant(ctx, "acme") }
	set()
	db.ExecContext(ctx, "")
	never := context.Background()
	run := func() {
		db.ExecContext(never, "") // want `the context of ExecContext has no tenant`
	}
	run()
	away := context.Background()
	fill(&away)
	db.ExecContext(away, "")
}

func fill(ctx *context.Context) { *ctx = shardedpg.WithTenant(*ctx, "acme") }

// The context of an unexported function is what all its callers pass.
func callers(ctx context.Context, db *sql.DB) {
	lost(context.Background(), db)
	lost(context.TODO(), db)
	sometimes(context.Background(), db)
	sometimes(ctx, db)
	asValue(context.Background(), db)
	_ = []func(context.Context, *sql.DB){asValue}
	s := &server{db}
	s.lost(context.Background())
	s.bound(context.Background())
	keep := s.bound
	keep(ctx)
	Exported(context.Background(), db)
	lost(made(), db)
	db.ExecContext(made(), "") // want `the context of ExecContext has no tenant; pass ctx on`
	db.ExecContext(tenantOf(), "")
	var i interface{ through(context.Context) } = s
	i.through(ctx)
	s.through(context.Background())
}

func lost(ctx context.Context, db *sql.DB) {
	db.ExecContext(ctx, "") // want `the context of ExecContext has no tenant`
}

func (s *server) lost(ctx context.Context) {
	s.db.ExecContext(ctx, "") // want `the context of ExecContext has no tenant`
}

func (s *server) bound(ctx context.Context)     { s.db.ExecContext(ctx, "") }
func (s *server) through(ctx context.Context)   { s.db.ExecContext(ctx, "") }
func sometimes(ctx context.Context, db *sql.DB) { db.ExecContext(ctx, "") }
func asValue(ctx context.Context, db *sql.DB)   { db.ExecContext(ctx, "") }
func Exported(ctx context.Context, db *sql.DB)  { db.ExecContext(ctx, "") }
func made() context.Context                     { return context.Background() }
func tenantOf() context.Context                 { return shardedpg.WithTenant(context.Background(), "acme") }

var started = context.Background()

func global(db *sql.DB) {
	db.ExecContext(started, "") // want `the context of ExecContext has no tenant`
}

func allowed(db *sql.DB) {
	db.Exec("") //tenantlint:allow a table without policies
	//tenantlint:allow the same, said above
	db.Exec("")
	db.Exec("") // want `Exec has no context`
}
