package policy

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// group is a role that the app role can become, or whose rights it has. Whether it inherits them is not asked: with the
// membership it can change that, or SET ROLE.
type group struct {
	Name   string
	Via    string // the role that the app role is a member of itself: Name, or a member of that
	Strong bool   // no policy applies to it, or it can get there
}

// groupRight is what a group may do. An owner's is "OWNER".
type groupRight struct {
	Group     string
	Relation  uint32 // 0: the right is on a schema, or on the database if that is "", too
	Schema    string
	Privilege string
}

const (
	groupsSQL = `
with recursive reach(oid, via) as (
  select m.roleid, m.roleid from pg_auth_members m join pg_roles a on a.oid = m.member where a.rolname = $1
  union select m.roleid, r.via from pg_auth_members m join reach r on m.member = r.oid)
select g.rolname, v.rolname, g.rolsuper or g.rolbypassrls or g.rolcreaterole or g.rolreplication
       or g.rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
  from reach r join pg_roles g on g.oid = r.oid join pg_roles v on v.oid = r.via order by 2, 1`

	groupRightsSQL = `
with g as (select oid, rolname from pg_roles where rolname = any ($1))
select g.rolname, c.oid, '', a.privilege_type from pg_class c, aclexplode(c.relacl) a join g on g.oid = a.grantee where g.oid <> c.relowner
union all
select g.rolname, c.attrelid, '', a.privilege_type from pg_attribute c, aclexplode(c.attacl) a join g on g.oid = a.grantee
union all
select g.rolname, 0, n.nspname, a.privilege_type from pg_namespace n, aclexplode(n.nspacl) a join g on g.oid = a.grantee where g.oid <> n.nspowner and a.privilege_type = 'CREATE'
union all
select g.rolname, 0, n.nspname, 'OWNER' from pg_namespace n join g on g.oid = n.nspowner
union all
select g.rolname, 0, '', a.privilege_type from pg_database d, aclexplode(d.datacl) a join g on g.oid = a.grantee
 where d.datname = current_database() and g.oid <> d.datdba and a.privilege_type in ('CREATE', 'TEMPORARY')
union all
select g.rolname, 0, '', 'OWNER' from pg_database d join g on g.oid = d.datdba where d.datname = current_database()
 order by 1, 2, 3, 4`
)

func readGroups(ctx context.Context, tx pgx.Tx, c Config) (groups []group, rights []groupRight, err error) {
	var names []string
	err = each(ctx, tx, func(g group) {
		g.Strong = g.Strong || g.Name == c.Owner || g.Name == c.Maintenance || g.Name == c.KeyOwner
		groups, names = append(groups, g), append(names, g.Name)
	}, groupsSQL, c.App)
	if err == nil {
		err = each(ctx, tx, func(r groupRight) { rights = append(rights, r) }, groupRightsSQL, names)
	}
	return groups, rights, err
}

// memberships takes the app role out of roles with which it can become one that policies do not hold. A rollback leaves
// them alone, as it does all that belongs to roles.
func (p *planner) memberships() {
	for _, g := range p.cluster.groups {
		if g.Strong {
			p.add(Change{
				Object: "role " + p.App, Property: "membership in " + g.Via, Was: "can become " + g.Name,
				Do: []string{"revoke " + ident(g.Via) + " from " + ident(p.App)},
			})
		}
	}
}

// groupRights finds rights that the app role has through others and would not get itself. Others may need them, so that it is
// for the operator to say which of both goes.
func (p *planner) groupRights() {
	found := map[string][]string{}
	for _, right := range p.cluster.groupRights {
		object := "database " + p.database
		switch r := p.byOID[right.Relation]; {
		case r != nil:
			wanted, planned := p.wanted[r.OID]
			if !planned || slices.Contains(wanted, right.Privilege) {
				continue
			}
			object = r.object()
		case right.Relation != 0, right.Schema != "" && !slices.Contains(p.schemas(), right.Schema),
			right.Privilege == "TEMPORARY" && p.KeepTemp:
			continue
		case right.Schema != "":
			object = "schema " + right.Schema
		}
		found[right.Group] = append(found[right.Group], right.Privilege+" on "+object)
	}
	for _, g := range p.cluster.groups {
		rights := slices.Compact(found[g.Name])
		if g.Strong || len(rights) == 0 || slices.ContainsFunc(p.cluster.groups, func(o group) bool { return o.Via == g.Via && o.Strong }) {
			continue
		}
		p.problem("the app role has rights through role %s that it may not have itself (%s): revoke %s from %s, or take these rights from %s",
			g.Name, few(rights), ident(g.Via), ident(p.App), ident(g.Name))
	}
}
