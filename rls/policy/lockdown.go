package policy

import (
	"slices"
	"strings"
)

// driverNeeds are functions of the list that the driver's prologue and reset call.
var driverNeeds = []string{setConfig, "pg_prepared_statement()", "pg_advisory_unlock_all()"}

// setConfig is called by the roles of schema tenants as well: in the middle of a transaction the prologue runs as one of them.
const setConfig = "set_config(text,text,boolean)"

func grantSetConfig(role string) string {
	return "grant execute on function pg_catalog." + setConfig + " to " + ident(role)
}

// lockdown takes from PUBLIC what reaches across tenants although no table is touched: signals to other sessions, statement
// texts, session locks, large objects, SQL that is made from text. The driver's role gets back what the driver calls; the
// other two, what migrations and dumps call.
func (p *planner) lockdown() {
	var names, do, undo []string
	for _, f := range p.cluster.functions {
		names = append(names, f.Signature)
		do = append(do, "revoke execute on function pg_catalog."+f.Signature+" from public")
		undo = append(undo, "grant execute on function pg_catalog."+f.Signature+" to public")
	}
	do = append(do, p.giveBack().Do...)
	p.add(Change{Object: "built-in functions", Property: "public may call", Was: strings.Join(names, ", "), Do: do, Undo: undo})
	for _, role := range p.cluster.becomes { // a rollback leaves it, as it leaves the rights of the three: the tenant may be gone by then
		p.add(Change{Object: "role " + role, Property: "may call", Want: setConfig, Do: []string{grantSetConfig(role)}})
	}

	slices.Sort(p.cluster.languages)
	do, undo = nil, nil
	for _, l := range p.cluster.languages {
		do = append(do, "revoke usage on language "+ident(l)+" from public")
		undo = append(undo, "grant usage on language "+ident(l)+" to public")
	}
	p.add(Change{Object: "languages", Property: "public may use", Was: strings.Join(p.cluster.languages, ", "), Do: do, Undo: undo})
}
