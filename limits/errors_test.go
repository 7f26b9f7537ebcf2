package limits_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/limits"
)

// retryAfter is what a refusal says about when to come again.
func retryAfter(t *testing.T, err error) time.Duration {
	t.Helper()
	var r *limits.RefusedError
	require.ErrorAs(t, err, &r)
	return r.RetryAfter
}

func TestWaitingEndsWithTheLongestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config(2)
		cfg.Wait = 30 * time.Second
		s := limits.NewSlots(cfg)
		held := acquire(t, s, request("globex", 2, 1))
		acquire(t, s, request("globex", 2, 1)).Begin()
		held.Begin() // so that both look busy

		start := time.Now()
		_, err := s.Acquire(t.Context(), request("globex", 2, 1))
		require.ErrorIs(t, err, limits.ErrTenantBusy)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(start))
		require.ErrorContains(t, err, `all 2 connections that it may have were in use for 30s`)
		require.ErrorContains(t, err, `plan "test" and sharded_tenant_share`)
		require.Equal(t, time.Second, retryAfter(t, err), "nothing is known of a queue that has not moved")

		_, err = s.Acquire(t.Context(), request("acme", 1, 1))
		require.ErrorIs(t, err, limits.ErrShardBusy)
		require.ErrorContains(t, err, "all 2 slots were in use for 30s")

		st := s.Stats()
		require.Equal(t, [2]int64{1, 1}, [2]int64{st.TenantBusy, st.ShardBusy})
		require.Equal(t, time.Minute, st.WaitTime)
		require.Equal(t, 30*time.Second, st.LongestWait)
		require.EqualValues(t, 2, st.Waits[len(limits.WaitBounds)])
		require.EqualValues(t, 2, st.Refused())
	})
}

func TestADeadlineInTheQueueIsBothBusyAndTheContextsError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := slots(1)
		acquire(t, s, request("acme", 1, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Acquire(ctx, request("acme", 1, 1))
		require.ErrorIs(t, err, limits.ErrTenantBusy)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = s.Acquire(ctx, request("acme", 1, 1))
		require.Equal(t, context.DeadlineExceeded, err, "it has ended before the queue")
	})
}

func TestQueuesHaveAnEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config(1)
		cfg.TenantQueue, cfg.ShardQueue = 2, 3
		d := newDesk(t, limits.NewSlots(cfg))
		held := acquire(t, d.s, request("acme", 1, 1))
		for i := range 3 {
			d.queue(t.Context(), request("acme", 1, 1), i)
		}
		err := d.one().err
		require.ErrorIs(t, err, limits.ErrTenantBusy)
		require.ErrorContains(t, err, "2 statements wait for the 1 connections")
		require.ErrorContains(t, err, `plan "test" and sharded_tenant_share`)
		d.queue(t.Context(), request("globex", 1, 1), 0)
		require.Empty(t, d.next())
		d.queue(t.Context(), request("initech", 1, 1), 0)
		require.ErrorIs(t, d.one().err, limits.ErrShardBusy)

		<-time.After(100 * time.Millisecond)
		held.Release()
		held = d.one().slot
		<-time.After(300 * time.Millisecond)
		held.Release()
		held = d.one().slot
		for range 2 {
			d.queue(t.Context(), request("acme", 1, 1), 9)
		}
		for range 2 {
			d.queue(t.Context(), request("initech", 1, 1), 9)
		}
		for _, g := range d.next() {
			require.Error(t, g.err)
			require.Greater(t, retryAfter(t, g.err), 100*time.Millisecond, "a turn takes that long at least")
			require.Less(t, retryAfter(t, g.err), 2*time.Second)
		}
		for used := true; used; used = d.s.Stats().Used > 0 {
			held.Release()
			for _, g := range d.next() {
				held = g.slot
			}
		}
	})
}

func TestATenantThatWaitsForItselfIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := slots(4)
		for range 2 {
			acquire(t, s, request("acme", 2, 1))
		}
		start := time.Now()
		_, err := s.Acquire(t.Context(), request("acme", 2, 1))
		require.ErrorIs(t, err, limits.ErrTenantBusy)
		require.ErrorContains(t, err, "its 2 connections have been held for 2s with nothing running on them")
		require.ErrorContains(t, err, `raise max_conns of plan "test", or of the tenant's override or throttle`)
		require.NotContains(t, err.Error(), "sharded_tenant_share", "the plan is what limits it")
		require.Zero(t, retryAfter(t, err))
		require.LessOrEqual(t, time.Since(start), 4*time.Second)
		require.Equal(t, 2, s.Stats().Used)
		require.Zero(t, s.Stats().Waiting)
	})
}

func TestATenantThatWorksIsNotTakenForOneThatWaitsForItself(t *testing.T) {
	t.Parallel()
	for name, work := range map[string]func(limits.Slot){
		"one long statement": func(held limits.Slot) {
			held.Begin()
			<-time.After(20 * time.Second)
			held.End()
		},
		"short ones with pauses": func(held limits.Slot) {
			for range 20 {
				held.Begin()
				held.End()
				<-time.After(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := slots(1)
				held := acquire(t, s, request("acme", 1, 1))
				go func() {
					work(held)
					held.Release()
				}()
				slot, err := s.Acquire(t.Context(), request("acme", 1, 1))
				require.NoError(t, err)
				slot.Release()
			})
		})
	}
}

func TestAWaiterOfABusyShardDoesNotBlameItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config(1)
		cfg.Wait = 20 * time.Second
		s := limits.NewSlots(cfg)
		acquire(t, s, request("globex", 1, 1)).Begin()
		start := time.Now()
		_, err := s.Acquire(t.Context(), request("acme", 1, 1))
		require.ErrorIs(t, err, limits.ErrShardBusy)
		require.Equal(t, 20*time.Second, time.Since(start))
		require.NotContains(t, err.Error(), "nothing running")
	})
}

func TestCountsAreKeptByPlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(1))
		free, paid := request("acme", 1, 1), request("globex", 1, 1)
		paid.Plan = "paid"
		held := acquire(t, d.s, free)
		ctx, cancel := context.WithCancel(t.Context())
		d.queue(ctx, paid, 0)
		d.queue(t.Context(), free, 1)
		d.queue(t.Context(), free, 2)
		st := d.s.Stats()
		require.Equal(t, []string{"paid", "test"}, []string{st.Plans[0].Plan, st.Plans[1].Plan})
		require.Equal(t, [3]int{3, 1, 2}, [3]int{st.Waiting, st.Plans[0].Waiting, st.Plans[1].Waiting})
		require.Equal(t, []limits.TenantStats{
			{Tenant: "acme", Plan: "test", Used: 1, Limit: 1, Waiting: 2}, {Tenant: "globex", Plan: "paid", Limit: 1, Waiting: 1},
		}, d.s.Busiest(5))
		require.Len(t, d.s.Busiest(1), 1)
		require.ElementsMatch(t, []string{"acme", "globex"}, d.s.Present())
		<-time.After(3 * time.Millisecond)
		cancel()
		require.ErrorIs(t, d.one().err, context.Canceled)
		for range 2 {
			held.Release()
			held = d.one().slot
		}
		held.Release()
		st = d.s.Stats()
		require.EqualValues(t, 3, st.Waited)
		require.EqualValues(t, 1, st.Plans[0].Cancelled)
		require.EqualValues(t, 1, st.Plans[0].Waits[1], "between 1ms and 5ms")
		require.EqualValues(t, 2, st.Plans[1].Waited)
		require.Equal(t, 9*time.Millisecond, st.WaitTime)
	})
}

// The turns that a queue had before it came to a stop say nothing about when it will go on.
func TestAQueueThatStandsStillIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config(1)
		cfg.Wait = 10 * time.Second
		d := newDesk(t, limits.NewSlots(cfg))
		held := acquire(t, d.s, request("acme", 1, 1))
		for i := range 20 {
			d.queue(t.Context(), request("acme", 1, 1), i)
			d.queue(t.Context(), request("globex", 1, 1), i)
		}
		for range 40 {
			<-time.After(time.Millisecond)
			held.Release()
			held = d.one().slot
		}
		held.Begin()
		d.queue(t.Context(), request("acme", 1, 1), 0)
		d.queue(t.Context(), request("globex", 1, 1), 0)
		<-time.After(cfg.Wait)
		for _, g := range d.next() {
			require.Error(t, g.err)
			require.GreaterOrEqual(t, retryAfter(t, g.err), time.Second, "%v", g.err)
		}
		held.End()
		held.Release()
	})
}
