package backend

import (
	"context"
	"io"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/rls"
)

// TestWire is a wire between two byte streams, for tests of the splice alone.
type TestWire struct{ w *wire }

// NewTestWire returns a wire that serves tenant, on a backend that another tenant used last.
func NewTestWire(r io.Reader, out io.Writer, tenant string) *TestWire {
	return &TestWire{&wire{
		r: r, w: out, on: true, proto: newProtocol(rls.DefaultGUC, false, false, named), set: rls.Settings{Tenant: tenant, WorkMemKB: 4096},
		stmts: make(map[string]sqllex.Verdict), verdicts: sqllex.NewCache(), lanes: new(laneCounters), status: 'I', owner: "another",
	}}
}

// BehindPooler makes the wire one of a backend behind a pooler.
func (t *TestWire) BehindPooler() {
	t.w.pooled, t.w.proto = true, newProtocol(rls.DefaultGUC, false, false, unnamed)
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

// TestBreaker is a breaker that keeps what it reported.
type TestBreaker struct {
	b       *breaker
	changes []bool
}

// NewTestBreaker returns the breaker of a shard that is taken for alive.
func NewTestBreaker() *TestBreaker {
	t := &TestBreaker{}
	t.b = newBreaker(patience, func(down error) { t.changes = append(t.changes, down != nil) })
	return t
}

// Try attempts to connect. An attempt that outlives ctx tells late.
func (t *TestBreaker) Try(ctx context.Context, connect func(context.Context) error, late func(error)) error {
	a, _ := t.b.try(ctx, nil, func(ctx context.Context) (*Backend, error) { return nil, connect(ctx) }, func(a attempt, _ bool) { late(a.err) })
	return a.err
}

// Refuses says whether nobody is to try.
func (t *TestBreaker) Refuses() error { return t.b.refuses() }

// Changes are the reports, true for down.
func (t *TestBreaker) Changes() []bool { return t.changes }

// NewHookError is what BeforeConnect failed with.
func NewHookError(err error) error { return &hookError{err} }
