package backend

import (
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

// Errors of the guard. The root package re-exports them.
var (
	// ErrStatementRefused: the statement would outlive every reset, or the strict guard does not allow it. Nothing was sent.
	ErrStatementRefused = errors.New("statement refused")
	// ErrTenantReadOnly: the tenant is read-only and the statement writes. Nothing was sent.
	ErrTenantReadOnly = errors.New("tenant is read-only")
)

// guard is how much the driver refuses by the look of a statement.
type guard struct {
	strict bool
}

// refusal says why message m must not be sent, or nil.
func (w *wire) refusal(m []byte, flags sqllex.Flags) error {
	switch {
	case w.set.Tenant == "":
		return nil
	case flags&sqllex.ClusterWide != 0:
		return reason{ErrStatementRefused, "it changes roles, databases, tablespaces or the server for every tenant; " +
			"run it through ShardDB"}
	case w.guard.strict && flags&(sqllex.StrictRefused|sqllex.Unterminated) != 0:
		return reason{ErrStatementRefused, "sharded_guard=strict allows single SELECT, INSERT, UPDATE, DELETE, MERGE, " +
			"WITH, VALUES and TABLE statements without session functions; run it through ShardDB or use the default guard"}
	case w.set.ReadOnly && flags&sqllex.Writes != 0:
		return reason{ErrTenantReadOnly, "make the tenant active in the registry before writing"}
	case w.pooled && m[0] == 'B' && unnamedBind(m) && !w.fronted():
		return reason{ErrStatementRefused, errUnnamedBind.Error()}
	case w.pooled && flags&sqllex.SQLPrepared != 0:
		return reason{ErrStatementRefused, "behind a pooler a statement that SQL has prepared may be another tenant's; use " +
			"arguments, or a prepared statement of database/sql"}
	case w.pooled && w.set.Role != "" && m[0] == 'Q' && flags&sqllex.Multi != 0 && flags&sqllex.TxControl != 0:
		return reason{ErrStatementRefused, "behind a pooler a schema tenant's statements must not end a transaction inside " +
			"one string; send them one by one"}
	}
	return nil
}

// fronted reports whether the segment that is being written already has a prologue in front: then the unnamed statement of
// the Bind was parsed after it.
func (w *wire) fronted() bool {
	return len(w.segments) > 0 && w.segments[len(w.segments)-1].fronted
}

func unnamedBind(m []byte) bool {
	_, rest := cutString(m[5:])
	return len(cstring(rest)) == 0
}

// refuse answers a write in the server's place, so that pgx and the connection stay usable: one error, then
// ReadyForQuery for each Sync or Query of the write.
func (w *wire) refuse(p []byte, answers int, err error) (int, error) {
	var why reason
	if !errors.As(err, &why) || len(w.segments) > 0 || answers == 0 {
		if errors.As(err, &why) {
			w.refused = err
			return 0, errMidFlight
		}
		return 0, err
	}
	w.refused = err
	b := must((&pgproto3.ErrorResponse{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42501", Message: err.Error(),
	}).Encode(nil))
	for range answers {
		b = must((&pgproto3.ReadyForQuery{TxStatus: w.status}).Encode(b))
	}
	w.synth = b
	return len(p), nil
}

// reason is a sentinel with what to do about it.
type reason struct {
	is  error
	why string
}

func (r reason) Error() string { return r.is.Error() + ": " + r.why }
func (r reason) Unwrap() error { return r.is }
