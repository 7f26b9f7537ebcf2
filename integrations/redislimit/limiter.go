package redislimit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sharded-pg/sharded-pg/limits"
)

// Config configures a [Limiter].
type Config struct {
	// Redis says where it is. Its timeouts and retries are replaced: whoever cannot ask soon decides alone.
	Redis *redis.UniversalOptions
	// Programs is how many programs share the rates: without Redis each enforces its part. Default: 1, the whole rate each.
	Programs int
	// Timeout is the longest that a statement waits for Redis. Default: 20ms.
	Timeout time.Duration
	// Prefix begins the keys: "<prefix>{<tenant>}:<rate>". Default: "sharded-pg:".
	Prefix string
	// Tenants is how many tenants the program remembers what it fetched for, those seen last. Default: 10,000.
	Tenants int
}

// Stats counts what a limiter did.
type Stats struct {
	Asked   int64 // questions to Redis
	Failed  int64 // of which it did not answer in time, or at all
	Alone   int64 // statements decided without it, by the program's own share
	Refused int64 // statements
	Down    bool  // nobody asks Redis now
}

// Limiter is a [limits.RateLimiter] that counts in Redis. It is safe for concurrent use.
type Limiter struct {
	cfg    Config
	client redis.UniversalClient
	own    *limits.LocalRates // the program's share, while Redis does not answer
	known  *lru.Cache[string, *account]

	next                           atomic.Int64 // when Redis may be asked again, in ns; 0 while it answers
	asked, failed, alone, refusals atomic.Int64
}

var _ limits.RateLimiter = (*Limiter)(nil)

const (
	fetch    = 50 * time.Millisecond // how much is fetched at once, in statements of that time
	askAgain = time.Second           // after a failure
)

// New returns a limiter. It does not connect: Redis may come later.
func New(cfg Config) (*Limiter, error) {
	if cfg.Redis == nil || len(cfg.Redis.Addrs) == 0 {
		return nil, errors.New(`redislimit: no address; set Config.Redis to &redis.UniversalOptions{Addrs: []string{"host:6379"}}`)
	}
	if cfg.Programs < 0 || cfg.Timeout < 0 || cfg.Tenants < 0 {
		return nil, fmt.Errorf("redislimit: Programs %d, Timeout %v and Tenants %d must not be negative; 0 means the default",
			cfg.Programs, cfg.Timeout, cfg.Tenants)
	}
	if cfg.Programs == 0 {
		cfg.Programs = 1
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Millisecond
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "sharded-pg:"
	}
	if cfg.Tenants == 0 {
		cfg.Tenants = 10_000
	}
	options := *cfg.Redis
	options.ContextTimeoutEnabled = true // otherwise reads go on for three seconds, whatever the context says
	options.MaxRetries, options.MaxRedirects = -1, 1
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = askAgain, askAgain, askAgain, askAgain
	known, err := lru.New[string, *account](cfg.Tenants)
	if err != nil {
		return nil, err
	}
	return &Limiter{
		cfg: cfg, client: redis.NewUniversalClient(&options), own: limits.NewLocalRates(cfg.Tenants), known: known,
	}, nil
}

// Close closes the connections to Redis. Statements go on by the program's own share.
func (l *Limiter) Close() error { return l.client.Close() }

// Stats returns the counts up to now.
func (l *Limiter) Stats() Stats {
	return Stats{
		Asked: l.asked.Load(), Failed: l.failed.Load(), Alone: l.alone.Load(), Refused: l.refusals.Load(), Down: l.next.Load() != 0,
	}
}

// Take counts a statement and returns 0, or how long to wait before trying again.
func (l *Limiter) Take(ctx context.Context, s limits.Statement) time.Duration {
	if s.Started && l.next.Load() != 0 {
		return l.decideAlone(ctx, s) // nobody is told, so this program has it paid
	}
	a := l.account(s.Tenant)
	wait, decided := a.spend(s, time.Now())
	if !decided {
		wait = l.ask(ctx, a, s)
	}
	if wait > 0 {
		l.refusals.Add(1)
	}
	return wait
}

func (l *Limiter) account(tenant string) *account {
	a, ok := l.known.Get(tenant)
	if !ok {
		a = &account{}
		if before, found, _ := l.known.PeekOrAdd(tenant, a); found {
			a = before
		}
	}
	return a
}

// ask settles with Redis for a statement that the account does not cover. Those that come while a question is under way wait for
// its answer, and the next one is for all whom that left over.
func (l *Limiter) ask(ctx context.Context, a *account, s limits.Statement) time.Duration {
	patience := time.NewTimer(l.cfg.Timeout)
	defer patience.Stop()
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	for ctx.Err() == nil {
		wait, decided, answered := l.question(ctx, a, s)
		switch {
		case decided:
			return wait
		case answered == nil:
			return l.decideAlone(ctx, s)
		}
		select {
		case <-answered:
		case <-patience.C:
			return l.decideAlone(ctx, s)
		case <-ctx.Done():
		}
	}
	return 0 // the statement will not run
}

// question puts one to Redis, unless one is under way or has just been answered. What it returns is closed when the answer is
// there, and nil while nobody asks.
func (l *Limiter) question(ctx context.Context, a *account, s limits.Statement) (wait time.Duration, decided bool, answered <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	wait, decided = a.decide(s, now)
	under := a.asking != nil
	switch {
	case decided:
		return wait, true, nil
	case under && l.next.Load() == 0:
		return 0, false, a.asking
	case under || !l.mayAsk(now):
		return 0, false, nil
	}
	a.asking = make(chan struct{})
	owed, wanted := a.owed, max(int(a.waiting.Load()), min(a.ahead(now), int(s.Rate*fetch.Seconds())))
	go func() {
		late := time.AfterFunc(l.cfg.Timeout, l.unanswered)
		// Longer than anybody waits: making a connection takes several round trips, and where Redis is far none would ever be made.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(askAgain, l.cfg.Timeout))
		defer cancel()
		got, wait, err := l.fetch(ctx, s, owed, wanted)
		switch {
		case !late.Stop(): // it was too slow, whatever it said
		case err != nil:
			l.unanswered()
		default:
			l.next.Store(0)
		}
		a.book(s, owed, got, wait, err, time.Now())
	}()
	return 0, false, a.asking
}

// unanswered keeps all from asking for a while.
func (l *Limiter) unanswered() {
	l.failed.Add(1)
	l.next.Store(time.Now().Add(askAgain).UnixNano())
}

// mayAsk lets all ask while Redis answers, and one a second while it does not.
func (l *Limiter) mayAsk(now time.Time) bool {
	next := l.next.Load()
	return next == 0 || now.UnixNano() >= next && l.next.CompareAndSwap(next, now.Add(askAgain).UnixNano())
}

func (l *Limiter) decideAlone(ctx context.Context, s limits.Statement) time.Duration {
	l.alone.Add(1)
	s.Burst = (s.Burst + l.cfg.Programs - 1) / l.cfg.Programs
	s.Rate /= float64(l.cfg.Programs)
	return l.own.Take(ctx, s)
}

// gcra keeps until when the tenant's past is paid. It adds what is owed, whether there is room for it or not, and takes up to
// the wanted number of statements. ARGV: seconds for each, burst, owed, wanted, longest debt in seconds. It returns how many it took,
// and the microseconds until there is another one. Nothing that is stored shuts a tenant out for longer than its burst and that
// debt: the clock may be another Redis's, and ahead.
var gcra = redis.NewScript(`
local now = redis.call('TIME')
now = now[1] - 1735689600 + now[2] / 1000000 -- since 2025: with all the seconds since 1970 a number has no room for microseconds
local each, burst, owed, wanted, debt = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local years = 1e9 -- longer than anything lasts, and short enough for milliseconds as a whole number
local paid = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
paid = math.min(paid + owed * each, now + burst * each + debt)
local got = math.max(0, math.min(wanted, math.floor((now - paid) / each + burst)))
paid = paid + got * each
if paid > now then
	redis.call('SET', KEYS[1], paid, 'PX', math.ceil(math.min(paid - now, years) * 1000))
end
return {got, math.ceil(math.min(paid + each - burst * each - now, years) * 1000000)}`)

// fetch takes up to the wanted number of statements from the tenant's rate, and says how long to wait for another one if there
// are not so many.
func (l *Limiter) fetch(ctx context.Context, s limits.Statement, owed, wanted int) (got int, wait time.Duration, err error) {
	l.asked.Add(1)
	// What was paid at another rate would be paid too soon at this one or, after a throttle, in hours.
	key := fmt.Sprintf("%s{%s}:%g", l.cfg.Prefix, s.Tenant, s.Rate)
	answer, err := gcra.Run(ctx, l.client, []string{key}, 1/s.Rate, s.Most(), owed, wanted, limits.MaxDebt.Seconds()).Int64Slice()
	if err != nil {
		return 0, 0, err
	}
	if got = int(answer[0]); got < wanted {
		wait = max(time.Duration(answer[1])*time.Microsecond, time.Millisecond)
	}
	return got, wait, nil
}
