package limits

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
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
	buckets *lru.Cache[string, *bucket]
}

// bucket is a tenant's, with the plan that it has been made for, or changed to, last: asking the limiter would take its lock twice.
type bucket struct {
	*rate.Limiter
	plan atomic.Pointer[limit]
}

type limit struct {
	rate  float64
	burst int
}

var _ RateLimiter = (*LocalRates)(nil)

// NewLocalRates returns a limiter with the buckets of the tenants seen last. A tenant that is crowded out begins again with
// a full bucket, which a quiet time would have given it as well.
func NewLocalRates(tenants int) *LocalRates {
	buckets, err := lru.New[string, *bucket](tenants)
	if err != nil {
		panic(fmt.Sprintf("limits: rates of %d tenants", tenants))
	}
	return &LocalRates{buckets}
}

// Take counts a statement.
func (l *LocalRates) Take(_ context.Context, s Statement) time.Duration {
	b := l.bucket(s)
	now := time.Now()
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
	b, ok := l.buckets.Get(s.Tenant)
	if !ok {
		b = newBucket(s)
		if before, found, _ := l.buckets.PeekOrAdd(s.Tenant, b); found {
			b = before
		}
	}
	if *b.plan.Load() != (limit{s.Rate, s.Burst}) {
		b = l.change(b, s)
	}
	return b
}

// change puts a bucket on another plan.
func (l *LocalRates) change(b *bucket, s Statement) *bucket {
	b.SetLimit(rate.Limit(s.Rate))
	if debt := s.mostDebt(); b.TokensAt(time.Now()) < -debt { // made at a higher rate
		b = newBucket(s)
		b.owe(s.Most() + int(debt))
		l.buckets.Add(s.Tenant, b)
	}
	b.SetBurst(s.Most())
	b.plan.Store(&limit{s.Rate, s.Burst})
	return b
}

// newBucket returns a full one.
func newBucket(s Statement) *bucket {
	b := &bucket{Limiter: rate.NewLimiter(rate.Limit(s.Rate), s.Most())}
	b.plan.Store(&limit{s.Rate, s.Burst})
	return b
}

// owe takes statements out of a bucket, more than it can hold.
func (b *bucket) owe(n int) {
	now := time.Now()
	for ; n > 0; n -= b.Burst() {
		b.ReserveN(now, min(n, b.Burst()))
	}
}
