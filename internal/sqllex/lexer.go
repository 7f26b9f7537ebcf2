package sqllex

import "strings"

// token is the kind of the last token read. Only the kinds that the classifier
// asks about have a name; operators, numbers, parameters and strings are other.
type token uint8

const (
	tokEOF       token = iota
	tokWord            // unquoted identifier or keyword, folded to lower case in text()
	tokQuoted          // "identifier", verbatim in text()
	tokUnicode         // U&"…" or U&'…'
	tokSemicolon       // ;
	tokOpen            // (
	tokClose           // )
	tokOther
)

// maxText is longer than every name of PostgreSQL's. A longer identifier has no
// text: it cannot be one that the classifier knows.
const maxText = 64

// lexer cuts a statement text into tokens the way PostgreSQL's scan.l does with
// standard_conforming_strings on. It never allocates.
type lexer struct {
	src          string
	pos          int
	unterminated bool // the text ended inside a string, identifier or comment
	escapes      bool // there was an E'…'

	buf [maxText]byte
	n   int
}

// text returns the last word or quoted identifier, empty when it is too long to
// be of interest. It is valid until the next call of next.
func (l *lexer) text() []byte { return l.buf[:l.n] }

// next reads one token.
func (l *lexer) next() token {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		switch class[c] {
		case cSpace:
			l.pos++
			continue
		case cIdent:
			return l.word(c)
		case cDigit:
			// A number ends before a letter: PostgreSQL 14 reads 1from as two tokens,
			// later versions refuse it. What follows is lexed on its own either way.
			l.skipDigits()
			return tokOther
		case cSign:
			return l.sign(c)
		case cDash:
			if l.at(1) == '-' {
				l.pos = lineEnd(l.src, l.pos)
				continue
			}
		case cSlash:
			if l.at(1) == '*' {
				l.blockComment()
				continue
			}
		}
		// Operators are taken one character at a time. That finds the same comments
		// as scan.l, which cuts an operator at the first -- or /* inside it.
		l.pos++
		return tokOther
	}
	return tokEOF
}

// sign reads a token that starts with a character of its own meaning.
func (l *lexer) sign(c byte) token {
	l.pos++
	switch c {
	case ';':
		return tokSemicolon
	case '(':
		return tokOpen
	case ')':
		return tokClose
	case '\'':
		l.quoted('\'')
	case '"':
		l.quotedIdent()
		return tokQuoted
	case '$':
		l.dollar()
	}
	return tokOther
}

// dottedI is what PostgreSQL takes for an i in names, quotes aside, where a database has a Turkish locale and an encoding of single bytes.
// No other letter beyond ASCII becomes one of ASCII.
const dottedI = "İ"

// word reads an unquoted identifier, or the string or identifier it introduces.
func (l *lexer) word(c byte) token {
	n := 0
	i := l.pos
	for ; i < len(l.src); i++ {
		f := fold[l.src[i]]
		if f == 0 {
			break
		}
		if f == dottedI[0] && strings.HasPrefix(l.src[i:], dottedI) {
			f, i = 'i', i+1
		}
		l.buf[n%maxText] = f
		n++
	}
	l.pos = i
	if n == 1 {
		switch c | 0x20 {
		case 'e':
			if l.at(0) == '\'' {
				l.pos++
				l.escapeString()
				return tokOther
			}
		case 'u':
			if q := l.at(1); l.at(0) == '&' && (q == '\'' || q == '"') {
				l.pos += 2
				l.quoted(q)
				return tokUnicode
			}
			// B'', X'' and N'' need nothing: the quote that follows is read as a
			// plain string, which is how it ends for PostgreSQL too.
		}
	}
	if n > maxText {
		n = 0
	}
	l.n = n
	return tokWord
}

// quotedIdent reads the rest of a quoted identifier and keeps its text.
func (l *lexer) quotedIdent() {
	start := l.pos
	l.quoted('"')
	l.n = 0
	// A name with a doubled quote keeps it in text: no name of interest has one.
	if end := l.pos - 1; !l.unterminated && end-start <= maxText {
		l.n = copy(l.buf[:], l.src[start:end])
	}
}

// quoted reads up to and including the closing quote; a doubled quote stands for
// itself. A string continued on the next line is read as a second string.
func (l *lexer) quoted(quote byte) {
	for {
		i := strings.IndexByte(l.src[l.pos:], quote)
		if i < 0 {
			l.end()
			return
		}
		l.pos += i + 1
		if l.at(0) != quote {
			return
		}
		l.pos++
	}
}

// escapeString reads the rest of an E'…' string. A continuation of it on a later
// line still honours backslashes, so it belongs to the same token.
func (l *lexer) escapeString() {
	l.escapes = true
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		l.pos++
		switch c {
		case '\\':
			l.pos++
		case '\'':
			if l.at(0) == '\'' {
				l.pos++
			} else if !l.continued() {
				return
			}
		}
	}
	l.end()
}

// continued moves behind the opening quote of a string continuation, if one
// follows: white space with at least one line break, then a quote. Comments to
// the end of the line count as white space here, block comments do not.
func (l *lexer) continued() bool {
	newline := false
	for i := l.pos; i < len(l.src); i++ {
		switch c := l.src[i]; {
		case c == '\n' || c == '\r':
			newline = true
		case isSpace(c):
		case c == '-' && strings.HasPrefix(l.src[i:], "--"):
			i = lineEnd(l.src, i) - 1
		case c == '\'' && newline:
			l.pos = i + 1
			return true
		default:
			return false
		}
	}
	return false
}

// dollar reads what follows a dollar sign: a parameter, a dollar-quoted string,
// or nothing (a lone dollar is a syntax error that the server will report).
func (l *lexer) dollar() {
	if isDigit(l.at(0)) {
		l.skipDigits()
		return
	}
	open := l.pos - 1
	i := l.pos
	for i < len(l.src) && isIdentPart(l.src[i]) && l.src[i] != '$' {
		i++
	}
	if i >= len(l.src) || l.src[i] != '$' {
		return
	}
	tag := l.src[open : i+1]
	body := strings.Index(l.src[i+1:], tag)
	if body < 0 {
		l.end()
		return
	}
	l.pos = i + 1 + body + len(tag)
}

// blockComment moves over a comment; comments in it nest.
func (l *lexer) blockComment() {
	depth := 0
	for l.pos+1 < len(l.src) {
		switch {
		case l.src[l.pos] == '/' && l.src[l.pos+1] == '*':
			depth++
			l.pos += 2
		case l.src[l.pos] == '*' && l.src[l.pos+1] == '/':
			depth--
			l.pos += 2
			if depth == 0 {
				return
			}
		default:
			l.pos++
		}
	}
	l.end()
}

func (l *lexer) skipDigits() {
	for l.pos < len(l.src) && isDigit(l.src[l.pos]) {
		l.pos++
	}
}

// end stops the lexer because a token is not closed.
func (l *lexer) end() {
	l.pos = len(l.src)
	l.unterminated = true
}

// at returns the byte i places ahead, 0 behind the end of the text.
func (l *lexer) at(i int) byte {
	if l.pos+i < len(l.src) {
		return l.src[l.pos+i]
	}
	return 0
}

// lineEnd finds the end of a comment: a carriage return ends it too.
func lineEnd(s string, from int) int {
	for from < len(s) && s[from] != '\n' && s[from] != '\r' {
		from++
	}
	return from
}

func isDigit(c byte) bool     { return class[c] == cDigit }
func isSpace(c byte) bool     { return class[c] == cSpace }
func isIdentPart(c byte) bool { return fold[c] != 0 }

// Classes of the first byte of a token.
const (
	cOther uint8 = iota
	cSpace
	cIdent // every byte above ASCII too: PostgreSQL takes a no-break space for a letter
	cDigit
	cSign // ; ( ) ' " $
	cDash
	cSlash
)

// class holds the class of each byte. fold maps the bytes of an unquoted
// identifier to lower case and all others to 0.
var class, fold = tables()

func tables() (class, fold [256]uint8) {
	for i := range 256 {
		c := byte(i)
		switch {
		case c == ' ' || '\t' <= c && c <= '\r':
			class[c] = cSpace
		case 'A' <= c && c <= 'Z':
			class[c], fold[c] = cIdent, c+'a'-'A'
		case 'a' <= c && c <= 'z' || c == '_' || c >= 0x80:
			class[c], fold[c] = cIdent, c
		case '0' <= c && c <= '9':
			class[c], fold[c] = cDigit, c
		case c == '$':
			class[c], fold[c] = cSign, c
		case strings.IndexByte(`;()'"`, c) >= 0:
			class[c] = cSign
		case c == '-':
			class[c] = cDash
		case c == '/':
			class[c] = cSlash
		}
	}
	return class, fold
}
