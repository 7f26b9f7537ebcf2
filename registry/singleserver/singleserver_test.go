package singleserver_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/registrytest"
	"github.com/sharded-pg/sharded-pg/registry/singleserver"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const rows = `(tenant_id = nullif(current_setting('app.current_tenant_id', true), ''))`

// config is for a server of the test's own, because databases are the server's. made counts the databases.
func config(t *testing.T, made *atomic.Int64) singleserver.Config {
	t.Helper()
	server, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", `create role app login`))
	return singleserver.Config{
		DSN: server.DSN("app", "postgres"), AdminDSN: server.DSN("postgres", "postgres"),
		Create: func(ctx context.Context, tx pgx.Tx, _ registry.TenantInfo) error {
			made.Add(1)
			for _, statement := range []string{
				`create table notes (tenant_id text not null default current_setting('app.current_tenant_id'), note text)`,
				`alter table notes enable row level security`, `alter table notes force row level security`,
				`create policy tenant on notes using ` + rows,
				`grant select, insert on notes to app`,
			} {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// One server is enough for all stores of the suite: each has databases of its own.
func TestASingleServerConforms(t *testing.T) {
	var made, stores atomic.Int64
	cfg := config(t, &made)
	harness := registrytest.Harness{
		Shard: "local", FirstSight: true,
		New: func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
			cfg, number := cfg, stores.Add(1)
			cfg.Database = func(tenant string) string { return fmt.Sprintf("store%d_%s", number, tenant) }
			store, err := singleserver.Open(cfg)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			for _, plan := range fleet.Plans {
				require.NoError(t, store.PutPlan(t.Context(), plan))
			}
			for _, tenant := range fleet.Tenants {
				tenant.Shard = "local"
				require.NoError(t, store.PutTenant(t.Context(), tenant))
			}
			return registrytest.Subject{Store: store, Admin: store.Admin, Closer: store}
		},
	}
	t.Run("suite", func(t *testing.T) { registrytest.Run(t, harness) }) // which waits for its parallel tests
	require.EqualValues(t, 3, made.Load(), "for the unknown tenants, and for nobody else")
}

func openDB(t *testing.T, cfg singleserver.Config) (*singleserver.Store, *sql.DB) {
	t.Helper()
	store, err := singleserver.Open(cfg)
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store})
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() {
		require.NoError(t, db.Close())
		require.NoError(t, store.Close())
	})
	return store, db
}

// eventually runs a statement until its tenant's database is made: lookups do not wait as long as that may take.
func eventually(t *testing.T, db *sql.DB, tenant, statement string) {
	t.Helper()
	ctx := shardedpg.WithTenant(t.Context(), tenant)
	var err error
	require.Eventually(t, func() bool {
		_, err = db.ExecContext(ctx, statement)
		return err == nil
	}, 60*time.Second, 10*time.Millisecond, "%v", err)
}

func TestATenantGetsItsDatabaseAtFirstSight(t *testing.T) {
	t.Parallel()
	var made atomic.Int64
	cfg := config(t, &made)
	cfg.Database = func(tenant string) string {
		if tenant[0] == 'g' {
			return "group"
		}
		return "own_" + tenant
	}
	store, db := openDB(t, cfg)
	var wg sync.WaitGroup
	for _, tenant := range []string{"alone", "g1", "g2", "alone", "g1"} {
		wg.Go(func() { eventually(t, db, tenant, `insert into notes (note) values ('x')`) })
	}
	wg.Wait()
	require.EqualValues(t, 2, made.Load(), "one alone, one for the group")
	for tenant, want := range map[string]int{"alone": 2, "g1": 2, "g2": 1} {
		var got int
		require.NoError(t, db.QueryRowContext(shardedpg.WithTenant(t.Context(), tenant), `select count(*) from notes`).Scan(&got))
		require.Equal(t, want, got, tenant)
		route, err := store.Lookup(t.Context(), tenant)
		require.NoError(t, err)
		require.Equal(t, cfg.Database(tenant), route.Database)
	}

	_, again := openDB(t, cfg) // another program, or the same one later
	eventually(t, again, "g2", `insert into notes (note) values ('y')`)
	require.EqualValues(t, 2, made.Load(), "the databases are found again")
	require.NoError(t, store.RemoveTenant(t.Context(), "alone"))
	_, err := store.Lookup(t.Context(), "alone")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound, "removed is not made again")
}

func TestAFailureIsTriedAgain(t *testing.T) {
	t.Parallel()
	var made atomic.Int64
	cfg := config(t, &made)
	create, boom, fail := cfg.Create, errors.New("boom"), true
	cfg.Create = func(ctx context.Context, tx pgx.Tx, tenant registry.TenantInfo) error {
		if fail {
			return boom
		}
		return create(ctx, tx, tenant)
	}
	store, err := singleserver.Open(cfg)
	require.NoError(t, err)
	defer store.Close()
	_, err = store.Lookup(t.Context(), "a")
	require.ErrorIs(t, err, boom)
	require.NotErrorIs(t, err, resolver.ErrTenantNotFound)
	fail = false
	require.Eventually(t, func() bool { _, err = store.Lookup(t.Context(), "a"); return err == nil }, 20*time.Second, time.Millisecond)
}

func TestAServerThatIsAwayIsNoUnknownTenant(t *testing.T) {
	t.Parallel()
	away := singleserver.Config{DSN: "host=/nonexistent password=opensesame", AdminDSN: "host=/nonexistent password=opensesame"}
	store, err := singleserver.Open(away)
	require.NoError(t, err)
	defer store.Close()
	_, err = store.Lookup(t.Context(), "a")
	require.Error(t, err)
	require.NotErrorIs(t, err, resolver.ErrTenantNotFound)
	require.NotContains(t, fmt.Sprint(err), "opensesame")
	for _, id := range []string{strings.Repeat("x", 57), "nameless"} {
		away.Database = func(tenant string) string { return strings.TrimPrefix("tenant_"+tenant, "tenant_nameless") }
		strict, err := singleserver.Open(away)
		require.NoError(t, err)
		defer strict.Close()
		_, err = strict.Lookup(t.Context(), id)
		require.ErrorIs(t, err, resolver.ErrTenantNotFound, "%s: no database can have its name", id)
	}
	for _, incomplete := range []singleserver.Config{{DSN: "host=x"}, {AdminDSN: "host=x"}} {
		_, err = singleserver.Open(incomplete)
		require.ErrorIs(t, err, registry.ErrInvalid)
	}
}

func TestAClosedStoreMakesNoDatabase(t *testing.T) {
	t.Parallel()
	var made atomic.Int64
	store, err := singleserver.Open(config(t, &made))
	require.NoError(t, err)
	require.NoError(t, store.PutTenant(t.Context(), registry.Tenant{ID: "there", Shard: "local"}))
	require.NoError(t, store.Close())
	_, err = store.Lookup(t.Context(), "there")
	require.NoError(t, err)
	_, err = store.Lookup(t.Context(), "new")
	require.ErrorIs(t, err, registry.ErrClosed)
	require.Zero(t, made.Load())
}

func TestATenantThatOthersChangedMeanwhileStaysAsTheyLeftIt(t *testing.T) {
	t.Parallel()
	var made atomic.Int64
	var late atomic.Bool
	asked, told := make(chan struct{}), make(chan struct{})
	cfg := config(t, &made)
	cfg.Database = func(tenant string) string {
		if late.Load() {
			close(asked)
			<-told
		}
		return "own_" + tenant
	}
	store, err := singleserver.Open(cfg)
	require.NoError(t, err)
	defer store.Close()
	late.Store(true)
	plan := make(chan string, 1)
	go func() {
		route, err := store.Lookup(t.Context(), "acme")
		if err != nil {
			t.Error(err)
		}
		plan <- route.Plan.Name
	}()
	<-asked // it has not found the tenant, and goes on making it
	require.NoError(t, store.PutTenant(t.Context(), registry.Tenant{ID: "acme", Shard: "local", Database: "own_acme", Plan: "growth"}))
	close(told)
	require.Equal(t, "growth", <-plan)
}
