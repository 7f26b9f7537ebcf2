package backend

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

// classify says what a message makes the server run. Parse and Query carry the text; Bind names a statement whose text
// was seen when it was parsed.
func (w *wire) classify(m []byte) (sqllex.Verdict, []byte) {
	switch m[0] {
	case 'Q':
		text := cstring(m[5:])
		return w.verdicts.Scan(text), text
	case 'P':
		name, rest := cutString(m[5:])
		text := cstring(rest)
		v := w.verdicts.Scan(text)
		w.stmts[string(name)] = v
		return v, text
	case 'B':
		return w.stmts[string(boundStatement(m))], nil
	}
	return sqllex.Verdict{Flags: sqllex.Plain}, nil
}

// cutString returns the zero-terminated string at the start of b, and what follows it.
func cutString(b []byte) (s, rest []byte) {
	s, rest, _ = bytes.Cut(b, []byte{0})
	return s, rest
}

func cstring(b []byte) []byte {
	s, _ := cutString(b)
	return s
}

// parsesNext reports whether another statement is parsed before anything is executed.
func parsesNext(rest []byte) bool {
	for len(rest) >= 5 {
		switch rest[0] {
		case 'P':
			return true
		case 'E', 'S', 'Q':
			return false
		}
		n := 1 + int(binary.BigEndian.Uint32(rest[1:]))
		if n < 5 || n > len(rest) {
			return false
		}
		rest = rest[n:]
	}
	return false
}

// closers counts the messages in p that the server would answer with ReadyForQuery.
func closers(p []byte) (n int) {
	for len(p) >= 5 {
		if p[0] == 'S' || p[0] == 'Q' || p[0] == 'F' {
			n++
		}
		size := 1 + int(binary.BigEndian.Uint32(p[1:]))
		if size > len(p) {
			break
		}
		p = p[size:]
	}
	return n
}

// appendExtended appends a Query's text as messages of the extended protocol, statement by statement. The server answers them
// with one ReadyForQuery, at the Sync behind them. A pooler gives the server connection to the next client at the first one
// that it sees, and the second one of a Query and a Sync would be that client's, with all that follows. PostgreSQL 18 does not
// end the transaction of such a Query at all: see wire.joins.
func appendExtended(dst, text []byte) []byte {
	start := 0
	for _, end := range sqllex.Ends(text) {
		statement := string(text[start:end])
		if len(text) <= maxPadded {
			// Blanks in front keep positions in errors right. They are counted in characters.
			statement = strings.Repeat(" ", utf8.RuneCount(text[:start])) + statement
		}
		dst = appendParse(dst, "", statement, 0)
		dst = must((&pgproto3.Bind{}).Encode(dst))
		dst = must((&pgproto3.Describe{ObjectType: 'P'}).Encode(dst))
		dst = append(dst, executeUnnamed...)
		start = end
	}
	return dst
}

// withTail returns a Query of one command with one of ours behind it. With two, the server ends the transaction of the flight
// with the last of them, whatever version it is. The line break ends a comment; a quote that is left open swallows the tail,
// and is the same error then.
func withTail(m []byte) []byte {
	return must((&pgproto3.Query{String: string(cstring(m[5:])) + "\n;select"}).Encode(nil))
}

// maxPadded bounds what blanks may add to a string of many statements. In a longer one, positions count from the statement.
const maxPadded = 16 << 10

// passes reports whether p holds only messages that end no segment and need nothing in front: COPY data and its end, and
// Terminate.
func passes(p []byte) bool {
	for len(p) >= 5 {
		switch p[0] {
		case 'd', 'c', 'f', 'X':
		default:
			return false
		}
		n := 1 + int(binary.BigEndian.Uint32(p[1:]))
		if n < 5 || n > len(p) {
			return false
		}
		p = p[n:]
	}
	return len(p) == 0
}
