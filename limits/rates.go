package limits

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// Statement is what a [RateLimiter] counts.
type Statement struct {
	Tenant  string
	Rate    float64 // statements per second
	Burst   int     // of them at once after a quiet time; 0 for the default, see Most
	Started bool    // inside a transaction or on a held connection: counted, never refused
}

// Most is how many statements may come at once after a quiet time: Burst, or else those of two seconds, and at least one.
func (s Statement) Most() int {
	if s.Burst > 0 {
		return min(s.Burst, math.MaxInt32)
	}
	const seconds = 2
	return int(min(max(math.Ceil(s.Rate*seconds), 1), math.MaxInt32))
}

// MaxDebt is how long a tenant can have to wait for what it did inside transactions. More is forgiven: a long import must
// not shut its tenant out for an hour.
const MaxDebt = 10 * time.Second

// mostDebt is MaxDebt in statements.
func (s Statement) mostDebt() float64 { return s.Rate * MaxDebt.Seconds() }

// RateLimiter counts statements. Take returns 0 if a statement may run, which is then counted, or else how long to wait
// before trying again. For a statement that has Started it always returns 0. It is called for each statement by any number
// of goroutines, and must not block on a network for longer than a statement takes: whoever cannot ask decides alone.
type RateLimiter interface {
	Take(ctx context.Context, s Statement) (retryAfter time.Duration)
}

// LocalRates limits the rates of one process: a token bucket for each tenant.
type LocalRates struct {
	mu      sync.Mutex
	buckets *simplelru.LRU[string, *bucket]
	begun   time.Time
}

// bucket is a tenant's, with the plan that it has been made for, or changed to, last: asking the limiter would take its lock twice.
type bucket struct {
	*rate.Limiter
	plan limit // guarded by the mutex of LocalRates
}

type limit struct {
	rate  float64
	burst int
}

var _ RateLimiter = (*LocalRates)(nil)

// NewLocalRates returns a limiter with the buckets of the tenants seen last. A tenant that is crowded out begins again with
// a full bucket, which a quiet time would have given it as well.
func NewLocalRates(tenants int) *LocalRates {
	buckets, err := simplelru.NewLRU[string, *bucket](tenants, nil)
	if err != nil {
		panic(fmt.Sprintf("limits: rates of %d tenants", tenants))
	}
	return &LocalRates{buckets: buckets, begun: time.Now()}
}

// Take counts a statement.
func (l *LocalRates) Take(_ context.Context, s Statement) time.Duration {
	b := l.bucket(s)
	now := l.begun.Add(time.Since(l.begun)) // time.Now asks for the time of day as well
	if s.Started {
		if b.TokensAt(now) > -s.mostDebt() {
			b.ReserveN(now, 1)
		}
		return 0
	}
	if b.AllowN(now, 1) {
		return 0
	}
	wait := time.Duration((1 - b.TokensAt(now)) / s.Rate * float64(time.Second))
	return max(wait, time.Millisecond)
}

// bucket returns the tenant's bucket with the limits in force that the statement brings.
func (l *LocalRates) bucket(s Statement) *bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets.Get(s.Tenant)
	switch {
	case !ok:
		b = newBucket(s)
		l.buckets.Add(s.Tenant, b)
	case b.plan != (limit{s.Rate, s.Burst}):
		b = l.change(b, s)
	}
	return b
}

// change puts a bucket on another plan. With the mutex held.
func (l *LocalRates) change(b *bucket, s Statement) *bucket {
	b.SetLimit(rate.Limit(s.Rate))
	if debt := s.mostDebt(); b.TokensAt(time.Now()) < -debt { // made at a higher rate
		b = newBucket(s)
		b.owe(s.Most() + int(debt))
		l.buckets.Add(s.Tenant, b)
	}
	b.SetBurst(s.Most())
	b.plan = limit{s.Rate, s.Burst}
	return b
}

// newBucket returns a full one.
func newBucket(s Statement) *bucket {
	return &bucket{rate.NewLimiter(rate.Limit(s.Rate), s.Most()), limit{s.Rate, s.Burst}}
}

// owe takes statements out of a bucket, more than it can hold.
func (b *bucket) owe(n int) {
	now := time.Now()
	for ; n > 0; n -= b.Burst() {
		b.ReserveN(now, min(n, b.Burst()))
	}
}
