package limits_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sharded-pg/sharded-pg/limits"
)

func TestSlotsAreGrantedFirstInFirstOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := limits.NewSlots(1, time.Minute)
		require.NoError(t, s.Acquire(t.Context(), limits.Request{}))
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				if err := s.Acquire(t.Context(), limits.Request{}); err != nil {
					t.Error(err)
				}
				order <- i
			}()
			synctest.Wait() // in the queue before the next one comes
		}
		for want := range 3 {
			s.Release()
			require.Equal(t, want, <-order)
		}
		s.Release()
		require.Zero(t, s.Stats().Used)
	})
}

func TestWaitingEndsWithTheLongestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := limits.NewSlots(1, 30*time.Second)
		require.NoError(t, s.Acquire(t.Context(), limits.Request{}))
		start := time.Now()
		err := s.Acquire(t.Context(), limits.Request{})
		require.ErrorIs(t, err, limits.ErrShardBusy)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(start))
		require.ErrorContains(t, err, "all 1 slots in use for 30s")
		require.Equal(t, limits.Stats{Size: 1, Used: 1, Waited: 1, Refused: 1}, s.Stats())
	})
}

func TestADeadlineInTheQueueIsBothBusyAndTheContextsError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := limits.NewSlots(1, time.Minute)
		require.NoError(t, s.Acquire(t.Context(), limits.Request{}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.Acquire(ctx, limits.Request{})
		require.ErrorIs(t, err, limits.ErrShardBusy)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestACancelledWaiterLosesNoSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := limits.NewSlots(1, time.Minute)
		require.NoError(t, s.Acquire(t.Context(), limits.Request{}))
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() { got <- s.Acquire(ctx, limits.Request{}) }()
		synctest.Wait()
		cancel()
		s.Release() // at the same moment: whoever wins, the slot must be free afterwards
		if err := <-got; err == nil {
			s.Release()
		} else {
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, limits.ErrShardBusy)
		}
		require.Zero(t, s.Stats().Used)
		require.Zero(t, s.Stats().Waiting)
	})
}

func TestAcquireWithoutWaitingDoesNotAllocate(t *testing.T) {
	s := limits.NewSlots(1, time.Minute)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := s.Acquire(ctx, limits.Request{Tenant: "acme"}); err != nil {
			t.Error(err)
		}
		s.Release()
	}))
}

func TestReleasingTwiceIsABugThatShows(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { limits.NewSlots(1, time.Second).Release() })
	require.Panics(t, func() { limits.NewSlots(0, time.Second) })
}

// TestSlotsHoldTheirPromisesWhateverHappens: never above the size, none lost, nobody waits while a slot is free.
func TestSlotsHoldTheirPromisesWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 5).Draw(rt, "size")
		callers := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 40).Draw(rt, "patience, in ms")
		work := rapid.SliceOfN(rapid.IntRange(0, 20), len(callers), len(callers)).Draw(rt, "work, in ms")
		synctest.Test(t, func(t *testing.T) {
			s := limits.NewSlots(size, 40*time.Millisecond)
			var running, above, done atomic.Int64
			for i, patience := range callers {
				go func() {
					defer done.Add(1)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(patience)*time.Millisecond)
					defer cancel()
					if err := s.Acquire(ctx, limits.Request{Tenant: fmt.Sprint(i)}); err != nil {
						if !errors.Is(err, limits.ErrShardBusy) && !errors.Is(err, context.DeadlineExceeded) {
							t.Error(err)
						}
						return
					}
					if running.Add(1) > int64(size) {
						above.Add(1)
					}
					<-time.After(time.Duration(work[i]) * time.Millisecond)
					running.Add(-1)
					s.Release()
				}()
			}
			for done.Load() < int64(len(callers)) {
				synctest.Wait()
				if st := s.Stats(); st.Waiting > 0 && st.Used < size {
					t.Errorf("%d wait while %d of %d slots are in use", st.Waiting, st.Used, size)
				}
				<-time.After(time.Millisecond)
			}
			require.Zero(t, above.Load())
			require.Zero(t, s.Stats().Used)
			require.Zero(t, s.Stats().Waiting)
		})
	})
}
