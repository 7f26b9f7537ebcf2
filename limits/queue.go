package limits

import (
	"context"
	"time"
)

const (
	// stuckAfter is how long slots may all be held with nothing running on them before those who wait are told. It is found out
	// after one to two times as long.
	stuckAfter = 2 * time.Second
	// calmAfter is how long nobody must have waited until old debts are forgiven.
	calmAfter = time.Second
)

// waiter is an Acquire that waits.
type waiter struct {
	t          *tenant
	plan       *counts // when it came: the tenant's may be another one when it goes
	prev, next *waiter
	from       time.Time
	granted    chan struct{} // closed with a slot handed over
}

// join puts a waiter at the end of its tenant's queue.
func (s *Slots) join(t *tenant) *waiter {
	w := &waiter{t: t, plan: t.plan, prev: t.last, from: time.Now(), granted: make(chan struct{})}
	if t.last == nil {
		t.first = w
		t.pace.start(w.from)
	} else {
		t.last.next = w
	}
	t.last = w
	t.queued++
	if s.waiting == 0 {
		s.contended = w.from
		s.pace.start(w.from)
		if w.from.Sub(s.calm) > calmAfter {
			s.rounds.now += horizon
			if t.place != 0 { // with a debt of before
				s.rounds.remove(t)
			}
		}
	}
	s.waiting++
	t.plan.Waited++
	t.plan.waiting++
	s.settle(t)
	return w
}

// serve hands the slot just granted to the first waiter of a tenant.
func (s *Slots) serve(t *tenant) {
	w := t.first
	now := time.Now()
	s.unlink(w, now)
	s.pace.turn(now)
	t.pace.turn(now)
	close(w.granted)
}

func (s *Slots) unlink(w *waiter, now time.Time) {
	t := w.t
	if w.prev == nil {
		t.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		t.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
	t.queued--
	w.plan.waiting--
	w.plan.waitedFor(now.Sub(w.from))
	if s.waiting--; s.waiting == 0 {
		s.calm = now
	}
}

// wait returns when w has its slot, or may not wait any longer. The timer is the caller's own: there is no goroutine.
func (s *Slots) wait(ctx context.Context, w *waiter) error {
	deadline := w.from.Add(s.cfg.Wait)
	seen := s.look(w, false)
	timer := time.NewTimer(min(stuckAfter, s.cfg.Wait))
	defer timer.Stop()
	for {
		select {
		case <-w.granted:
			return nil
		case <-ctx.Done():
			return s.leave(w, func(t *tenant) error { return s.ended(ctx.Err(), t, w) })
		case <-s.closed:
			return s.leave(w, func(*tenant) error { return ErrClosed })
		case now := <-timer.C:
			if !now.Before(deadline) {
				return s.leave(w, func(t *tenant) error { return s.waitedInVain(t, w) })
			}
			if next := s.look(w, true); next != seen || next.moves {
				seen = next
				timer.Reset(min(stuckAfter, deadline.Sub(now)))
				continue
			}
			return s.leave(w, s.stuck)
		}
	}
}

// leave takes w out of its queue and returns the error that reason gives. A slot that was handed over in the meantime is
// given back.
func (s *Slots) leave(w *waiter, reason func(t *tenant) error) error {
	s.mu.Lock()
	select {
	case <-w.granted:
		t := w.t
		err := reason(t)
		s.mu.Unlock()
		Slot{t}.Release()
		return err
	default:
	}
	defer s.mu.Unlock()
	s.unlink(w, time.Now())
	err := reason(w.t)
	s.settle(w.t)
	return err
}

// progress is what shows that the slots that somebody waits for are not merely held.
type progress struct {
	shard           bool // all of the shard's, not those of the tenant
	turns, activity uint64
	moves           bool // something runs, or there is a slot
}

// look is at the slots that w waits for: its tenant's if that has all it may have, else the shard's. Those are many, and are looked
// at when a statement has waited for a while, not by each that waits.
func (s *Slots) look(w *waiter, long bool) progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := w.t
	if t.used >= t.limit {
		a := t.activity.Load()
		return progress{turns: t.turns, activity: a, moves: a%oneEvent != 0}
	}
	p := progress{shard: true, turns: s.turns, moves: !long || s.used < s.cfg.Size}
	for i := 0; i < len(s.holders) && !p.moves; i++ {
		a := s.holders[i].activity.Load()
		p.activity += a // of the same tenants as before if there was no turn
		p.moves = a%oneEvent != 0
	}
	return p
}
