// Package backend owns the physical connections: one [Pool] per shard, the flight that carries reset, BEGIN and prologue
// in front of the caller's statement, and the rules that decide whether a connection may serve another tenant.
//
// Whose turn it is decides package limits: whoever holds a slot finds an idle connection here or may open one, because idle and used
// connections together never exceed the slots. A few are opened at a time, in the order in which they were asked for: see want.
package backend

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/rls"
)

// Key tells connections that can stand in for each other.
type Key struct {
	Database string // empty: the one that the shard's DSN names
	Schema   bool   // serves schema tenants: starts with a search_path without tables
	Rows     bool   // serves tenants that share tables, so that policies have to know them
	Own      bool   // serves tenants of model database: they may share tables, or have no policies at all
}

// Config describes the connections of one shard.
type Config struct {
	Conn           *pgx.ConnConfig
	Before         func(ctx context.Context, cc *pgx.ConnConfig) error // changes a copy of Conn before each connect; may be nil
	GUC            string
	Tagged         bool             // settings have a tag
	Shard          string           // what its key is derived from
	Keys           func() *rls.Keys // those of the fleet, another pointer when they have changed; nil: tenants are not signed
	MaxOpen        int              // connections, idle and used, over all keys
	Strict         bool
	Allow          []string // first words that the strict guard lets through, see CheckGuardWords
	Verify         bool
	ConnectTimeout time.Duration
	MaxLifetime    time.Duration
	MaxIdleTime    time.Duration
	Life           context.Context  // of what the pool does on its own
	Changed        func(down error) // called when the shard is found dead, and with nil when it is back; may be nil
}

// lifetime spreads the ends of connections that began together.
func (c *Config) lifetime() time.Duration {
	return c.MaxLifetime + rand.N(c.MaxLifetime/10+1)
}

type laneCounters struct{ direct, reset, eager atomic.Int64 }

// Pool holds the connections of one shard. It is safe for concurrent use.
type Pool struct {
	cfg           Config
	plain, signed protocols
	verdicts      *sqllex.Cache
	pooled        atomic.Bool // a pooler was seen in front of this shard
	lanes         laneCounters
	connects      atomic.Int64
	connectErrors atomic.Int64
	drops         atomic.Int64
	breaker       *breaker
	asking        atomic.Bool
	demoted       atomic.Pointer[time.Time] // when a server was last found to have stopped taking writes; nil for never
	host          hosts.Memory

	dial   func(ctx context.Context, key Key, s *rls.Settings) (*Backend, error) // tests have others
	hangUp func(b *Backend)

	mu     sync.Mutex
	idle   []*Backend // the one used last is at the end
	open   int        // idle, used, or being made
	wants  []*want    // in the order in which they came
	making int        // being made now
	extra  int        // of these, for somebody who was given another one
	closed bool
	sweep  *time.Timer
}

// ErrClosed: the connector has been closed.
var ErrClosed = errors.New("connector closed")

// NewPool returns the pool of a shard. It connects when the first connection is needed.
func NewPool(cfg Config) *Pool {
	p := &Pool{
		cfg:      cfg,
		verdicts: sqllex.NewCache(),
	}
	query := pooledQuery(cfg.Conn)
	p.plain = protocols{named: newProtocol(cfg.GUC, cfg.Tagged, false, named, sealedSQL), unnamed: newProtocol(cfg.GUC, cfg.Tagged, false, unnamed, query)}
	if cfg.Keys != nil {
		p.signed = protocols{named: newProtocol(cfg.GUC, cfg.Tagged, true, named, sealedSQL), unnamed: newProtocol(cfg.GUC, cfg.Tagged, true, unnamed, query)}
	}
	p.cfg.Conn, p.dial, p.hangUp = cfg.Conn.Copy(), p.dialServer, p.hangUpServer
	p.breaker = newBreaker(func(down error) {
		if down != nil {
			go p.Flush() // connections of before would take their statements into the same hole
		}
		if cfg.Changed != nil {
			cfg.Changed(down)
		}
	})
	return p
}

// Checkout returns a backend for a tenant: the idle one that served it last, else the one used last, else whatever comes first of a
// new one and one that is returned. The caller holds slot. With an error it is given back: at once, or when nothing is left of
// the connection that was being made.
func (p *Pool) Checkout(ctx context.Context, key Key, s *rls.Settings, slot Slot) (*Backend, error) {
	slot.Begin()
	polite := slot
	for {
		b, w, err := p.take(key, s.Tenant, polite)
		if w != nil {
			var pending bool
			if b, pending, err = p.await(ctx, w, *s, slot); pending {
				return nil, err
			}
			if err == nil && b == nil {
				continue
			}
			if err != nil && w.left && ctx.Err() == nil { // better one of those than none
				polite = nil
				continue
			}
		}
		limit := time.Now().Add(p.cfg.ConnectTimeout)
		if err != nil || !p.outdated(b) && (b.fresh || p.usable(ctx, b, limit)) {
			slot.End()
			if err != nil {
				p.Release(slot)
			} else {
				b.fresh = false
			}
			return b, err
		}
		p.drops.Add(1)
		p.close(b)
		switch err := ctx.Err(); {
		case err != nil: // that its answer is not waited for any more says nothing of the other connections
			slot.End()
			p.Release(slot)
			return nil, cause(err)
		case time.Now().After(limit): // it was waited for as long as connecting may take: the others would not answer either
			p.Flush()
		}
	}
}

// connectFor makes a new backend, unless one is returned to w first. It does not end with ctx: a server goes on with a session that
// it has begun, so the slot is not free before (pending); and tenants with less patience than connecting takes would begin one
// after the other and never get any.
func (p *Pool) connectFor(ctx context.Context, w *want, s rls.Settings, slot Slot) (_ *Backend, pending bool, err error) {
	a, pending := p.breaker.try(ctx, w.got, func(ctx context.Context) (*Backend, error) {
		return p.make(ctx, w.key, &s)
	}, func(a attempt, instead bool) {
		switch {
		case a.made == nil:
			p.change(-1, -1, one(instead))
		case p.breaker.down.Load() != nil: // found dead meanwhile: the next attempt tells, and this one would hide that
			p.change(-1, 0, one(instead))
			p.close(a.made)
		default:
			p.change(-1, 0, one(instead), a.made)
		}
		if !instead {
			slot.End()
			p.Release(slot)
		}
	})
	other := p.unwant(w)
	switch {
	case pending && a.err == nil: // another one came first
		return a.made, false, nil
	case pending:
		p.change(0, 0, one(other != nil), other)
	case a.made == nil:
		p.change(-1, -1, one(other != nil))
		if other != nil {
			return other, false, nil
		}
	default: // what was returned comes too late
		p.change(-1, 0, one(other != nil), other)
	}
	if a.made != nil {
		a.made.fresh = true
	}
	return a.made, pending, a.err
}

// usable reports whether an idle backend may be used, and waits until the limit for a reset of it that is under way.
func (p *Pool) usable(ctx context.Context, b *Backend, limit time.Time) bool {
	deadline, ok := ctx.Deadline()
	if !ok || limit.Before(deadline) {
		deadline = limit
	}
	return b.settle(ctx, deadline) && b.peek.quiet() && p.current(b)
}

// take picks an idle backend, or returns who wants one.
func (p *Pool) take(key Key, tenant string, polite Slot) (b *Backend, w *want, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	b, left := p.pick(key, tenant, polite, nil)
	if b != nil {
		return b, nil, nil
	}
	w = &want{key: key, tenant: tenant, slot: polite, got: make(chan *Backend, 2), idle: true, left: left}
	p.wants = append(p.wants, w)
	w.waits = !p.begin(w) // if there is a place, nobody waits for one
	p.dispatch()          // a slot of the tenant that nobody knew the use of holds no connection
	return nil, w, nil
}

// pick returns the idle backend that a tenant gets. Where there is one that it leaves to others, it says so. With the mutex held.
func (p *Pool) pick(key Key, tenant string, polite Slot, w *want) (b *Backend, left bool) {
	best, fit := -1, 0
	for i := len(p.idle) - 1; i >= 0; i-- {
		if p.idle[i].key != key {
			continue
		}
		if p.idle[i].wire.owner == tenant {
			best = i
			break
		}
		if fit++; best < 0 {
			best = i
		}
	}
	if best < 0 {
		return nil, false
	}
	if p.idle[best].wire.owner == tenant || fit > p.spare() || p.open >= p.cfg.MaxOpen || !p.holdsOthers(tenant, polite, w) {
		return p.remove(best), false
	}
	return nil, true
}

func (p *Pool) remove(i int) *Backend {
	b := p.idle[i]
	copy(p.idle[i:], p.idle[i+1:])
	p.idle[len(p.idle)-1] = nil
	p.idle = p.idle[:len(p.idle)-1]
	return b
}

// Slot is the right to use a connection, as package limits gives it.
type Slot interface {
	Begin() // something runs on the connection, or it is being made or closed
	End()
	Release()
}

// Return ends a lease's hold on b. The backend is kept if it is fit for another tenant, else closed; the slot is released
// once the server can no longer be busy with it, which for a cancelled statement is later than now.
func (p *Pool) Return(b *Backend, slot Slot) {
	keep := b.reusable() && !b.wire.demoted
	// Where the shard has been found dead meanwhile, the next attempt to connect tells, and an idle connection would put that off.
	keep = keep && p.breaker.down.Load() == nil
	if keep && !time.Now().Before(b.expires) { // nothing is wrong with it
		p.close(b)
		p.Release(slot)
		return
	}
	if keep && b.wire.used.notPlain {
		keep = b.sendReset() == nil
	}
	if !keep {
		slot.Begin()
		end := func() {
			slot.End()
			p.Release(slot)
		}
		if b.wire.demoted && b.reusable() {
			p.drops.Add(1)
			go p.doubt(b, end)
			return
		}
		p.drop(b, end)
		return
	}
	b.forget()
	wanted := p.keep(b)
	slot.Release()
	if wanted { // its tenant holds one less now
		p.deal()
	}
}

// Release gives back a slot that goes with no backend any more.
func (p *Pool) Release(slot Slot) {
	slot.Release()
	p.deal()
}

// Flush closes all idle connections: after a shutdown or a network error the rest of them are as good as dead.
func (p *Pool) Flush() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, b := range idle {
		p.close(b)
	}
}

// expire closes connections that have been idle or alive for too long.
func (p *Pool) expire() {
	now := time.Now()
	var old []*Backend
	p.mu.Lock()
	for i := 0; i < len(p.idle); {
		if b := p.idle[i]; now.Sub(b.idleFrom) >= p.cfg.MaxIdleTime || now.After(b.expires) {
			old = append(old, p.remove(i))
			continue
		}
		i++
	}
	p.sweep = nil
	if len(p.idle) > 0 && !p.closed {
		p.sweep = time.AfterFunc(p.cfg.MaxIdleTime, p.expire)
	}
	p.mu.Unlock()
	for _, b := range old {
		p.close(b)
	}
}

// Close closes the idle connections and lets those in use end with their leases. It does not wait for them.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, w := range p.wants {
		if w.idle {
			w.got <- nil
		}
	}
	p.wants = slices.DeleteFunc(p.wants, func(w *want) bool { return w.idle })
	if p.sweep != nil {
		p.sweep.Stop()
	}
	p.mu.Unlock()
	p.Flush()
}
