package registry

import (
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

const defaultPlan = "free"

// DefaultPlans returns the plans that a new registry has. A caller may change the slice.
func DefaultPlans() []Plan {
	return []Plan{
		{Name: defaultPlan, StatementTimeout: 5 * time.Second, WorkMemKB: 4 << 10, MaxConns: 2, Weight: 1},
		{Name: "starter", StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10, MaxConns: 5, Weight: 2},
		{Name: "growth", StatementTimeout: 60 * time.Second, WorkMemKB: 64 << 10, MaxConns: 20, Weight: 4},
		{Name: "enterprise", StatementTimeout: 300 * time.Second, WorkMemKB: 256 << 10, MaxConns: 100, Weight: 8},
	}
}

// timeoutMillis is a plan's statement timeout as it is stored; nil for none.
func timeoutMillis(d time.Duration) *int64 {
	if d == resolver.Unlimited {
		return nil
	}
	ms := d.Milliseconds()
	return &ms
}

func timeoutFromMillis(ms *int64) time.Duration {
	if ms == nil {
		return resolver.Unlimited
	}
	return time.Duration(*ms) * time.Millisecond
}
