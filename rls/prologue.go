package rls

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Step is one statement of a prologue. A prologue is one of the identity steps, followed by ReadOnly where the tenant needs it.
type Step int

// The steps, and the values each takes in order.
const (
	Tenant       Step = iota // tenant
	Timeout                  // tenant, statement_timeout
	Limits                   // tenant, statement_timeout, work_mem
	Schema                   // tenant, statement_timeout, work_mem, search_path, role
	Rearm                    // as Limits, but a smaller limit that the caller has set stays; then the timeout armed before
	RearmSchema              // as Schema, likewise
	ReadOnly                 // none
	StepCount    int  = iota
	DefaultGUC        = "app.current_tenant_id"
	maxGUCLength      = 63
)

var params = [StepCount]int{Tenant: 1, Timeout: 2, Limits: 3, Schema: 5, Rearm: 4, RearmSchema: 6, ReadOnly: 0}

// Params is the number of values of a step, all of type text. Behind those of its own, an identity step has the tag, where there
// are tags, and then the token of the tenant, where tenants are signed.
func Params(step Step, tagged, signed bool) int {
	n := params[step]
	if step == ReadOnly {
		return n
	}
	if tagged {
		n++
	}
	if signed {
		n++
	}
	return n
}

var gucName = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+$`)

// CheckGUC reports whether name can be the tenant setting: a lower-case custom parameter, that is one with a dot
// (PostgreSQL manual, section 20.16, Customized Options).
func CheckGUC(name string) error {
	if len(name) > maxGUCLength || !gucName.MatchString(name) {
		return fmt.Errorf("the tenant setting %q is not a custom parameter name; use lower-case letters, digits and "+
			"underscores with one dot, like %s", name, DefaultGUC)
	}
	return nil
}

// SQL returns the text of a step for the tenant setting guc, which CheckGUC has accepted. Tagged, an identity step sets
// application_name as well: a statement of its own would cost half as much as all of the prologue. Signed, it sets the token. It is
// a condition that nothing meets, because to make a row and send it takes a fifth of all that a step takes; PostgreSQL looks at the
// parts of an OR from the left until one is true, as the tests of the steps show. Parts of the caller's come first, are false, and
// have no values. All is named with its schema, because a text may be parsed while the search_path is a tenant's.
func SQL(step Step, guc string, tagged, signed bool, first ...string) string {
	parts := append(first, untagged(step, guc)...)
	if tagged && step != ReadOnly {
		parts = append(parts, local("'application_name'", "$"+strconv.Itoa(Params(step, true, false))))
	}
	if signed && step != ReadOnly {
		parts = append(parts, local("'"+TokenSetting+"'", "$"+strconv.Itoa(Params(step, tagged, true))))
	}
	return "select where " + strings.Join(parts, " or ")
}

func untagged(step Step, guc string) []string {
	tenant := local("'"+guc+"'", "$1")
	timeout, workMem := local("'statement_timeout'", "$2"), local("'work_mem'", "$3")
	path, role := local("'search_path'", "$4"), local("'role'", "$5")
	switch step {
	case Tenant:
		return []string{tenant}
	case Timeout:
		return []string{tenant, timeout}
	case Limits:
		return []string{tenant, timeout, workMem}
	case Schema:
		return []string{tenant, timeout, workMem, path, role}
	case Rearm:
		return []string{tenant, local("'statement_timeout'", cappedTimeout("$4")), local("'work_mem'", cappedWorkMem)}
	case RearmSchema:
		return []string{tenant, local("'statement_timeout'", cappedTimeout("$6")), local("'work_mem'", cappedWorkMem), path, role}
	case ReadOnly:
		return []string{local("'transaction_read_only'", "'on'")}
	}
	panic(fmt.Sprintf("rls: unknown step %d", step))
}

// cappedTimeout lets a caller's own SET LOCAL tighten a limit, never lift it. '0' is no limit, in any place. What the
// driver armed before, for another deadline, is not the caller's and is replaced.
func cappedTimeout(armed string) string {
	own, plan := interval("pg_catalog.current_setting('statement_timeout')"), interval("$2 operator(pg_catalog.||) ' ms'")
	return "case when " + own + " operator(pg_catalog.<>) " + interval(armed+" operator(pg_catalog.||) ' ms'") +
		" and " + own + " operator(pg_catalog.>=) interval '1 ms'" +
		" and ($2 operator(pg_catalog.=) '0' or " + own + " operator(pg_catalog.<=) " + plan + ")" +
		" then pg_catalog.current_setting('statement_timeout') else $2 end"
}

func interval(text string) string { return "(" + text + ")::pg_catalog.interval" }

const cappedWorkMem = `case when pg_catalog.pg_size_bytes(pg_catalog.current_setting('work_mem')) operator(pg_catalog.<=) ` +
	`pg_catalog.pg_size_bytes($3) then pg_catalog.current_setting('work_mem') else $3 end`

func local(name, value string) string {
	return "pg_catalog.set_config(" + name + ", " + value + ", true) is null"
}
