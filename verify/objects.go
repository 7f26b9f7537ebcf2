package verify

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/rls"
)

const (
	viewsSQL = `
with recursive reads(view, base) as (
  select r.ev_class, d.refobjid from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
   where d.refobjid <> r.ev_class
), closure(view, base) as (select view, base from reads union select c.view, r.base from closure c join reads r on r.view = c.base)
select n.nspname, v.relname, v.relkind = 'm',
       coalesce((select option_value in ('true', 'on', '1', 'yes') from pg_options_to_table(v.reloptions) where option_name = 'security_invoker'), false),
       exists (select from pg_attribute a where a.attrelid = v.oid and a.attname = $1 and not a.attisdropped)
  from pg_class v join pg_namespace n on n.oid = v.relnamespace
 where v.relkind in ('v', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and exists (select from closure c where c.view = v.oid and c.base = any ($2::text[]::oid[])) order by 1, 2`

	// definersSQL returns functions that run with the rights of their owner, whether they may be called without arguments, and whether
	// PostgreSQL keeps them from writing.
	definersSQL = `
select n.nspname, p.proname, p.oid::regprocedure::text, p.provolatile <> 'v' and l.lanname in ('sql', 'plpgsql') and p.pronargs = p.pronargdefaults
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
 where p.prosecdef and p.prokind = 'f' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
   and has_schema_privilege($1, n.oid, 'USAGE') and has_function_privilege($1, p.oid, 'EXECUTE')
   and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e') order by 1, 2`

	rolesSQL = `
select distinct r.rolname, r.rolsuper or r.rolbypassrls from pg_roles r left join pg_class c on c.relowner = r.oid and c.oid = any ($2::text[]::oid[])
 where r.rolname <> $1 and (r.rolsuper or r.rolbypassrls or c.oid is not null) order by 1`

	sequencesSQL = `
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'S' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and has_schema_privilege($1, n.oid, 'USAGE')
   and exists (select from pg_depend d where d.objid = c.oid and d.refobjid = any ($2::text[]::oid[])
                union select from pg_depend d join pg_attrdef f on f.oid = d.objid and d.classid = 'pg_attrdef'::regclass
                       where d.refobjid = c.oid and f.adrelid = any ($2::text[]::oid[])) order by 1, 2`
)

// watched is a query whose result is compared with what it is once the victim's rows are gone.
type watched struct{ object, attack, query, before string }

// objects attacks what stands beside the tables.
func (s *scene) objects(ctx context.Context, targets []*table) (watch []watched, err error) {
	oids := make([]string, len(targets))
	for i, t := range targets {
		oids[i] = t.id()
	}
	if err := each(ctx, s.admin, func(v struct {
		Schema, Name              string
		Stored, Invoker, HasOwner bool
	},
	) {
		name := v.Schema + "." + v.Name
		if s.skipped(name) || matches(s.Global, name) {
			return
		}
		if w, ok := s.view(ctx, name, ident(v.Schema, v.Name), v.Stored, v.Invoker, v.HasOwner); ok {
			watch = append(watch, w)
		}
	}, viewsSQL, s.TenantColumn, oids); err != nil {
		return nil, err
	}
	if err := each(ctx, s.admin, func(f struct {
		Schema, Name, Signature string
		Safe                    bool
	},
	) {
		switch {
		case s.skipped(f.Schema + "." + f.Name), matches(s.SkipSchemas, f.Schema):
		case !f.Safe:
			s.add(f.Signature, "function of its owner's rights", notTried("it takes arguments or may write, so it is not called: read it, and leave it out with --except"))
		default:
			watch = append(watch, watched{
				object: f.Signature, attack: "function of its owner's rights",
				query: "select coalesce(md5(string_agg(x::text, ',' order by x::text)), '') from " + ident(f.Schema, f.Name) + "() x",
			})
		}
	}, definersSQL, s.app); err != nil {
		return nil, err
	}
	if err := each(ctx, s.admin, func(r struct {
		Name   string
		Strong bool
	},
	) {
		s.add("role "+r.Name, "set role", s.become(ctx, "set role "+rls.QuoteIdent(r.Name)))
		s.add("role "+r.Name, "set role inside the statement", s.become(ctx, "select set_config('role', '"+strings.ReplaceAll(r.Name, "'", "''")+"', false)"))
		if r.Strong {
			s.add("role "+r.Name, "set session authorization", s.become(ctx, "set session authorization "+rls.QuoteIdent(r.Name)))
		}
	}, rolesSQL, s.app, oids); err != nil {
		return nil, err
	}
	if err := each(ctx, s.admin, func(q struct{ Schema, Name string }) {
		if !s.skipped(q.Schema + "." + q.Name) {
			s.sequence = ident(q.Schema, q.Name)
			s.add(q.Schema+"."+q.Name, "setval", s.setval(ctx, ident(q.Schema, q.Name)))
		}
	}, sequencesSQL, s.app, oids); err != nil {
		return nil, err
	}
	s.add("database", "large object", s.largeObject(ctx))
	var comparable []watched
	for _, w := range watch {
		if s.first(ctx, &w) {
			comparable = append(comparable, w)
		}
	}
	return comparable, nil
}

// view tries to see the victim's row through a view. A view without the tenant column is watched instead.
func (s *scene) view(ctx context.Context, name, of string, stored, invoker, hasColumn bool) (watched, bool) {
	look := func(who int) (int64, error) {
		return s.count(s.as(ctx, who), s.db, "select count(*) from "+of+" where "+s.is(1))
	}
	switch {
	case stored: // its rows are those of its last refresh
		_, err := s.count(s.as(ctx, 0), s.db, "select count(*) from (select from "+of+" limit 0) x")
		if err == nil {
			s.add(name, "materialized view", broken("tenants may read it, and it keeps rows of all: no policy applies to it"))
		} else {
			s.add(name, "materialized view", failed(err))
		}
		return watched{}, false
	case !hasColumn:
		return watched{object: name, attack: "view", query: "select coalesce(md5(string_agg(x::text, ',' order by x::text)), '') from " + of + " x"}, true
	}
	n, err := look(0)
	if err == nil && n == 0 && !invoker {
		if own, err := look(1); err == nil && own == 0 {
			s.add(name, "view", notTried("the run's rows do not show in it, not even to their tenant"))
			return watched{}, false
		}
	}
	s.add(name, "view", rows(n, err))
	return watched{}, false
}

// verifier is what shardedpg rls keys install puts into a database.
const verifier = "shardedpg.current_tenant()"

// first runs a watched query while the victim's rows are there. It is false when there is nothing to compare.
func (s *scene) first(ctx context.Context, w *watched) bool {
	one, err := s.ask(ctx, *w)
	if err == nil {
		var two string
		if two, err = s.ask(ctx, *w); err == nil && one != two {
			s.add(w.object, w.attack, notTried("it returns something else each time"))
			return false
		}
	}
	switch {
	case w.object == verifier && code(err) == "28000": // keys are installed before programs sign, and stay when policies go back
		s.add(w.object, w.attack, held("it says nothing to whom it does not believe"))
		return false
	case err != nil:
		s.add(w.object, w.attack, failed(err))
		return false
	}
	w.before = one
	return true
}

// ask runs a watched query as the attacker, unable to write.
func (s *scene) ask(ctx context.Context, w watched) (result string, err error) {
	tx, err := s.db.BeginTx(s.as(ctx, 0), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return "", err
	}
	defer func() { _ = tx.Rollback() }()
	err = tx.QueryRowContext(s.as(ctx, 0), w.query).Scan(&result)
	return result, err
}

// compare runs a watched query once the victim's rows are gone.
func (s *scene) compare(ctx context.Context, w watched) {
	after, err := s.ask(ctx, w)
	switch {
	case err != nil:
		s.add(w.object, w.attack, failed(err))
	case after != w.before:
		s.add(w.object, w.attack, broken("what it returns depends on the other tenant's rows"))
	default:
		s.add(w.object, w.attack, held("the same with and without the other tenant's rows"))
	}
}

func (s *scene) become(ctx context.Context, statement string) verdict {
	return s.onConn(ctx, func(conn *sql.Conn) verdict {
		var was, is string
		if err := conn.QueryRowContext(s.as(ctx, 0), "select current_user").Scan(&was); err != nil {
			return failed(err)
		}
		if _, err := conn.ExecContext(s.as(ctx, 0), statement); err != nil {
			return failed(err)
		}
		if err := conn.QueryRowContext(s.as(ctx, 0), "select current_user").Scan(&is); err != nil {
			return failed(err)
		}
		if is == was {
			return held("")
		}
		return broken("tenants may become this role")
	})
}

func (s *scene) setval(ctx context.Context, of string) verdict {
	var may bool
	err := s.db.QueryRowContext(s.as(ctx, 0), "select has_sequence_privilege($1, 'UPDATE')", of).Scan(&may)
	switch {
	case err != nil:
		return failed(err)
	case may:
		return broken("tenants may set it, and make the inserts of others fail")
	}
	return held("")
}

// largeObject makes one as the victim and reads it as the attacker. All belong to the one login.
func (s *scene) largeObject(ctx context.Context) verdict {
	var oid string
	err := func() error {
		tx, err := s.db.BeginTx(s.as(ctx, 1), nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if err := tx.QueryRowContext(s.as(ctx, 1), "select lo_from_bytea(0, 'verify')::text").Scan(&oid); err != nil {
			return err
		}
		// With the object, in one transaction: it is found by it after a crash.
		if _, err := tx.ExecContext(s.as(ctx, 1), "comment on large object "+oid+" is '"+largeObjectMark+"'"); err != nil {
			return err
		}
		return tx.Commit()
	}()
	if err != nil {
		return failed(err)
	}
	defer func() { _, _ = s.db.ExecContext(s.as(ctx, 1), "select lo_unlink($1::text::oid)", oid) }()
	n, err := s.count(s.as(ctx, 0), s.db, "select length(lo_get($1::text::oid))", oid)
	if err == nil && n > 0 {
		return known("large objects have no policies: take their functions from tenants with shardedpg rls apply --lockdown")
	}
	return rows(n, err)
}

// login refuses to go on when the driver does: then no statement of a tenant runs at all.
func (s *scene) login(ctx context.Context) error {
	_, err := s.count(s.as(ctx, 0), s.db, "select 1")
	if errors.Is(err, shardedpg.ErrUnsafeRole) {
		s.add("role "+s.app, "login", broken("%v", err))
		return err
	}
	return err
}
