package hammer

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// worker does one thing after another, each for a random tenant.
type worker struct {
	*run
	number int
	rnd    *rand.Rand
	since  atomic.Int64 // when the current step began, in Unix nanoseconds; 0 between steps
	doing  atomic.Pointer[string]

	// Of the current step.
	tn        tenant
	ctx       context.Context // of tn
	cancelled atomic.Bool     // on purpose
}

func newWorker(r *run, seed uint64, number int) *worker {
	return &worker{run: r, number: number, rnd: rand.New(rand.NewPCG(seed, uint64(number)+1))}
}

// querier is a DB, a Conn or a Tx.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// step is one thing to do, with its share of the work.
type step struct {
	name   string
	weight int
	do     func(*worker) error
}

// steadiness is how much ordinary work a steady phase does for one thing that costs a connection.
const steadiness = 50

func (w *worker) loop() {
	var steps []step
	total := 0
	add := func(list []step, times int) {
		for _, s := range list {
			s.weight *= times
			total += s.weight
			steps = append(steps, s)
		}
	}
	ordinaryTimes := 1
	if w.phase.steady {
		ordinaryTimes = steadiness
	}
	add(ordinary, ordinaryTimes)
	add(nasty, 1)
	for w.run.ctx.Err() == nil {
		n := w.rnd.IntN(total)
		for i := range steps {
			if n -= steps[i].weight; n < 0 {
				w.step(&steps[i])
				break
			}
		}
	}
}

func (w *worker) step(s *step) {
	w.tn = w.fleet.tenants[w.rnd.IntN(len(w.fleet.tenants))]
	// Not the context of the run: the end of the time must not cancel what is under way.
	ctx, cancel := context.WithCancel(shardedpg.WithTenant(context.Background(), w.tn.id))
	defer cancel()
	w.cancelled.Store(false)
	what := w.rnd.IntN(40)
	if what < 2 && w.phase.steady && w.rnd.IntN(steadiness) > 0 {
		what = 2
	}
	switch what {
	case 0, 1:
		timer := time.AfterFunc(time.Duration(w.rnd.IntN(2500))*time.Microsecond, func() {
			w.cancelled.Store(true)
			cancel()
		})
		defer timer.Stop()
	case 2, 3, 4, 5, 6, 7, 8, 9: // a deadline far away asks for another statement_timeout
		ctx, cancel = context.WithTimeout(ctx, opLimit-time.Second)
		defer cancel()
	}
	w.ctx = ctx
	w.doing.Store(&s.name)
	w.since.Store(time.Now().UnixNano())
	err := s.do(w)
	w.since.Store(0)
	if err != nil {
		w.errors.Add(1)
		w.judge(s.name, err)
		w.heed(err)
	}
}

// heed comes back to a dead shard when that is tried again: refusals in a loop would be all that is counted.
func (w *worker) heed(err error) {
	var own *shardedpg.Error
	if errors.As(err, &own) && own.SafeToRetry() && errors.Is(err, shardedpg.ErrShardUnavailable) {
		select {
		case <-time.After(own.RetryAfter):
		case <-w.run.ctx.Done():
		}
	}
}

// judge makes a finding of an error that nothing explains.
func (w *worker) judge(what string, err error) {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch server.Code {
		case "57P01", "57P02", "57P03", "53300":
			if w.faults.Load() {
				return
			}
		case "08P01": // a pooler's; by itself in the middle of rows, from pgx or instead of a ROLLBACK
			if w.faults.Load() && w.phase.pooler {
				return
			}
		case "57014":
			if w.cancelled.Load() || w.faults.Load() {
				return
			}
		case "40001": // serializable transactions of tenants meet in indexes
			return
		case "42501", "42P01":
			w.finding("ISOLATION", "%s of %s ran without its tenant: %v", what, w.tn.id, err)
			return
		}
		w.finding("ERROR", "%s of %s: %v", what, w.tn.id, err)
		return
	}
	if strings.Contains(err.Error(), "standard_conforming_strings=on") || strings.Contains(err.Error(), "client_encoding") {
		w.finding("ISOLATION", "%s of %s met a setting that another checkout left behind: %v", what, w.tn.id, err)
		return
	}
	switch {
	case errors.Is(err, context.Canceled) && w.cancelled.Load():
		return
	case errors.Is(err, shardedpg.ErrPrologue) && strings.Contains(err.Error(), "26000"):
		// The driver's statements were taken away (see lose) and BEGIN alone had run, so nothing could be tried again.
		return
	case w.cancelled.Load() && (errors.Is(err, sql.ErrTxDone) || pgconn.Timeout(err) || isNetwork(err)):
		return
	case w.faults.Load() && (errors.Is(err, shardedpg.ErrShardUnavailable) || isNetwork(err)):
		return
	}
	w.finding("ERROR", "%s of %s: %v (%T)", what, w.tn.id, err, err)
}

func isNetwork(err error) bool {
	var op net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &op) ||
		strings.Contains(err.Error(), "conn closed")
}

// refused reports whether err is the server's answer of that code, as this worker had asked for it.
func refused(err error, code string) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == code
}

// want turns the error that a step has asked for into none, and its absence into a finding.
func (w *worker) want(code string, err error) error {
	if refused(err, code) {
		return nil
	}
	if err == nil {
		w.finding("ERROR", "%s of %s should have failed with SQLSTATE %s and reported success", *w.doing.Load(), w.tn.id, code)
	}
	return err
}

var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// withMode puts one of pgx's modes in front of args, or nothing.
func (w *worker) withMode(args ...any) []any {
	if w.rnd.IntN(3) == 0 {
		return args
	}
	mode := modes[w.rnd.IntN(len(modes))]
	if w.phase.pooler && mode < pgx.QueryExecModeExec { // those need a server connection of their own
		return args
	}
	return append([]any{mode}, args...)
}

func (w *worker) other() tenant {
	for {
		if tn := w.fleet.tenants[w.rnd.IntN(len(w.fleet.tenants))]; tn.id != w.tn.id {
			return tn
		}
	}
}

// pick returns one of the texts.
func (w *worker) pick(texts ...string) string { return texts[w.rnd.IntN(len(texts))] }

func (w *worker) exec(q querier, query string, args ...any) error {
	w.statements.Add(1)
	_, err := q.ExecContext(w.ctx, query, args...)
	return err
}

// sight says which rows a query may bring.
type sight struct {
	rows  int  // exactly that many; -1: any number
	ghost bool // the caller's own ghost is no finding
}

// see runs a query whose one column names the tenant of each row.
func (w *worker) see(q querier, s sight, query string, args ...any) error {
	w.statements.Add(1)
	rows, err := q.QueryContext(w.ctx, query, args...)
	if err != nil {
		return err
	}
	return w.look(rows, s, query)
}

// rows are those of database/sql or pgx.
type rows interface {
	Next() bool
	Scan(into ...any) error
	Err() error
}

func (w *worker) look(rows *sql.Rows, s sight, query string) error {
	defer rows.Close()
	if err := w.check(rows, s, query); err != nil {
		return err
	}
	return rows.Close()
}

// check compares whose rows they are, and how many, with what the tenant may see.
func (w *worker) check(rows rows, s sight, query string) error {
	n := 0
	for rows.Next() {
		var who string
		if err := rows.Scan(&who); err != nil {
			return err
		}
		n++
		if who != w.tn.id && !(s.ghost && who == w.tn.ghost) {
			w.finding("ISOLATION", "%s: tenant %s got a row of %q from %q", *w.doing.Load(), w.tn.id, who, query)
			return nil
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if s.rows >= 0 && n != s.rows {
		w.finding("ISOLATION", "%s: tenant %s got %d rows instead of %d from %q: it ran without its tenant", *w.doing.Load(),
			w.tn.id, n, s.rows, query)
	}
	return nil
}
