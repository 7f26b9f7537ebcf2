package sqllex

import "strings"

// endFlags judges COMMIT, END, ABORT and ROLLBACK.
func (st *statement) endFlags() Flags {
	for _, w := range st.head[1:] {
		switch w {
		case wTo:
			return Plain | RollbackTo | StrictRefused
		case wPrepared:
			return TxControl | StrictRefused
		case wAnd:
			// AND CHAIN starts a transaction without the settings of the first.
			return TxControl | End | StrictRefused
		}
	}
	return Plain | TxControl | End | StrictRefused
}

func (st *statement) setFlags() Flags {
	i := 1
	if st.head[i] == wLocal || st.head[i] == wSession {
		i++
	}
	switch st.head[i] {
	case wTransaction, wTxSetting, wConstraints:
		return SetTransaction | StrictRefused
	}
	return StrictRefused
}

func (st *statement) ddlFlags() Flags {
	h := &st.head
	switch h[1] {
	case wClusterObject, wSystem:
		return Writes | ClusterWide | StrictRefused
	case wUser:
		// USER MAPPING FOR and USER MAPPING IF EXISTS belong to one database;
		// anything else behind MAPPING means a role of that name.
		if h[2] == wMapping && (h[3] == wFor || h[3] == wIf) {
			return Writes | StrictRefused
		}
		return Writes | ClusterWide | StrictRefused
	}
	i := 1
	if h[i] == wOr {
		i += 2
	}
	if h[i] == wLocal {
		i++
	}
	if h[0] == wCreate && h[i] == wTemp {
		return StrictRefused // some temporary objects may be written in a read-only transaction
	}
	return Writes | StrictRefused
}

// block judges a part of what a DO is given: whether it may end a transaction, or call what does, and whether it names what lasts. No
// language hides these words in what it executes; escapes do, and a string that goes on in another line.
func (s *scanner) block(tok token, text string) {
	st := &s.stmt
	text = strings.ToLower(text)
	st.commits = st.commits || tok == tokUnicode || s.lexer.escapes || tok == tokOther && st.prev == tokOther
	for _, word := range []string{"call", "commit", "rollback", `\`} {
		st.commits = st.commits || strings.Contains(text, word)
	}
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r < 0x80 && !isIdentPart(byte(r)) }) {
		if lookup([]byte(word)) == wLasting {
			s.flags |= Lasting
		}
	}
}
