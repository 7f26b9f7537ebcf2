// Package sqllex tells what a statement text is before it is sent: how many
// statements it holds, whether it controls a transaction, and whether it can
// leave something behind in its session.
//
// It cuts the text into tokens exactly as PostgreSQL does and looks at keywords
// and names; it does not parse. Where tokens are not enough to decide, the answer
// is the careful one: not [Plain], or one flag too many. It is a trip-wire
// against mistakes, not a wall: a function, view or rule hides its body from any
// reader of the text. It assumes standard_conforming_strings = on and an ASCII
// superset as client encoding.
package sqllex

import (
	"cmp"
	"strings"
	"unsafe"
)

// Flags says what a text contains. "First" is the first statement that is not
// empty, "any" is every statement.
type Flags uint32

const (
	// Empty means: no statement at all; only white space, comments and semicolons.
	Empty Flags = 1 << iota
	// Multi means: more than one statement that is not empty.
	Multi
	// Plain means: at most one statement, and nothing in it can leave session state, a
	// session lock or a temporary object: SELECT without INTO, INSERT, UPDATE,
	// DELETE, MERGE, VALUES, TABLE, WITH, SHOW, FETCH, MOVE, savepoints, and
	// transaction control without CHAIN. An empty text is plain.
	Plain
	// Begin means: the first statement is BEGIN or START TRANSACTION.
	Begin
	// End means: the first statement is COMMIT, END, ABORT or ROLLBACK (not TO).
	End
	// RollbackTo means: any statement is ROLLBACK TO.
	RollbackTo
	// TxControl means: any statement begins or ends a transaction, PREPARE TRANSACTION
	// and COMMIT or ROLLBACK PREPARED included. Savepoints are not meant.
	TxControl
	// SetTransaction means: the first statement is SET TRANSACTION, SET of a
	// transaction_… setting, or SET CONSTRAINTS.
	SetTransaction
	// Writes means: the verb of the first statement writes for sure, or any names a function that writes a large object.
	Writes
	// Discard means: any statement is PREPARE, DEALLOCATE or DISCARD.
	Discard
	// SQLPrepared means: any statement is PREPARE, EXECUTE or DEALLOCATE of a statement that SQL has named.
	SQLPrepared
	// CopyIn means: any statement is COPY … FROM.
	CopyIn
	// DropsPrepared means: any statement is DISCARD ALL or DEALLOCATE ALL.
	DropsPrepared
	// ClusterWide means: any statement is CREATE, ALTER or DROP of a role, database or
	// tablespace, DROP OWNED, with which a login drops the policies that are for it alone,
	// or ALTER SYSTEM. No reset of a session undoes these.
	ClusterWide
	// StrictRefused means: the strict guard has something against the text, which
	// [Verdict].Strict names.
	StrictRefused
	// Unterminated means: the text ends inside a string, quoted identifier or comment.
	Unterminated
	// MayCommit means: any statement is CALL, or DO with a block that may end the transaction that it runs in and go on in another.
	MayCommit
	// Lasting means: it, or a block that it is, names a function that opens, for its session, what no reset closes: a connection of
	// dblink, a temporary replication slot.
	Lasting
)

// Verdict is the answer of [Scan].
type Verdict struct {
	Flags Flags
	// FirstEnd is the offset just past the semicolon that ends the first
	// statement, or the length of the text if none does.
	FirstEnd int
	// Strict is what the strict guard has against the text, if no first word is
	// allowed beside queries and data changes.
	Strict Finding
}

// Has reports whether all flags of f are set.
func (v Verdict) Has(f Flags) bool { return v.Flags&f == f }

// Scan classifies sql. It does not allocate and never fails: a text that
// PostgreSQL would reject gets flags like any other.
func Scan(sql string) Verdict {
	var s scanner
	text := sql
	if i := strings.IndexByte(sql, 0); i >= 0 {
		// The server stops reading here.
		text = sql[:i]
		s.refuse(OfNUL, "")
		s.sticky = true
	}
	s.lexer.src = text
	s.run()
	v := Verdict{Flags: s.flags, FirstEnd: s.firstEnd, Strict: s.found}
	if v.FirstEnd == 0 {
		v.FirstEnd = len(sql)
	}
	return v
}

// ScanBytes is Scan for a text in a buffer. It keeps no reference to it.
func ScanBytes(sql []byte) Verdict {
	//nolint:gosec // the string does not outlive the call, so the buffer cannot change under it
	return Scan(unsafe.String(unsafe.SliceData(sql), len(sql)))
}

// Ends returns the offsets just past each statement of sql that is not empty, in one pass.
func Ends(sql []byte) []int {
	ends := make([]int, 0, 4)
	s := scanner{ends: &ends}
	s.lexer.src = string(sql)
	s.run()
	return ends
}

// headLen is how many words of a statement decide its kind:
// CREATE OR REPLACE LOCAL TEMP is the longest.
const headLen = 5

// statement is what is known of the statement being read.
type statement struct {
	tokens int           // tokens behind leading parentheses
	head   [headLen]word // the first of them
	depth  int           // open parentheses

	prev     token // kind of the last token, tokEOF at the start
	prevWord word

	body     bool // inside BEGIN ATOMIC … END, whose semicolons do not end it
	bodyStmt bool // the next token starts a statement of that body
	query    bool // SELECT, VALUES or TABLE seen outside parentheses
	dataInto bool // the last INSERT or MERGE was a verb, so INTO behind it is its own
	copyFrom bool
	commits  bool // a block of DO may end a transaction

	verb    string // the first word, where the strict guard may have to name it
	explain bool   // the first word was EXPLAIN, and what it explains has yet to come
	options bool   // inside the options of EXPLAIN
}

type scanner struct {
	lexer lexer
	stmt  statement

	flags      Flags
	found      Finding
	statements int
	sticky     bool // something that Plain excludes was seen anywhere
	firstEnd   int  // 0 while no semicolon ended the first statement
	ends       *[]int
	from       int // where the last token, or what is in front of it, begins
}

func (s *scanner) run() {
	for {
		s.from = s.lexer.pos
		tok := s.lexer.next()
		if tok == tokEOF {
			break
		}
		if tok == tokSemicolon && s.stmt.depth == 0 && !s.stmt.body {
			s.finish(s.lexer.pos)
			continue
		}
		s.token(tok)
	}
	s.finish(0)
	if s.lexer.unterminated {
		s.flags |= Unterminated
		s.refuse(OfOpen, "")
		s.sticky = true
	}
	switch {
	case s.statements == 0:
		s.flags |= Empty | Plain
	case s.statements > 1:
		s.flags |= Multi
		s.refuse(OfSeveral, "")
		s.sticky = true
	}
	if s.sticky {
		s.flags &^= Plain
	}
}

// token takes one token of the current statement.
func (s *scanner) token(tok token) {
	st := &s.stmt
	w := wOther
	switch tok {
	case tokWord:
		w = lookup(s.lexer.text())
	case tokQuoted:
		if w = lookup(s.lexer.text()); !w.isName() {
			w = wOther
		}
	case tokUnicode:
		// Escapes could spell any name.
		s.refuse(OfUnicode, "")
		s.sticky = true
		if strings.HasSuffix(s.lexer.src[:s.lexer.pos], `"`) {
			s.flags |= Lasting
		}
	case tokOpen:
		st.depth++
	case tokClose:
		st.depth = max(st.depth-1, 0)
	}
	if st.tokens > 0 || tok != tokOpen { // parentheses in front are skipped
		if st.explain {
			s.explained(tok, w)
		}
		if st.tokens == 0 && tok == tokWord && (w < wSelect || w > wWith) {
			st.verb, st.explain = verb(s.lexer.text()), w == wExplain
		}
		if st.tokens < headLen {
			st.head[st.tokens] = w
		}
		st.tokens++
		if st.head[0] == wDo && st.tokens > 1 {
			s.block(tok, s.lexer.src[s.from:s.lexer.pos])
		}
		if w != wOther {
			s.inner(w)
		}
	}
	if st.body {
		st.bodyStmt = tok == tokSemicolon && st.depth == 0 || w == wAtomic && st.prevWord == wBegin
	}
	st.prev, st.prevWord = tok, w
}

// inner looks at words that matter wherever they stand.
func (s *scanner) inner(w word) {
	st := &s.stmt
	switch w {
	case wStickyRefused, wLasting, wLargeWrite:
		s.refuse(OfName, barred(s.lexer.text()))
		s.sticky = true
		switch w {
		case wLasting:
			s.flags |= Lasting
		case wLargeWrite:
			s.flags |= Writes
		}
	case wSticky:
		s.sticky = true
	case wRefused:
		s.refuse(OfName, barred(s.lexer.text()))
	case wSelect, wValues, wTable:
		st.query = st.query || st.depth == 0
	case wInsert, wMerge:
		// Both are also legal names of columns, and SELECT insert INTO t creates a
		// table. They are verbs at the start, in WITH x AS (INSERT …), and in
		// WITH … INSERT as long as no query has started.
		st.dataInto = st.tokens == 1 || st.prev == tokOpen ||
			st.head[0] == wWith && st.depth == 0 && !st.query
	case wInto:
		verb := st.prevWord == wInsert || st.prevWord == wMerge
		if !verb || !st.dataInto {
			s.sticky = true
		}
	case wFrom:
		st.copyFrom = st.copyFrom || st.head[0] == wCopy && st.depth == 0
	case wAtomic:
		st.body = st.body || st.prevWord == wBegin && st.depth == 0 && st.createsRoutine()
	case wEnd:
		// Only the END of the body can stand where a statement would start; that
		// of a CASE, or a column label, cannot.
		if st.bodyStmt {
			st.body = false
		}
	}
}

// createsRoutine reports CREATE [OR REPLACE] FUNCTION or PROCEDURE.
func (st *statement) createsRoutine() bool {
	return st.head[0] == wCreate &&
		(st.head[1] == wRoutine || st.head[1] == wOr && st.head[3] == wRoutine)
}

// finish ends the current statement, which may be empty, at the offset behind its
// semicolon, 0 if it has none.
func (s *scanner) finish(end int) {
	if s.stmt.prev != tokEOF {
		s.statements++
		if s.ends != nil {
			*s.ends = append(*s.ends, cmp.Or(end, len(s.lexer.src)))
		}
		f := s.stmt.flags()
		if s.statements == 1 {
			s.firstEnd = end
		} else {
			f &^= Begin | End | SetTransaction | Writes | Plain
		}
		s.flags |= f
		if f&StrictRefused != 0 {
			s.refuse(OfVerb, s.stmt.verb)
		}
	}
	s.stmt = statement{}
}

// flags judges a whole statement by its first words.
func (st *statement) flags() Flags {
	h := &st.head
	switch h[0] {
	case wSelect, wWith, wValues, wTable:
		return Plain
	case wInsert, wUpdate, wDelete, wMerge:
		return Plain | Writes
	case wSavepoint, wRelease, wShow, wFetch, wMove:
		return Plain | StrictRefused
	case wBegin, wStart:
		return Plain | TxControl | Begin | StrictRefused
	case wCommit, wEnd, wAbort, wRollback:
		return st.endFlags()
	case wPrepare:
		if h[1] == wTransaction {
			return Discard | TxControl | StrictRefused
		}
		return Discard | SQLPrepared | StrictRefused
	case wExecute:
		return SQLPrepared | StrictRefused
	case wDeallocate:
		if h[1] == wAll || h[1] == wPrepare && h[2] == wAll {
			return Discard | SQLPrepared | DropsPrepared | StrictRefused
		}
		return Discard | SQLPrepared | StrictRefused
	case wDiscard:
		if h[1] == wAll {
			return Discard | DropsPrepared | StrictRefused
		}
		return Discard | StrictRefused
	case wSet:
		return st.setFlags()
	case wCreate, wAlter, wDrop:
		return st.ddlFlags()
	case wCopy:
		if st.copyFrom {
			return CopyIn | Writes | StrictRefused
		}
	case wWriter:
		return Writes | StrictRefused
	case wCall:
		return MayCommit | StrictRefused
	case wDo:
		if st.commits {
			return MayCommit | StrictRefused
		}
	}
	return StrictRefused
}
