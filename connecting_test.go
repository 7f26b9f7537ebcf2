package shardedpg_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// gate holds up every connection after the first, until it is opened.
type gate struct {
	*fleet
	begun chan bool
	open  chan error
}

func newGate(t *testing.T, conns int) *gate {
	t.Helper()
	g := &gate{begun: make(chan bool, 9), open: make(chan error)}
	first := true
	g.fleet = newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
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
	const conns, callers, each = 3, 10, 40
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
	for c := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(c), 1))
			tenant, want := f.a, notesOfA
			if c%3 == 0 {
				tenant, want = f.b, notesOfB
			}
			for range each {
				ctx, cancel := context.WithTimeout(tenant, time.Duration(r.IntN(int(20*time.Millisecond))))
				var got string
				if err := f.db.QueryRowContext(ctx, notesSQL).Scan(&got); err == nil {
					assert.Equal(t, want, got)
				}
				cancel()
				if r.IntN(4) == 0 { // so that connections are closed, and new ones wanted
					_, _ = f.db.ExecContext(tenant, "discard all")
				}
				assert.LessOrEqual(t, f.backends("s1").Open, conns)
			}
		})
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
}
