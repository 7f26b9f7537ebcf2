package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// ApplyOptions adjust [Admin.Apply]. nil and the zero value mean the defaults.
type ApplyOptions struct {
	// DryRun returns what would be done and does nothing.
	DryRun bool
	// ChangeDSNs lets the DSNs of shards that are there be replaced, which sends their tenants to other databases.
	ChangeDSNs bool
}

// Difference is one thing that Apply does or would do.
type Difference struct {
	Kind   string         `json:"kind"` // shard, plan, tenant
	Name   string         `json:"name"`
	Action string         `json:"action"`           // add, change, or extra: in the registry, not in the fleet, and left alone
	Before map[string]any `json:"before,omitempty"` // the fields that differ
	After  map[string]any `json:"after,omitempty"`
}

// String writes a difference as one line.
func (d Difference) String() string {
	var fields []string
	names := slices.Sorted(maps.Keys(d.After))
	for name := range d.Before {
		if _, both := d.After[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if d.Action == "add" {
			fields = append(fields, name+"="+shown(d.After, name))
			continue
		}
		fields = append(fields, name+": "+shown(d.Before, name)+" -> "+shown(d.After, name))
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %q %s", d.Action, d.Kind, d.Name, strings.Join(fields, ", ")))
}

func shown(fields map[string]any, name string) string {
	value, ok := fields[name]
	number, isNumber := value.(float64)
	switch {
	case !ok:
		return "(none)"
	case name == "max_tenants" && number == UnlimitedTenants:
		return "unlimited"
	case isNumber:
		return strconv.FormatFloat(number, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

var errDryRun = errors.New("dry run")

// Apply makes the registry hold what fleet says, all of it or nothing, and returns what differed. Doing so again changes
// nothing. What fleet does not name is reported as extra and left alone: tenants are not removed by forgetting a line.
// Empty fields of a fleet mean the defaults, except for a tenant's state, slug and labels and a shard's state, which
// stay as they are; new tenants are active. DSNs are not tried.
func (a *Admin) Apply(ctx context.Context, fleet Fleet, opts *ApplyOptions) ([]Difference, error) {
	var o ApplyOptions
	if opts != nil {
		o = *opts
	}
	tenants, err := fleet.checked()
	if err != nil {
		return nil, err
	}
	var all []Difference
	err = a.store.change(ctx, "applying a fleet", func(tx *change) error {
		there, err := tx.tenants.all(ctx)
		if err != nil {
			return err
		}
		seen := &observed{change: tx}
		if err := seen.apply(ctx, fleet, differing(tenants, there), o); err != nil {
			return err
		}
		extra, err := seen.extra(ctx, fleet, there)
		if err != nil {
			return err
		}
		all = append(seen.found, extra...)
		if o.DryRun {
			return errDryRun
		}
		return nil
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// checked returns the tenants with their defaults, in the order in which rows are locked, and all problems joined.
func (f Fleet) checked() ([]Tenant, error) {
	errs := []error{f.twice()}
	for _, shard := range f.Shards {
		errs = append(errs, validateShard(shard))
	}
	for _, plan := range f.Plans {
		errs = append(errs, validatePlan(plan))
	}
	tenants := make([]Tenant, 0, len(f.Tenants))
	for _, tenant := range f.Tenants {
		tenant, err := complete(tenant)
		errs = append(errs, err)
		tenants = append(tenants, tenant)
	}
	slices.SortFunc(tenants, func(a, b Tenant) int { return strings.Compare(a.ID, b.ID) })
	return tenants, errors.Join(errs...)
}

// differing returns the tenants that are not there as they shall be. In a large fleet these are few, and the others cost no
// round trip each. Whoever changes one of those meanwhile has changed it after us.
func differing(tenants []Tenant, there []TenantInfo) (all []Tenant) {
	stored := make(map[string]*TenantInfo, len(there))
	for i := range there {
		stored[there[i].ID] = &there[i]
	}
	for _, t := range tenants {
		if s := stored[t.ID]; s == nil || !s.Removed.IsZero() || !reflect.DeepEqual(t.onto(s.Tenant), s.Tenant) {
			all = append(all, t)
		}
	}
	return all
}

// observed is a transaction that writes down what it records.
type observed struct {
	*change
	found []Difference
}

func (o *observed) apply(ctx context.Context, fleet Fleet, tenants []Tenant, opts ApplyOptions) error {
	tx := *o.change
	tx.ledger = &listener{tx.ledger, o}
	for _, shard := range fleet.Shards {
		if err := sameDSN(ctx, &tx, shard, opts); err != nil {
			return err
		}
		if _, err := putShard(ctx, &tx, shard); err != nil {
			return err
		}
	}
	for _, plan := range fleet.Plans {
		if _, err := putPlan(ctx, &tx, plan); err != nil {
			return err
		}
	}
	for _, tenant := range tenants {
		if _, err := putTenant(ctx, &tx, tenant); err != nil {
			return fmt.Errorf("tenant %q: %w", cut(tenant.ID), err)
		}
	}
	return nil
}

func sameDSN(ctx context.Context, tx *change, shard Shard, opts ApplyOptions) error {
	stored, err := tx.shards.get(ctx, shard.Name)
	if err != nil || stored == nil || opts.ChangeDSNs {
		return err
	}
	if shardKind.secret(stored) != shardKind.secret(&shard) {
		return fmt.Errorf("%w: shard %q has another DSN in the registry: its tenants would be sent elsewhere; "+
			"allow it with ChangeDSNs, or use SetShardDSN", ErrInvalid, shard.Name)
	}
	return nil
}

type listener struct {
	ledger
	o *observed
}

func (l *listener) record(ctx context.Context, e AuditEntry, notification string) error {
	d := Difference{Kind: e.Kind, Name: e.Subject, Action: "change", Before: map[string]any{}, After: map[string]any{}}
	if e.Before == nil {
		d.Action = "add"
	}
	for name, value := range e.Before {
		if !reflect.DeepEqual(value, e.After[name]) {
			d.Before[name] = value
		}
	}
	for name, value := range e.After {
		if !reflect.DeepEqual(value, e.Before[name]) {
			d.After[name] = value
		}
	}
	l.o.found = append(l.o.found, d)
	return l.ledger.record(ctx, e, notification)
}

// extra returns what the fleet does not name.
func (o *observed) extra(ctx context.Context, fleet Fleet, tenants []TenantInfo) (all []Difference, err error) {
	named := make(map[string]bool)
	for _, s := range fleet.Shards {
		named["shard\x00"+s.Name] = true
	}
	for _, p := range append(DefaultPlans(), fleet.Plans...) {
		named["plan\x00"+p.Name] = true
	}
	for _, t := range fleet.Tenants {
		named["tenant\x00"+t.ID] = true
	}
	note := func(kind, name string) {
		if !named[kind+"\x00"+name] {
			all = append(all, Difference{Kind: kind, Name: name, Action: "extra"})
		}
	}
	shards, err := o.shards.all(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range shards {
		note("shard", s.Name)
	}
	plans, err := o.plans.all(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		note("plan", p.Name)
	}
	for _, t := range tenants {
		if t.Removed.IsZero() {
			note("tenant", t.ID)
		}
	}
	return all, nil
}

// Export returns the registry as a fleet that [Admin.Apply] takes: without removed tenants and overrides, and with DSNs
// as they are stored. It fails when a stored DSN holds a password that is no ${NAME} reference: what is exported ends
// up in files.
func (a *Admin) Export(ctx context.Context) (Fleet, error) {
	return view(ctx, a, "exporting the registry", func(tx *change) (f Fleet, err error) {
		if f.Shards, err = tx.shards.all(ctx); err != nil {
			return f, err
		}
		for _, shard := range f.Shards {
			if holdsPassword(shard.DSN) || holdsPassword(shard.AdminDSN) {
				return Fleet{}, fmt.Errorf("%w: shard %q has a password in its DSN, which must not get into a file: "+
					"replace it by a reference such as ${NAME} with SetShardDSN", ErrInvalid, shard.Name)
			}
		}
		if f.Plans, err = tx.plans.all(ctx); err != nil {
			return f, err
		}
		tenants, err := tx.tenants.all(ctx)
		if err != nil {
			return f, err
		}
		for _, t := range tenants {
			if t.Removed.IsZero() && t.State != resolver.StateDeleting {
				f.Tenants = append(f.Tenants, t.Tenant)
			}
		}
		return f, nil
	})
}
