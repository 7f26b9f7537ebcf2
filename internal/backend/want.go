package backend

import (
	"context"
	"slices"
	"time"

	"github.com/sharded-pg/sharded-pg/rls"
)

// want is somebody with a slot who has found no idle backend. A new one is being made for it, or will be when there is a place, and it
// takes one that is returned before that is ready: the new one is idle then. Beside statements that take all of a server's processors,
// connecting takes many times as long as the statements that would have to wait for it.
type want struct {
	key    Key
	tenant string
	slot   Slot          // nil: takes whatever there is, also the last idle one
	got    chan *Backend // room for two: nil says that one may be made now or, while idle, to look again; and one that is returned
	idle   bool          // none is being made
	waits  bool          // was idle at first
	left   bool          // there was one, and it was left to others
	evicts *Backend      // makes room for the new one
}

// spare is how many idle connections a tenant with others in use leaves to those who have none. It opens more instead.
func (p *Pool) spare() int { return p.cfg.MaxOpen / 8 }

// atOnce is how many connections are made at once. Each takes a server some milliseconds of processor time, and when all who come
// while none is idle begin one, the first is ready when the last is, and statements that would have shared a few wait for all of
// them. As many as the breaker counts are made, so that it opens no later.
func (p *Pool) atOnce() int { return max(p.cfg.MaxOpen/8, tripAfter) }

// holdsOthers reports whether the slot's tenant has connections besides those that it wants. One that takes all connections it may have
// must not take those that are ready, one after the other, and let everybody else wait for new ones. With the mutex held.
func (p *Pool) holdsOthers(tenant string, slot Slot, w *want) bool {
	s, ok := slot.(interface{ Held() int })
	if !ok {
		return false
	}
	others := s.Held() - 1
	for _, o := range p.wants {
		if o != w && o.tenant == tenant {
			others--
		}
	}
	return others > 0
}

// begin lets a connection be made for w, if there is a place: not too many are, and where all that may be open are, none of them is for
// somebody who no longer wants it. With the mutex held.
func (p *Pool) begin(w *want) bool {
	if p.making >= p.atOnce() || p.extra > 0 && p.open >= p.cfg.MaxOpen && len(p.idle) == 0 {
		return false
	}
	w.idle = false
	p.making++
	if p.open++; p.open > p.cfg.MaxOpen && len(p.idle) > 0 {
		w.evicts = p.remove(0)
	}
	return true
}

// dispatch gives idle backends and places to those who want them, in the order in which they came. It runs whenever there is one
// backend or place more. With the mutex held.
func (p *Pool) dispatch() {
	for i := 0; i < len(p.wants); {
		w := p.wants[i]
		if b, _ := p.pick(w.key, w.tenant, w.slot, w); b != nil {
			if !w.idle {
				p.extra++
			}
			p.wants = slices.Delete(p.wants, i, i+1)
			w.got <- b
			continue
		}
		if w.idle && p.begin(w) {
			w.got <- nil
		}
		i++
	}
}

// keep puts b among the idle ones and gives them to those who want one, unless the pool has been closed. It reports whether somebody
// still wants one.
func (p *Pool) keep(b *Backend) (wanted bool) { return p.change(0, 0, 0, b) }

// deal gives those who want one what has become theirs by something else than what change counts.
func (p *Pool) deal() { p.change(0, 0, 0) }

// forgo gives up the place of a connection.
func (p *Pool) forgo() { p.change(0, -1, 0) }

// change counts, puts backends among the idle ones, and lets those who wait have what is free now. It does so at once: in between
// there would be places that are none. It reports whether somebody still wants one.
func (p *Pool) change(making, open, extra int, idle ...*Backend) (wanted bool) {
	p.mu.Lock()
	p.making, p.open, p.extra = p.making+making, p.open+open, p.extra+extra
	closed := p.closed
	for _, b := range idle {
		if b != nil && !closed {
			p.idle = append(p.idle, b)
			p.sweepLater(b)
		}
	}
	p.dispatch()
	wanted = len(p.wants) > 0
	p.mu.Unlock()
	for _, b := range idle {
		if b != nil && closed {
			p.close(b)
		}
	}
	return wanted
}

// sweepLater sees to it that b is closed when it has been idle for long. With the mutex held.
func (p *Pool) sweepLater(b *Backend) {
	if p.cfg.MaxIdleTime > 0 {
		b.idleFrom = time.Now()
		if p.sweep == nil {
			p.sweep = time.AfterFunc(p.cfg.MaxIdleTime, p.expire)
		}
	}
}

// one is the change where something no longer counts.
func one(less bool) int {
	if less {
		return -1
	}
	return 0
}

// await returns the backend that w gets. Without one and without an error, look again.
func (p *Pool) await(ctx context.Context, w *want, s rls.Settings, slot Slot) (b *Backend, pending bool, err error) {
	if w.waits {
		select {
		case b = <-w.got:
		case <-ctx.Done():
			p.leave(w)
			return nil, false, cause(ctx.Err())
		}
		if b != nil || w.idle {
			return b, false, nil
		}
	}
	if err := ctx.Err(); err != nil { // nothing is begun for a caller who has left
		p.leave(w)
		return nil, false, err
	}
	if w.evicts != nil {
		p.close(w.evicts)
	}
	return p.connectFor(ctx, w, s, slot)
}

// leave takes w off the list before anything was done for it.
func (p *Pool) leave(w *want) {
	b := p.unwant(w)
	if w.idle {
		p.change(0, 0, 0, b)
	} else {
		p.change(-1, -1, one(b != nil), b, w.evicts)
	}
}

// unwant takes w off the list. If it was given a backend in the meantime, that is returned.
func (p *Pool) unwant(w *want) *Backend {
	p.mu.Lock()
	p.wants = slices.DeleteFunc(p.wants, func(o *want) bool { return o == w })
	p.mu.Unlock()
	for {
		select {
		case b := <-w.got:
			if b != nil {
				return b
			}
		default:
			return nil
		}
	}
}
