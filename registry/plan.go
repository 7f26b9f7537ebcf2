package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

const defaultPlan = "free"

// DefaultPlans returns the plans that a new registry has. A caller may change the slice.
func DefaultPlans() []Plan {
	return []Plan{
		{Name: defaultPlan, StatementTimeout: 5 * time.Second, WorkMemKB: 4 << 10, MaxConns: 2, Weight: 1, Rate: 50},
		{Name: "starter", StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10, MaxConns: 5, Weight: 2, Rate: 250},
		{Name: "growth", StatementTimeout: 60 * time.Second, WorkMemKB: 64 << 10, MaxConns: 20, Weight: 4, Rate: 1000},
		{Name: "enterprise", StatementTimeout: 300 * time.Second, WorkMemKB: 256 << 10, MaxConns: 100, Weight: 8, Rate: 5000},
	}
}

// PutPlan adds or replaces a plan. Doing so again changes nothing. Running drivers hear of it as they hear of a state.
func (a *Admin) PutPlan(ctx context.Context, plan Plan) error {
	if err := validatePlan(plan); err != nil {
		return err
	}
	return a.store.change(ctx, fmt.Sprintf("storing plan %q", plan.Name), func(tx *change) error {
		_, err := putPlan(ctx, tx, plan)
		return err
	})
}

func putPlan(ctx context.Context, tx *change, plan Plan) (changed bool, err error) {
	if err := tx.lock(ctx); err != nil {
		return false, err
	}
	stored, err := tx.plans.get(ctx, plan.Name)
	if err != nil {
		return false, err
	}
	return save(ctx, tx, planKind, tx.plans, "put_plan", "", stored, &plan)
}

// ListPlans returns all plans by name.
func (a *Admin) ListPlans(ctx context.Context) ([]Plan, error) {
	return view(ctx, a, "listing the plans", func(tx *change) ([]Plan, error) { return tx.plans.all(ctx) })
}

type shownPlan struct {
	StatementTimeout string  `json:"statement_timeout"`
	WorkMemKB        int     `json:"work_mem_kb"`
	MaxConns         int     `json:"max_conns"`
	Weight           int     `json:"weight"`
	Rate             float64 `json:"rate,omitempty"`
	Burst            int     `json:"burst,omitempty"`
}

func publicPlan(p Plan) shownPlan {
	return shownPlan{FormatTimeout(p.StatementTimeout), p.WorkMemKB, p.MaxConns, p.Weight, p.Rate, p.Burst}
}

// FormatTimeout writes a statement timeout as people read it: "30s", or "unlimited".
func FormatTimeout(d time.Duration) string {
	if d == resolver.Unlimited {
		return "unlimited"
	}
	return d.String()
}

// ParseTimeout reads what [FormatTimeout] writes.
func ParseTimeout(text string) (time.Duration, error) {
	if text == "unlimited" {
		return resolver.Unlimited, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%w statement timeout %q: use a duration such as 30s, or unlimited", ErrInvalid, cut(text))
	}
	return d, nil
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
