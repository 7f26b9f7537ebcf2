package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// maxIdentifier is PostgreSQL's limit; it cuts longer identifiers silently.
const maxIdentifier = 63

// ident quotes an identifier, which may be qualified.
func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// literal quotes a text constant, whatever standard_conforming_strings is.
func literal(text string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(text) + "'"
}

// partitionName is the name of a tenant's partition of a table: as much of both names as fits, to be read, and a hash of
// both, because "a_b" of tenant "c" and "a" of tenant "b_c" are two partitions.
func partitionName(table, tenant string) string {
	sum := sha256.Sum256([]byte(table + "\x00" + tenant))
	hash := "_" + hex.EncodeToString(sum[:6])
	readable := strings.Map(func(c rune) rune {
		if c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToLower(tenant))
	table = cut(table, 30)
	return table + "_" + cut(readable, maxIdentifier-len(table)-1-len(hash)) + hash
}

// cut shortens a name to at most most bytes, between characters.
func cut(name string, most int) string {
	if len(name) <= most {
		return name
	}
	for most > 0 && !utf8.RuneStart(name[most]) {
		most--
	}
	return name[:most]
}

// mark is the comment on what belongs to a tenant, so that nothing is taken for a tenant's that is somebody else's.
func mark(tenant string) string { return "sharded-pg: tenant " + tenant }
