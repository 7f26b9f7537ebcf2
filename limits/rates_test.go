package limits_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/limits"
)

func rated(size int, perSecond float64) (*limits.Slots, limits.Request) {
	cfg := config(size)
	cfg.Rates = limits.NewLocalRates(10)
	r := request("acme", size, 1)
	r.Rate = perSecond
	return limits.NewSlots(cfg), r
}

func TestARateIsRefusedWithTheTimeUntilTheNextStatement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := rated(1, 5)
		for range 10 {
			acquire(t, s, r).Release()
		}
		_, err := s.Acquire(t.Context(), r)
		require.ErrorIs(t, err, limits.ErrRateLimited)
		require.ErrorContains(t, err, `more than the 5 statements per second of plan "test"; retry in 200ms`)
		require.InDelta(t, 200*time.Millisecond, retryAfter(t, err), float64(time.Millisecond))
		require.EqualValues(t, 1, s.Stats().RateLimited)
		require.Zero(t, s.Stats().Used)
		other := r
		other.Tenant = "globex"
		acquire(t, s, other).Release()
		<-time.After(retryAfter(t, err))
		acquire(t, s, r).Release()
		_, err = s.Acquire(t.Context(), r)
		require.ErrorIs(t, err, limits.ErrRateLimited)
	})
}

func TestStatementsOnAHeldSlotArePaidForByTheNextAcquire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := rated(2, 10)
		held := acquire(t, s, r)
		for range 29 { // 30 with the first: the burst is 20
			held.Count(t.Context())
		}
		_, err := s.Acquire(t.Context(), r)
		require.ErrorIs(t, err, limits.ErrRateLimited)
		require.InDelta(t, 1100*time.Millisecond, retryAfter(t, err), float64(2*time.Millisecond))
		for range 10000 {
			held.Count(t.Context())
		}
		_, err = s.Acquire(t.Context(), r)
		require.LessOrEqual(t, retryAfter(t, err), limits.MaxDebt+200*time.Millisecond, "the rest is forgiven")
		<-time.After(retryAfter(t, err))
		acquire(t, s, r).Release()
		held.Release()
	})
}

func TestARateFollowsThePlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := rated(1, 1)
		for range 2 {
			acquire(t, s, r).Release()
		}
		_, err := s.Acquire(t.Context(), r)
		require.ErrorIs(t, err, limits.ErrRateLimited)
		r.Rate = 100
		_, err = s.Acquire(t.Context(), r)
		require.InDelta(t, 10*time.Millisecond, retryAfter(t, err), float64(time.Millisecond), "what is missing comes at the new rate")
		<-time.After(50 * time.Millisecond)
		for range 5 {
			acquire(t, s, r).Release()
		}
		r.Rate = 0
		for range 1000 {
			acquire(t, s, r).Release()
		}
	})
}
