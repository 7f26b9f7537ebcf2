package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// gate holds up every connection after the first, until it is opened.
type gate struct {
	*fleet
	begun chan bool
	open  chan error
	ready int      // connections that were made, or were not
	crowd []string // tenants without rows
}

func newGate(t *testing.T, conns int) *gate {
	t.Helper()
	g := &gate{begun: make(chan bool, 9), open: make(chan error), ready: 1}
	for n := range 10 {
		g.crowd = append(g.crowd, fmt.Sprintf("crowd-%d", n))
	}
	first := true
	g.fleet = newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		for _, tenant := range g.crowd {
			routes[tenant] = f.route(tenant, routes[tenantA].Plan)
		}
	}, config: func(c *shardedpg.Config) {
		c.MaxConns = conns
		c.BeforeConnect = func(context.Context, string, *pgx.ConnConfig) error {
			if first {
				first = false
				return nil
			}
			g.begun <- true
			return <-g.open
		}
	}})
	return g
}

// next lets a connection that has begun be made, or fail.
func (g *gate) next(err error) {
	<-g.begun
	g.ready++
	g.open <- err
}

func (g *gate) read(ctx context.Context, want string) <-chan error {
	done := make(chan error, 1)
	go func() {
		var got string
		err := g.db.QueryRowContext(ctx, notesSQL).Scan(&got)
		if err == nil && got != want {
			err = errors.New("got " + got)
		}
		done <- err
	}()
	return done
}

func TestWhoeverWaitsForANewConnectionTakesOneThatIsReturned(t *testing.T) {
	t.Parallel()
	for name, failed := range map[string]error{"and the new one is there for the next": nil, "and the new one fails": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, 2)
			tx := g.begin(g.b)
			g.requireNotes(g.b, tx, notesOfB)
			first := g.read(g.a, notesOfA)
			<-g.begun
			require.NoError(t, tx.Rollback())
			require.NoError(t, <-first, "on the connection that was returned")

			tx = g.begin(g.a)
			g.requireNotes(g.a, tx, notesOfA)
			second := g.read(g.b, notesOfB) // there is a slot, and no room for a third connection
			require.Eventually(t, func() bool { return g.slots().Used == 2 }, 10*time.Second, time.Millisecond)
			require.Equal(t, 2, g.backends("s1").Open)
			g.open <- failed
			if failed != nil {
				<-g.begun
				g.open <- nil
			}
			require.NoError(t, <-second)
			require.Equal(t, 2, g.backends("s1").Open)
			require.NoError(t, tx.Rollback())
			g.requireOwnRows()
			require.Empty(t, g.begun)
		})
	}
}

// held begins a transaction for each context, and returns them as they come.
func (g *gate) held(ctxs ...context.Context) <-chan *sql.Tx {
	all := make(chan *sql.Tx, len(ctxs))
	for _, ctx := range ctxs {
		go func() {
			tx, err := g.db.BeginTx(ctx, nil)
			if assert.NoError(g.TB, err) {
				all <- tx
			}
		}()
	}
	return all
}

// makes waits until so many connections are being made and so many slots taken, or fails.
func (g *gate) makes(conns, slots int) {
	g.Helper()
	require.Eventually(g.TB, func() bool { return len(g.begun) == conns && g.slots().Used == slots }, 10*time.Second, time.Millisecond)
	require.Equal(g.TB, conns, int(g.backends("s1").Connects)-g.ready)
}

// taken is a gate for 32 connections, the only one of which tenant a holds in a transaction.
func taken(t *testing.T) (*gate, *sql.Tx) {
	t.Helper()
	g := newGate(t, 32)
	tx := g.begin(g.a)
	g.requireNotes(g.a, tx, notesOfA)
	return g, tx
}

func TestNoMoreThanAnEighthOfTheConnectionsIsMadeAtOnce(t *testing.T) {
	t.Parallel()
	g, one := taken(t)
	var crowd []context.Context
	for _, tenant := range g.crowd {
		crowd = append(crowd, shardedpg.WithTenant(t.Context(), tenant))
	}
	quiet := g.held(crowd...)
	g.makes(4, 1+len(crowd))
	for range len(crowd) - 4 { // each one that is ready lets another one begin
		g.next(nil)
		g.makes(4, 1+len(crowd))
	}
	for range 4 {
		g.next(nil)
	}
	for range crowd {
		require.NoError(t, (<-quiet).Rollback())
	}
	require.NoError(t, one.Rollback())
	require.Equal(t, 1+len(crowd), g.backends("s1").Open)
	g.requireOwnRows()
	require.Empty(t, g.begun)
}

func TestATenantThatHoldsNoConnectionTakesReturnedOnesHoweverManyItWants(t *testing.T) {
	t.Parallel()
	g, one := taken(t)
	first, second := g.read(g.b, notesOfB), g.read(g.b, notesOfB)
	g.makes(2, 3)
	require.NoError(t, one.Rollback())
	require.NoError(t, <-first)
	require.NoError(t, <-second)
	g.next(nil)
	g.next(nil)
	g.requireOwnRows()
}

func TestWhoWaitsForOthersConnectionsToBeMadeLearnsThatTheyFailed(t *testing.T) {
	t.Parallel()
	g, one := taken(t)
	var reads []<-chan error
	for range 12 {
		reads = append(reads, g.read(g.b, notesOfB))
	}
	require.Eventually(t, func() bool { return g.slots().Used == 13 }, 10*time.Second, time.Millisecond)
	for range reads {
		g.next(errors.New("no"))
	}
	for _, read := range reads {
		require.ErrorContains(t, <-read, "no")
	}
	require.NoError(t, one.Rollback())
	require.Equal(t, 1, g.backends("s1").Open)
	g.requireOwnRows()
}

func TestWhoeverWaitsForAConnectionBeingMadeForAnotherMayLeave(t *testing.T) {
	t.Parallel()
	g := newGate(t, 2)
	tx := g.begin(g.b)
	g.requireNotes(g.b, tx, notesOfB)
	first := g.read(g.a, notesOfA)
	<-g.begun
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-first)
	tx = g.begin(g.a)
	g.requireNotes(g.a, tx, notesOfA)
	ctx, cancel := context.WithCancel(g.b)
	second := g.read(ctx, notesOfB)
	require.Eventually(t, func() bool { return g.slots().Used == 2 }, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-second, context.Canceled)
	require.Eventually(t, func() bool { return g.slots().Used == 1 }, 10*time.Second, time.Millisecond)
	g.open <- nil
	require.NoError(t, tx.Rollback())
	g.requireOwnRows()
}

func TestATenantWithConnectionsLeavesTheLastIdleOnesToOthers(t *testing.T) {
	t.Parallel()
	for name, failed := range map[string]error{"and opens one": nil, "unless it gets no other": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, 16)
			outer := g.begin(g.a)
			g.requireNotes(g.a, outer, notesOfA)
			quiet := g.read(g.b, notesOfB)
			<-g.begun
			g.open <- nil
			require.NoError(t, <-quiet)
			require.Eventually(t, func() bool { return g.backends("s1").Idle == 1 }, 10*time.Second, time.Millisecond)
			loud := g.read(g.a, notesOfA)
			<-g.begun
			for range 10 {
				g.requireNotes(g.b, g.db, notesOfB)
			}
			select {
			case err := <-loud:
				require.Fail(t, "it has taken one that was returned", "%v", err)
			default:
			}
			g.open <- failed
			require.NoError(t, <-loud)
			require.NoError(t, outer.Rollback())
			g.requireOwnRows()
			require.Empty(t, g.begun)
		})
	}
}

// Connections that fail, callers that leave, and those who take what is returned, in any order: never more connections than slots,
// nobody left behind, and no place lost.
func TestConnectionsNeverExceedTheSlotsHoweverTheyCome(t *testing.T) {
	t.Parallel()
	for _, conns := range []int{3, 16} { // fewer than may be made at once, and more
		t.Run(strconv.Itoa(conns), func(t *testing.T) {
			t.Parallel()
			var dials atomic.Int64
			f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
				c.MaxConns = conns
				c.BeforeConnect = func(context.Context, string, *pgx.ConnConfig) error {
					if dials.Add(1)%4 == 0 {
						return errors.New("no")
					}
					return nil
				}
			}})
			var wg sync.WaitGroup
			for c := range 3*conns + 1 {
				wg.Go(func() { f.comeAndGo(rand.New(rand.NewPCG(uint64(c), 1)), c%3 == 0, conns) })
			}
			wg.Wait()
			f.requireNoSlotInUse()
			require.Eventually(t, func() bool { s := f.backends("s1"); return s.Open == s.Idle }, 10*time.Second, time.Millisecond)
			for i := 0; i < conns; { // as many as ever
				if tx, err := f.db.BeginTx(f.a, nil); err == nil {
					t.Cleanup(func() { _ = tx.Rollback() })
					i++
				}
			}
			require.Equal(t, conns, f.backends("s1").Open)
		})
	}
}

// comeAndGo reads with little patience, and now and then has its connection closed, with all the patience in the world.
func (f *fleet) comeAndGo(r *rand.Rand, other bool, conns int) {
	tenant, want := f.a, notesOfA
	if other {
		tenant, want = f.b, notesOfB
	}
	for range 40 {
		ctx, cancel := context.WithTimeout(tenant, time.Duration(r.IntN(int(20*time.Millisecond))))
		var got string
		if err := f.db.QueryRowContext(ctx, notesSQL).Scan(&got); err == nil {
			assert.Equal(f, want, got)
		}
		cancel()
		if r.IntN(4) == 0 { // so that connections are closed, and new ones wanted
			_, _ = f.db.ExecContext(tenant, "discard all")
		}
		assert.LessOrEqual(f, f.backends("s1").Open, conns)
	}
}

// An operator has nothing else to go by: the server's log says little of a client that went away.
func TestWhyTLSFailedIsInTheError(t *testing.T) {
	t.Parallel()
	plain, err := pgtest.Start(t.Context(), pgtest.Options{Name: "no TLS", TCP: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, plain.Stop()) })
	host, port, err := net.SplitHostPort(plain.Addr())
	require.NoError(t, err)
	for want, dsn := range map[string]string{
		"server refused TLS connection":                 fmt.Sprintf("host=%s port=%s user=app sslmode=require", host, port),
		"x509: certificate signed by unknown authority": tlsShard(t, "untrusted") + " sslmode=verify-full",
		"server is not in hot standby mode":             fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres target_session_attrs=standby", host, port),
	} {
		f := newFleet(t, fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
			routes[tenantA].Shard.DSN = dsn + " password=" + secretPassword
		}})
		_, err := f.db.ExecContext(f.a, "select 1")
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), secretPassword)
		require.NotContains(t, err.Error(), "user=")
	}
}
