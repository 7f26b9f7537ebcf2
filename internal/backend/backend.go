package backend

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sharded-pg/sharded-pg/rls"
)

// Backend is one physical connection, in the hands of one lease at a time.
type Backend struct {
	conn     *stdlib.Conn
	pg       *pgconn.PgConn
	wire     *wire
	key      Key
	born     time.Time // when connecting began
	expires  time.Time
	idleFrom time.Time
	peek     peeker
	raw      bool
	fresh    bool      // made for the one who checks it out
	keys     *rls.Keys // of which the wire's key is one
}

// Conn is pgx's own database/sql connection: its methods send what they always send, with the prologue in front.
func (b *Backend) Conn() *stdlib.Conn { return b.conn }

// Arm puts s in force for the statements to come. It sends nothing.
func (b *Backend) Arm(s *rls.Settings) {
	b.wire.set = *s
}

// Tell lets the slot of the lease know when something runs.
func (b *Backend) Tell(slot Slot) { b.wire.slot = slot }

// SetTimeout changes the statement timeout of the settings in force for the statements to come.
func (b *Backend) SetTimeout(ms int64) { b.wire.set.TimeoutMS = ms }

// Multi reports whether the text sent last held more than one statement: then parts of it may have run, and been
// committed, before an error that says that nothing did.
func (b *Backend) Multi() bool { return b.wire.multi }

// JoinedOnly reports whether the text sent last was a single statement in the transaction of the messages in front of it, which
// refuses every COMMIT inside a block or a procedure. Then nothing of it can have been committed.
func (b *Backend) JoinedOnly() bool { return b.wire.joins && !b.wire.bare && !b.wire.multi }

// Busy reports whether rows of an earlier query are still open, so that pgx cannot run another statement.
func (b *Backend) Busy() bool { return b.pg.IsBusy() }

// Dead reports whether the connection was closed under us.
func (b *Backend) Dead() bool { return b.pg.IsClosed() }

// Status is the transaction status of the last answer: I (idle), T (in a transaction) or E (in a failed one).
func (b *Backend) Status() byte { return b.wire.status }

// LeftOpen reports whether a transaction is open, or may have been when the connection was lost: of a BEGIN whose answer never came nobody
// knows, and what follows it must not run outside.
func (b *Backend) LeftOpen() bool {
	return b.wire.status != 'I' || b.wire.opens && len(b.wire.segments) > 0
}

// Used reports whether the lease has left something on the backend that is more than rows and a transaction.
func (b *Backend) Used() bool { return b.wire.used.notPlain || b.wire.used.discard || b.raw }

// Pooled reports whether a pooler is in between.
func (b *Backend) Pooled() bool { return b.wire.pooled }

// Unanswered takes the word on the last request: whether any of it was sent and the answer did not come to its end. pgx
// cannot be asked: of a connection that closes while it waits, it says "conn closed", and that it is safe to try again.
func (b *Backend) Unanswered() bool {
	pending := b.wire.pending
	b.wire.pending = false
	return pending
}

// SentInBlock reports whether the last request was sent inside a transaction block.
func (b *Backend) SentInBlock() bool { return b.wire.was == 'T' || b.wire.was == 'E' }

// Began reports whether the deferred BEGIN has reached the server.
func (b *Backend) Began() bool { return b.wire.began }

// BrokeTx reports whether the caller's own SQL ended the driver's transaction.
func (b *Backend) BrokeTx() bool { return b.wire.brokeTx }

// Refused takes the guard's word on the last statement, if it refused it.
func (b *Backend) Refused() error {
	err := b.wire.refused
	b.wire.refused = nil
	return err
}

// PrologueFailure takes the SQLSTATE of an error in the reset, BEGIN or prologue of the last flight; empty when there was
// none. Nothing of the caller's ran then.
func (b *Backend) PrologueFailure() string {
	code := b.wire.ours
	b.wire.ours = ""
	return code
}

// ClearFailures drops what PrologueFailure, Refused and Unanswered would say. What was sent through Raw, or has failed while rows were
// read, has left it for nobody.
func (b *Backend) ClearFailures() { b.wire.ours, b.wire.refused, b.wire.pending = "", nil, false }

// Spoiled reports whether that error was in the reset: what is wrong is on this connection, and was left there by whoever had it
// before. Behind a pooler nobody knows which connection it was.
func (b *Backend) Spoiled() bool { return b.wire.spoiled && !b.wire.pooled }

// Begin makes the next statement start a transaction: BEGIN flies with it.
func (b *Backend) Begin(opts driver.TxOptions) error {
	text, err := beginFor(opts)
	if err != nil {
		return err
	}
	b.wire.begin, b.wire.began, b.wire.inTx, b.wire.brokeTx = text, false, true, false
	return nil
}

// ErrIsolation: database/sql was asked for an isolation level that PostgreSQL does not have.
var ErrIsolation = errors.New("isolation level not supported by PostgreSQL")

// CheckTxOptions fails for options that no BEGIN can express.
func CheckTxOptions(opts driver.TxOptions) error {
	_, err := beginFor(opts)
	return err
}

func beginFor(opts driver.TxOptions) (beginText, error) {
	var text beginText
	switch level := sql.IsolationLevel(opts.Isolation); level {
	case sql.LevelDefault:
		text = beginDefault
	case sql.LevelReadUncommitted:
		text = beginReadUncommitted
	case sql.LevelReadCommitted:
		text = beginReadCommitted
	case sql.LevelRepeatableRead, sql.LevelSnapshot:
		text = beginRepeatableRead
	case sql.LevelSerializable:
		text = beginSerializable
	default:
		return noBegin, fmt.Errorf("%w: %v", ErrIsolation, level)
	}
	if opts.ReadOnly {
		text += readOnlyBegin
	}
	return text, nil
}

// End finishes the transaction with COMMIT or ROLLBACK and returns the server's command tag. It sends nothing when no
// statement ever ran.
func (b *Backend) End(ctx context.Context, commit bool) (tag string, err error) {
	w := b.wire
	began := w.began || w.status != 'I' // BEGIN alone may have come through
	defer func() {
		if b.pg.IsClosed() { // with what it had open
			w.status = 'I'
		}
	}()
	w.begin, w.began, w.inTx = noBegin, false, false
	if !began || !commit && b.pg.IsClosed() {
		return "", nil
	}
	text := "rollback"
	if commit {
		text = "commit"
	}
	w.trusted = true
	defer func() { w.trusted = false }()
	t, err := b.conn.Conn().Exec(ctx, text)
	return t.String(), err
}

// Describe parses query without running it and returns its number of parameters.
func (b *Backend) Describe(ctx context.Context, query string) (int, error) {
	sd, err := b.pg.Prepare(ctx, "", query, nil)
	if err != nil {
		return 0, err
	}
	return len(sd.ParamOIDs), nil
}

// Behind a pooler the server connection lives on with whatever its session holds, so nothing may be set for the session.
var errPooledOutside = errors.New("a statement outside transactions needs a server connection of its own")

// OutsideTx puts the settings in force for the session and takes the prologue away, for a statement that refuses a
// transaction block. The backend is closed afterwards, so nobody else can meet the session's settings.
func (b *Backend) OutsideTx(ctx context.Context) error {
	w := b.wire
	if w.pooled {
		return errPooledOutside
	}
	w.used.discard = true
	w.bare = true
	return b.setForSession(ctx)
}

// setForSession puts the settings in force for the session.
func (b *Backend) setForSession(ctx context.Context) error {
	w := b.wire
	w.trusted = true
	defer func() { w.trusted = false }()
	text, args := w.sessionSettings()
	return b.pg.ExecParams(ctx, text, args, nil, nil, nil).Read().Err
}

// sessionSettings is a statement that puts the settings in force for the session.
func (w *wire) sessionSettings() (text string, args [][]byte) {
	args = [][]byte{[]byte(w.proto.guc), []byte(w.set.Tenant)}
	text = "select pg_catalog.set_config($1,$2,false)"
	if s := &w.signer; s.key != nil {
		args = append(args, []byte(s.make(time.Now(), sessionLife, w.set.Tenant)))
		text += ", pg_catalog.set_config('" + rls.TokenSetting + "',$3,false)"
	}
	for i, step := range []string{"statement_timeout", "work_mem", "search_path", "role"} {
		if i >= 2 && w.set.Role == "" {
			break
		}
		args = append(args, w.set.AppendValue(nil, rls.Schema, i+1))
		text += fmt.Sprintf(", pg_catalog.set_config('%s',$%d,false)", step, len(args))
	}
	if w.set.ReadOnly {
		text += ", pg_catalog.set_config('default_transaction_read_only','on',false)"
	}
	return text, args
}

// Outside reports whether the settings are in force for the session.
func (b *Backend) Outside() bool { return b.wire.bare }

// InsideTx ends OutsideTx: from the next statement on, the prologue flies again.
func (b *Backend) InsideTx() { b.wire.bare = false }

// Refresh makes a backend usable again after the caller's DISCARD ALL or DEALLOCATE ALL took the driver's statements away.
func (b *Backend) Refresh(ctx context.Context) error {
	w := b.wire
	bare := w.bare // a DISCARD ALL that is being run outside a transaction must stay so
	w.bare = true
	defer func() { w.bare = bare }()
	if err := b.conn.Conn().DeallocateAll(ctx); err != nil {
		return err
	}
	return b.prepare(ctx)
}

// NeedsRefresh reports whether the driver's prepared statements are gone, and can be made again now.
func (b *Backend) NeedsRefresh() bool {
	return b.wire.dropped && !b.wire.pooled && b.wire.status != 'E'
}
