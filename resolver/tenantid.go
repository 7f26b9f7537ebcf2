package resolver

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInvalidTenant: the text cannot be a tenant ID; see [ValidTenantID] for the rule. Fix the caller: no registry knows
// such a tenant.
var ErrInvalidTenant = errors.New("invalid tenant ID")

// MaxTenantID is the longest tenant ID in bytes.
const MaxTenantID = 255

// Bits of a byte's class; bytes outside ASCII have none.
const (
	idAllowed = 1 << iota
	idHexLower
	idHexUpper
)

var idClass = func() (class [256]uint8) {
	for c := '!'; c <= '~'; c++ {
		if !strings.ContainsRune("'\"\\`,;{}", c) {
			class[c] = idAllowed
		}
	}
	for c := '0'; c <= '9'; c++ {
		class[c] |= idHexLower | idHexUpper
	}
	for c := 'a'; c <= 'f'; c++ {
		class[c] |= idHexLower
		class[c-'a'+'A'] |= idHexUpper
	}
	return class
}()

// ValidTenantID returns nil when id can be a tenant ID, and otherwise an error that matches [ErrInvalidTenant] and names
// the rule that id breaks.
//
// A tenant ID is 1 to 255 bytes of valid UTF-8: printable characters other than spaces, quotes, backslashes, backticks,
// commas, semicolons and braces. A UUID must be written in its canonical form (lower case, hyphens as in 8-4-4-4-12):
// PostgreSQL reads other spellings as the same uuid, and then two IDs would be one tenant.
//
// It is called for each statement: it does not allocate unless it fails.
func ValidTenantID(id string) error {
	if len(id) == 0 {
		return fmt.Errorf("%w: it is empty", ErrInvalidTenant)
	}
	if len(id) > MaxTenantID {
		return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrInvalidTenant, quoteID(id), len(id), MaxTenantID)
	}
	if canonicalUUID(id) {
		return nil
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if c >= utf8.RuneSelf {
			return validUnicodeID(id)
		}
		if idClass[c]&idAllowed == 0 {
			return invalidCharacter(id, rune(c))
		}
	}
	// Only these lengths can hold 32 digits with the hyphens PostgreSQL allows, or with Go's "urn:uuid:".
	if len(id) >= 32 && len(id) <= 32+31+len(urnPrefix) {
		return foreignUUID(id)
	}
	return nil
}

const urnPrefix = "urn:uuid:"

// validUnicodeID is the rule for IDs with characters outside ASCII; such an ID is no spelling of a UUID.
func validUnicodeID(id string) error {
	for i, r := range id {
		switch {
		case r == utf8.RuneError && strings.HasPrefix(id[i:], string(utf8.RuneError)):
			return invalidCharacter(id, r)
		case r == utf8.RuneError:
			return fmt.Errorf("%w: %s is not valid UTF-8", ErrInvalidTenant, quoteID(id))
		case r < utf8.RuneSelf && idClass[r]&idAllowed == 0, r >= utf8.RuneSelf && !unicode.IsPrint(r):
			return invalidCharacter(id, r)
		}
	}
	return nil
}

func invalidCharacter(id string, r rune) error {
	if strings.ContainsAny(id, "{}") {
		if canonical, ok := readUUID(strings.TrimSuffix(strings.TrimPrefix(id, "{"), "}")); ok {
			return fmt.Errorf("%w: %s: write it as %q", ErrInvalidTenant, quoteID(id), canonical)
		}
	}
	return fmt.Errorf("%w: %s: character %q is not allowed", ErrInvalidTenant, quoteID(id), r)
}

func canonicalUUID(id string) bool {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return false
	}
	return lowerHex(id[:8]) && lowerHex(id[9:13]) && lowerHex(id[14:18]) && lowerHex(id[19:23]) && lowerHex(id[24:])
}

func lowerHex(digits string) bool {
	all := uint8(idHexLower)
	for i := range len(digits) {
		all &= idClass[digits[i]]
	}
	return all != 0
}

// foreignUUID refuses spellings of a UUID that are not the canonical one. id is ASCII.
func foreignUUID(id string) error {
	rest := id
	if len(rest) > len(urnPrefix) && strings.EqualFold(rest[:len(urnPrefix)], urnPrefix) {
		rest = rest[len(urnPrefix):]
	}
	digits := 0
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case idClass[c]&(idHexLower|idHexUpper) != 0:
			digits++
		case c != '-':
			return nil
		}
	}
	if digits != 32 {
		return nil
	}
	canonical, _ := readUUID(rest)
	return fmt.Errorf("%w: %s: write it as %q", ErrInvalidTenant, quoteID(id), canonical)
}

// readUUID gives the canonical form of 32 hexadecimal digits in either case, with hyphens anywhere between them.
func readUUID(text string) (canonical string, ok bool) {
	digits := strings.ToLower(strings.ReplaceAll(text, "-", ""))
	if len(digits) != 32 || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", false
	}
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:], true
}

// quoteID makes an ID from outside fit for an error text: no control characters, at most 80 bytes of it.
func quoteID(id string) string {
	const most = 80
	if len(id) <= most {
		return fmt.Sprintf("%q", id)
	}
	return fmt.Sprintf("%q (cut)", strings.ToValidUTF8(id[:most], ""))
}
