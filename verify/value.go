package verify

import (
	"crypto/rand"
	"encoding/hex"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"time"
)

var precision = regexp.MustCompile(`^numeric\((\d+),(-?\d+)\)$`)

// fresh is a value that no row has yet, as far as the type has that many.
func (c *column) fresh() (string, bool) {
	n := number()
	text := "shardedpg-verify-" + strconv.FormatInt(n, 36)
	now := time.Now().UTC()
	switch {
	case c.Kind == "e":
		return c.Label, c.Label != ""
	case c.Category == "A":
		return "{}", true
	case c.Kind == "r", c.Category == "R":
		return "empty", true
	case c.Kind == "m":
		return "{}", true
	}
	switch c.Base {
	case "int2":
		return strconv.FormatInt(1000+n%30000, 10), true
	case "numeric":
		if m := precision.FindStringSubmatch(c.Type); m != nil {
			digits, _ := strconv.Atoi(m[1])
			scale, _ := strconv.Atoi(m[2])
			return strconv.FormatInt(1+n%int64(math.Pow10(min(max(digits-scale, 0), 9))), 10), digits > scale
		}
		return strconv.FormatInt(n, 10), true
	case "int4", "int8", "float4", "float8", "oid", "money":
		return strconv.FormatInt(n, 10), true
	case "text", "varchar", "bpchar", "name", "citext":
		if c.Length > 0 && int(c.Length) < len(text) {
			text = text[len(text)-int(c.Length):]
		}
		return text, true
	case "uuid":
		var b [16]byte
		_, _ = rand.Read(b[:])
		return hex.EncodeToString(b[:]), true
	case "bool":
		return "true", true
	case "date":
		return now.AddDate(0, 0, int(n%1000)).Format(time.DateOnly), true
	case "timestamp", "timestamptz":
		return now.Add(time.Duration(n%1e9) * time.Microsecond).Format(time.RFC3339Nano), true
	case "time", "timetz":
		return "12:00:00", true
	case "interval":
		return "1 hour", true
	case "json", "jsonb":
		return "{}", true
	case "bytea":
		return `\x` + hex.EncodeToString([]byte(text)), true
	case "inet", "cidr":
		return "2001:db8::" + strconv.FormatInt(n%65000, 16), true
	case "macaddr":
		return "02:00:00:00:00:01", true
	case "xml":
		return "<verify/>", true
	case "tsvector", "tsquery", "hstore", "ltree":
		return "verify", c.Base != "hstore"
	case "point":
		return "(1,1)", true
	}
	return "", false
}

// number is one that hardly any table has: a row must not collide with one of a real tenant.
func number() int64 {
	n, err := rand.Int(rand.Reader, big.NewInt(1e9))
	if err != nil {
		return time.Now().UnixNano() % 1e9
	}
	return 1e9 + n.Int64()
}

// usual are values that checks of applications ask for; the first six are new each time.
func usual() []string {
	n := strconv.FormatInt(number(), 10)
	return []string{
		"verify-" + n + "@example.com", "https://example.com/" + n, "+1" + n, n, "verify-" + n + ".example.com", "verify" + n, "1", "0", "100", "2", "a", "A", "verify",
		"2030-01-01", "0.5", "true", "false", "EUR", "DE", "en", `{"a": 1}`, "[1]", "{1}", "#00ff00", "1.2.3",
	}
}
