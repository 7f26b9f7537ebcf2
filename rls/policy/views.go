package policy

import "slices"

const invokerSince = 150000 // the first version with security_invoker

// view: without security_invoker a view reads tables with the rights of its owner. The owner's policies are not the caller's,
// and it may read what no tenant may. A view that is declared global shows on purpose what is not of tenants.
func (p *planner) view(r *relation) {
	private, global := matches(p.Private, r.name()), matches(p.Global, r.name())
	guarded := r.beyond || slices.ContainsFunc(r.reads, func(base *relation) bool {
		return slices.ContainsFunc(p.tops(base), func(top *relation) bool { return !matches(p.Global, top.name()) })
	})
	switch {
	case private, overRows(r), guarded && !global:
	case guarded:
		p.owner(r, p.Owner)
		p.grants(r, []string{"SELECT"})
		return
	default: // all tenants may read all of it anyway
		if r.Owner == p.App {
			p.owner(r, p.Owner)
		}
		return
	}
	p.owner(r, p.Owner)
	rights := []string{"SELECT"}
	for _, g := range r.grants {
		if g.Grantee == p.App && g.Column == "" && !g.Grantable && slices.Contains([]string{"DELETE", "INSERT", "UPDATE"}, g.Privilege) {
			rights = append(rights, g.Privilege)
		}
	}
	if private {
		rights = nil
	} else if p.version < invokerSince {
		rights = nil
		p.advise(r.object(), "PostgreSQL before 15 runs views with the rights of their owner, so tenants get none on it: query the tables, "+
			"or declare it global if it reads nothing of tenants and they may see all of it", "")
	}
	if p.version >= invokerSince {
		was := "off"
		if slices.Contains([]string{"true", "on", "yes", "1"}, r.Invoker) {
			was = "on"
		}
		undo := "alter view " + r.ident() + " reset (security_invoker)"
		if r.Invoker != "" {
			undo = "alter view " + r.ident() + " set (security_invoker = " + r.Invoker + ")"
		}
		p.add(Change{
			Object: r.object(), Property: "security_invoker", Was: was, Want: "on", Relation: r.ident(), OID: r.OID,
			Do: []string{"alter view " + r.ident() + " set (security_invoker = on)"}, Undo: []string{undo},
		})
	}
	p.grants(r, rights)
}

// overRows reports whether the view reads rows of tenants.
func overRows(view *relation) bool {
	return slices.ContainsFunc(view.reads, func(base *relation) bool { return base.HasTenant })
}

// materialized: no policy applies to the rows that it keeps. Its owner has to pass policies, or the next REFRESH, which runs
// as the owner, empties it.
func (p *planner) materialized(r *relation) {
	switch {
	case matches(p.Global, r.name()):
		p.owner(r, p.Maintenance)
		p.grantsExactly(r, map[string][]string{p.App: {"SELECT"}})
	case overRows(r) || matches(p.Private, r.name()):
		p.owner(r, p.Maintenance)
		p.grantsExactly(r, map[string][]string{})
		if overRows(r) && !matches(p.Private, r.name()) {
			p.advise(r.object(), "it keeps rows of all tenants and no policy applies to it, so tenants get none on it: "+
				"query the tables, or declare it global if it holds nothing of one tenant, or private", "")
		}
	default:
		p.problem("%s reads no table of tenants: declare it global (all tenants read it) or private (none does)", r.object())
	}
}

// foreign: no policy can be put on a foreign table.
func (p *planner) foreign(r *relation) {
	switch {
	case matches(p.Global, r.name()):
		p.owner(r, p.Owner)
		p.grants(r, []string{"SELECT"})
	case matches(p.Private, r.name()):
		p.owner(r, p.Owner)
		p.grants(r, nil)
	default:
		p.problem("%s cannot have policies: declare it global (all tenants read it) or private (none does)", r.object())
	}
}

// sequence: tables that are written to by tenants need their sequences, and nobody needs to set them back.
func (p *planner) sequence(r *relation) {
	table := p.byOID[r.UsedBy]
	used := table != nil && table.HasTenant && !matches(p.Private, table.name())
	if !r.Linked {
		p.owner(r, p.Owner)
	}
	var rights []string
	had := slices.ContainsFunc(r.grants, func(g grant) bool { return g.Grantee == p.App && g.Privilege == "USAGE" })
	if used || had && r.UsedBy == 0 && !r.Linked {
		rights = []string{"USAGE"}
	}
	p.grants(r, rights)
}
