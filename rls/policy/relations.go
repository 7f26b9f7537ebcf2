package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// class is what a relation is for tenants.
type class string

const (
	tenantTable class = "tenant"  // rows of tenants
	globalTable class = "global"  // no tenant; all may read
	privateOne  class = "private" // not for tenants
)

// kinds of relations, in words of SQL.
var kinds = map[string]string{
	"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence",
}

func (r *relation) name() string   { return r.Schema + "." + r.Name }
func (r *relation) ident() string  { return ident(r.Schema, r.Name) }
func (r *relation) object() string { return kinds[r.Kind] + " " + r.name() }
func (r *relation) table() bool    { return r.Kind == "r" || r.Kind == "p" }

func supported(typ string) bool { return slices.Contains(tenantTypes, typ) }

// relationsInPlay finds the relations that the plan is about. What is a part of one of them belongs to it.
func (p *planner) relationsInPlay() {
	for _, r := range p.catalog.relations {
		if len(p.Tables) == 0 || matches(p.Tables, r.name()) ||
			slices.ContainsFunc(p.tops(r), func(top *relation) bool { return matches(p.Tables, top.name()) }) {
			p.relations = append(p.relations, r)
		}
	}
}

// tops are the tables that r is a part of, through partitions and inheritance, and that are a part of none: r itself, if it
// is none. Its rows are shown through each of them, with the rights and policies of that one.
func (p *planner) tops(r *relation) (tops []*relation) {
	for _, oid := range r.Parents {
		if parent := p.byOID[oid]; parent != nil {
			tops = append(tops, p.tops(parent)...)
		}
	}
	if len(tops) == 0 {
		return []*relation{r}
	}
	return tops
}

// class decides by the tenant column and by what was declared. A part of a table is what that is.
func (p *planner) class(r *relation) (class, bool) {
	tops := p.tops(r)
	one := func(patterns []string) bool {
		return slices.ContainsFunc(tops, func(top *relation) bool { return matches(patterns, top.name()) })
	}
	all := func(patterns []string) bool {
		return !slices.ContainsFunc(tops, func(top *relation) bool { return !matches(patterns, top.name()) })
	}
	switch {
	case slices.ContainsFunc(r.Parents, func(oid uint32) bool { return p.byOID[oid] == nil }):
		p.problem("%s is a part of a table that the plan does not look at, which shows its rows: do not skip that one's schema, or take the table out of it", r.object())
	case len(r.strays) > 0:
		p.problem("%s has parts that the plan does not look at, which get no policies (%s): do not skip their schema, or move them", r.object(), strings.Join(r.strays, ", "))
	case r.HasTenant && one(p.Global):
		p.problem("%s is declared global and has the tenant column: take it off the list, or drop the column", r.object())
	case r.HasTenant && !supported(r.Type):
		p.problem("%s: its tenant column is %s: make it one of %s (varchar becomes text without a rewrite)", r.object(), r.Type, strings.Join(tenantTypes, ", "))
	case r.Loose != "":
		p.problem("%s: its tenant column has the collation %s, to which different texts are equal, and their tenants would be one: give it a deterministic one (alter column … type text collate \"C\")", r.object(), r.Loose)
	case one(p.Global) && (matches(p.Private, r.name()) || one(p.Private)):
		p.problem("%s is declared global and private: leave it on one list", r.object())
	case r.HasTenant:
		return tenantTable, true
	case all(p.Global):
		return globalTable, true
	case matches(p.Private, r.name()) || all(p.Private):
		return privateOne, true
	default:
		p.problem("%s has no column %q: give it one, or declare it global (all tenants read it) or private (none does)", r.object(), p.TenantColumn)
	}
	return "", false
}

// relation plans one relation.
func (p *planner) relation(r *relation) {
	switch r.Kind {
	case "v":
		p.view(r)
		return
	case "m":
		p.materialized(r)
		return
	case "f":
		p.foreign(r)
		return
	case "S":
		p.sequence(r)
		return
	}
	class, ok := p.class(r)
	if !ok {
		return
	}
	p.owner(r, p.Owner)
	switch class {
	case tenantTable:
		p.plan.Tables++
		p.rowSecurity(r)
		p.column(r)
		p.policies(r)
		if len(r.Parents) > 0 || matches(p.Private, r.name()) {
			p.grants(r, nil) // tenants name the table, whose policies hold; never a part of it
		} else {
			p.grants(r, []string{"DELETE", "INSERT", "SELECT", "UPDATE"})
		}
	case globalTable:
		if len(r.Parents) > 0 {
			p.grants(r, nil)
		} else {
			p.grants(r, []string{"SELECT"})
		}
	case privateOne:
		p.grants(r, nil)
	}
}

func (p *planner) owner(r *relation, want string) {
	alter := fmt.Sprintf("alter %s if exists %s owner to ", kinds[r.Kind], r.ident())
	p.add(Change{
		Object: r.object(), Property: "owner", Was: r.Owner, Want: want, Relation: r.ident(), OID: r.OID,
		Do: []string{alter + ident(want)}, Undo: []string{alter + ident(r.Owner)},
	})
}

func (p *planner) rowSecurity(r *relation) {
	on := "alter table " + r.ident()
	state := func(enabled, forced bool) string {
		text := "off"
		if enabled {
			text = "on"
		}
		if forced {
			text += ", forced"
		}
		return text
	}
	c := Change{
		Object: r.object(), Property: "row security", Was: state(r.RowSecurity, r.Forced), Want: state(true, true), Relation: r.ident(), OID: r.OID,
		Do: []string{on + " enable row level security", on + " force row level security"},
	}
	if !r.RowSecurity {
		c.Undo = append(c.Undo, on+" disable row level security")
	}
	if !r.Forced {
		c.Undo = append(c.Undo, on+" no force row level security")
	}
	p.add(c)
}

// column: partitions and children get both from their table, if that has the column.
func (p *planner) column(r *relation) {
	if slices.ContainsFunc(r.Parents, func(oid uint32) bool { parent := p.byOID[oid]; return parent != nil && parent.HasTenant }) {
		return
	}
	alter := "alter table " + r.ident() + " alter column " + ident(p.TenantColumn)
	null := map[bool]string{true: "not null", false: "null"}
	p.add(Change{
		Object: r.object(), Property: "column " + p.TenantColumn, Was: null[r.NotNull], Want: "not null", Relation: r.ident(), OID: r.OID,
		Do: []string{alter + " set not null"}, Undo: []string{alter + " drop not null"},
	})
	if !r.Computed {
		c := Change{
			Object: r.object(), Property: "default of " + p.TenantColumn, Was: r.Default, Want: p.shapes[r.Type].value, Relation: r.ident(), OID: r.OID,
			Do: []string{alter + " set default " + value(p.GUC, r.Type)}, Undo: []string{alter + " drop default"},
		}
		if r.Default != "" {
			c.Undo = []string{alter + " set default " + r.Default}
		}
		p.add(c)
	}
	switch {
	case r.Indexed:
	case p.Indexes:
		p.add(Change{
			Object: r.object(), Property: "index", Want: "on " + p.TenantColumn, Relation: r.ident(), OID: r.OID,
			Do:   []string{"create index if not exists " + p.indexName(r) + " on " + r.ident() + " (" + ident(p.TenantColumn) + ")"},
			Undo: []string{"drop index if exists " + ident(r.Schema) + "." + p.indexName(r)},
		})
	case r.Kind == "p":
		p.advise(r.object(), "no index begins with the tenant column: each query of a tenant reads all rows",
			"create index on "+r.ident()+" ("+ident(p.TenantColumn)+");")
	default:
		p.advise(r.object(), "no index begins with the tenant column: each query of a tenant reads all rows",
			"create index concurrently on "+r.ident()+" ("+ident(p.TenantColumn)+");")
	}
}

// indexName is quoted, and short enough for PostgreSQL not to cut it.
func (p *planner) indexName(r *relation) string {
	name := r.Name
	for len(name) > 40 {
		name = name[:len(name)-1]
	}
	return ident(strings.ToValidUTF8(name, "") + fmt.Sprintf("_tenant_%d", r.OID))
}

// policies: the same condition twice, because permissive policies are joined by OR. One that somebody adds later would open
// the table; the restrictive one holds.
func (p *planner) policies(r *relation) {
	bare := p.bare(r)
	shape := p.shapes[r.Type].wrapped
	if bare {
		shape = p.shapes[r.Type].bare
	}
	text := condition(p.Config, r.Type, bare)
	for _, want := range []storedPolicy{
		{Name: tenantPolicy, Kind: "permissive", Command: "all", Roles: []string{p.App}, Using: shape, Check: shape},
		{Name: guardPolicy, Kind: "restrictive", Command: "all", Roles: []string{"public"}, Using: shape, Check: shape},
	} {
		drop := "drop policy if exists " + want.Name + " on " + r.ident()
		asked := want
		asked.Using, asked.Check = text, text
		c := Change{
			Object: r.object(), Property: "policy " + want.Name, Want: want.text(), Relation: r.ident(), OID: r.OID,
			Do: []string{drop, asked.create(r)}, Undo: []string{drop},
		}
		if i := slices.IndexFunc(r.policies, func(s storedPolicy) bool { return s.Name == want.Name }); i >= 0 {
			c.Was = r.policies[i].text()
			c.Undo = append(c.Undo, r.policies[i].create(r))
		}
		p.add(c)
	}
	for _, other := range r.policies {
		if other.Name == tenantPolicy || other.Name == guardPolicy {
			continue
		}
		drop := "drop policy if exists " + ident(other.Name) + " on " + r.ident()
		if p.DropPolicies {
			p.add(Change{
				Object: r.object(), Property: "policy " + other.Name, Was: other.text(), Relation: r.ident(), OID: r.OID,
				Do: []string{drop}, Undo: []string{drop, other.create(r)},
			})
		} else {
			p.advise(r.object(), "policy "+other.Name+" is not the generator's and stays", "drop policy "+ident(other.Name)+" on "+r.ident()+";")
		}
	}
}

// bare: the partitions of a table get the form of the table, as new ones do that are copied from it.
func (p *planner) bare(r *relation) bool {
	if r.ByTenant {
		return true
	}
	return slices.ContainsFunc(r.Parents, func(oid uint32) bool { parent := p.byOID[oid]; return parent != nil && p.bare(parent) })
}

func (s storedPolicy) text() string {
	return fmt.Sprintf("%s for %s to %s using %s with check %s", s.Kind, s.Command, strings.Join(s.Roles, ", "), orNone(s.Using), orNone(s.Check))
}

func orNone(expr string) string {
	if expr == "" {
		return "none"
	}
	return expr
}

func (s storedPolicy) create(r *relation) string {
	var roles []string
	for _, name := range s.Roles {
		if name != "public" { // no role can be called that
			name = ident(name)
		}
		roles = append(roles, name)
	}
	text := fmt.Sprintf("create policy %s on %s as %s for %s to %s", ident(s.Name), r.ident(), s.Kind, s.Command, strings.Join(roles, ", "))
	if s.Using != "" {
		text += " using (" + s.Using + ")"
	}
	if s.Check != "" {
		text += " with check (" + s.Check + ")"
	}
	return text
}

// grants plans what PUBLIC (nothing), the app role and the maintenance role (all rows) may do with a relation.
func (p *planner) grants(r *relation, app []string) {
	maintenance := tableRights
	if r.Kind == "S" {
		maintenance = []string{"SELECT", "UPDATE", "USAGE"}
	}
	want := map[string][]string{p.App: app, p.Maintenance: maintenance}
	p.grantsExactly(r, want)
}

func (p *planner) grantsExactly(r *relation, want map[string][]string) {
	on := r.ident()
	if r.Kind == "S" {
		on = "sequence " + on
	} else {
		on = "table " + on
	}
	have := map[string][]string{}
	revoke := "revoke all on " + on + " from public, " + ident(p.App) + ", " + ident(p.Maintenance)
	c := Change{Object: r.object(), Property: "rights", Relation: r.ident(), OID: r.OID, Do: []string{revoke}, Undo: []string{revoke}}
	for _, g := range r.grants {
		text, statement := g.Privilege, "grant "+g.Privilege
		if g.Column != "" {
			text += "(" + g.Column + ")"
			statement += " (" + ident(g.Column) + ")"
		}
		statement += " on " + on + " to " + granteeIdent(g.Grantee)
		if g.Grantable {
			text += " with grant option"
			statement += " with grant option"
		}
		have[g.Grantee] = append(have[g.Grantee], text)
		c.Undo = append(c.Undo, statement)
	}
	for _, g := range slices.Sorted(maps.Keys(want)) {
		if len(want[g]) > 0 {
			c.Do = append(c.Do, "grant "+strings.Join(want[g], ", ")+" on "+on+" to "+granteeIdent(g))
		}
	}
	if len(want[p.App]) > 0 && len(r.rules) > 0 {
		p.problem("%s has rules, whose actions run with the rights of its owner for every tenant (%s): drop them, and use triggers", r.object(), strings.Join(r.rules, ", "))
	}
	c.Was, c.Want = rightsText(have), rightsText(want)
	p.wanted[r.OID] = want[p.App]
	p.add(c)
}
