package sqllex

import (
	"slices"
	"strings"
)

// Finding is what the strict guard has against a text. The zero value is nothing.
type Finding struct {
	Why Why
	// Word is the name (OfName) or the first keyword (OfVerb, OfExplained) in question, in lower case. It is always one of
	// ours and never a piece of the text: empty for a first word that is no statement of PostgreSQL's.
	Word string
}

// Why is a kind of Finding. Of several the highest counts.
type Why uint8

const (
	// OfVerb means: it starts with something else than a query or a data change.
	OfVerb Why = iota + 1
	// OfExplained means: it starts with EXPLAIN, and what that runs is neither a query nor a data change.
	OfExplained
	// OfName means: it names a function or view that reaches around the guard.
	OfName
	// OfUnicode means: it has a U& form, which could spell any name.
	OfUnicode
	// OfSeveral means: it holds more than one statement.
	OfSeveral
	// OfNUL means: it holds a NUL byte, where the server stops reading.
	OfNUL
	// OfOpen means: it ends inside a string, a quoted name or a comment.
	OfOpen
)

// refuse notes a finding, and keeps the one that says most.
func (s *scanner) refuse(why Why, word string) {
	s.flags |= StrictRefused
	if why > s.found.Why {
		s.found = Finding{why, word}
	}
}

// explained looks for the first word of what EXPLAIN runs. In front of it come ANALYZE and VERBOSE, or options in
// parentheses; a parenthesis that starts with a query holds no options.
func (s *scanner) explained(tok token, w word) {
	st := &s.stmt
	query := w == wSelect || w == wWith || w == wValues || w == wTable
	switch {
	case tok == tokOpen || st.depth > 0 && st.options:
		return
	case tok == tokClose:
		st.options = false
		return
	case st.depth > 0 && !query && st.prev == tokOpen:
		st.options = true
		return
	case tok == tokWord && (w == wAnalyze || w == wVerbose):
		return
	}
	st.explain = false
	if !query && (w < wInsert || w > wMerge) {
		word := ""
		if tok == tokWord {
			word = verb(s.lexer.text())
		}
		s.refuse(OfExplained, word)
	}
}

// verbs are the first words of PostgreSQL's statements, but for those that every guard lets through.
var verbs = strings.Fields("abort alter analyse analyze begin call checkpoint close cluster comment commit copy create deallocate " +
	"declare discard do drop end execute explain fetch grant import listen load lock move notify prepare reassign refresh " +
	"reindex release reset revoke rollback savepoint security set show start truncate unlisten vacuum")

// verb returns name if it is one of the verbs, else nothing.
func verb(name []byte) string {
	for _, v := range verbs {
		if v == string(name) {
			return v
		}
	}
	return ""
}

// allowable are the verbs that the strict guard can be told to let through: no statement that they start can change a
// setting, run a text that is hidden in a string, or run a statement that SQL has prepared.
var allowable = strings.Fields("abort analyze begin call close commit copy declare end explain fetch listen lock move notify release " +
	"rollback savepoint show start truncate unlisten")

// Allowable lists the first words that may be allowed beside queries and data changes, in alphabetical order.
func Allowable() []string { return slices.Clone(allowable) }

// CanAllow reports whether word is in that list.
func CanAllow(word string) bool { return slices.Contains(allowable, word) }
