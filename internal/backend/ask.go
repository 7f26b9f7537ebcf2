package backend

import (
	"context"
	"time"

	"github.com/sharded-pg/sharded-pg/rls"
)

// Refuses returns a [DownError] while the shard is dead and nobody is to wait for it, else nil.
func (p *Pool) Refuses() error { return p.breaker.refuses() }

// grace is how long the server may take to let go of a connection whose statement was cancelled, before it is asked whether it is
// there at all.
const grace = 250 * time.Millisecond

// askName is the application_name of a connection that asks, by which it is told from those that have slots.
const askName = "sharded-pg asks"

type askKey struct{} // in the context of such a connection

// ask has attempts to connect tell whether the server is there. In a black hole all slots may be held by connections that wait for
// it to answer their cancel requests, for up to fifteen seconds. Nobody would try to connect meanwhile, and so nobody would learn
// that the shard is dead. The connection is closed at once: for a moment there is one more than there are slots. Behind a pooler
// both may wait for its pool, and say nothing of the server.
func (p *Pool) ask(key Key, s rls.Settings) {
	if !p.asking.CompareAndSwap(false, true) {
		return
	}
	defer p.asking.Store(false)
	nobody, leave := context.WithCancel(p.cfg.Life) // waits for it
	leave()
	for p.breaker.down.Load() == nil && p.cfg.Life.Err() == nil {
		late := make(chan attempt, 1)
		a, pending := p.breaker.try(nobody, nil, func(ctx context.Context) (*Backend, error) {
			return p.make(context.WithValue(ctx, askKey{}, true), key, &s)
		}, func(a attempt, _ bool) { late <- a })
		if pending {
			a = <-late
		}
		discard(a.made)
		if a.err == nil || answered(a.err) || foreign(a.err) || p.breaker.pulse.felt() {
			return
		}
	}
}

// discard closes a connection that has no place among those of the pool.
func discard(made *Backend) {
	if made != nil {
		_ = made.conn.Close()
	}
}
