package conformance

import (
	"fmt"
	"testing"
)

// category is a named group of scenarios.
type category struct {
	name      string
	scenarios []scenario
}

// scenario is one test. It starts with the rows of the fixture and a driver that has opened no connection yet.
type scenario struct {
	name  string
	run   func(s *scene)
	conns int    // connections; 0: one, which the tenants have to share
	skip  reason // nil: nothing can keep it from running
}

// reason says why a scenario cannot run in a setting; empty when it can. Each is PostgreSQL's doing, or a pooler's.
type reason func(s setting) string

// setting is what the suite runs on.
type setting struct {
	major  int // of the server
	pooler Pooler
}

// since is for what older servers do not have.
func since(major int, what string) reason {
	return func(s setting) string {
		if s.major < major {
			return fmt.Sprintf("PostgreSQL %d has no %s", s.major, what)
		}
		return ""
	}
}

// direct is for what a pooler takes away.
func direct(why string) reason {
	return func(s setting) string {
		if s.pooler != Direct {
			return why
		}
		return ""
	}
}

const (
	notOneSession = "a pooler may give each transaction another server connection, and does not say when it will not"
	notVisible    = "what the server sees connecting and idling is the pooler"
)

func categories(h *Harness) []category {
	return []category{
		{"isolation", isolation},
		{"statements", statements(h)},
		{"transactions", transactions},
		{"cancellation", cancellation},
		{"limits", limits},
		{"lifecycle", lifecycle},
		{"errors", errorScenarios()},
		{"schemas", schemas},
		{"policies", policies},
		{"schema changes", schemaChanges},
		{"network", network},
		{"poolers", poolers},
		{"load", load},
		{"sessions", sessions()},
	}
}

// Run runs the suite against h. Each category is a subtest of t.
func Run(t *testing.T, h Harness) {
	t.Helper()
	h.withDefaults()
	if err := h.validate(); err != nil {
		t.Fatal(err)
	}
	fix := newFixture(t, &h)
	in := setting{fix.major, h.Pooler}
	for _, c := range categories(&h) {
		t.Run(c.name, func(t *testing.T) {
			exclude(t, &h, c.name, "")
			for _, sc := range c.scenarios {
				t.Run(sc.name, func(t *testing.T) {
					why := ""
					if sc.skip != nil {
						why = sc.skip(in)
					}
					exclude(t, &h, c.name+"/"+sc.name, why)
					sc.run(fix.scene(t, max(sc.conns, 1)))
				})
			}
		})
	}
}

// exclude ends a test that the harness or the suite leaves out, with a line that can be found by its first word.
func exclude(t *testing.T, h *Harness, name, why string) {
	t.Helper()
	if given := h.Exclude[name]; given != "" {
		why = given
	}
	if why != "" {
		t.Skipf("excluded: %s: %s", name, why)
	}
}
