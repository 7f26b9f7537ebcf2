package registry

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// expand replaces each ${NAME} in a DSN by the variable's value. Values are not expanded again, and a $ without a brace
// is left alone, because passwords have them. Errors name variables and never quote the DSN.
func expand(dsn string) (string, error) {
	var out strings.Builder
	err := references(dsn, func(text, name string) error {
		out.WriteString(text)
		if name == "" {
			return nil
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			return fmt.Errorf("environment variable %s is not set: set it where this program runs", name)
		}
		out.WriteString(value)
		return nil
	})
	if err != nil {
		return "", err
	}
	return out.String(), nil
}

// checkReferences refuses a DSN whose references could never be expanded.
func checkReferences(dsn string) error {
	return references(dsn, func(string, string) error { return nil })
}

// references calls each with the text before each reference and its name, and at the end with the rest and no name.
func references(dsn string, each func(text, name string) error) error {
	for {
		text, rest, found := strings.Cut(dsn, "${")
		if !found {
			return each(text, "")
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return errors.New("a ${ without a closing brace: write references as ${NAME}")
		}
		if !variableName(name) {
			return errors.New("a ${...} that is no variable name: use letters, digits and underscores, not a digit first")
		}
		if err := each(text, name); err != nil {
			return err
		}
		dsn = after
	}
}

func variableName(name string) bool {
	for i, c := range name {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// expandShard returns what programs use of a shard, with its DSNs expanded.
func expandShard(s Shard) (resolver.Shard, error) {
	out := resolver.Shard{Name: s.Name}
	var errs [2]error
	out.DSN, errs[0] = expandField(s.Name, "dsn", s.DSN)
	out.AdminDSN, errs[1] = expandField(s.Name, "admin dsn", s.AdminDSN)
	if err := errors.Join(errs[:]...); err != nil {
		return resolver.Shard{}, err
	}
	return out, nil
}

// expandShards returns those that can be expanded, and what is wrong with the others.
func expandShards(stored []Shard) ([]resolver.Shard, error) {
	shards, admin := make([]resolver.Shard, 0, len(stored)), true
	var errs []error
	for _, shard := range stored {
		expanded, err := expandShard(shard)
		if err == nil {
			shards = append(shards, expanded)
			continue
		}
		errs = append(errs, err)
		_, err = expand(shard.DSN)
		admin = admin && err == nil
	}
	err := errors.Join(errs...)
	if err != nil && admin {
		err = adminError{err}
	}
	return shards, err
}

// adminError is what is wrong with admin DSNs, where all others are right.
type adminError struct{ error }

func (e adminError) Is(target error) bool { return target == ErrAdminDSN }
func (e adminError) Unwrap() error        { return e.error }

func expandField(shard, field, dsn string) (string, error) {
	out, err := expand(dsn)
	if err != nil {
		return "", fmt.Errorf("%s of shard %q: %w", field, shard, err)
	}
	return out, nil
}

// Where a password can be: in the user part of a URL, as a keyword or as a query parameter.
var (
	urlPassword     = regexp.MustCompile(`^[a-z]+://[^/?#@]*?:([^/?#]*)@`)
	keywordPassword = regexp.MustCompile(`(?i)(?:^|[\s?&])(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]*)`)
	wholeReference  = regexp.MustCompile(`^'?\$\{[A-Za-z_][A-Za-z0-9_]*\}'?$`)
)

// holdsPassword reports whether a DSN holds a password in clear.
func holdsPassword(dsn string) bool {
	var found []string
	if m := urlPassword.FindStringSubmatch(dsn); m != nil {
		found = append(found, m[1])
	}
	for _, m := range keywordPassword.FindAllStringSubmatch(dsn, -1) {
		found = append(found, m[1])
	}
	for _, password := range found {
		if password != "" && password != "''" && !wholeReference.MatchString(password) {
			return true
		}
	}
	return false
}

// ExpandDSN replaces each ${NAME} in a DSN by the environment variable's value, for tools that connect to a shard. Its
// errors name the variable and never quote the DSN.
func ExpandDSN(dsn string) (string, error) { return expand(dsn) }
