package backend

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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
	allow  []string // first words that strict lets through beside queries and data changes
}

// CheckGuardWords fails for words that the strict guard cannot be told to allow.
func CheckGuardWords(words []string) error {
	for _, word := range words {
		if !sqllex.CanAllow(word) {
			return fmt.Errorf("%q is not among the words that can be allowed: %s", word, strings.Join(sqllex.Allowable(), ", "))
		}
	}
	return nil
}

// refusal says why message m must not be sent, or nil.
func (w *wire) refusal(m []byte, v sqllex.Verdict) error {
	flags := v.Flags
	switch {
	case w.set.Tenant == "" || w.trusted:
		return nil
	case m[0] == 'F': // is answered by ReadyForQuery without a Sync, and PostgreSQL 18 would not commit it behind a prologue
		return reason{ErrStatementRefused, "it calls a function by its number; call it in a SELECT"}
	case flags&sqllex.ClusterWide != 0:
		return reason{ErrStatementRefused, "it changes roles, databases, tablespaces or the server for every tenant; " +
			"run it through ShardDB"}
	case w.guard.strict:
		if found := w.found(m, v.Strict); found != "" {
			return reason{ErrStatementRefused, "sharded_guard=strict: it " + found}
		}
	}
	outlives := w.outlives(m[0], flags)
	switch {
	case w.set.ReadOnly && flags&sqllex.Writes != 0:
		return reason{ErrTenantReadOnly, "make the tenant active in the registry before writing"}
	case w.set.ReadOnly && outlives:
		return reason{ErrTenantReadOnly, "behind the end of its transaction nothing keeps a statement from writing; send the statements of a " +
			"string or batch one by one, and what may commit inside in a transaction"}
	case w.pooled && m[0] == 'B' && unnamedBind(m) && !w.fronted():
		return reason{ErrStatementRefused, errUnnamedBind.Error()}
	case w.pooled && w.moved() && !w.fronted():
		return reason{ErrStatementRefused, "behind a pooler it may meet another server connection than what begins or ends a transaction " +
			"in front of it; read the answer to that first"}
	case w.pooled && flags&sqllex.SQLPrepared != 0:
		return reason{ErrStatementRefused, "behind a pooler a statement that SQL has prepared may be another tenant's; use " +
			"arguments, or a prepared statement of database/sql"}
	case w.pooled && flags&sqllex.Lasting != 0:
		return reason{ErrStatementRefused, "what it opens stays on the server connection, and behind a pooler that is everybody's"}
	case w.pooled && w.set.Role != "" && outlives:
		return reason{ErrStatementRefused, "behind a pooler a schema tenant's statements must not end a transaction inside " +
			"one string or batch; send them one by one, and what may commit inside in a transaction"}
	}
	return nil
}

// found is what the strict guard has against message m, in words; empty if nothing.
func (w *wire) found(m []byte, f sqllex.Finding) string {
	if m[0] == 'B' && !w.knows(m) {
		return "runs a prepared statement that was not prepared on this connection by the program; prepare it first"
	}
	return w.guard.finds(f)
}

const elsewhere = "run it through ShardDB, or use the default guard"

func (g *guard) finds(f sqllex.Finding) string {
	if f.Why == sqllex.OfExplained && !slices.Contains(g.allow, "explain") {
		f = sqllex.Finding{Why: sqllex.OfVerb, Word: "explain"}
	}
	does := "starts with "
	switch f.Why {
	case sqllex.OfExplained:
		does = "explains "
		fallthrough
	case sqllex.OfVerb:
		switch {
		case slices.Contains(g.allow, f.Word):
			return ""
		case f.Word == "":
			return does + "none of SELECT, INSERT, UPDATE, DELETE, MERGE, WITH, VALUES and TABLE; " + elsewhere
		case sqllex.CanAllow(f.Word):
			return does + strings.ToUpper(f.Word) + "; allow that with sharded_guard_allow=" + f.Word + ", " + elsewhere
		}
		return does + strings.ToUpper(f.Word) + ", which cannot be allowed; " + elsewhere
	case sqllex.OfName:
		return "names " + f.Word + ", which reaches around the guard; " + elsewhere
	case sqllex.OfUnicode:
		return "has a U& form, which can spell any name; write the characters themselves"
	case sqllex.OfSeveral:
		return "holds several statements; send them one by one"
	case sqllex.OfNUL:
		return "holds a NUL byte, behind which the server does not read; take it out"
	case sqllex.OfOpen:
		return "ends inside a string, a quoted name or a comment; close it"
	}
	return ""
}

// outlives reports whether a statement may go on, or comes, where a transaction of the same flight has ended, and with it what the prologue
// has put in force.
func (w *wire) outlives(kind byte, flags sqllex.Flags) bool {
	seg := &w.segments[len(w.segments)-1]
	behind := seg.ended && (kind == 'P' || kind == 'B' || kind == 'Q')
	seg.ended = seg.ended || kind == 'B' && flags&sqllex.TxControl != 0 && flags&sqllex.Begin == 0
	return behind || flags&sqllex.Multi != 0 && flags&sqllex.TxControl != 0 ||
		flags&sqllex.MayCommit != 0 && (w.status == 'I' && w.begin == noBegin || w.moved())
}

// fronted reports whether the segment that is being written already has a prologue in front: then the unnamed statement of
// the Bind was parsed after it.
func (w *wire) fronted() bool {
	return len(w.segments) > 0 && w.segments[len(w.segments)-1].fronted
}

func unnamedBind(m []byte) bool { return len(boundStatement(m)) == 0 }

// knows reports whether the text of the statement that a Bind is for was seen.
func (w *wire) knows(m []byte) bool {
	_, known := w.stmts[string(boundStatement(m))]
	return known
}

// boundStatement is the name of the statement that a Bind is for.
func boundStatement(m []byte) []byte {
	_, rest := cutString(m[5:])
	return cstring(rest)
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
