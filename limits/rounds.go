package limits

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// horizon is how many rounds ahead a turn can be: as many as a word has bits.
	horizon = 64
	// turnTime is how long a slot may be held for the price of one turn more: about a slow statement of a web request.
	turnTime = 10 * time.Millisecond
	// oneEvent separates the two numbers in a tenant's activity: events above it, below it what runs now.
	oneEvent = 1 << 16
)

// tenant is what is known of a tenant that holds a slot, waits for one, or owes. Guarded by the mutex of its slots.
type tenant struct {
	slots *Slots
	name  string
	plan  *counts
	rate  float64
	burst int

	limit, used int
	weight      int
	due         due       // the next turn
	since       time.Time // up to when slots in use are paid for
	turns       uint64    // slots granted and released
	holder      int       // where it is among those that hold, while used > 0

	first, last *waiter
	queued      int
	pace        pace

	place      int // where it stands in the ring, plus one; 0: nowhere
	prev, next *tenant

	activity atomic.Uint64 // not guarded; see Begin. Never reset: a connection that is given up may still count down
}

// reset makes a tenant ready to be another one.
func (t *tenant) reset() {
	t.name, t.plan, t.rate, t.burst = "", nil, 0, 0
	t.limit, t.weight, t.due, t.since, t.pace = 0, 0, 0, time.Time{}, pace{}
}

// due is when a turn comes: a round, and a fraction of one in the lowest bits. Whole numbers, because a third of a round
// must be three turns also when there have been many rounds.
type due uint64

const oneRound due = 1 << 20

func (d due) round() uint64 { return uint64(d / oneRound) }

// list is a list of tenants, linked through themselves.
type list struct{ first, last *tenant }

// rounds is a ring of the rounds to come, with the tenants whose turn is due in each.
type rounds struct {
	now    uint64 // the current round
	filled uint64 // a bit for each list that is not empty
	ring   [horizon]list
}

// near brings a turn that is overdue, or beyond the horizon, into the ring.
func (r *rounds) near(d due) due {
	now := due(r.now) * oneRound
	return min(max(d, now), now+(horizon-1)*oneRound)
}

// later returns when a tenant has its next turn after one more that costs it so many turns.
func (r *rounds) later(t *tenant, turns float64) due {
	price := turns * float64(oneRound) / float64(t.weight)
	return r.near(r.near(t.due) + due(min(math.Ceil(price), float64(horizon*oneRound))))
}

// put adds t to the round in which its turn is due, behind those that are there.
func (r *rounds) put(t *tenant) {
	t.due = r.near(t.due)
	i := t.due.round() % horizon
	l := &r.ring[i]
	t.place, t.prev = int(i)+1, l.last
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
	r.filled |= 1 << i
}

// remove takes t out of its round.
func (r *rounds) remove(t *tenant) {
	i := t.place - 1
	l := &r.ring[i]
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.place, t.prev, t.next = 0, nil, nil
	if l.first == nil {
		r.filled &^= 1 << i
	}
}

// next goes on to the first round that is not empty, and returns who is first there; nil if all are empty.
func (r *rounds) next() *tenant {
	if r.filled == 0 {
		return nil
	}
	r.now += uint64(bits.TrailingZeros64(bits.RotateLeft64(r.filled, -int(r.now%horizon))))
	return r.ring[r.now%horizon].first
}

// pace is how fast a queue moves.
type pace struct {
	last time.Time
	mean time.Duration // between two turns, a moving average
}

func (p *pace) start(now time.Time) { p.last = now }

func (p *pace) turn(now time.Time) {
	gap := now.Sub(p.last)
	p.last = now
	if p.mean == 0 {
		p.mean = gap
		return
	}
	p.mean += (gap - p.mean) / 8
}

// unknown is until when a queue has moved of which nobody knows how fast it is.
const unknown = time.Second

// until estimates when a queue of n will have been served. Of one that stands still the turns that it had say little.
func (p *pace) until(n int) time.Duration {
	if p.mean == 0 {
		return unknown
	}
	stood := min(time.Since(p.last), unknown)
	return min(max(time.Duration(n)*p.mean, stood, 10*time.Millisecond), 30*time.Second)
}
