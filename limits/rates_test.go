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
		require.ErrorContains(t, err, "or of the tenant's override or throttle")
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

func TestADebtIsNoLongerAtALowerRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, burst := range []int{0, 1, 7} {
			s, r := rated(2, 250)
			r.Burst = burst
			held := acquire(t, s, r)
			for range 3000 {
				held.Count(t.Context())
			}
			r.Rate = 1
			for range 3 {
				_, err := s.Acquire(t.Context(), r)
				require.InDelta(t, limits.MaxDebt+time.Second, retryAfter(t, err), float64(time.Second), "an import, and then a throttle")
			}
			r.Rate = 0.01
			_, err := s.Acquire(t.Context(), r)
			require.LessOrEqual(t, retryAfter(t, err), 200*time.Second, "a statement takes a hundred seconds at this rate")
			r.Rate = 250
			_, err = s.Acquire(t.Context(), r)
			require.LessOrEqual(t, retryAfter(t, err), 10*time.Millisecond)
			held.Release()
		}
	})
}

func TestABurstOfItsOwnFollowsThePlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := rated(1, 10)
		allowed := func() (n int) {
			for {
				slot, err := s.Acquire(t.Context(), r)
				if err != nil {
					require.ErrorIs(t, err, limits.ErrRateLimited)
					return n
				}
				slot.Release()
				n++
			}
		}
		for _, burst := range []int{3, 50, 0, 1} { // 0: those of two seconds
			r.Burst = burst
			allowed()
			<-time.After(time.Minute) // full, however large it is
			require.Equal(t, limits.Statement{Rate: 10, Burst: burst}.Most(), allowed())
		}
		require.Equal(t, 20, limits.Statement{Rate: 10}.Most())
		require.Equal(t, 50, limits.Statement{Rate: 10, Burst: 50}.Most())
		<-time.After(time.Minute)
		r.Burst = 0
		require.LessOrEqual(t, allowed(), 1, "what a larger burst adds has to fill first")
		<-time.After(time.Minute)
		r.Burst = 1
		require.Equal(t, 1, allowed(), "what was saved up for a larger burst is gone")
	})
}

func TestStatementsOnAHeldSlotKeepTheBurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := rated(2, 10)
		r.Burst = 100
		held := acquire(t, s, r)
		held.Count(t.Context())
		for range 98 {
			acquire(t, s, r).Release()
		}
		_, err := s.Acquire(t.Context(), r)
		require.ErrorIs(t, err, limits.ErrRateLimited)
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
