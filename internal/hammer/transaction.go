package hammer

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

var levels = []sql.IsolationLevel{
	sql.LevelDefault, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable,
}

// transaction runs one to four statements and ends them one way or the other. The ledger is told what that way promises.
func (w *worker) transaction() error {
	tx, err := w.db.BeginTx(w.ctx, &sql.TxOptions{Isolation: levels[w.rnd.IntN(len(levels))]})
	if err != nil {
		return err
	}
	var kept, lost []string
	failed := false
	for range 1 + w.rnd.IntN(4) {
		switch w.rnd.IntN(7) {
		case 0, 1:
			err = w.see(tx, sight{rows: seeds}, "select tenant_id from "+w.tn.table+" where id <= $1", w.withMode(int64(seeds))...)
		case 2, 3:
			token := w.ledger.token(w.tn)
			kept = append(kept, token)
			err = w.see(tx, sight{rows: 1}, w.insertText()+" returning tenant_id", w.withMode(token)...)
		case 4:
			token := w.ledger.token(w.tn)
			lost = append(lost, token)
			err = w.savepoint(tx, token)
		case 5:
			err = w.tamper(tx)
		case 6:
			if w.rnd.IntN(4) > 0 {
				continue
			}
			if err = w.want("22012", w.exec(tx, "select 1/0")); err == nil {
				failed = true
				// A failed transaction refuses everything; no prologue may stand in the way of that answer.
				err = w.want("25P02", w.exec(tx, "select 2"))
			}
		}
		if err != nil || failed {
			break
		}
	}
	w.ledger.note(w.ledger.denied, w.tn, lost...)
	if err != nil || w.rnd.IntN(3) == 0 {
		w.ledger.note(w.ledger.denied, w.tn, kept...)
		if end := tx.Rollback(); err == nil && !errors.Is(end, sql.ErrTxDone) {
			err = end
		}
		return err
	}
	err = tx.Commit()
	switch {
	case failed && errors.Is(err, pgx.ErrTxCommitRollback):
		w.ledger.note(w.ledger.denied, w.tn, kept...)
		return nil
	case failed && err == nil:
		w.finding("LEDGER", "the COMMIT of a failed transaction of %s reported success", w.tn.id)
	}
	w.ledger.written(w.tn, *w.doing.Load(), err, kept...)
	if errors.Is(err, sql.ErrTxDone) && w.cancelled.Load() {
		return nil
	}
	return err
}

// savepoint takes back an insert and an error, and goes on.
func (w *worker) savepoint(tx *sql.Tx, token string) error {
	if err := w.exec(tx, "savepoint s"); err != nil {
		return err
	}
	if err := w.see(tx, sight{rows: 1}, w.insertText()+" returning tenant_id", w.withMode(token)...); err != nil {
		return err
	}
	if w.rnd.IntN(2) == 0 {
		if err := w.want("22012", w.exec(tx, "select 1/0")); err != nil {
			return err
		}
	}
	if err := w.exec(tx, "rollback to savepoint s"); err != nil {
		return err
	}
	return w.see(tx, sight{rows: seeds}, "select tenant_id from "+w.tn.table+" where id <= 20")
}

// tamper changes the tenant's setting in front of a savepoint. Each statement after it must run as the tenant, also when
// ROLLBACK TO brings the change back.
func (w *worker) tamper(tx *sql.Tx) error {
	read := "select tenant_id from " + w.tn.table + " where id <= 20"
	for _, text := range []string{
		fmt.Sprintf("select set_config('app.current_tenant_id', '%s', true); savepoint t", w.tn.ghost), read,
		w.pick("rollback to t", "rollback to savepoint t", "ROLLBACK TRANSACTION TO t"), read,
	} {
		var err error
		if text == read {
			err = w.see(tx, sight{rows: seeds}, text)
		} else {
			err = w.exec(tx, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
