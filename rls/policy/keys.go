package policy

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	// uniqueSQL: unique keys of values that people choose. Generated ones (uuid, identity, serial) tell a tenant nothing.
	uniqueSQL = `
select i.indrelid, x.relname, coalesce(c.conname, ''),
       array(select quote_ident(a.attname) from unnest(i.indkey::int2[]) with ordinality k(n, pos) join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n order by pos)
  from pg_index i join pg_class x on x.oid = i.indexrelid
  left join pg_constraint c on c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x')
 where (i.indisunique or i.indisexclusion) and not x.relispartition
   and not exists (select from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[]) and (a.attname = $1
          or a.atttypid = 'uuid'::regtype or a.attidentity <> ''
          or exists (select from pg_attrdef d where d.adrelid = a.attrelid and d.adnum = a.attnum and pg_get_expr(d.adbin, d.adrelid) ~ '^nextval')))
 order by 1, 2`

	// foreignSQL: foreign keys between tables with the tenant column that do not carry it.
	foreignSQL = `
select c.conrelid, c.confrelid, c.conname, c.confdeltype::text, c.confupdtype::text,
       c.confmatchtype = 'f' and cardinality(c.conkey) > 1,
       case when c.condeferrable then ' deferrable' else '' end || case when c.condeferred then ' initially deferred' else '' end,
       array(select quote_ident(a.attname) from unnest(c.conkey) with ordinality k(n, pos) join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.n order by pos),
       array(select quote_ident(a.attname) from unnest(c.confkey) with ordinality k(n, pos) join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.n order by pos)
  from pg_constraint c
  join pg_attribute f on f.attrelid = c.conrelid and f.attname = $1 and not f.attisdropped
  join pg_attribute t on t.attrelid = c.confrelid and t.attname = $1 and not t.attisdropped
 where c.contype = 'f' and c.conparentid = 0
   and not exists (select from generate_subscripts(c.conkey, 1) s where c.conkey[s] = f.attnum and c.confkey[s] = t.attnum)
 order by 1, 3`
)

// keys advises on keys that do not carry the tenant: policies do not apply when PostgreSQL checks keys, so one tenant's
// values answer another's questions, block its writes, and are deleted by its cascades.
func (p *planner) keys(ctx context.Context, tx pgx.Tx) error {
	inPlay := map[uint32]*relation{}
	for _, r := range p.relations {
		if r.table() && r.HasTenant {
			inPlay[r.OID] = r
		}
	}
	tenant := ident(p.TenantColumn)
	type unique struct {
		Relation          uint32
		Index, Constraint string
		Columns           []string
	}
	if err := each(ctx, tx, func(u unique) {
		r := inPlay[u.Relation]
		if r == nil || len(r.Parents) > 0 {
			return
		}
		sql := "create unique index on " + r.ident() + " (" + strings.Join(append([]string{tenant}, u.Columns...), ", ") + ");\n"
		if u.Constraint != "" {
			sql += "alter table " + r.ident() + " drop constraint " + ident(u.Constraint) + ";"
		} else {
			sql += "drop index " + ident(r.Schema, u.Index) + ";"
		}
		if len(u.Columns) == 0 { // of expressions only
			sql = ""
		}
		p.advise(r.object(), "unique index "+u.Index+" does not begin with the tenant: it tells one tenant what values others have", sql)
	}, uniqueSQL, p.TenantColumn); err != nil {
		return err
	}
	type foreign struct {
		From, To         uint32
		Name             string
		Deletes, Updates string
		Full             bool
		Deferred         string
		Key, Refs        []string
	}
	return each(ctx, tx, func(f foreign) {
		from, to := inPlay[f.From], inPlay[f.To]
		if from == nil || to == nil {
			return
		}
		columns := func(names []string) string {
			return " (" + strings.Join(append([]string{tenant}, names...), ", ") + ")"
		}
		lost := ""
		updates := map[string]string{"c": " on update cascade", "r": " on update restrict"}[f.Updates]
		if f.Updates == "n" || f.Updates == "d" {
			lost = "; what it does on update would set the tenant, too, and is left out of the SQL"
		}
		if f.Full { // with the tenant in the key, which is never null, rows without the rest would be refused
			lost += "; match full is left out of the SQL: check that all of the other columns are null, or none"
		}
		p.advise(from.object(), "foreign key "+f.Name+" does not carry the tenant: rows can point at another tenant's, and go when those are deleted"+lost,
			"create unique index on "+to.ident()+columns(f.Refs)+";\n"+
				"alter table "+from.ident()+" drop constraint "+ident(f.Name)+", add constraint "+ident(f.Name)+
				" foreign key"+columns(f.Key)+" references "+to.ident()+columns(f.Refs)+updates+onDelete(f.Deletes, f.Key)+f.Deferred+";")
	}, foreignSQL, p.TenantColumn)
}

// onDelete is the action of a foreign key that now carries the tenant, which must not be set to null with the rest.
func onDelete(action string, key []string) string {
	switch action {
	case "c":
		return " on delete cascade"
	case "r":
		return " on delete restrict"
	case "n":
		return " on delete set null (" + strings.Join(key, ", ") + ")"
	case "d":
		return " on delete set default (" + strings.Join(key, ", ") + ")"
	}
	return ""
}
