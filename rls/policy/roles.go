package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// timeouts are a floor for sessions that nobody else limits: the driver sets the plan's in each transaction.
var timeouts = map[string]string{"statement_timeout": "60s", "idle_in_transaction_session_timeout": "60s"}

// tableRights of the maintenance role.
var tableRights = []string{"DELETE", "INSERT", "SELECT", "TRUNCATE", "UPDATE"}

func (p *planner) rolesAndRights() {
	p.role(p.App, "login", false)
	p.appSettings()
	p.role(p.Owner, "nologin", false)
	p.role(p.Maintenance, "nologin bypassrls", true)
	p.memberships()
	p.databaseRights()
	holding := p.holding()
	for _, schema := range p.schemas() {
		p.schemaOwner(schema)
		if slices.Contains(holding, schema) {
			p.schemaRights(schema)
		} else {
			p.rightsToCreate("schema "+schema, "schema "+ident(schema), schema, []string{"CREATE"})
		}
	}
	p.defaultRights(holding, p.schemas())
	p.belongings()
}

// belongings takes types from the app role. What runs somewhere is a problem: with another owner it would still do what the
// app role has written into it, and for more roles.
func (p *planner) belongings() {
	var left []string
	for _, o := range p.cluster.belongings {
		if o.Type == "type" || o.Type == "composite type" {
			alter := "alter type " + o.Identity + " owner to "
			p.add(Change{
				Object: "type " + o.Identity, Property: "owner", Was: p.App, Want: p.Owner,
				Do: []string{alter + ident(p.Owner)}, Undo: []string{"do " + literal("begin "+alter+ident(p.App)+"; exception when undefined_object then null; end")},
			})
		} else {
			left = append(left, o.Type+" "+o.Identity)
		}
	}
	if len(left) > 0 {
		p.problem("the app role may own nothing, and this belongs to it: %s. Look at what it does, and give it to %s (reassign owned by %s to %s), or drop it",
			few(left), p.Owner, ident(p.App), ident(p.Owner))
	}
}

// few is a list that nobody minds reading.
func few(all []string) string {
	const enough = 5
	if more := len(all) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:enough], ", "), more)
	}
	return strings.Join(all, ", ")
}

// role makes a role, and takes attributes away that step around policies or roles. Whether somebody may log in as a role
// that is there already is the operator's choice. A rollback leaves roles alone: they belong to all databases of the server.
func (p *planner) role(name, attributes string, bypass bool) {
	c := Change{Object: "role " + name, Property: "attributes", Want: attributes, Do: []string{
		"do " + literal(fmt.Sprintf("begin create role %s %s; exception when duplicate_object then null; end", ident(name), attributes)),
	}}
	have, exists := p.cluster.roles[name]
	if !exists {
		p.add(c)
		return
	}
	was, want, change := []string{"nologin"}, []string{"nologin"}, []string(nil)
	if have.Login {
		was[0], want[0] = "login", "login"
	}
	for _, a := range []struct {
		name        string
		has, wanted bool
	}{
		{"bypassrls", have.Bypass, bypass},
		{"superuser", have.Super, false},
		{"createrole", have.CreateRole && name == p.App, false},
		{"createdb", have.CreateDB && name == p.App, false},
		{"replication", have.Replication && name == p.App, false},
	} {
		if a.has {
			was = append(was, a.name)
		}
		if a.wanted {
			want = append(want, a.name)
		}
		// Only what differs is named: to say nosuperuser takes a superuser, even of a role that is none.
		if a.has && !a.wanted {
			change = append(change, "no"+a.name)
		} else if a.wanted && !a.has {
			change = append(change, a.name)
		}
	}
	if c.Was, c.Want = strings.Join(was, " "), strings.Join(want, " "); len(change) > 0 {
		c.Do = append(c.Do, "alter role "+ident(name)+" "+strings.Join(change, " "))
	}
	p.add(c)
}

// appSettings are stored settings of the app role in this database.
func (p *planner) appSettings() {
	stored := func(name string) (value string, here, found bool) {
		for _, s := range p.cluster.defaults { // those of all databases come first
			if s.Name == name {
				value, here, found = s.Value, s.Here, true
			}
		}
		return value, here, found
	}
	set := func(name, want string) {
		was, here, _ := stored(name)
		in := "alter role " + ident(p.App) + " in database " + ident(p.database)
		c := Change{Object: "role " + p.App, Property: "setting " + name, Was: was, Want: want}
		value := func(v string) string {
			if name == "search_path" {
				return v // a list, quoted by itself
			}
			return literal(v)
		}
		c.Do, c.Undo = []string{in + " set " + name + " = " + value(want)}, []string{in + " reset " + name}
		if here {
			c.Undo = []string{in + " set " + name + " = " + value(was)}
		}
		p.add(c)
	}
	for _, name := range slices.Sorted(maps.Keys(timeouts)) {
		want := timeouts[name]
		if was, _, found := stored(name); found && was != "0" && was != "" {
			want = was
		}
		set(name, want)
	}
	// A temporary table of the same name must not be found in front of the real one.
	path, _, _ := stored("search_path")
	var parts []string
	found := pathParts(path)
	for _, part := range found {
		if !isTemp(part) {
			parts = append(parts, part)
		}
	}
	if n := len(parts); n > 0 && len(found) == n+1 && isTemp(found[n]) {
		set("search_path", path)
		return
	}
	if len(parts) == 0 {
		for _, schema := range p.holding() {
			parts = append(parts, ident(schema))
		}
	}
	set("search_path", strings.Join(append(parts, "pg_temp"), ", "))
}

// pathParts splits a search_path. Quoted names may hold commas.
func pathParts(path string) (parts []string) {
	quoted, from := false, 0
	for i, r := range path + "," {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ',' && !quoted:
			if part := strings.TrimSpace(path[from:i]); part != "" {
				parts = append(parts, part)
			}
			from = i + 1
		}
	}
	return parts
}

func isTemp(part string) bool { return part == "pg_temp" || part == `"pg_temp"` }

// holding returns the schemas of the relations, in order.
func (p *planner) holding() []string {
	names := map[string]bool{}
	for _, r := range p.relations {
		names[r.Schema] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// schemas returns all schemas but those that are skipped, in order: whoever may create in one that is empty stands in front
// of what the search_path finds behind it, and whoever owns one drops and replaces functions that triggers call.
func (p *planner) schemas() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.cluster.owners)), func(schema string) bool {
		return schema == RecordSchema || matches(p.SkipSchemas, schema)
	})
}

// databaseRights takes the database from the app role, and from it and PUBLIC the right to make schemas and temporary
// objects: a temporary table of the same name stands in front of a real one. An owner would have all of it, and schema
// public besides.
func (p *planner) databaseRights() {
	on := "database " + ident(p.database)
	if p.cluster.database == p.App {
		p.add(Change{
			Object: "database " + p.database, Property: "owner", Was: p.App, Want: p.Owner,
			// It could connect as the owner.
			Do:   []string{"alter " + on + " owner to " + ident(p.Owner), "grant connect on " + on + " to " + ident(p.App)},
			Undo: []string{"alter " + on + " owner to " + ident(p.App)},
		})
	}
	take := []string{"CREATE", "TEMPORARY"}
	if p.KeepTemp {
		take = take[:1]
	}
	p.rightsToCreate("database "+p.database, on, "", take)
}

// rightsToCreate takes rights on the database (schema is "") or on a schema from PUBLIC and the app role.
func (p *planner) rightsToCreate(object, on, schema string, take []string) {
	var was, undo []string
	for _, r := range p.cluster.rights {
		if r.Schema == schema && (r.Grantee == "" || r.Grantee == p.App && p.cluster.owners[schema] != p.App) && slices.Contains(take, r.Privilege) {
			was = append(was, r.Privilege+" to "+granteeName(r.Grantee))
			undo = append(undo, "grant "+r.Privilege+" on "+on+" to "+granteeIdent(r.Grantee))
		}
	}
	p.add(Change{
		Object: object, Property: "rights to create", Was: strings.Join(was, ", "),
		Do: []string{"revoke " + strings.Join(take, ", ") + " on " + on + " from public, " + ident(p.App)}, Undo: undo,
	})
}

// schemaOwner takes a schema from the app role, which may go on to use what is in it.
func (p *planner) schemaOwner(schema string) {
	if p.cluster.owners[schema] != p.App {
		return
	}
	on := "schema " + ident(schema)
	p.add(Change{
		Object: "schema " + schema, Property: "owner", Was: p.App, Want: p.Owner,
		Do:   []string{"alter " + on + " owner to " + ident(p.Owner), "grant usage on " + on + " to " + ident(p.App)},
		Undo: []string{"alter " + on + " owner to " + ident(p.App)},
	})
}

// schemaRights: foreign keys are checked as the owner of the table, so the owner needs the schema, too.
func (p *planner) schemaRights(schema string) {
	want := map[string][]string{
		p.App: {"USAGE"}, p.Owner: {"CREATE", "USAGE"}, p.Maintenance: {"CREATE", "USAGE"},
	}
	have := map[string][]string{}
	for _, r := range p.cluster.rights {
		if r.Schema == schema {
			have[r.Grantee] = append(have[r.Grantee], r.Privilege)
		}
	}
	if slices.Contains(have[""], "USAGE") {
		want[""] = []string{"USAGE"} // harmless without rights on what is in it
	}
	// An owner has all of it.
	owner := p.cluster.owners[schema]
	delete(have, owner)
	if owner == p.App {
		owner = p.Owner
	}
	delete(want, owner)
	p.rights("schema "+schema, "", "schema "+ident(schema), have, want)
}

// rights makes the change from rights to others, on anything but relations.
func (p *planner) rights(object, relation, on string, have, want map[string][]string) {
	grantees := []string{"", p.App, p.Owner, p.Maintenance}
	from := make([]string, 0, len(grantees))
	c := Change{Object: object, Property: "rights", Was: rightsText(have), Want: rightsText(want), Relation: relation}
	for _, g := range grantees {
		from = append(from, granteeIdent(g))
	}
	revoke := "revoke all on " + on + " from " + strings.Join(from, ", ")
	c.Do, c.Undo = []string{revoke}, []string{revoke}
	for _, g := range grantees {
		if len(want[g]) > 0 {
			c.Do = append(c.Do, "grant "+strings.Join(want[g], ", ")+" on "+on+" to "+granteeIdent(g))
		}
		if len(have[g]) > 0 {
			c.Undo = append(c.Undo, "grant "+strings.Join(have[g], ", ")+" on "+on+" to "+granteeIdent(g))
		}
	}
	p.add(c)
}

// defaultRights: a future table must not be the app role's before it has policies; its sequences may be.
func (p *planner) defaultRights(holding, schemas []string) {
	type key struct{ role, schema, kind string }
	have := map[key]map[string][]string{}
	for _, schema := range holding {
		have[key{p.Owner, schema, "r"}] = map[string][]string{}
		have[key{p.Owner, schema, "S"}] = map[string][]string{}
	}
	for _, d := range p.cluster.privilege {
		k := key{d.Role, d.Schema, d.Kind}
		if d.Schema != "" && !slices.Contains(schemas, d.Schema) {
			continue
		}
		if have[k] == nil {
			have[k] = map[string][]string{}
		}
		have[k][d.Grantee] = append(have[k][d.Grantee], d.Privilege)
	}
	keys := slices.SortedFunc(maps.Keys(have), func(a, b key) int {
		return strings.Compare(a.schema+"\x00"+a.role+"\x00"+a.kind, b.schema+"\x00"+b.role+"\x00"+b.kind)
	})
	for _, k := range keys {
		ours := k.role == p.Owner && slices.Contains(holding, k.schema)
		if k.kind == "S" && !ours {
			continue
		}
		was, want := maps.Clone(have[k]), map[string][]string{}
		delete(was, p.Owner)
		switch {
		case ours && k.kind == "r":
			want[p.Maintenance] = tableRights
		case ours:
			want[p.App] = []string{"USAGE"}
			want[p.Maintenance] = []string{"SELECT", "UPDATE", "USAGE"}
		default:
			want[p.Maintenance] = was[p.Maintenance]
		}
		p.defaultRight(k.role, k.schema, map[string]string{"r": "tables", "S": "sequences"}[k.kind], was, want)
	}
}

func (p *planner) defaultRight(role, schema, objects string, was, want map[string][]string) {
	alter := "alter default privileges for role " + ident(role)
	object := "default rights of " + role
	if schema != "" {
		alter += " in schema " + ident(schema)
		object += " in schema " + schema
	}
	revoke := alter + " revoke all on " + objects + " from public, " + ident(p.App) + ", " + ident(p.Maintenance)
	c := Change{
		Object: object, Property: objects, Was: rightsText(was), Want: rightsText(want), Do: []string{revoke}, Undo: []string{revoke},
	}
	for _, g := range []string{"", p.App, p.Maintenance} {
		if len(want[g]) > 0 {
			c.Do = append(c.Do, alter+" grant "+strings.Join(want[g], ", ")+" on "+objects+" to "+granteeIdent(g))
		}
		if len(was[g]) > 0 {
			c.Undo = append(c.Undo, alter+" grant "+strings.Join(was[g], ", ")+" on "+objects+" to "+granteeIdent(g))
		}
	}
	p.add(c)
}

func granteeName(name string) string {
	if name == "" {
		return "public"
	}
	return name
}

func granteeIdent(name string) string {
	if name == "" {
		return "public"
	}
	return ident(name)
}

// rightsText writes who has what, in an order that does not depend on who granted first.
func rightsText(have map[string][]string) string {
	var parts []string
	for _, grantee := range slices.Sorted(maps.Keys(have)) {
		if rights := slices.Compact(slices.Sorted(slices.Values(have[grantee]))); len(rights) > 0 {
			parts = append(parts, granteeName(grantee)+" "+strings.Join(rights, ", "))
		}
	}
	return strings.Join(parts, "; ")
}
