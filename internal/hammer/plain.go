package hammer

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// ordinary are the steps of any application.
var ordinary = []step{
	{"point read", 12, (*worker).pointRead},
	{"scan", 10, (*worker).scan},
	{"scan below a name that can be hidden", 6, (*worker).scanUnqualified},
	{"shared statement", 8, (*worker).sharedStatement},
	{"argument that looks like a tenant", 6, (*worker).lookalike},
	{"insert", 10, (*worker).insert},
	{"update", 4, (*worker).update},
	{"transaction", 12, (*worker).transaction},
	{"connection", 4, (*worker).connection},
	{"syntax error", 3, (*worker).syntaxError},
	{"division by zero", 3, (*worker).divisionByZero},
	{"deferred constraint", 2, (*worker).deferred},
	{"panic in a Valuer", 2, (*worker).panics},
}

// pointRead uses a text that forge replaces; the forger's own statement may then show its ghost.
func (w *worker) pointRead() error {
	query := "select tenant_id from " + w.tn.table + " where id = $1 /* point */"
	if w.rnd.IntN(2) == 0 {
		return w.see(w.db, sight{1, true}, query, int64(1+w.rnd.IntN(seeds)))
	}
	return w.see(w.db, sight{1, true}, query, w.withMode(int64(1+w.rnd.IntN(seeds)))...)
}

func (w *worker) scan() error {
	return w.see(w.db, sight{rows: seeds}, "select tenant_id from "+w.tn.table+" where id <= $1", w.withMode(int64(seeds))...)
}

// scanUnqualified reads whatever the name orders stands for: a temporary table of another tenant if one was left.
func (w *worker) scanUnqualified() error {
	return w.see(w.db, sight{-1, true}, "select tenant_id from orders where id <= $1", w.withMode(int64(seeds))...)
}

func (w *worker) sharedStatement() error {
	w.statements.Add(1)
	rows, err := w.shared[w.rnd.IntN(len(w.shared))].QueryContext(w.ctx, int64(seeds))
	if err != nil {
		return err
	}
	return w.look(rows, sight{rows: seeds}, "the shared statement")
}

// lookalike binds another tenant's ID as an ordinary text: it must stay one. In a transaction it is followed by a
// statement that would run as that tenant.
func (w *worker) lookalike() error {
	query := "select tenant_id from " + w.tn.table + " where id <= 20 and note is distinct from $1"
	if w.rnd.IntN(2) == 0 {
		return w.see(w.db, sight{rows: seeds}, query, w.withMode(w.other().id)...)
	}
	tx, err := w.db.BeginTx(w.ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := w.see(tx, sight{rows: seeds}, query, w.withMode(w.other().id)...); err != nil {
		return err
	}
	return w.see(tx, sight{rows: seeds}, "select tenant_id from "+w.tn.table+" where id <= 20")
}

func (w *worker) insertText() string {
	return "insert into " + w.tn.table + "(token) values ($1)"
}

// insert writes a token, in one of three ways.
func (w *worker) insert() error {
	token := w.ledger.token(w.tn)
	var err error
	way := w.rnd.IntN(4)
	switch way {
	case 0:
		err = w.see(w.db, sight{rows: 1}, w.insertText()+" returning tenant_id", w.withMode(token)...)
	case 1: // simple protocol, no arguments
		err = w.exec(w.db, fmt.Sprintf("insert into %s(token) values ('%s')", w.tn.table, token))
	case 2:
		err = w.exec(w.db, fmt.Sprintf("select 1; insert into %s(token) values ('%s'); select tenant_id from orders limit 1",
			w.tn.table, token))
	default:
		err = w.exec(w.db, w.insertText(), w.withMode(token)...)
	}
	w.ledger.written(w.tn, fmt.Sprintf("insert, way %d,", way), err, token)
	return err
}

// update touches each row it can see: those of one tenant.
func (w *worker) update() error {
	w.statements.Add(1)
	res, err := w.db.ExecContext(w.ctx, "update "+w.tn.table+" set note = tenant_id || '-' || id where id = $1",
		w.withMode(int64(1+w.rnd.IntN(seeds)))...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		w.finding("ISOLATION", "an update by %s of one row of each tenant changed %d rows", w.tn.id, n)
	}
	return nil
}

// connection does several things on one Conn, the same server connection for all.
func (w *worker) connection() error {
	conn, err := w.db.Conn(w.ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range 1 + w.rnd.IntN(3) {
		if err := w.see(conn, sight{rows: seeds}, "select tenant_id from "+w.tn.table+" where id <= $1",
			w.withMode(int64(seeds))...); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) syntaxError() error {
	if w.rnd.IntN(2) == 0 {
		return w.want("42601", w.exec(w.db, "selec 1"))
	}
	return w.want("42601", w.exec(w.db, "selec $1", w.withMode("x")...))
}

func (w *worker) divisionByZero() error {
	if w.rnd.IntN(2) == 0 {
		return w.want("22012", w.exec(w.db, "select 1/(id - id) from "+w.tn.table))
	}
	return w.want("22012", w.see(w.db, sight{rows: -1}, "select (1/(id - id))::text from "+w.tn.table+" where id < $1",
		w.withMode(int64(5))...))
}

// deferred violates a constraint that is looked at when the transaction ends: the error comes after the statement's own
// success.
func (w *worker) deferred() error {
	pairs := "public.pairs"
	if w.phase.schemas {
		pairs = "tenant_" + w.tn.id + ".pairs"
	}
	if w.rnd.IntN(2) == 0 {
		return w.want("23505", w.exec(w.db, "insert into "+pairs+"(k) values (1), (1)"))
	}
	return w.want("23505", w.exec(w.db, "insert into "+pairs+"(k) values ($1), ($1)", w.withMode(int32(1))...))
}

// bomb is a caller's Valuer with a bug.
type bomb struct{}

var errBomb = errors.New("boom")

func (bomb) Value() (driver.Value, error) { panic(errBomb) }

func (w *worker) panics() (err error) {
	defer func() {
		if p := recover(); p != nil && p != errBomb { //nolint:errorlint // the very value
			panic(p)
		}
	}()
	query := "select tenant_id from " + w.tn.table + " where note = $1"
	switch w.rnd.IntN(3) {
	case 0:
		return w.exec(w.db, query, bomb{})
	case 1:
		return w.see(w.db, sight{rows: -1}, query, bomb{})
	}
	return w.panicsInTx(query)
}

// panicsInTx goes on with the transaction afterwards: it must still be one.
func (w *worker) panicsInTx(query string) error {
	tx, err := w.db.BeginTx(w.ctx, nil)
	if err != nil {
		return err
	}
	before, after := w.ledger.token(w.tn), w.ledger.token(w.tn)
	w.ledger.note(w.ledger.denied, w.tn, before, after)
	early := w.rnd.IntN(2) == 0
	if early {
		err = w.exec(tx, w.insertText(), before)
	}
	func() {
		defer func() { _ = recover() }()
		_ = w.exec(tx, query, pgx.QueryExecModeExec, bomb{})
	}()
	if err == nil {
		err = w.exec(tx, w.insertText(), after)
	}
	if end := tx.Rollback(); end != nil && !errors.Is(end, sql.ErrTxDone) && err == nil {
		err = end
	}
	if errors.Is(err, shardedpg.ErrPrologue) {
		return nil // the statement that panicked counts as one that ran, so the transaction stays on its backend
	}
	return err
}
