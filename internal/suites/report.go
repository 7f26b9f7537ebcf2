package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/sharded-pg/sharded-pg/internal/suites/adapter"
)

// words are how a test ended.
var words = map[string]string{passed: "passes", failed: "fails", skipped: "is skipped", missing: "does not run"}

func (c change) String() string {
	return fmt.Sprintf("%s %s, on plain pgx it %s", name(c.key), words[c.here], words[c.plain])
}

// table is the results side by side.
func table(results []*result) string {
	var b strings.Builder
	fmt.Fprintln(&b, "| suite | version | plain pgx | sharded-pg | sharded-pg, chaos |")
	fmt.Fprintln(&b, "|---|---|---|---|---|")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.suite.Name, r.suite.Version,
			r.counts[adapter.Plain], r.counts[adapter.Through], r.counts[adapter.Chaos])
	}
	return b.String()
}

const intro = `# Test suites of other projects

` + "`make suites`" + ` runs the tests that these projects ship in their modules, and writes this page. Each suite runs three
times, on an empty PostgreSQL of its own: on plain pgx; through this driver; and through it in *chaos*, where each checkout
belongs to another tenant than the one before, on another server connection, though all share one database. The last run on
this page was with PostgreSQL %d and %s.

Tests passed / failed / skipped. One with subtests counts as those.

%s
The tests know no tenants, so a wrapper around the driver's connections puts one into each context
([internal/suites/adapter](../internal/suites/adapter)). The tenants are of the model ` + "`database`" + `, with a login that may
make tables and is no superuser. The few lines of a suite that are changed, mostly where it opens its database, are
listed beside it in [internal/suites](../internal/suites).

## Tests that end in another way than on plain pgx

A difference without a reason fails the run, and so does a reason without a difference.
`

// report is the page.
func report(results []*result, major int) string {
	var b strings.Builder
	fmt.Fprintf(&b, intro, major, runtime.Version(), table(results))
	for _, r := range results {
		for i, d := range r.suite.Differs {
			if i == 0 {
				fmt.Fprintf(&b, "\n**%s**\n\n", r.suite.Name)
			}
			fmt.Fprintf(&b, "- `%s` %s: %s.\n", d.Test, r.outcome(d), d.Reason)
		}
	}
	fmt.Fprint(&b, "\n## The suites\n\n")
	for _, r := range results {
		fmt.Fprintf(&b, "- **%s**, `%s`: %s\n", r.suite.Name, r.suite.Module, r.suite.About)
	}
	fmt.Fprint(&b, "\n## Suites that could not be had\n\n")
	for _, a := range absences {
		fmt.Fprintf(&b, "- **%s**: %s\n", a.Name, a.Tried)
	}
	return b.String()
}

// outcome says how an explained test ends, and where.
func (r *result) outcome(d difference) string {
	for _, variant := range d.In {
		for _, c := range r.changes[variant] {
			if r.suite.explanation(variant, name(c.key)) == nil || !d.covers(name(c.key)) {
				continue
			}
			where := ""
			if len(d.In) == 1 {
				where = " in " + variant
			}
			return fmt.Sprintf("%s%s (plain pgx: %s)", words[c.here], where, words[c.plain])
		}
	}
	return "differs"
}
