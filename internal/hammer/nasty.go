package hammer

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// nasty are the steps that leave something behind for the next tenant, and those that look for it.
var nasty = []step{
	{"leave in plain sight", 6, (*worker).leave},
	{"leave hidden in a function", 8, (*worker).hide},
	{"forge prepared statements", 2, (*worker).forge},
	{"lose the driver's statements", 1, (*worker).lose},
	{"loosen how literals are read", 1, (*worker).loosen},
	{"look for leavings", 6, (*worker).probe},
	{"simple protocol with an argument", 3, (*worker).simple},
	{"string with BEGIN and COMMIT", 6, (*worker).block},
	{"string with more past its COMMIT", 4, (*worker).pastCommit},
	{"string that fails inside its BEGIN", 2, (*worker).failingBlock},
	{"BEGIN alone", 5, (*worker).loneBegin},
	{"BEGIN left open", 1, (*worker).openBegin},
	{"statement that refuses transactions", 1, (*worker).vacuum},
	{"batch of pgx's own", 2, (*worker).batch},
}

// leave uses statements that a reader of the text can recognise.
func (w *worker) leave() error {
	texts := []string{
		fmt.Sprintf("select set_config('app.current_tenant_id', '%s', false)", w.tn.ghost),
		fmt.Sprintf("set app.current_tenant_id = '%s'; set hammer.mark = '%s'", w.tn.ghost, w.tn.id),
		fmt.Sprintf("set hammer.mark = '%s'; set work_mem = '64kB'", w.tn.id),
		fmt.Sprintf("set client_min_messages = error; create temp table if not exists orders(tenant_id text not null, id bigint, "+
			"token text, note text); insert into pg_temp.orders values ('%s', 1, null, 'temp')", w.tn.ghost),
		fmt.Sprintf("select pg_advisory_lock_shared(%d, 1)", w.tn.index),
		"listen ch_" + w.tn.id,
		fmt.Sprintf("begin; declare cu_%s cursor with hold for select 1; commit", w.tn.id),
		"set role none", "set standard_conforming_strings = off", "set client_encoding = latin1",
		fmt.Sprintf("set hammer.mark = '%s'; set statement_timeout = 1", w.tn.id),
	}
	if !w.phase.pooler { // refused there
		texts = append(texts, fmt.Sprintf("prepare pr_%s as select '%s'", w.tn.id, w.tn.id))
	}
	return w.exec(w.db, w.pick(texts...))
}

// hide leaves the same by a call that looks plain, so that nothing of it is reset before the next tenant comes.
func (w *worker) hide() error {
	query := "select public.hide($1, $2)"
	return w.see(w.db, sight{rows: 1}, query, w.withMode(w.tn.id, int32(w.tn.index))...)
}

func (w *worker) forge() error {
	return w.exec(w.db, "select public.forge($1)", w.tn.id)
}

// lose takes away what the next flight is made of, and leaves a trace: the connection must not go on as if reset.
func (w *worker) lose() error {
	conn, err := w.db.Conn(w.ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := w.see(conn, sight{rows: 1}, "select public.hide($1, $2)", w.tn.id, int32(w.tn.index)); err != nil {
		return err
	}
	return w.exec(conn, "select public.lose($1)", w.pick("sharded\\_pg\\_r0", "sharded\\_pg\\_r%", "sharded\\_pg\\_p%"))
}

func (w *worker) loosen() error {
	if w.rnd.IntN(2) == 0 {
		return w.exec(w.db, "select public.loosen('standard_conforming_strings', $1)", "off")
	}
	return w.exec(w.db, "select public.loosen('client_encoding', $1)", "latin1")
}

// probeText names who left what is found on a connection.
const probeText = `
select x from (select nullif(current_setting('hammer.mark', true), '') x
 union all select substr(c, 4) from pg_listening_channels() c
 union all select substr(name, 4) from pg_cursors where name like 'cu\_%'
 union all select substr(name, 4) from pg_prepared_statements where name like 'pr\_%'
 union all select $1 || right('0' || classid, 2) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
) found where x is not null`

func (w *worker) probe() error {
	return w.see(w.db, sight{-1, true}, probeText, w.withMode(w.tn.id[:1])...)
}

// simple is what pgx refuses when it believes that the server reads literals in another way.
func (w *worker) simple() error {
	return w.see(w.db, sight{rows: seeds}, "select tenant_id from "+w.tn.table+" where id <= 20 and note is distinct from $1",
		pgx.QueryExecModeSimpleProtocol, w.pick(`\'; select 1 --`, "'", w.other().id))
}

func (w *worker) values(token string) string {
	return fmt.Sprintf("insert into %s(token) values ('%s')", w.tn.table, token)
}

// block is a whole transaction in one string, in front of which the driver cannot simply put its own.
func (w *worker) block() error {
	token := w.ledger.token(w.tn)
	begin := w.pick("begin", "begin isolation level serializable", "start transaction", "/* x */ BEGIN WORK")
	rest := w.pick("commit", "end", "commit; select 1")
	err := w.exec(w.db, begin+"; select 1; "+w.values(token)+"; "+rest)
	w.ledger.written(w.tn, *w.doing.Load(), err, token)
	return err
}

// pastCommit writes where no tenant is in force any more: nothing may be seen there.
func (w *worker) pastCommit() error {
	in, out := w.ledger.token(w.tn), w.ledger.token(w.tn)
	note := fmt.Sprintf("insert into public.past select distinct '%s', tenant_id from orders", w.tn.id)
	text := w.values(in) + "; commit; " + note
	if w.rnd.IntN(2) == 0 {
		text = "begin; " + text
	}
	if w.rnd.IntN(4) == 0 {
		text += "; " + w.values(out)
		w.ledger.note(w.ledger.past, w.tn, out)
	}
	err := w.exec(w.db, text)
	w.ledger.written(w.tn, *w.doing.Load(), err, in)
	if refused(err, "42501") || refused(err, "42P01") { // no tenant, no table: closed
		return nil
	}
	return err
}

// failingBlock leaves a failed transaction behind, unless it is rolled back there.
func (w *worker) failingBlock() error {
	token := w.ledger.token(w.tn)
	w.ledger.note(w.ledger.denied, w.tn, token)
	return w.want("22012", w.exec(w.db, w.pick("begin; ", "")+w.values(token)+"; select 1/0"))
}

// loneBegin drives a transaction by hand.
func (w *worker) loneBegin() error {
	conn, err := w.db.Conn(w.ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	mode := []any{}
	if w.rnd.IntN(2) == 0 {
		mode = append(mode, pgx.QueryExecModeExec)
	}
	if err := w.exec(conn, w.pick("begin", "start transaction read write"), mode...); err != nil {
		return err
	}
	if err := w.see(conn, sight{-1, true}, "select tenant_id from orders where id <= 20"); err != nil {
		return err
	}
	token := w.ledger.token(w.tn)
	if err := w.see(conn, sight{rows: 1}, w.insertText()+" returning tenant_id", token); err != nil {
		w.ledger.note(w.ledger.denied, w.tn, token)
		return err
	}
	if w.rnd.IntN(3) == 0 {
		w.ledger.note(w.ledger.denied, w.tn, token)
		return w.exec(conn, w.pick("rollback", "abort"), mode...)
	}
	err = w.exec(conn, w.pick("commit", "end"), mode...)
	w.ledger.written(w.tn, *w.doing.Load(), err, token)
	return err
}

// openBegin walks away from its transaction.
func (w *worker) openBegin() error {
	token := w.ledger.token(w.tn)
	w.ledger.note(w.ledger.denied, w.tn, token)
	if w.rnd.IntN(2) == 0 {
		return w.exec(w.db, "begin; "+w.values(token))
	}
	conn, err := w.db.Conn(w.ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := w.exec(conn, "begin"); err != nil {
		return err
	}
	return w.exec(conn, w.insertText(), token)
}

// batch is written by pgx to the connection itself in the mode exec, which is that of the pooler's phase.
func (w *worker) batch() error {
	conn, err := w.db.Conn(w.ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		raw := c.(interface{ Conn() *pgx.Conn }).Conn()
		if raw == nil { // Raw has no error to say why
			return nil
		}
		b := &pgx.Batch{}
		query := "select tenant_id from " + w.tn.table + " where id <= $1"
		for range 2 {
			b.Queue(query, int64(seeds))
		}
		results := raw.SendBatch(w.ctx, b)
		for range 2 {
			w.statements.Add(1)
			rows, err := results.Query()
			if err != nil {
				_ = results.Close()
				return err
			}
			if err := w.check(rows, sight{rows: seeds}, query); err != nil {
				_ = results.Close()
				return err
			}
		}
		return results.Close()
	})
	// What another tenant has taken away or forged (see lose and forge) ends the flight in front of the batch. Elsewhere the
	// driver takes another connection; what runs here is pgx, which tries nothing again.
	if refused(err, "26000") && strings.Contains(err.Error(), `"sharded_pg_`) || refused(err, "22012") {
		return nil
	}
	return err
}

func (w *worker) vacuum() error {
	if w.phase.pooler { // its settings would have to be the session's, which is not ours there
		return nil
	}
	err := w.exec(w.db, "vacuum (skip_locked) "+w.tn.table) // not its owner: a warning, and nothing done
	if refused(err, "25001") && w.faults.Load() {
		return nil // the connection broke between the two flights that such a statement takes
	}
	return err
}
