package sqllex_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

// perFirst are the flags that speak about the first statement only.
const perFirst = begin | end | setTx | writes

func FuzzScan(f *testing.F) {
	for _, tc := range verdicts {
		f.Add(tc.sql)
	}
	f.Fuzz(func(t *testing.T, sql string) { checkScan(t, sql) })
}

func checkScan(t *testing.T, sql string) {
	t.Helper()
	v := sqllex.Scan(sql)
	require.Equal(t, v, sqllex.ScanBytes([]byte(sql)))
	require.GreaterOrEqual(t, v.FirstEnd, 0)
	require.LessOrEqual(t, v.FirstEnd, len(sql))

	require.False(t, v.Has(empty|multi))
	require.False(t, v.Has(plain|multi))
	require.False(t, v.Has(plain|unterm))
	require.False(t, v.Has(plain|discard), "a plain text cannot touch prepared statements")
	require.False(t, v.Has(plain|cluster))
	if v.Has(multi) || v.Has(unterm) {
		require.True(t, v.Has(refused))
	}
	if v.Flags&(begin|end) != 0 {
		require.True(t, v.Has(txc))
	}

	// The first statement alone is judged as it is inside the whole.
	first := sqllex.Scan(sql[:v.FirstEnd])
	require.Equal(t, v.Flags&perFirst, first.Flags&perFirst)
	require.False(t, first.Has(multi))
	require.Zero(t, first.Flags&^v.Flags&^(plain|empty), "a part has no flag that the whole lacks")

	// Comments, white space and semicolons in front change nothing but the offset.
	front := "-- a\r /* b /* ; */ */\t;\n"
	w := sqllex.Scan(front + sql)
	require.Equal(t, v.Flags, w.Flags)
	require.Equal(t, v.FirstEnd+len(front), w.FirstEnd)

	if v.Has(unterm) {
		return
	}
	require.Equal(t, names(v.Flags), names(sqllex.Scan(sql+"\n/* ; commit */ -- ; commit").Flags))
	// An open parenthesis or an open BEGIN ATOMIC swallows what follows, and a NUL ends it.
	if !v.Has(empty) && !strings.ContainsAny(sql, "(\x00") && !strings.Contains(strings.ToLower(sql), "atomic") {
		more := sqllex.Scan(sql + "\n;rollback")
		require.True(t, more.Has(multi|txc), "a statement behind a closed text is seen")
	}
	if !strings.ContainsAny(sql, `'"$`) {
		require.Equal(t, v, sqllex.ScanBytes(swapCase(sql)))
	}
}

func swapCase(s string) []byte {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c|0x20 && c|0x20 <= 'z' {
			b[i] ^= 0x20
		}
	}
	return b
}

// pieces are glued together in any order by FuzzPieces: random bytes rarely open
// a dollar quote or a nested comment.
var pieces = []string{
	" ", "\n", "\r", ";", "(", ")", "'", "''", `"`, `""`, `\`, `\'`, "$", "$$", "$a$", "$1", "--", "/*", "*/", "*", "/", "-",
	"E'", "e", "U&'", `u&"`, "&", "N'", ".", "1", "é", "a", "x'",
	"select", "insert", "into", "with", "as", "begin", "atomic", "end", "case", "commit", "rollback", "to", "work", "chain", "and",
	"create", "or", "replace", "function", "procedure", "rule", "do", "temp", "user", "mapping", "for", "set_config", "set", "transaction",
	"\x00", "discard", "all", "deallocate", "prepare",
}

func FuzzPieces(f *testing.F) {
	f.Add([]byte{33, 0, 28, 3, 40})
	f.Fuzz(func(t *testing.T, picks []byte) {
		var b strings.Builder
		for _, p := range picks {
			piece := pieces[int(p)%len(pieces)]
			b.WriteString(piece)
			if p >= 128 {
				b.WriteByte(' ')
			}
		}
		checkScan(t, b.String())
	})
}
