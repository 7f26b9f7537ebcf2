package audit

import (
	"context"
	"slices"
)

// RunOnly is Run with some of the rules, or with rules that tests make.
func RunOnly(ctx context.Context, db Beginner, c Config, ids ...string) (*Report, error) {
	return c.run(ctx, db, slices.DeleteFunc(Rules(), func(r Rule) bool { return !slices.Contains(ids, r.ID) }))
}

// RunBroken runs rules of which one is no SQL.
func RunBroken(ctx context.Context, db Beginner, c Config) (*Report, error) {
	rules := Rules()
	rules[1].query = "select nothing from nowhere"
	return c.run(ctx, db, rules[:3])
}

// OnServer makes the audit take the server for one of that version.
func (c Config) OnServer(version int) Config {
	c.version = version
	return c
}
