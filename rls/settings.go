package rls

import (
	"strconv"
	"strings"
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Settings are the values that a prologue puts in force. The zero value names no tenant and must not be armed.
type Settings struct {
	Tenant     string
	Token      string // where tenants are signed: the tenant with its signature
	TimeoutMS  int64  // statement_timeout in milliseconds; 0 is PostgreSQL's word for none
	ArmedMS    int64  // for Rearm: the one that the driver has put in force in this transaction before
	WorkMemKB  int
	SearchPath string // model schema only
	Role       string // model schema only
	ReadOnly   bool
	Tag        string // application_name, for tagged steps
}

// For returns the settings of a route without a deadline.
func For(r *resolver.Route) Settings {
	s := Settings{
		Tenant: r.Tenant, TimeoutMS: milliseconds(r.Plan.StatementTimeout), WorkMemKB: r.Plan.WorkMemKB,
		ReadOnly: r.State == resolver.StateReadOnly,
	}
	if r.Model == resolver.ModelSchema {
		s.Role = r.Role
		s.SearchPath = QuoteIdent(r.Schema) + ", pg_temp"
	}
	return s
}

// deadlineSlack is added to the time left until a context's deadline, so that the context's own error is what the
// caller sees and the server's timeout only catches what the cancel did not.
const deadlineSlack = 500 * time.Millisecond

// Cap lowers the statement timeout to the time left until a deadline, never below one millisecond (0 would be no limit).
func (s *Settings) Cap(left time.Duration) {
	ms := max(milliseconds(left+deadlineSlack), 1)
	if s.TimeoutMS == 0 || ms < s.TimeoutMS {
		s.TimeoutMS = ms
	}
}

// Defaults are the values that a backend has without any prologue. Known is false when they cannot be told (behind a
// pooler, whose start-up parameters are not ours).
type Defaults struct {
	Known     bool
	TimeoutMS int64
	WorkMemKB int
}

// Step is the smallest identity step that puts s in force on a backend with these defaults.
func (s *Settings) Step(d Defaults) Step {
	switch {
	case s.Role != "":
		return Schema
	case !d.Known || s.WorkMemKB != d.WorkMemKB:
		return Limits
	case s.TimeoutMS != d.TimeoutMS:
		return Timeout
	}
	return Tenant
}

// RearmStep is the identity step to use once the caller's own SQL may have changed settings in this transaction.
func (s *Settings) RearmStep() Step {
	if s.Role != "" {
		return RearmSchema
	}
	return Rearm
}

// AppendValue appends value number i of a step to dst: behind those of its own, the tag, if there is one, and the token.
func (s *Settings) AppendValue(dst []byte, step Step, i int) []byte {
	switch {
	case i == params[step] && s.Tag != "":
		return append(dst, s.Tag...)
	case i >= params[step]:
		return append(dst, s.Token...)
	case step == Rearm && i == 3:
		i = 5
	}
	switch i {
	case 0:
		return append(dst, s.Tenant...)
	case 1:
		return strconv.AppendInt(dst, s.TimeoutMS, 10)
	case 2:
		return append(strconv.AppendInt(dst, int64(s.WorkMemKB), 10), "kB"...)
	case 3:
		return append(dst, s.SearchPath...)
	case 4:
		return append(dst, s.Role...)
	}
	return strconv.AppendInt(dst, s.ArmedMS, 10)
}

// QuoteIdent quotes an SQL identifier (PostgreSQL manual, section 4.1.1). The caller has checked its length and that it
// holds no NUL.
func QuoteIdent(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// milliseconds is d as a value of statement_timeout, rounded up: PostgreSQL counts it in an int32.
func milliseconds(d time.Duration) int64 {
	if d >= resolver.Unlimited {
		return 0
	}
	return min(int64((d+time.Millisecond-1)/time.Millisecond), 1<<31-1)
}
