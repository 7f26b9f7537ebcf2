package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// Tenant is where a tenant shall live and on which plan. Optional fields that are empty take the stated default.
type Tenant struct {
	ID       string         `json:"id"`                 // required; see [resolver.ValidTenantID]. It never changes
	Shard    string         `json:"shard"`              // the name of a shard
	Database string         `json:"database,omitempty"` // database on the shard; default: the one that the shard's DSN names
	Model    resolver.Model `json:"model"`              // default [resolver.ModelShared]
	Plan     string         `json:"plan"`               // name of a plan; default "free"
	State    resolver.State `json:"state"`              // default: stays as it is; for a new tenant see the method
	Schema   string         `json:"schema,omitempty"`   // only with [resolver.ModelSchema]; default "tenant_<ID>"
	Role     string         `json:"role,omitempty"`     // only with [resolver.ModelSchema]; default: the name of the schema

	// Slug is a second name for people and URLs, of one tenant at a time. It may change; nothing is routed by it.
	// Default: stays as it is.
	Slug string `json:"slug,omitempty"`
	// Labels are for selecting tenants: {"ring": "canary"}. Default: stay as they are.
	Labels map[string]string `json:"labels,omitempty"`
}

// TenantInfo is a tenant and what the registry knows about it.
type TenantInfo struct {
	Tenant
	Epoch         int64     `json:"epoch"`                    // grows with each change of placement
	Assignment    string    `json:"assignment"`               // how the shard was chosen: explicit, hash, smallest, ...
	SchemaVersion string    `json:"schema_version,omitempty"` // what migrations brought it to
	Override      *Override `json:"override,omitempty"`       // limits on top of its plan, expired or not
	Throttle      *Override `json:"throttle,omitempty"`       // limits on top of both, expired or not; see [Admin.SetThrottle]
	Removed       time.Time `json:"removed,omitzero"`         // when it was taken out of the registry's answers
	Created       time.Time `json:"created"`
	Updated       time.Time `json:"updated"`
}

// Override replaces limits of one tenant's plan, for a while or for good. Zero means the plan's.
type Override struct {
	StatementTimeout time.Duration
	WorkMemKB        int
	MaxConns         int
	Weight           int
	Rate             float64
	Burst            int       // zero beside a Rate means two seconds of that: the plan's burst goes with the plan's rate
	Expires          time.Time // default: never. Drivers notice within their cache TTL
	Reason           string    // why, for the next operator
}

// InForce reports whether there is an override (it may be nil) and it has not expired.
func (o *Override) InForce(now time.Time) bool {
	return o != nil && (o.Expires.IsZero() || o.Expires.After(now))
}

// limits returns what holds at a time: the plan, its override over it, and the throttle over both.
func (t *TenantInfo) limits(plan Plan, now time.Time) Plan {
	for _, o := range []*Override{t.Override, t.Throttle} {
		if o.InForce(now) {
			plan = o.over(plan)
		}
	}
	return plan
}

// over returns the plan with what the override replaces.
func (o *Override) over(plan Plan) Plan {
	if o.StatementTimeout != 0 {
		plan.StatementTimeout = o.StatementTimeout
	}
	if o.WorkMemKB != 0 {
		plan.WorkMemKB = o.WorkMemKB
	}
	if o.MaxConns != 0 {
		plan.MaxConns = o.MaxConns
	}
	if o.Weight != 0 {
		plan.Weight = o.Weight
	}
	if o.Rate != 0 {
		plan.Rate, plan.Burst = o.Rate, 0
	}
	if o.Burst != 0 {
		plan.Burst = o.Burst
	}
	return plan
}

// validateOverride holds an override, or a throttle, to the rules for plans.
func validateOverride(what, tenant string, o *Override, now time.Time) error {
	var p problems
	base := Plan{Name: "override", StatementTimeout: time.Second, WorkMemKB: 64, MaxConns: 1, Weight: 1}
	if o.StatementTimeout == 0 && o.WorkMemKB == 0 && o.MaxConns == 0 && o.Weight == 0 && o.Rate == 0 && o.Burst == 0 {
		p.add("the %s replaces nothing: set a limit, or clear it", what)
	}
	planProblems(&p, o.over(base))
	if !o.InForce(now) {
		p.add("the %s has expired already: set Expires to a time to come", what)
	}
	checkReason(&p, o.Reason)
	return p.err(what+" of tenant", tenant)
}

// Check returns an error that matches [ErrInvalid] for what each registry refuses of a new tenant, whatever is in it.
func (t Tenant) Check() error {
	_, _, err := newTenant(t)
	return err
}

// complete returns the tenant with its defaults, except for the state, whose default depends on what is stored.
func complete(t Tenant) (Tenant, error) {
	var p problems
	if err := resolver.ValidTenantID(t.ID); err != nil {
		p = append(p, err)
	}
	checkName(&p, "shard", t.Shard)
	if t.Model == "" {
		t.Model = resolver.ModelShared
	}
	if !slices.Contains(models, t.Model) {
		p.add("unknown model %q: use one of %q", cut(string(t.Model)), models)
	}
	if t.Plan == "" {
		t.Plan = defaultPlan
	}
	checkName(&p, "plan", t.Plan)
	if t.State != "" && !slices.Contains(states, t.State) {
		p.add("unknown state %q: use one of %q", cut(string(t.State)), states)
	}
	checkDatabase(&p, t.Database)
	if t.Model == resolver.ModelSchema {
		if t.Schema == "" {
			t.Schema = "tenant_" + t.ID
		}
		if t.Role == "" {
			t.Role = t.Schema
		}
		checkIdentifier(&p, "schema", t.Schema)
		checkIdentifier(&p, "role", t.Role)
	} else if t.Schema != "" || t.Role != "" {
		p.add("schema and role are for model schema only: leave them empty, or set the model")
	}
	if t.Slug != "" {
		checkName(&p, "slug", t.Slug)
	}
	checkLabels(&p, t.Labels)
	return t, p.err("tenant", t.ID)
}

func checkDatabase(p *problems, name string) {
	if len(name) > maxIdentifier || strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
		p.add("database is no name of a database: use at most %d bytes without control characters", maxIdentifier)
	}
}

// missing returns the error for a tenant whose shard or plan the registry does not have.
func missing(t Tenant, shardKnown, planKnown bool) error {
	var p []string
	var err error
	if !shardKnown {
		p, err = append(p, fmt.Sprintf("shard %q", t.Shard)), ErrShardNotFound
	}
	if !planKnown {
		p, err = append(p, fmt.Sprintf("plan %q", t.Plan)), ErrPlanNotFound
	}
	switch len(p) {
	case 0:
		return nil
	case 2:
		err = fmt.Errorf("%w, %w", ErrShardNotFound, ErrPlanNotFound)
	}
	return fmt.Errorf("tenant %q: %w: %s: add it first", cut(t.ID), err, strings.Join(p, ", "))
}

// claim is a name that only one tenant may have.
type claim struct{ key, what, name, where string }

// claims returns the tenant's. Roles belong to the server, so they are unique across its databases.
func (t Tenant) claims() (all []claim) {
	if t.Model == resolver.ModelSchema {
		all = append(all,
			claim{"schema\x00" + t.Shard + "\x00" + t.Database + "\x00" + t.Schema, "schema", t.Schema, t.Shard},
			claim{"role\x00" + t.Shard + "\x00" + t.Role, "role", t.Role, t.Shard})
	}
	if t.Slug != "" {
		all = append(all, claim{"slug\x00" + t.Slug, "slug", t.Slug, ""})
	}
	return all
}

func conflict(tenant string, c claim) error {
	where := ""
	if c.where != "" {
		where = fmt.Sprintf(" on shard %q", c.where)
	}
	return fmt.Errorf("%w: tenant %q: %s %q%s belongs to another tenant: set another %s",
		ErrConflict, cut(tenant), c.what, c.name, where, c.what)
}

// runs reports whether the tenant may run statements now.
func (t *TenantInfo) runs() bool {
	return t.Removed.IsZero() && (t.State == resolver.StateActive || t.State == resolver.StateReadOnly)
}
