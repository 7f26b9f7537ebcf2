package limits

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// Config describes the slots of one shard.
type Config struct {
	Size        int           // slots
	Share       float64       // of the slots that one tenant may hold, above 0 and up to 1; rounded up
	Wait        time.Duration // longest wait of one Acquire
	TenantQueue int           // statements of one tenant that may wait
	ShardQueue  int           // statements that may wait together
	Rates       RateLimiter   // nil: rates are not enforced
}

// Request says who wants a slot, and what its plan is now. Each request brings the limits of the tenant up to date.
type Request struct {
	Tenant string
	Plan   string  // the plan's name, for statistics and errors
	Conns  int     // slots that the tenant may hold at once, at least 1
	Weight int     // turns in a round, at least 1
	Rate   float64 // statements per second; 0 for no limit
	Burst  int     // see [Statement]
	// Counted: the rate has been asked for this statement, which comes to another queue.
	Counted bool
}

// Slots are the rights to use one connection of a shard each. Safe for concurrent use. Acquire and Release do not allocate
// when nobody waits.
type Slots struct {
	cfg   Config
	share int // slots that one tenant may hold

	mu        sync.Mutex
	used      int
	turns     uint64 // slots granted and released
	waiting   int
	contended time.Time // since when somebody has been waiting
	calm      time.Time // since when nobody is
	pace      pace      // of turns given to those who wait
	rounds    rounds
	tenants   map[string]*tenant // those that hold or wait, or owe
	holders   []*tenant          // those that hold, in no order
	spare     []*tenant
	plans     map[string]*counts

	closed chan struct{}
	close  func()
}

// NewSlots returns the slots of a shard. It panics if cfg is not usable: a bug in the caller.
func NewSlots(cfg Config) *Slots {
	if cfg.Size < 1 || !(cfg.Share > 0 && cfg.Share <= 1) || cfg.TenantQueue < 1 || cfg.ShardQueue < 1 || cfg.Wait <= 0 {
		panic(fmt.Sprintf("limits: %+v is not usable", cfg))
	}
	closed := make(chan struct{})
	return &Slots{
		cfg:     cfg,
		share:   share(&cfg),
		tenants: make(map[string]*tenant),
		plans:   make(map[string]*counts),
		closed:  closed,
		close:   sync.OnceFunc(func() { close(closed) }),
	}
}

// Close sends away who waits, or comes to wait, with [ErrClosed]. Slots that are free or held are as before. It may be called more than once.
func (s *Slots) Close() { s.close() }

// share is how many slots one tenant may hold. 0.55 of 100 are 55, although as floats they are a little more.
func share(cfg *Config) int {
	return max(int(math.Ceil(cfg.Share*float64(cfg.Size)-1e-6)), 1)
}

// Slot is the right to use one connection, until it is released. The zero value is none.
type Slot struct{ t *tenant }

// Acquire takes a slot, waiting for one until the context ends or the longest wait is over. On success the caller owes one
// Release. An error is the context's, ErrClosed, or a *[RefusedError] that matches ErrRateLimited, ErrTenantBusy or ErrShardBusy, and
// the context's error as well if a deadline has passed in the queue.
func (s *Slots) Acquire(ctx context.Context, r Request) (Slot, error) {
	if r.Rate > 0 && s.cfg.Rates != nil && !r.Counted {
		if after := s.cfg.Rates.Take(ctx, Statement{Tenant: r.Tenant, Rate: r.Rate, Burst: r.Burst}); after > 0 {
			return Slot{}, s.rateLimited(&r, after)
		}
	}
	s.mu.Lock()
	t := s.tenant(&r)
	if t.queued == 0 && t.used < t.limit && s.used < s.cfg.Size {
		s.grant(t)
		s.mu.Unlock()
		return Slot{t}, nil
	}
	err := ctx.Err()
	if err == nil {
		err = s.overfull(t)
	}
	if err != nil {
		s.settle(t)
		s.mu.Unlock()
		return Slot{}, err
	}
	w := s.join(t)
	s.mu.Unlock()
	if err := s.wait(ctx, w); err != nil {
		return Slot{}, err
	}
	return Slot{t}, nil
}

// Update brings the limits of a tenant up to date while its statements wait, or hold slots and count others. A smaller number of slots
// ends nothing: the tenant gets no other until it is below.
func (s *Slots) Update(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tenants[r.Tenant] != nil {
		s.tenant(&r)
	}
}

// Release gives the slot back. It never blocks.
func (l Slot) Release() {
	s := l.t.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.t.used == 0 {
		panic("limits: a slot was released twice")
	}
	s.charge(l.t)
	l.t.used--
	l.t.turns++
	s.used--
	s.turns++
	if l.t.used == 0 {
		s.holdsNothing(l.t)
	}
	s.settle(l.t)
	s.dispatch()
}

// Held is how many slots its tenant holds, this one included.
func (l Slot) Held() int {
	s := l.t.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.t.used
}

// Count counts another statement on a slot that is held. It is never refused: the tenant's next Acquire pays for it.
func (l Slot) Count(ctx context.Context) {
	s := l.t.slots
	if s.cfg.Rates == nil {
		return
	}
	s.mu.Lock()
	st := Statement{Tenant: l.t.name, Rate: l.t.rate, Burst: l.t.burst, Started: true}
	s.mu.Unlock()
	if st.Rate > 0 {
		s.cfg.Rates.Take(ctx, st)
	}
}

// Begin says that something starts to run on the slot's connection, and End that it is over. Who waits for slots that are all
// held with nothing running on any of them is told so, instead of waiting for itself.
func (l Slot) Begin() { l.t.activity.Add(oneEvent + 1) }

// End is the counterpart of Begin.
func (l Slot) End() { l.t.activity.Add(oneEvent - 1) }

// tenant returns the state of a request's tenant with the request's limits in force.
func (s *Slots) tenant(r *Request) *tenant {
	t := s.tenants[r.Tenant]
	if t == nil {
		if n := len(s.spare); n > 0 {
			t = s.spare[n-1]
			s.spare = s.spare[:n-1]
		} else {
			t = &tenant{slots: s}
		}
		t.name = r.Tenant
		s.tenants[r.Tenant] = t
	}
	t.rate, t.burst = r.Rate, r.Burst
	t.weight, t.limit = max(r.Weight, 1), min(max(r.Conns, 1), s.share)
	if t.plan == nil || t.plan.name != r.Plan {
		t.plan = s.counts(r.Plan)
	}
	if t.queued > 0 { // more slots may have become its right
		s.settle(t)
		s.dispatch()
	}
	return t
}

// grant gives a slot to a tenant.
func (s *Slots) grant(t *tenant) {
	s.charge(t)
	t.due = s.rounds.later(t, 1)
	t.used++
	t.turns++
	s.used++
	s.turns++
	if t.used == 1 {
		t.holder = len(s.holders)
		s.holders = append(s.holders, t)
	}
}

// holdsNothing takes a tenant out of the list of those that hold.
func (s *Slots) holdsNothing(t *tenant) {
	last := len(s.holders) - 1
	s.holders[t.holder] = s.holders[last]
	s.holders[t.holder].holder = t.holder
	s.holders[last] = nil
	s.holders = s.holders[:last]
}

// charge makes a tenant pay for the time it has held its slots while somebody was waiting. A debt beyond the horizon is
// forgiven, which near sees to.
func (s *Slots) charge(t *tenant) {
	if s.waiting == 0 {
		return
	}
	now := time.Now()
	if t.used > 0 {
		since := t.since
		if since.Before(s.contended) {
			since = s.contended
		}
		t.due = s.rounds.later(t, float64(t.used)*float64(now.Sub(since))/float64(turnTime))
	}
	t.since = now
}

// settle puts a tenant where it belongs now: into a round, or out of the books.
func (s *Slots) settle(t *tenant) {
	waits, owes := t.queued > 0, s.waiting > 0 && t.due.round() > s.rounds.now
	switch {
	case waits && t.used < t.limit, !waits && t.used == 0 && owes:
		if t.place == 0 {
			s.rounds.put(t)
		}
		return
	case t.place != 0:
		s.rounds.remove(t)
	}
	if !waits && t.used == 0 {
		delete(s.tenants, t.name)
		t.reset()
		if len(s.spare) < s.cfg.Size {
			s.spare = append(s.spare, t)
		}
	}
}

// dispatch gives free slots to those whose turn it is.
func (s *Slots) dispatch() {
	for s.used < s.cfg.Size {
		t := s.rounds.next()
		if t == nil {
			return
		}
		s.rounds.remove(t)
		switch {
		case t.queued == 0: // has paid, and wants nothing
		case t.due.round() > s.rounds.now && s.rounds.filled != 0: // has paid for slots while it stood here
			s.rounds.put(t)
			continue
		default:
			s.grant(t)
			s.serve(t)
		}
		s.settle(t)
	}
}
