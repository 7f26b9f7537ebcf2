package backend

import (
	"context"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/rls"
)

// TestWire is a wire between two byte streams, for tests of the splice alone.
type TestWire struct{ w *wire }

// NewTestWire returns a wire that serves tenant, on a backend that another tenant used last.
func NewTestWire(r io.Reader, out io.Writer, tenant string) *TestWire {
	return &TestWire{&wire{
		r: r, w: out, on: true, proto: newProtocol(rls.DefaultGUC, false, false, named, sealedSQL), set: rls.Settings{Tenant: tenant, WorkMemKB: 4096},
		stmts: make(map[string]sqllex.Verdict), verdicts: sqllex.NewCache(), lanes: new(laneCounters), status: 'I', owner: "another",
	}}
}

// BehindPooler makes the wire one of a backend behind a pooler.
func (t *TestWire) BehindPooler() {
	t.w.pooled, t.w.proto = true, newProtocol(rls.DefaultGUC, false, false, unnamed, pooledSQL)
}

// Sign makes the wire one that signs, for another tenant.
func (t *TestWire) Sign(key *rls.ShardKey, tenant string) {
	t.w.signer.key, t.w.set.Tenant = key, tenant
}

// Token is what the wire would send now.
func (t *TestWire) Token() string {
	t.w.sign()
	return t.w.set.Token
}

// OnPostgres18 makes the wire one of a backend on which a Query joins the transaction in front of it.
func (t *TestWire) OnPostgres18() { t.w.joins = true }

func (t *TestWire) Read(p []byte) (int, error)  { return t.w.Read(p) }
func (t *TestWire) Write(p []byte) (int, error) { return t.w.Write(p) }

// ResetCommands is the number of commands of a reset.
var ResetCommands = len(ResetSQL)

// State is what the wire believes of its backend.
func (t *TestWire) State() (owner string, clean, armed bool, status byte) {
	return t.w.owner, t.w.clean, t.w.armed, t.w.status
}

// SendReset sends the reset that nobody waits for.
func (t *TestWire) SendReset() error { return (&Backend{wire: t.w}).sendReset() }

// Drain reads the answer to it.
func (t *TestWire) Drain() error { return t.w.drain() }

// Reconnect changes what the wire reads from.
func (t *TestWire) Reconnect(r io.Reader) { t.w.r = r }

// Used is what Backend.Used says.
func (t *TestWire) Used() bool { return (&Backend{wire: t.w}).Used() }

// Failure is what Backend.PrologueFailure says.
func (t *TestWire) Failure() string { return (&Backend{wire: t.w}).PrologueFailure() }

// TestPool is a pool of connections that lead nowhere.
type TestPool struct{ *Pool }

// NewTestPool returns one. What made fails with is the connection's failure.
func NewTestPool(conn *pgx.ConnConfig, most int, made func(ctx context.Context) error, hangUp func()) TestPool {
	p := NewPool(Config{Conn: conn, GUC: rls.DefaultGUC, MaxOpen: most, ConnectTimeout: 10 * time.Second, MaxLifetime: time.Hour})
	p.dial = func(ctx context.Context, key Key, _ *rls.Settings) (*Backend, error) {
		begun := time.Now()
		if err := made(ctx); err != nil {
			return nil, err
		}
		return &Backend{wire: &wire{}, key: key, born: begun, expires: begun.Add(time.Hour)}, nil
	}
	p.hangUp = func(*Backend) { hangUp() }
	return TestPool{p}
}

// Ask asks the server whether it is there.
func (p TestPool) Ask(life context.Context) {
	p.cfg.Life = life
	p.ask(Key{}, rls.Settings{})
}

// Beat is what an answer on another connection does.
func (p TestPool) Beat() { p.breaker.pulse.beat() }

// GiveBack returns a backend that tenant has used.
func (p TestPool) GiveBack(b *Backend, tenant string, slot Slot) {
	b.wire.owner = tenant
	wanted := p.keep(b)
	slot.Release()
	if wanted {
		p.deal()
	}
}

// Break closes a backend instead.
func (p TestPool) Break(b *Backend, slot Slot) {
	p.close(b)
	p.Release(slot)
}

// Demote is what Demoted does when it is.
func (p TestPool) Demote() {
	now := time.Now()
	p.demoted.Store(&now)
	p.Flush()
}

// Outdated says whether the backend should not have been handed out.
func (p TestPool) Outdated(b *Backend) bool { return p.outdated(b) }

// Counts are the pool's own.
func (p TestPool) Counts() (open, making, extra, idle, wants int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.making, p.extra, len(p.idle), len(p.wants)
}

// Neglected says what somebody who waits could have, and has not been given.
func (p TestPool) Neglected() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.wants {
		fit := 0
		for _, b := range p.idle {
			if b.key == w.key {
				fit++
			}
		}
		polite := p.holdsOthers(w.tenant, w.slot, w)
		switch {
		case !w.idle:
		case p.closed:
			return "the word that the pool is closed"
		case fit > 0 && (!polite || fit > p.spare() || p.open >= p.cfg.MaxOpen):
			return "an idle connection"
		case p.making < p.atOnce() && (p.extra == 0 || p.open < p.cfg.MaxOpen || len(p.idle) > 0):
			return "a place to make one"
		}
	}
	return ""
}

// TestBreaker is a breaker that keeps what it reported.
type TestBreaker struct {
	b       *breaker
	changes []bool
}

// NewTestBreaker returns the breaker of a shard that is taken for alive.
func NewTestBreaker() *TestBreaker {
	t := &TestBreaker{}
	t.b = newBreaker(func(down error) { t.changes = append(t.changes, down != nil) })
	return t
}

// Try attempts to connect. An attempt that outlives ctx tells late.
func (t *TestBreaker) Try(ctx context.Context, connect func(context.Context) error, late func(error)) error {
	a, _ := t.b.try(ctx, nil, func(ctx context.Context) (*Backend, error) { return nil, connect(ctx) }, func(a attempt, _ bool) { late(a.err) })
	return a.err
}

// Hear notes in the context of an attempt that the server has answered.
func Hear(ctx context.Context) { heardOf(ctx).now() }

// Refuses says whether nobody is to try.
func (t *TestBreaker) Refuses() error { return t.b.refuses() }

// Changes are the reports, true for down.
func (t *TestBreaker) Changes() []bool { return t.changes }

// NewHookError is what BeforeConnect failed with.
func NewHookError(err error) error { return &hookError{err} }
