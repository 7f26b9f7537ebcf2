package limits_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/limits"
)

// slots returns size slots of which one tenant may have all, if its request says so.
func slots(size int) *limits.Slots { return limits.NewSlots(config(size)) }

func config(size int) limits.Config {
	return limits.Config{Size: size, Share: 1, Wait: time.Minute, TenantQueue: 1 << 20, ShardQueue: 1 << 20}
}

func request(tenant string, conns, weight int) limits.Request {
	return limits.Request{Tenant: tenant, Plan: "test", Conns: conns, Weight: weight}
}

func acquire(t *testing.T, s *limits.Slots, r limits.Request) limits.Slot {
	t.Helper()
	slot, err := s.Acquire(t.Context(), r)
	require.NoError(t, err)
	return slot
}

// desk lets any number of callers wait and says who was served, in order. Only in a synctest bubble.
type desk struct {
	*testing.T
	s      *limits.Slots
	served chan grant
}

type grant struct {
	tenant string
	id     int
	slot   limits.Slot
	err    error
}

func newDesk(t *testing.T, s *limits.Slots) *desk {
	t.Helper()
	return &desk{t, s, make(chan grant, 1<<17)}
}

// queue lets a caller stand in line, behind all those before it.
func (d *desk) queue(ctx context.Context, r limits.Request, id int) {
	d.Helper()
	go func() {
		slot, err := d.s.Acquire(ctx, r)
		d.served <- grant{r.Tenant, id, slot, err}
	}()
	synctest.Wait()
}

// next returns what happened since the last call.
func (d *desk) next() (all []grant) {
	d.Helper()
	synctest.Wait()
	for {
		select {
		case g := <-d.served:
			all = append(all, g)
		default:
			return all
		}
	}
}

// one returns the only grant since the last call.
func (d *desk) one() grant {
	d.Helper()
	got := d.next()
	require.Len(d, got, 1)
	return got[0]
}

func TestStatementsOfOneTenantAreServedFirstInFirstOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		held := acquire(t, d.s, request("acme", 1, 1))
		for i := range 3 {
			d.queue(t.Context(), request("acme", 1, 1), i)
		}
		for want := range 3 {
			held.Release()
			g := d.one()
			require.NoError(t, g.err)
			require.Equal(t, want, g.id)
			held = g.slot
		}
		held.Release()
		require.Zero(t, d.s.Stats().Used)
	})
}

func TestATenantAtItsCapLeavesTheOtherSlotsToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(4))
		held := []limits.Slot{acquire(t, d.s, request("loud", 2, 1)), acquire(t, d.s, request("loud", 2, 1))}
		d.queue(t.Context(), request("loud", 2, 1), 0)
		require.Empty(t, d.next(), "a third slot for a tenant of two")
		acquire(t, d.s, request("quiet", 1, 1)).Release()
		held[0].Release()
		d.one().slot.Release()
		held[1].Release()
		require.Zero(t, d.s.Stats().Used)
	})
}

func TestNoPlanOwnsAShard(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size, most int
		share      float64
	}{{32, 16, 0.5}, {5, 3, 0.5}, {1, 1, 0.5}, {4, 4, 1}, {10, 1, 0.01}, {100, 55, 0.55}, {25, 7, 0.28}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := config(c.size)
			cfg.Share = c.share
			d := newDesk(t, limits.NewSlots(cfg))
			for i := range c.size + 1 {
				d.queue(t.Context(), request("enterprise", 100, 8), i)
			}
			got := d.next()
			require.Len(t, got, c.most)
			for served := 0; served <= c.size; served++ {
				got[served].slot.Release()
				got = append(got, d.next()...)
			}
		})
	}
}

func TestWeightsDivideTheTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		held := acquire(t, d.s, request("first", 1, 1))
		for i := range 8 {
			d.queue(t.Context(), request("heavy", 1, 3), i)
			d.queue(t.Context(), request("light", 1, 1), i)
		}
		var order string
		for range 16 {
			held.Release()
			g := d.one()
			held = g.slot
			order += g.tenant[:1]
		}
		held.Release()
		require.Equal(t, "hlhhlhhhlhhlllll", order, "three turns to one, and all to the one that is left")
	})
}

func TestALongStatementCostsItsTenantTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		held := acquire(t, d.s, request("slow", 1, 1))
		for i := range 60 {
			d.queue(t.Context(), request("slow", 1, 1), i)
			d.queue(t.Context(), request("fast", 1, 1), i)
		}
		<-time.After(95 * time.Millisecond) // about nine turns and a half
		held.Release()
		fast := 0
		for {
			g := d.one()
			held = g.slot
			if g.tenant == "slow" {
				break
			}
			fast++
			held.Release()
		}
		require.InDelta(t, 10, fast, 1)
		for range 119 - fast {
			held.Release()
			held = d.one().slot
		}
		held.Release()
	})
}

func TestAPauseDoesNotWipeOutADebt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		slow := acquire(t, d.s, request("slow", 1, 1))
		for i := range 10 {
			d.queue(t.Context(), request("fast", 1, 1), i)
		}
		<-time.After(50 * time.Millisecond)
		slow.Release() // it neither holds nor waits now
		d.queue(t.Context(), request("slow", 1, 1), 0)
		for turn := 0; ; turn++ {
			g := d.one()
			g.slot.Release()
			if g.tenant == "slow" {
				require.InDelta(t, 6, turn, 1)
				break
			}
		}
		d.next()
	})
}

func TestTurnsThatNobodyWaitedForAreNoDebt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(2))
		held := []limits.Slot{acquire(t, d.s, request("other", 2, 1)), acquire(t, d.s, request("other", 2, 1))}
		d.queue(t.Context(), request("third", 1, 1), 0)
		held[0].Release()
		d.one().slot.Release()
		for range 50 { // in the second in which old debts count
			acquire(t, d.s, request("busy", 1, 1)).Release()
		}
		held[0] = acquire(t, d.s, request("other", 2, 1))
		d.queue(t.Context(), request("busy", 1, 1), 0)
		d.queue(t.Context(), request("third", 1, 1), 0)
		held[0].Release()
		first := d.one()
		require.Equal(t, "busy", first.tenant)
		first.slot.Release()
		d.one().slot.Release()
		held[1].Release()
	})
}

func TestADebtIsForgivenWhenNobodyHasWaitedForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		slow := acquire(t, d.s, request("slow", 1, 1))
		ctx, cancel := context.WithCancel(t.Context())
		d.queue(t.Context(), request("fast", 1, 1), 0)
		d.queue(ctx, request("fast", 1, 1), 1)
		<-time.After(200 * time.Millisecond)
		slow.Release() // owes twenty turns, and somebody waits
		held := d.one().slot
		cancel()
		require.Error(t, d.one().err)
		<-time.After(time.Minute)
		d.queue(t.Context(), request("slow", 1, 1), 0)
		for i := range 40 {
			d.queue(t.Context(), request("fast", 1, 1), i)
		}
		held.Release()
		first := d.one()
		require.Equal(t, "slow", first.tenant)
		first.slot.Release()
		for range 40 {
			d.one().slot.Release()
		}
	})
}

func TestADebtBeyondTheHorizonIsForgiven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		slow := acquire(t, d.s, request("slow", 1, 1))
		for i := range 100 {
			d.queue(t.Context(), request("fast", 1, 1), i)
		}
		d.queue(t.Context(), request("slow", 1, 1), 0)
		slow.Begin()
		<-time.After(50 * time.Second)
		slow.End()
		slow.Release()
		for turn := 0; ; turn++ {
			require.LessOrEqual(t, turn, 64)
			g := d.one()
			g.slot.Release()
			if g.tenant == "slow" {
				break
			}
		}
		for range 36 {
			d.next()
		}
	})
}

func TestNewLimitsHoldForThoseWhoWaitAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(8))
		for i := range 8 {
			d.queue(t.Context(), request("acme", 2, 1), i)
		}
		held := d.next()
		require.Len(t, held, 2)
		d.s.Update(request("acme", 5, 1))
		held = append(held, d.next()...)
		require.Len(t, held, 5, "no statement of the tenant came in between")
		d.s.Update(request("acme", 1, 1))
		for range 4 {
			held[0].slot.Release()
			held = held[1:]
			require.Empty(t, d.next(), "above the new limit")
		}
		for len(held) > 0 {
			held[0].slot.Release()
			held = append(held[1:], d.next()...)
			require.LessOrEqual(t, len(held), 1)
		}
		require.Zero(t, d.s.Stats().Used)
		d.s.Update(request("unknown", 1, 1))
	})
}

func TestAStatementCountsForThePlanThatItCameWith(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		held := acquire(t, d.s, request("acme", 1, 1))
		d.queue(t.Context(), request("acme", 1, 1), 0)
		r := request("acme", 1, 1)
		r.Plan = "new"
		d.s.Update(r)
		<-time.After(time.Second)
		held.Release()
		d.one().slot.Release()
		for _, p := range d.s.Stats().Plans {
			want := time.Duration(0)
			if p.Plan == "test" {
				want = time.Second
			}
			require.Equal(t, []any{0, want}, []any{p.Waiting, p.WaitTime}, p.Plan)
		}
	})
}

func TestACancelledWaiterLosesNoSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		held := acquire(t, d.s, request("acme", 1, 1))
		ctx, cancel := context.WithCancel(t.Context())
		d.queue(ctx, request("acme", 1, 1), 0)
		cancel()
		held.Release() // at the same moment: whoever wins, the slot must be free afterwards
		if g := d.one(); g.err == nil {
			g.slot.Release()
		} else {
			require.ErrorIs(t, g.err, context.Canceled)
			require.NotErrorIs(t, g.err, limits.ErrTenantBusy)
		}
		require.Zero(t, d.s.Stats().Used)
		require.Zero(t, d.s.Stats().Waiting)
	})
}

func TestReleasingTwiceIsABugThatShows(t *testing.T) {
	t.Parallel()
	s := slots(2)
	slot := acquire(t, s, request("acme", 2, 1))
	slot.Release()
	require.Panics(t, slot.Release)
	require.Panics(t, func() { slots(0) })
}

// Not parallel: it looks at the heap of the whole program.
func TestTenantsThatHoldNothingTakeNoMemory(t *testing.T) {
	s := slots(4)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 100000 {
		acquire(t, s, request(fmt.Sprint("tenant ", i), 1, 1)).Release()
	}
	require.Less(t, heap()-before, int64(64<<10))
	require.Empty(t, s.Busiest(10))
}

func TestNobodyWaitsForSlotsThatAreClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := slots(2)
		d := newDesk(t, s)
		held := []limits.Slot{acquire(t, s, request("a", 2, 1)), acquire(t, s, request("b", 2, 1))}
		for id := range 3 {
			d.queue(t.Context(), request("a", 2, 1), id)
		}
		s.Close()
		s.Close()
		sent := d.next()
		require.Len(t, sent, 3)
		for _, g := range sent {
			require.ErrorIs(t, g.err, limits.ErrClosed)
		}
		_, err := s.Acquire(t.Context(), request("c", 1, 1))
		require.ErrorIs(t, err, limits.ErrClosed)
		held[1].Release()
		acquire(t, s, request("c", 1, 1)).Release()
		held[0].Release()
		st := s.Stats()
		require.Zero(t, st.Used+st.Waiting)
	})
}
