package resolver_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/resolver"
)

const canonicalUUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

func TestValidTenantIDAccepts(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"a", "acme", "ACME-2", "acme_corp.eu", "42", "user@example.org", "a/b:c", "münchen", "顧客", canonicalUUID,
		strings.Repeat("x", 255), strings.Repeat("ab", 15), strings.Repeat("ab", 17), "urn:uuid", strings.Repeat("-", 36),
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
	} {
		require.NoError(t, resolver.ValidTenantID(id), "%q", id)
	}
}

func TestValidTenantIDRefuses(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]string{
		"empty":               "",
		"too long":            strings.Repeat("x", 256),
		"leading space":       " acme",
		"trailing space":      "acme ",
		"inner space":         "a b",
		"no-break space":      "a\u00a0b",
		"zero-width space":    "a\u200bb",
		"right-to-left mark":  "a\u200fb",
		"newline":             "acme\n",
		"nul":                 "ac\x00me",
		"delete":              "ac\x7fme",
		"C1 control":          "ac\u0085me",
		"broken UTF-8":        "ac\xffme",
		"replacement":         "ac\ufffdme",
		"quote":               "o'neil",
		"double quote":        `a"b`,
		"backslash":           `a\b`,
		"backtick":            "a`b",
		"comma":               "a,b",
		"semicolon":           "a;b",
		"brace":               "a{b",
		"control after ü":     "ü\x01",
		"quote after unicode": "ü'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := resolver.ValidTenantID(id)
			require.ErrorIs(t, err, resolver.ErrInvalidTenant)
			require.Less(t, len(err.Error()), 400)
			for _, r := range err.Error() {
				require.True(t, unicode.IsPrint(r), "%q", err)
			}
		})
	}
}

func TestValidTenantIDNamesTheCanonicalFormOfAUUID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		strings.ToUpper(canonicalUUID),
		"A" + canonicalUUID[1:],
		"{" + canonicalUUID + "}",
		strings.ReplaceAll(canonicalUUID, "-", ""),
		strings.ToUpper(strings.ReplaceAll(canonicalUUID, "-", "")),
		"a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
		"a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11",
		"urn:uuid:" + canonicalUUID,
		"{" + strings.ReplaceAll(canonicalUUID, "-", "") + "}",
	} {
		err := resolver.ValidTenantID(id)
		require.ErrorIs(t, err, resolver.ErrInvalidTenant, "%q", id)
		require.ErrorContains(t, err, `write it as "`+canonicalUUID+`"`)
	}
}

func TestValidTenantIDDoesNotAllocate(t *testing.T) {
	for _, id := range []string{"acme", canonicalUUID, "münchen", strings.Repeat("x", 255)} {
		require.Zero(t, testing.AllocsPerRun(100, func() { _ = resolver.ValidTenantID(id) }), id)
	}
}

func BenchmarkValidTenantID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = resolver.ValidTenantID(canonicalUUID)
	}
}

func FuzzValidTenantID(f *testing.F) {
	for _, seed := range []string{"", "acme", canonicalUUID, strings.ToUpper(canonicalUUID), "{" + canonicalUUID + "}", "a\x00", "ü", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		err := resolver.ValidTenantID(id)
		if err != nil {
			require.ErrorIs(t, err, resolver.ErrInvalidTenant)
			for _, r := range err.Error() {
				require.True(t, unicode.IsPrint(r) && r != utf8.RuneError || r == utf8.RuneError && utf8.ValidString(id), "%q", err)
			}
			return
		}
		require.True(t, len(id) >= 1 && len(id) <= resolver.MaxTenantID && utf8.ValidString(id))
		require.False(t, strings.ContainsAny(id, " '\"\\`,;{}\n\r\t\x00"))
		require.Equal(t, id, strings.TrimSpace(id))
		// No two accepted IDs are one uuid to PostgreSQL.
		if digits := strings.ReplaceAll(id, "-", ""); len(digits) == 32 && strings.Trim(digits, "0123456789abcdefABCDEF") == "" {
			require.Equal(t, strings.ToLower(id), id)
			require.Equal(t, []int{8, 4, 4, 4, 12}, lengths(strings.Split(id, "-")))
		}
	})
}

func lengths(parts []string) (n []int) {
	for _, part := range parts {
		n = append(n, len(part))
	}
	return n
}
