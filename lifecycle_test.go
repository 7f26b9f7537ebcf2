package shardedpg_test

import (
	"bytes"
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestCloseDoesNotWaitForAnOpenTx(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 3 }})
	tx := f.begin(f.a)
	f.exec(f.a, tx, "insert into orders (note) values ('kept')")
	conn := f.conn(f.b)
	f.requireNotes(f.b, conn, notesOfB)
	rows, err := f.db.QueryContext(f.a, "select 1 from generate_series(1, 100000)")
	require.NoError(t, err)
	defer rows.Close()
	require.True(t, rows.Next())

	closed := make(chan error, 1)
	go func() { closed <- f.db.Close() }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for what is open")
	}
	require.NoError(t, f.connector.Close(), "closing twice is fine")

	// What was open goes on to its end.
	f.requireNotes(f.a, tx, notesOfA+",kept")
	require.NoError(t, tx.Commit())
	f.requireNotes(f.b, conn, notesOfB)
	require.NoError(t, conn.Close())
	n := 1
	for ; rows.Next(); n++ {
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 100000, n)
	require.Equal(t, 1, outside[int](f, "select count(*) from orders where note = 'kept'"))

	_, err = f.connector.Connect(f.a)
	require.ErrorContains(t, err, "closed")
	_, err = f.connector.ShardDB("s1", "test")
	require.ErrorContains(t, err, "closed")
	f.requireNoServerConnections()
}

func TestATxWithoutAStatementFailsAfterCloseInsteadOfHanging(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(t.Context()) // a virtual connection that holds nothing yet
	require.NoError(t, f.db.Close())
	_, err := conn.ExecContext(f.a, "select 1")
	require.Error(t, err)
	_ = conn.Close()
}

func TestShardDBWorksWithoutATenantAndIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var mu sync.Mutex
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&lockedWriter{mu: &mu, to: &log}, nil))
	}})
	db, err := f.connector.ShardDB("s1", "migration 12")
	require.NoError(t, err)
	require.Equal(t, 3, value[int](t, t.Context(), db, "select count(*) from orders"))
	require.Equal(t, 3, value[int](t, f.a, db, "select count(*) from orders"), "a tenant in the context changes nothing")
	again, err := f.connector.ShardDB("s1", "migration 13")
	require.NoError(t, err)
	require.Same(t, db, again)
	require.EqualValues(t, 2, f.connector.Stats().ShardDBs)
	mu.Lock()
	text := log.String()
	mu.Unlock()
	require.Contains(t, text, `reason="migration 12"`)
	require.Contains(t, text, "shard=s1")
	require.NotContains(t, text, "dbname")

	_, err = f.connector.ShardDB("s1", "")
	require.ErrorContains(t, err, "reason")
	_, err = f.connector.ShardDB("nowhere", "x")
	require.ErrorContains(t, err, `shard "nowhere"`)
	f.store.mu.Lock()
	f.store.shard.AdminDSN = ""
	f.store.mu.Unlock()
	_, err = f.connector.ShardDB("s1", "x")
	require.ErrorContains(t, err, "no admin DSN")
	f.requireOwnRows()
}

type lockedWriter struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

func TestUnsafeLoginsAreRefused(t *testing.T) {
	t.Parallel()
	for user, why := range map[string]string{
		"unsafe_super":            "is a superuser",
		"unsafe_bypass":           "has BYPASSRLS",
		"unsafe_owner":            "owns tables",
		"unsafe_member_of_super":  "member of a superuser or BYPASSRLS role",
		"unsafe_member_of_bypass": "member of a superuser or BYPASSRLS role",
		"unsafe_member_of_owner":  "member of their owner",
		"unsafe_far_member":       "member of their owner",
	} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{user: user, schema: []string{
				"create table owned (tenant_id text); alter table owned enable row level security; alter table owned owner to unsafe_owner",
			}})
			for range 2 {
				_, err := f.db.ExecContext(f.a, "select 1")
				require.ErrorIs(t, err, shardedpg.ErrUnsafeRole)
				require.ErrorContains(t, err, why)
				require.ErrorContains(t, err, user)
				require.ErrorContains(t, err, tenantA)
			}
			f.requireNoServerConnections()
			require.Zero(t, f.connector.Stats().Shards[0].Backends.Open)
		})
	}
}

// From PostgreSQL 16 on it is each grant that inherits or not, before it was the login.
func TestALoginWithTheRightsOfASchemaTenantsRoleIsRefused(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{user: "unsafe_inherits"})
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrUnsafeRole)
	require.ErrorContains(t, err, `the rights of role "schema_one"`)
	require.ErrorContains(t, err, "NOINHERIT")
}

// Each login may store settings for itself, and a block hides from the guard that it does.
func TestALoginThatAStoredSettingMakesAnotherRoleIsRefused(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	neighbour := shardedpg.WithTenant(t.Context(), "neighbour")
	alter := "er role app in database " + f.database
	f.exec(f.a, f.db, "do $$ begin execute 'reset role'; execute 'alt' || '"+alter+" set role = ''schema_one'''; "+
		"execute 'alt' || '"+alter+" set search_path = ''one'''; end $$")
	f.exec(f.a, f.db, "discard all") // the connection is not used again
	_, err := f.db.ExecContext(neighbour, "insert into inv values (7, 'of a shared tenant')")
	require.ErrorIs(t, err, shardedpg.ErrUnsafeRole)
	require.ErrorContains(t, err, `a stored setting makes "app" another role`)
	require.Equal(t, 1, outside[int](f, "select count(*) from one.inv"))
	require.NoError(t, f.server.Exec(t.Context(), f.database, "alt"+alter+" reset all"))
	require.Equal(t, "app", value[string](t, neighbour, f.db, "select current_user::text"))
}

// Behind a pooler the server connection may be younger than the check, and a reset of the role goes back to what is stored.
func TestTheResetLeavesNoStoredRole(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{schema: []string{hiddenSQL}, config: func(c *shardedpg.Config) { c.SkipVerify = true }, routes: func(f *fleet, routes map[string]*resolver.Route) {
		routes["another"] = f.route("another", planOf(30*time.Second, 16<<10))
	}})
	require.NoError(t, f.server.Exec(t.Context(), f.database, "alter role app in database "+f.database+" set role = 'schema_one'"))
	neighbour, another := shardedpg.WithTenant(t.Context(), "neighbour"), shardedpg.WithTenant(t.Context(), "another")
	const current = "select current_user::text"
	require.Equal(t, "app", value[string](t, neighbour, f.db, current), "of a connection just made")
	for _, again := range []string{"set session authorization default", "select hidden_exec('reset role')"} {
		conn := f.conn(neighbour)
		f.exec(neighbour, conn, again)
		require.Equal(t, "schema_one", value[string](t, neighbour, conn, current), "what is stored is in force again: %s", again)
		require.NoError(t, conn.Close())
		require.Equal(t, "app", value[string](t, another, f.db, current), again)
	}
}

func TestVerificationCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{user: "unsafe_super", config: func(c *shardedpg.Config) { c.SkipVerify = true }})
	require.Equal(t, 3, value[int](t, f.a, f.db, "select count(*) from orders"), "which is why one should not")
}

func TestTenantCaseIsAppliedBeforeTheLookup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rule shardedpg.TenantCase
		ids  map[string]bool
	}{
		{shardedpg.TenantCaseExact, map[string]bool{"acme": true, "Acme": false, "ACME": false}},
		{shardedpg.TenantCaseLower, map[string]bool{"acme": true, "Acme": true, "ACME": true}},
		{shardedpg.TenantCaseUpper, map[string]bool{"acme": false, "Acme": false, "ACME": false}},
	} {
		t.Run(string(c.rule), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{config: func(cfg *shardedpg.Config) { cfg.TenantCase = c.rule }})
			for id, found := range c.ids {
				ctx := shardedpg.WithTenant(t.Context(), id)
				_, err := f.db.ExecContext(ctx, "select 1")
				if !found {
					require.ErrorIs(t, err, shardedpg.ErrTenantNotFound, id)
					continue
				}
				require.NoError(t, err, id)
				f.requireNotes(ctx, f.db, notesOfA)
				tx := f.begin(ctx)
				f.requireNotes(f.a, tx, notesOfA) // the same tenant, written differently
				require.NoError(t, tx.Rollback())
			}
		})
	}
}

func TestInvalidTenantsAreRefusedBeforeAnythingIsAsked(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	before := f.store.count()
	for _, id := range invalidTenants {
		ctx := shardedpg.WithTenant(t.Context(), id)
		_, err := f.db.ExecContext(ctx, "select 1")
		require.ErrorIs(t, err, shardedpg.ErrInvalidTenant, "%q", id)
		_, err = f.db.BeginTx(ctx, nil)
		require.ErrorIs(t, err, shardedpg.ErrInvalidTenant, "%q", id)
		require.ErrorIs(t, f.db.PingContext(ctx), shardedpg.ErrInvalidTenant, "%q", id)
	}
	require.Equal(t, before, f.store.count(), "the registry was not asked")
	require.Empty(t, f.connector.Stats().Shards)
	f.requireNoServerConnections()
}

var invalidTenants = []string{
	"", " ", "x', 'y", "a,b", `a"b`, "nul\x00byte", "new\nline", "tab\t", "a;b", `a\b`, string(bytes.Repeat([]byte("a"), 300)),
	"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11",
	"urn:uuid:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\xff\xfe", "a\u202eb", "a\u00a0b", "`id`",
}

func TestOddButValidTenantsReachThePolicyUnchanged(t *testing.T) {
	t.Parallel()
	odd := []string{"a/b", "a*b", "a--b", "$1", "%s", "ünï", "日本", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "null", "0", "a:b@c", "<x>", "E''"[:1]}
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		for _, id := range odd {
			routes[id] = f.route(id, planOf(30*time.Second, 16<<10))
		}
	}})
	for range 2 {
		for _, id := range odd {
			ctx := shardedpg.WithTenant(t.Context(), id)
			require.Equal(t, id, value[string](t, ctx, f.db, "select current_setting($1)", guc))
			f.exec(ctx, f.db, "insert into orders (note) values ('odd')")
			require.Equal(t, id, value[string](t, ctx, f.db, "select min(tenant_id) from orders"))
		}
	}
}

func TestAWaiterForASlotGetsItWhenATxEnds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	f.requireNotes(f.a, tx, notesOfA)
	done := make(chan error, 1)
	go func() {
		var s string
		done <- f.db.QueryRowContext(f.b, notesSQL).Scan(&s)
	}()
	require.Eventually(t, func() bool { return f.connector.Stats().Shards[0].Slots.Waiting == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, tx.Commit())
	require.NoError(t, <-done)
}

func TestANestedUseOfTheOnlyConnectionEndsWithATellingError(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.AcquireTimeout = time.Second }})
	f.requireOwnRows() // both routes are known
	tx := f.begin(f.a)
	f.requireNotes(f.a, tx, notesOfA)
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrTenantBusy)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeout(f.b, 200*time.Millisecond)
	defer cancel()
	_, err = f.db.ExecContext(ctx, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrShardBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.requireNotes(f.a, tx, notesOfA)
	require.NoError(t, tx.Commit())
	f.requireOwnRows()
}

func TestATenantMovesWhenItsRouteChanges(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.requireOwnRows()
	other := f.server.NewDatabase(t, tablesSQL, "update orders set note = note || '-moved'")
	stmt, err := f.db.PrepareContext(f.a, "select min(note) from orders")
	require.NoError(t, err)
	defer stmt.Close()
	f.store.set(tenantA, func(r *resolver.Route) {
		r.Shard = resolver.Shard{Name: "s2", DSN: f.server.DSN("app", other)}
		r.Epoch++
	})
	f.requireNotes(f.a, f.db, "A-secret-moved,A-secret2-moved")
	var got string
	require.NoError(t, stmt.QueryRowContext(f.a).Scan(&got))
	require.Equal(t, "A-secret-moved", got)
	f.requireNotes(f.b, f.db, notesOfB)
	require.Len(t, f.connector.Stats().Shards, 2)
	require.NoError(t, f.db.Close())
}

func TestTheDriverIsRegisteredUnderItsName(t *testing.T) {
	t.Parallel()
	require.Contains(t, sql.Drivers(), shardedpg.DriverName)
	db, err := sql.Open(shardedpg.DriverName, "postgres://nobody@127.0.0.1:1/x?sharded_max_conns=3&connect_timeout=1")
	require.NoError(t, err, "opening connects to nothing")
	defer db.Close()
	_, err = db.ExecContext(t.Context(), "select 1")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	ctx, cancel := context.WithTimeout(shardedpg.WithTenant(t.Context(), "acme"), 5*time.Second)
	defer cancel()
	_, err = db.ExecContext(ctx, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrRegistryUnavailable)
}
