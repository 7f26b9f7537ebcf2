package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Presence selects tenants by whether they were removed.
type Presence int

// Which tenants a filter selects.
const (
	PresentTenants Presence = iota // not the removed ones
	RemovedTenants                 // only those
	AnyTenants
)

// TenantFilter says which tenants to list; empty fields select all.
type TenantFilter struct {
	Shard    string
	Database string // that they name: those in the one of the shard's DSN name none
	Plan     string
	Slug     string
	States   []resolver.State  // any of these
	Models   []resolver.Model  // any of these
	Labels   map[string]string // all of these
	Removed  Presence
	After    string // only IDs behind this one: the last one of the page before
	Limit    int    // default 1000; at most 10000

	ids []string
}

const (
	defaultPage = 1000
	largestPage = 10000
)

func (f *TenantFilter) check() error {
	var p problems
	if f.Limit < 0 || f.Limit > largestPage {
		p.add("limit is %d: use 1 to %d, and After for the next page", f.Limit, largestPage)
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	for _, state := range f.States {
		if !slices.Contains(states, state) {
			p.add("unknown state %q: use one of %q", cut(string(state)), states)
		}
	}
	for _, model := range f.Models {
		if !slices.Contains(models, model) {
			p.add("unknown model %q: use one of %q", cut(string(model)), models)
		}
	}
	if f.Removed < PresentTenants || f.Removed > AnyTenants {
		p.add("unknown presence %d", f.Removed)
	}
	if f.Slug != "" {
		checkName(&p, "slug", f.Slug)
	}
	for field, text := range map[string]string{"shard": f.Shard, "plan": f.Plan, "after": f.After} {
		if strings.ContainsRune(text, 0) || !utf8.ValidString(text) { // PostgreSQL takes neither
			p.add("%s holds a NUL or broken UTF-8", field)
		}
	}
	checkDatabase(&p, f.Database)
	checkLabels(&p, f.Labels)
	if len(p) > 0 {
		return fmt.Errorf("%w filter: %w", ErrInvalid, p[0])
	}
	return nil
}

// matches reports whether a tenant is one that the filter selects.
func (f *TenantFilter) matches(t *TenantInfo) bool {
	return (f.Shard == "" || t.Shard == f.Shard) &&
		(f.Database == "" || t.Database == f.Database) &&
		(f.Plan == "" || t.Plan == f.Plan) &&
		(f.Slug == "" || t.Slug == f.Slug) &&
		(len(f.States) == 0 || slices.Contains(f.States, t.State)) &&
		(len(f.Models) == 0 || slices.Contains(f.Models, t.Model)) &&
		has(t.Labels, f.Labels) &&
		(f.Removed == AnyTenants || (f.Removed == RemovedTenants) == !t.Removed.IsZero()) &&
		strings.Compare(t.ID, f.After) > 0 &&
		(f.ids == nil || slices.Contains(f.ids, t.ID))
}

// ListTenants returns a page of tenants by ID (in the order of their bytes). The next page comes after the last ID of
// this one; there is none when this one is shorter than its limit.
func (a *Admin) ListTenants(ctx context.Context, filter TenantFilter) ([]TenantInfo, error) {
	if err := filter.check(); err != nil {
		return nil, err
	}
	return a.store.find(ctx, filter)
}
