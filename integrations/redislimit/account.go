package redislimit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharded-pg/sharded-pg/limits"
)

// keep is how long fetched statements may be used. Later they would be a second burst.
const keep = time.Second

// account is what this program holds of a tenant's rate.
type account struct {
	waiting atomic.Int64 // statements, for Redis's answer

	mu      sync.Mutex
	asking  chan struct{} // closed when the question under way is answered; nil when there is none
	left    int           // statements that were fetched
	used    int           // of them, since the last question
	until   time.Time     // and may be used
	owed    int           // statements that ran inside transactions and were not fetched
	refused time.Time     // until when there is nothing to fetch
	rate    float64       // that all of this is of
	burst   int
}

// spend decides on a statement with what is there, if it can.
func (a *account) spend(s limits.Statement, now time.Time) (wait time.Duration, decided bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.decide(s, now)
}

// decide is spend with the mutex held.
func (a *account) decide(s limits.Statement, now time.Time) (wait time.Duration, decided bool) {
	if s.Rate != a.rate || s.Burst != a.burst { // another plan: what was fetched or refused before says nothing now
		a.rate, a.burst, a.left, a.refused = s.Rate, s.Burst, 0, time.Time{}
		a.owed = min(a.owed, int(math.Ceil(s.Rate*limits.MaxDebt.Seconds())))
	}
	if now.After(a.until) {
		a.left = 0
	}
	switch {
	case a.left > 0:
		a.left--
		a.used++
		return 0, true
	case s.Started:
		if float64(a.owed) < s.Rate*limits.MaxDebt.Seconds() {
			a.owed++
		}
		return 0, true
	case now.Before(a.refused):
		return a.refused.Sub(now), true
	}
	return 0, false
}

// ahead is how many statements are worth fetching beside those that wait: as many as were used of the last ones, or twice as many
// when that was all. What one program fetches and does not use, the others do not have. With the mutex held.
func (a *account) ahead(now time.Time) int {
	n := a.used
	if now.Before(a.until) {
		n *= 2
	}
	a.used = 0
	return n
}

// book enters what Redis answered to a question for a statement, and wakes those who wait for it.
func (a *account) book(s limits.Statement, owed, got int, wait time.Duration, err error, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.asking)
	a.asking = nil
	if err != nil || s.Rate != a.rate || s.Burst != a.burst {
		return
	}
	a.owed = max(0, a.owed-owed)
	a.left, a.until = got, now.Add(keep)
	a.refused = now.Add(wait) // looked at when nothing is left
}
