package backend_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/rls"
)

// crowd is tenants that come and go on a pool whose connections take their time, fail, and are slow to close.
type crowd struct {
	backend.TestPool
	slots           *limits.Slots
	conns           int
	making, closing atomic.Int64
	most            atomic.Int64
}

func newCrowd(t *testing.T, r *rand.Rand) *crowd {
	conn, err := pgx.ParseConfig("postgres://app@127.0.0.1:1/app")
	require.NoError(t, err)
	c := &crowd{conns: []int{1, 2, 3, 4, 8, 12, 32}[r.IntN(7)]}
	refuses, breaks, panics := r.IntN(3) == 0, r.IntN(4) == 0, r.IntN(3) == 0
	c.slots = limits.NewSlots(limits.Config{Size: c.conns, Share: 1, Wait: time.Hour, TenantQueue: 1000, ShardQueue: 1000})
	c.TestPool = backend.NewTestPool(conn, c.conns, func(ctx context.Context) error {
		c.most.Store(max(c.most.Load(), c.making.Add(1)))
		defer c.making.Add(-1)
		takes := time.Duration(rand.N(20)) * time.Millisecond // whole ones, so that things come together
		if rand.N(20) == 0 {
			takes = 3 * time.Second
		}
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case breaks && rand.N(3) == 0:
			return errors.New("the network")
		case refuses && rand.N(4) == 0:
			return &pgconn.PgError{Code: "3D000"}
		case panics && rand.N(10) == 0:
			panic("a hook")
		}
		return nil
	}, func() {
		c.closing.Add(1)
		<-time.After(rand.N(30 * time.Millisecond))
		c.closing.Add(-1)
	})
	return c
}

// comeAndGo is one caller.
func (c *crowd) comeAndGo(t *testing.T, tenant string, key backend.Key) {
	for range 30 {
		ctx, cancel := context.WithCancel(context.Background())
		if rand.N(3) == 0 {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), rand.N(25*time.Millisecond))
		}
		slot, err := c.slots.Acquire(context.Background(), limits.Request{Tenant: tenant, Plan: "p", Conns: c.conns, Weight: 1})
		if err != nil {
			t.Error(err)
		}
		b, err := c.Checkout(ctx, key, &rls.Settings{Tenant: tenant}, slot)
		cancel()
		if errors.Is(err, backend.ErrClosed) {
			return
		}
		if err != nil {
			<-time.After(rand.N(3 * time.Millisecond))
			continue
		}
		<-time.After(time.Duration(rand.N(10)) * time.Millisecond)
		switch rand.N(8) {
		case 0:
			c.Break(b, slot)
		case 1:
			go c.Break(b, slot)
		case 2:
			c.Demote()
			fallthrough
		default:
			c.GiveBack(b, tenant, slot)
		}
	}
}

// Whoever waits for a connection gets what there is, whatever the others do, and at the end everything is where it was.
func TestNobodyWaitsForWhatIsThere(t *testing.T) {
	t.Parallel()
	for seed := range 60 {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			c := newCrowd(t, r)
			keys := []backend.Key{{Rows: true}, {Database: "one", Own: true, Rows: true}, {Database: "two", Own: true}}[:1+r.IntN(3)]
			tenants := 1 + r.IntN(2*c.conns+2)
			var callers sync.WaitGroup
			for n := range 3*c.conns + 2 {
				tenant := n % tenants
				callers.Go(func() { c.comeAndGo(t, fmt.Sprint(tenant), keys[tenant%len(keys)]) })
			}
			if r.IntN(5) == 0 {
				<-time.After(time.Duration(r.IntN(300)) * time.Millisecond)
				c.Close()
			}
			gone := make(chan bool)
			go func() { callers.Wait(); close(gone) }()
			for here := true; here; {
				select {
				case <-gone:
					here = false
				case <-time.After(time.Millisecond):
				}
				synctest.Wait()
				require.Empty(t, c.Neglected(), "seed %d", seed)
			}
			<-time.After(time.Minute)
			synctest.Wait()
			open, making, extra, idle, wants := c.Counts()
			require.Equal(t, []int{idle, 0, 0, 0}, []int{open, making, extra, wants}, "seed %d", seed)
			require.Zero(t, c.slots.Stats().Used)
			require.LessOrEqual(t, int(c.most.Load()), max(c.conns/8, 3))
		})
	}
}

func TestConnectionsAreMadeInTheOrderInWhichTheyWereAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, get := slow(t)
		served := make(chan int, 12)
		for n := range 12 { // four are made at once, for each another tenant
			go func() {
				get(fmt.Sprint(n))
				served <- n
			}()
			<-time.After(time.Millisecond)
		}
		for n := range 12 {
			require.Equal(t, n, <-served)
		}
		require.Empty(t, p.Neglected())
	})
}

// slow is a pool of 32 connections that each take a second to make, and a way to get them.
func slow(t *testing.T) (backend.TestPool, func(tenant string) (*backend.Backend, limits.Slot)) {
	const conns = 32
	conn, err := pgx.ParseConfig("postgres://app@127.0.0.1:1/app")
	require.NoError(t, err)
	p := backend.NewTestPool(conn, conns, func(context.Context) error { <-time.After(time.Second); return nil }, func() {})
	slots := limits.NewSlots(limits.Config{Size: conns, Share: 1, Wait: time.Hour, TenantQueue: 9, ShardQueue: 9})
	return p, func(tenant string) (*backend.Backend, limits.Slot) {
		slot, err := slots.Acquire(t.Context(), limits.Request{Tenant: tenant, Plan: "p", Conns: conns, Weight: 1})
		if err != nil {
			t.Error(err)
		}
		b, err := p.Checkout(t.Context(), backend.Key{}, &rls.Settings{Tenant: tenant}, slot)
		if err != nil {
			t.Error(err)
		}
		return b, slot
	}
}

func TestConnectionsOfBeforeADemotionAreNotHandedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, get := slow(t)
		used, slot := get("acme")
		begun := make(chan *backend.Backend)
		go func() {
			b, _ := get("globex")
			begun <- b
		}()
		<-time.After(time.Second / 2)
		p.Demote()
		require.False(t, p.Outdated(<-begun), "it was being made")
		p.GiveBack(used, "acme", slot)
		other, _ := get("acme")
		require.NotSame(t, used, other, "it was in use")
		require.False(t, p.Outdated(other))
	})
}

// Attempts that hear nothing do not count against a server that answers elsewhere, so none of them would be the last.
func TestAServerThatAnswersElsewhereIsAskedOnce(t *testing.T) {
	t.Parallel()
	conn, err := pgx.ParseConfig("postgres://app@127.0.0.1:1/app")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		alive    bool
		attempts int
	}{"alive": {true, 1}, "dead": {false, 3}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				attempts := 0
				var p backend.TestPool
				p = backend.NewTestPool(conn, 4, func(ctx context.Context) error {
					attempts++
					<-ctx.Done()
					if c.alive {
						p.Beat()
					}
					return ctx.Err()
				}, func() {})
				p.Ask(ctx)
				require.Equal(t, c.attempts, attempts)
				require.Equal(t, c.alive, p.Refuses() == nil)
			})
		})
	}
}
