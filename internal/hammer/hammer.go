package hammer

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// Config says how hard to hammer.
type Config struct {
	Time   time.Duration // for all phases together
	Seed   uint64        // of every random choice; the order in which goroutines run stays the scheduler's
	Phases []string      // names of the phases to run; none: all
	Calm   bool          // no killed, cut or stalled connections, no restarts
}

// phase is one fleet under the hammer.
type phase struct {
	name     string
	tenants  int
	conns    int // slots, and the most server connections
	workers  int
	schemas  bool // tenants of the model schema
	pooler   bool // PgBouncer in front, in transaction mode
	restarts bool
	steady   bool // mostly ordinary work on connections that live: many statements
}

var phases = []phase{
	{name: "pair", tenants: 2, conns: 1, workers: 6},
	{name: "crowd", tenants: 20, conns: 8, workers: 24, restarts: true},
	{name: "pooler", tenants: 3, conns: 4, workers: 8, pooler: true},
	{name: "schemas", tenants: 3, conns: 2, workers: 6, schemas: true},
	{name: "rush", tenants: 20, conns: 8, workers: 16, steady: true},
}

// opLimit is far above what any single step may take, restart of the shard included.
const opLimit = 40 * time.Second

// Run hammers and fails t with the first finding.
func Run(t *testing.T, c Config) {
	t.Helper()
	chosen := phases
	if len(c.Phases) > 0 {
		chosen = nil
		for _, name := range c.Phases {
			for _, p := range phases {
				if p.name == name {
					chosen = append(chosen, p)
				}
			}
		}
		require.Len(t, chosen, len(c.Phases), "a phase of that name does not exist")
	}
	t.Logf("hammer: seed %d", c.Seed)
	// A crash must not lose commits that were acknowledged: with this off, PostgreSQL is allowed to.
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "hammer", Settings: map[string]string{
		"synchronous_commit": "on", "deadlock_timeout": "100ms",
	}})
	require.NoError(t, err)
	for _, p := range chosen {
		t.Run(p.name, func(t *testing.T) { runPhase(t, c, p, server, c.Time/time.Duration(len(chosen))) })
		if t.Failed() {
			break
		}
	}
	if !t.Failed() {
		require.NoError(t, server.Stop())
	}
}

// run is a phase under way.
type run struct {
	t      *testing.T
	phase  phase
	calm   bool
	fleet  *fleet
	db     *sql.DB
	conn   *shardedpg.Connector
	ctx    context.Context // ends with the time, or the first finding; tests have one context for the whole run
	stop   context.CancelFunc
	shared []*sql.Stmt // used by all tenants
	ledger ledger
	faults atomic.Bool // connections have been broken on purpose

	laneText string

	statements, errors atomic.Int64

	mu       sync.Mutex
	findings []string // guarded by mu
}

func (r *run) finding(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = append(r.findings, kind+": "+fmt.Sprintf(format, args...))
	if kind != "ERROR" {
		r.stop()
	}
}

func runPhase(t *testing.T, c Config, p phase, server *pgtest.Server, span time.Duration) {
	f := newFleet(t, p, server)
	// The servers, and what a restart makes, belong to pgtest.
	before := []goleak.Option{
		goleak.IgnoreCurrent(),
		goleak.IgnoreAnyFunction("github.com/sharded-pg/sharded-pg/internal/pgtest.startProcess.func1"),
	}
	conn, err := shardedpg.NewConnector(shardedpg.Config{
		Store: f.store, MaxConns: p.conns, TenantShare: 1, AcquireTimeout: opLimit / 2, ConnectTimeout: 5 * time.Second,
	})
	require.NoError(t, err)
	ctx, stop := context.WithTimeout(t.Context(), span)
	defer stop()
	r := &run{t: t, phase: p, calm: c.Calm || p.steady, fleet: f, db: sql.OpenDB(conn), conn: conn, ctx: ctx, stop: stop}
	r.db.SetMaxIdleConns(p.workers) // virtual connections go from tenant to tenant
	r.ledger.init()
	r.prepare()

	var workers, others sync.WaitGroup
	all := make([]*worker, p.workers)
	for i := range all {
		all[i] = newWorker(r, c.Seed, i)
		workers.Go(all[i].loop)
	}
	watching, quit := context.WithCancel(context.Background())
	others.Go(func() { r.watch(watching, all) })
	others.Go(func() { r.count(watching) })
	if !r.calm {
		others.Go(func() { r.breakThings(c.Seed) })
	}
	start := time.Now()
	workers.Wait()
	took := time.Since(start)
	quit()
	others.Wait()

	r.finish(before)
	n := r.statements.Load()
	t.Logf("hammer: %s: %d statements in %.1fs, %.0f/s; %d errors met, %d writes acknowledged, %d unsure; %s", p.name, n,
		took.Seconds(), float64(n)/took.Seconds(), r.errors.Load(), len(r.ledger.acked), len(r.ledger.unsure), r.laneText)
	// The worst come first: what breaks isolation also breaks much else.
	slices.SortStableFunc(r.findings, func(a, b string) int { return rank(a) - rank(b) })
	for i, text := range r.findings {
		if i < 10 {
			t.Errorf("%s (seed %d, phase %s)", text, c.Seed, p.name)
		}
	}
}

func rank(finding string) int {
	switch kind, _, _ := strings.Cut(finding, ":"); kind {
	case "ISOLATION":
		return 0
	case "ERROR":
		return 2
	}
	return 1
}

// watch ends the test with all goroutines when a worker makes no progress.
func (r *run) watch(ctx context.Context, workers []*worker) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, w := range workers {
				since := w.since.Load()
				if since == 0 || now.Sub(time.Unix(0, since)) < opLimit {
					continue
				}
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				panic(fmt.Sprintf("HANG: worker %d has been in %q for %v\n%s", w.number, *w.doing.Load(), opLimit, stacks))
			}
		}
	}
}

// prepare visits all tenants, since a route that a busy machine gives too late would be an error, and makes the statements
// that they share.
func (r *run) prepare() {
	r.t.Helper()
	for _, tn := range r.fleet.tenants {
		require.NoError(r.t, r.db.PingContext(shardedpg.WithTenant(r.t.Context(), tn.id)))
	}
	if r.phase.schemas { // their text is one, their tables are many: pgx must not share a cached statement
		r.share("select tenant_id from orders where id <= $1")
		return
	}
	r.share("select tenant_id from public.orders where id <= $1")
	r.share("select tenant_id from public.orders where id <= $1 and note is not null")
}

func (r *run) share(query string) {
	r.t.Helper()
	ctx := shardedpg.WithTenant(r.t.Context(), r.fleet.tenants[0].id)
	s, err := r.db.PrepareContext(ctx, query)
	require.NoError(r.t, err)
	r.shared = append(r.shared, s)
}

// Names returns the names of the phases.
func Names() string {
	names := make([]string, len(phases))
	for i, p := range phases {
		names[i] = p.name
	}
	return strings.Join(names, ",")
}
