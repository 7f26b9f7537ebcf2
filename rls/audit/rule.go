package audit

import (
	"fmt"
	"slices"
	"strings"
)

// Severity of a finding.
type Severity string

// The severities, worst first.
const (
	Critical Severity = "critical" // rows of all tenants, now
	High     Severity = "high"     // one mistake, or one known trick, away from them
	Medium   Severity = "medium"   // a barrier less, or a tenant that disturbs others
	Low      Severity = "low"      // in the way of performance or of whoever reads the schema
	Info     Severity = "info"
	None     Severity = "none" // of a report without findings
)

var severities = []Severity{None, Info, Low, Medium, High, Critical}

// AtLeast reports whether s is as bad as other, or worse.
func (s Severity) AtLeast(other Severity) bool {
	return slices.Index(severities, s) >= slices.Index(severities, other)
}

// Level says what a database can be held to.
type Level string

// The levels.
const (
	Standard Level = "standard" // what every database can keep
	Hardened Level = "hardened" // what takes a superuser, too
)

// Rule finds one kind of fault.
type Rule struct {
	ID       string   `json:"id"` // stable: waivers name it
	Severity Severity `json:"severity"`
	Level    Level    `json:"level"`
	Title    string   `json:"title"`
	Why      string   `json:"why"`
	Fix      string   `json:"fix"` // what is in braces is replaced: {object}, its {table} and {name}, {role}

	query string // returns object and detail; see head for what it may read from
}

// Rules returns all rules by ID.
func Rules() []Rule {
	all := slices.Concat(rolesRules, tablesRules, policiesRules, keysRules, rightsRules, objectsRules, serverRules, contextRules)
	slices.SortFunc(all, func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// fix is the rule's advice for one object.
func (r Rule) fix(object, role string) string {
	table, name := object, ""
	if i := strings.LastIndex(object, "/"); i >= 0 {
		table, name = object[:i], object[i+1:]
	}
	return strings.NewReplacer("{object}", object, "{table}", table, "{name}", name, "{role}", role).Replace(r.Fix)
}

// ParseSeverity reads a severity.
func ParseSeverity(text string) (Severity, error) {
	if s := Severity(text); slices.Contains(severities, s) {
		return s, nil
	}
	return "", fmt.Errorf("%q is no severity: use critical, high, medium, low or info", text)
}
