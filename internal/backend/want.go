package backend

import (
	"context"
	"slices"

	"github.com/sharded-pg/sharded-pg/rls"
)

// want is somebody with a slot who has found no idle backend. A new one is being made for it, and it takes one that is returned
// before that is ready: the new one is idle then. Beside statements that take all of a server's processors, connecting takes many
// times as long as the statements that would have to wait for it.
type want struct {
	key Key
	got chan *Backend // nil says: look again
	// idle: none is being made, because as many as may be are, or all that may be open are and some are being made for others that no
	// longer want them.
	idle   bool
	left   bool // there was one, and it was left to others
	polite bool // has others, so it takes none that is returned
}

// spare is how many idle connections a tenant with others in use leaves to those who have none. It opens more instead.
func (p *Pool) spare() int { return p.cfg.MaxOpen / 8 }

// mayMake reports whether another connection may be made now. Each takes a server some milliseconds of processor time, and when all who
// come while none is idle begin one, the first is ready when the last is, and statements that would have shared a few wait for
// all of them. As many as the breaker counts are made at once, so that it opens no later. Who is polite leaves half to others.
func (p *Pool) mayMake(polite bool) bool {
	most := max(p.cfg.MaxOpen/8, tripAfter)
	if polite {
		most /= 2
	}
	return p.making < most
}

// holdsMore reports whether the slot's tenant holds others as well. One that takes all connections it may have must not take those
// that are ready, one after the other, and let everybody else wait for new ones.
func holdsMore(slot Slot) bool {
	s, ok := slot.(interface{ Held() int })
	return ok && s.Held() > 1
}

// await returns the backend that w gets. Without one and without an error, look again.
func (p *Pool) await(ctx context.Context, w *want, s rls.Settings, slot Slot) (b *Backend, pending bool, err error) {
	if !w.idle {
		if err := ctx.Err(); err != nil { // nothing is begun for a caller who has left
			if other := p.unwant(w); other != nil {
				p.given(-1)
				p.keep(other)
			}
			p.made()
			p.forgo()
			return nil, false, err
		}
		return p.connectFor(ctx, w, s, slot)
	}
	select {
	case b = <-w.got:
		return b, false, nil
	case <-ctx.Done():
		if b = p.unwant(w); b != nil {
			p.keep(b)
		} else {
			p.lookAgain()
		}
		return nil, false, cause(ctx.Err())
	}
}

// unwant takes w off the list. If it was given a backend in the meantime, that is returned.
func (p *Pool) unwant(w *want) *Backend {
	p.mu.Lock()
	p.wants = slices.DeleteFunc(p.wants, func(o *want) bool { return o == w })
	p.mu.Unlock()
	select {
	case b := <-w.got:
		return b
	default:
		return nil
	}
}

// offer gives b to the first who wants such a one. With the mutex held.
func (p *Pool) offer(b *Backend) bool {
	for i, w := range p.wants {
		if w.key == b.key && !w.polite {
			p.wants = slices.Delete(p.wants, i, i+1)
			if !w.idle {
				p.extra++
			}
			w.got <- b
			return true
		}
	}
	p.wake() // it may make room by closing this one
	return false
}

// made says that an attempt to make a connection is over: another one may begin.
func (p *Pool) made() {
	p.mu.Lock()
	p.making--
	p.wake()
	p.mu.Unlock()
}

// given counts those that are being made for somebody who was given another one.
func (p *Pool) given(n int) {
	p.mu.Lock()
	p.extra += n
	p.mu.Unlock()
}

// wake lets the first of those for whom none is being made look again, the polite ones last. With the mutex held.
func (p *Pool) wake() bool {
	first := -1
	for i, w := range p.wants {
		if w.idle && (first < 0 || p.wants[first].polite && !w.polite) {
			first = i
		}
	}
	if first < 0 {
		return false
	}
	w := p.wants[first]
	p.wants = slices.Delete(p.wants, first, first+1)
	w.got <- nil
	return true
}

// lookAgain passes on a call to look again that somebody may have got who has left.
func (p *Pool) lookAgain() {
	p.mu.Lock()
	p.wake()
	p.mu.Unlock()
}
