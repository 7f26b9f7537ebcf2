package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// remove takes a tenant out of the registry.
func (s *memoryStore) remove(tenant string) {
	s.mu.Lock()
	delete(s.routes, tenant)
	h := s.handler
	s.mu.Unlock()
	h.Tenant(tenant)
}

// readdress gives the shard another connection string, which leads to the same place. The driver is not told.
func (s *memoryStore) readdress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tenant, r := range s.routes {
		now := *r
		now.Shard.DSN += " application_name=readdressed"
		s.routes[tenant] = &now
	}
}

// loseConnection has a *sql.Conn of tenant A lose its connection, by a statement that is cancelled.
func (f *fleet) loseConnection(conn *sql.Conn) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.a, 50*time.Millisecond)
	defer cancel()
	_, err := conn.ExecContext(ctx, "select pg_sleep(60)")
	require.ErrorIs(f, err, context.DeadlineExceeded)
}

// oneStatement is what the rate of tenant A has room for: one that is counted again is refused.
func oneStatement(_ *fleet, routes map[string]*resolver.Route) {
	plan := &routes[tenantA].Plan
	plan.Rate, plan.Burst = 0.001, 1
}

const lateSQL = "select exists (select from orders where note = 'late')"

// TestAStatementThatHasWaitedRunsByTheRouteOfNow: those who stop or move a tenant do not wait for the queues of all programs.
func TestAStatementThatHasWaitedRunsByTheRouteOfNow(t *testing.T) {
	t.Parallel()
	state := func(s resolver.State) func(f *fleet) {
		return func(f *fleet) { f.store.set(tenantA, func(r *resolver.Route) { r.State = s }) }
	}
	for name, c := range map[string]struct {
		change func(f *fleet)
		want   error
	}{
		"disabled": {state(resolver.StateDisabled), shardedpg.ErrTenantDisabled},
		"moving":   {state(resolver.StateMoving), shardedpg.ErrTenantDisabled},
		"readonly": {state(resolver.StateReadOnly), shardedpg.ErrTenantReadOnly},
		"removed":  {func(f *fleet) { f.store.remove(tenantA) }, shardedpg.ErrTenantNotFound},
		"on another shard": {func(f *fleet) {
			f.store.set(tenantA, func(r *resolver.Route) { r.Shard.Name = "s2" })
		}, nil},
		"on a shard with another address": {func(f *fleet) {
			f.store.readdress()
			f.store.handler.Flush()
			f.requireNotes(f.b, f.db, notesOfB) // from now on the other one is closed
		}, nil},
		"of a registry that is down": {func(f *fleet) {
			f.store.mu.Lock()
			f.store.down = errors.New("down")
			f.store.mu.Unlock()
			f.store.handler.Flush()
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{routes: oneStatement})
			tx := f.begin(f.b)
			f.requireNotes(f.b, tx, notesOfB)
			done := make(chan error)
			go func() {
				_, err := f.db.ExecContext(f.a, "insert into orders (note) values ('late')")
				done <- err
			}()
			require.Eventually(t, func() bool { return f.slots().Waiting == 1 }, 10*time.Second, time.Millisecond)
			require.NoError(t, sleepOnServer(f.su))
			c.change(f)
			require.NoError(t, tx.Rollback())
			require.ErrorIs(t, <-done, c.want)
			require.Equal(t, c.want == nil, outside[bool](f, lateSQL))
			require.Equal(t, name == "on another shard", f.backends("s2").Connects > 0)
		})
	}
}

// TestTheAddressOfBeforeIsNotPutBack: of two tenants one is still known at the address of before, because the word of the change was
// lost. Each has its limits all the same.
func TestTheAddressOfBeforeIsNotPutBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 4 },
		routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Plan.MaxConns = 1 },
	})
	f.requireNotes(f.a, f.db, notesOfA)
	f.store.readdress()
	f.requireNotes(f.b, f.db, notesOfB)
	f.begin(f.a)
	ctx, cancel := context.WithCancel(f.a)
	defer cancel()
	done := make(chan error)
	const callers = 3
	for waiting := range callers {
		f.requireNotes(f.b, f.db, notesOfB)
		go func() {
			_, err := f.db.ExecContext(ctx, "select 1")
			done <- err
		}()
		require.Eventually(t, func() bool { return f.slots().Waiting == waiting+1 }, 10*time.Second, time.Millisecond)
	}
	require.Equal(t, "readdressed", value[string](t, f.b, f.db, "show application_name"))
	cancel()
	for range callers {
		require.ErrorIs(t, <-done, context.Canceled)
	}
}

// TestAStaleRouteDoesNotPutTheAddressOfBeforeBack: of two tenants one was not asked for between the change and the outage of the registry.
func TestAStaleRouteDoesNotPutTheAddressOfBeforeBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 4 }})
	f.requireOwnRows()
	f.store.readdress()
	f.store.handler.Flush()
	f.requireNotes(f.b, f.db, notesOfB)
	f.store.mu.Lock()
	f.store.down = errors.New("down")
	f.store.mu.Unlock()
	f.store.handler.Flush()
	pid := f.pid(f.b, f.db)
	for range 3 {
		f.requireNotes(f.a, f.db, notesOfA)
		require.Equal(t, "readdressed", value[string](t, f.a, f.db, "show application_name"))
		require.Equal(t, pid, f.pid(f.b, f.db))
	}
}

// TestAConnThatHasLostItsConnectionLooksAgainWhereItsTenantLives: of its session nothing is left that would have to be there.
func TestAConnThatHasLostItsConnectionLooksAgainWhereItsTenantLives(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *fleet)
		shard  string
		want   error
	}{
		"disabled":         {func(f *fleet) { f.store.set(tenantA, func(r *resolver.Route) { r.State = resolver.StateDisabled }) }, "", shardedpg.ErrTenantDisabled},
		"readonly":         {func(f *fleet) { f.store.set(tenantA, func(r *resolver.Route) { r.State = resolver.StateReadOnly }) }, "", shardedpg.ErrTenantReadOnly},
		"on another shard": {func(f *fleet) { f.store.set(tenantA, func(r *resolver.Route) { r.Shard.Name = "s2" }) }, "s2", nil},
		"of a registry that is down": {func(f *fleet) {
			f.store.mu.Lock()
			f.store.down = errors.New("down")
			f.store.mu.Unlock()
			f.store.handler.Flush()
		}, "s1", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			conn := f.conn(f.a)
			f.requireNotes(f.a, conn, notesOfA)
			f.loseConnection(conn)
			c.change(f)
			_, err := conn.ExecContext(f.a, "insert into orders (note) values ('late')")
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.want == nil, outside[bool](f, lateSQL))
			if c.want == nil {
				require.Equal(t, 1, f.backends(c.shard).Open)
			}
		})
	}
}

func TestATransactionThatHasLostItsConnectionDoesNotBeginWhereItsTenantNoLongerLives(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	outside[bool](f, "select bool_and(pg_terminate_backend(pid, 10000)) from pg_stat_activity where datname = current_database() and usename = 'app'")
	f.store.set(tenantA, func(r *resolver.Route) { r.State = resolver.StateDisabled })
	_, err := tx.ExecContext(f.a, "insert into orders (note) values ('late')")
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.ErrorIs(t, tx.Commit(), shardedpg.ErrShardUnavailable)
	require.False(t, outside[bool](f, lateSQL))
}

func TestNoStatementFailsWhileAShardsAddressChanges(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 3 }})
	var over atomic.Bool
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			for !over.Load() {
				_, err := f.db.ExecContext([]context.Context{f.a, f.b}[caller%2], "select 1")
				assert.NoError(t, err)
			}
		})
	}
	for range 30 {
		f.store.readdress()
		f.store.handler.Flush()
		f.requireNotes(f.a, f.db, notesOfA)
	}
	over.Store(true)
	callers.Wait()
}

// TestWhoWaitsGoesToTheNewAddressAtOnce: the old one may be dead, and what is held there does not come back soon.
func TestWhoWaitsGoesToTheNewAddressAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: oneStatement})
	tx := f.begin(f.b)
	f.requireNotes(f.b, tx, notesOfB)
	done := make(chan error)
	go func() { done <- f.db.PingContext(f.a) }()
	require.Eventually(t, func() bool { return f.slots().Waiting == 1 }, 10*time.Second, time.Millisecond)
	f.store.readdress()
	f.store.handler.Flush()
	require.NoError(t, <-done)
	f.requireNotes(f.b, tx, notesOfB)
}

func TestCloseSendsAwayWhoWaits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.b)
	f.requireNotes(f.b, tx, notesOfB)
	done := make(chan error)
	go func() { done <- f.db.PingContext(f.a) }()
	require.Eventually(t, func() bool { return f.slots().Waiting == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, f.db.Close())
	require.ErrorContains(t, <-done, "the database handle is closed")
}

func TestAConnThatHasLostItsConnectionGoesOnAtTheNewAddress(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 2 }, routes: oneStatement})
	conn := f.conn(f.a)
	f.requireNotes(f.a, conn, notesOfA)
	f.loseConnection(conn)
	f.store.readdress()
	f.store.handler.Flush()
	f.requireNotes(f.b, f.db, notesOfB)
	require.Equal(t, "readdressed", value[string](t, t.Context(), conn, "show application_name"))
	f.requireNotes(t.Context(), conn, notesOfA)
}
