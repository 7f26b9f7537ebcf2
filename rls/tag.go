package rls

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	// TagPrefix begins the application_name of a session that works for a tenant.
	TagPrefix = "tenant:"

	mostTag   = 63 // bytes; PostgreSQL cuts what is longer, and then two tenants would share a tag
	hashBytes = 16
)

// ApplicationName is the tag that names a tenant in pg_stat_activity: "tenant:" and its ID. PostgreSQL cuts names at 63 bytes
// and replaces what is not printable ASCII, so an ID that is longer than 56 bytes or has other characters stands there as its
// beginning, a space, which no ID has, and a hash. Different IDs have different tags.
func ApplicationName(tenant string) string {
	if len(TagPrefix)+len(tenant) <= mostTag && !strings.ContainsFunc(tenant, foreign) {
		return TagPrefix + tenant
	}
	sum := sha256.Sum256([]byte(tenant))
	hash := hex.EncodeToString(sum[:hashBytes])
	begin := strings.Map(func(r rune) rune {
		if foreign(r) {
			return '?'
		}
		return r
	}, tenant)
	return TagPrefix + begin[:min(len(begin), mostTag-len(TagPrefix)-1-len(hash))] + " " + hash
}

func foreign(r rune) bool { return r < '!' || r > '~' }
