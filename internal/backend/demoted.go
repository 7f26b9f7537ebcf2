package backend

import (
	"context"
	"time"
)

// demotedSQL asks whether the server takes writes from anybody. What a session has set for itself does not count: any tenant
// can do that.
const demotedSQL = `select (pg_catalog.pg_is_in_recovery() or
 (select reset_val from pg_catalog.pg_settings where name = $1) = 'on')::text`

const demotedTimeout = 5 * time.Second

// Demoted asks whether the backend's server has stopped to take writes since the backend was made, as a primary does at a
// planned switchover. Then the other connections to it are closed: they would show rows that have since been changed elsewhere.
// New ones find the primary, if the connection string asks for one. The backend must be between transactions.
func (p *Pool) Demoted(ctx context.Context, b *Backend) bool {
	w := b.wire
	if w.readOnly || w.status != 'I' || b.pg.IsClosed() || b.pg.IsBusy() || len(w.segments) > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, demotedTimeout)
	defer cancel()
	w.on = false
	answer, err := b.ask(ctx, demotedSQL, "default_transaction_read_only")
	if b.pg.IsClosed() { // pgx may still be writing its goodbye
		return false
	}
	w.on = true
	if err != nil || len(answer) != 1 || string(answer[0]) != "true" {
		return false
	}
	if !p.outdated(b) { // the first to notice
		now := time.Now()
		p.demoted.Store(&now)
		p.Flush()
	}
	return true
}

// outdated reports whether b was made, or begun, before a server was found to take no writes any more. Those that were in use or being
// made then come back later.
func (p *Pool) outdated(b *Backend) bool {
	demoted := p.demoted.Load()
	return demoted != nil && !b.born.After(*demoted)
}

// Doubt has the server asked, when the backend is given back, whether it still takes writes. The backend is closed then.
func (b *Backend) Doubt() { b.wire.demoted = !b.wire.readOnly }

// doubt closes b and calls then. If the server takes no writes any more, the idle connections are closed as well.
func (p *Pool) doubt(b *Backend, then func()) {
	_ = p.Demoted(p.cfg.Life, b)
	p.close(b)
	then()
}
