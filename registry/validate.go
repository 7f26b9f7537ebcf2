package registry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// maxIdentifier is PostgreSQL's limit; longer identifiers are cut silently, and then two tenants would share one.
const maxIdentifier = 63

// problems collects what is wrong with one value, so that a caller hears all of it at once.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// err returns all problems under one heading, or nil.
func (p problems) err(kind, name string) error {
	if len(p) == 0 {
		return nil
	}
	return fmt.Errorf("%w %s %q: %w", ErrInvalid, kind, cut(name), errors.Join(p...))
}

func cut(name string) string {
	if len(name) <= 80 {
		return name
	}
	return strings.ToValidUTF8(name[:80], "") + "..."
}

// many writes "1 tenant" and "2 tenants".
func many(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func checkDSN(p *problems, field, dsn string) {
	if strings.ContainsFunc(dsn, unicode.IsControl) || !utf8.ValidString(dsn) {
		p.add("%s holds control characters or broken UTF-8: check how it was pasted", field)
	}
	if err := checkReferences(dsn); err != nil {
		p.add("%s: %w", field, err)
	}
}

func validatePlan(plan Plan) error {
	var p problems
	checkName(&p, "name", plan.Name)
	planProblems(&p, plan)
	if plan.Burst > 0 && plan.Rate == 0 {
		p.add("burst is %d without a rate: set a rate, or the burst to 0", plan.Burst)
	}
	return p.err("plan", plan.Name)
}

// planProblems is the rule for limits.
func planProblems(p *problems, plan Plan) {
	const mostMillis = math.MaxInt32
	switch d := plan.StatementTimeout; {
	case d == resolver.Unlimited:
	case d == 0:
		p.add("statement timeout is 0: use resolver.Unlimited for no limit")
	case d < time.Millisecond || d%time.Millisecond != 0 || d.Milliseconds() > mostMillis:
		p.add("statement timeout is %v: use whole milliseconds between 1ms and %v", d, mostMillis*time.Millisecond)
	}
	if plan.WorkMemKB < 64 || plan.WorkMemKB > math.MaxInt32 {
		p.add("work_mem is %d kB: PostgreSQL takes 64 to %d", plan.WorkMemKB, math.MaxInt32)
	}
	if plan.MaxConns < 1 || plan.MaxConns > math.MaxInt32 {
		p.add("max conns is %d: use at least 1", plan.MaxConns)
	}
	if plan.Weight < 1 || plan.Weight > math.MaxInt32 {
		p.add("weight is %d: use at least 1", plan.Weight)
	}
	if !(plan.Rate >= 0) || math.IsInf(plan.Rate, 0) {
		p.add("rate is %v: use statements per second, or 0 for none", plan.Rate)
	}
	if plan.Burst < 0 || plan.Burst > math.MaxInt32 {
		p.add("burst is %d: use statements that may come at once, or 0 for those of two seconds", plan.Burst)
	}
}

// checkName is the rule for names of shards and plans: they appear in metrics, on command lines and in errors.
func checkName(p *problems, field, name string) {
	if !plainName(name, maxIdentifier) {
		p.add("%s %q is not allowed: use 1 to %d letters, digits, dots, hyphens and underscores", field, cut(name), maxIdentifier)
	}
}

// checkIdentifier is the rule for schemas and roles of tenants. They end up in search_path and in a comment of the
// statement, so they are plainer than PostgreSQL demands.
func checkIdentifier(p *problems, field, name string) {
	switch lower := strings.ToLower(name); {
	case len(name) > maxIdentifier:
		p.add("%s %q has %d bytes, PostgreSQL cuts at %d: set a shorter %s", field, cut(name), len(name), maxIdentifier, field)
	case !plainName(name, maxIdentifier):
		p.add("%s %q is not safe: set %s to letters, digits, dots, hyphens and underscores", field, cut(name), field)
	case strings.HasPrefix(lower, "pg_") ||
		slices.Contains([]string{"public", "information_schema", "none", "postgres"}, lower):
		p.add("%s %q has a meaning of its own in PostgreSQL: set another %s", field, name, field)
	}
}

func plainName(name string, most int) bool {
	if name == "" || len(name) > most {
		return false
	}
	for _, c := range name {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)
		if !plain {
			return false
		}
	}
	return true
}
