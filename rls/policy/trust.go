package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrForeignRecords: others than the applying role and superusers may say what the records hold, or what runs when they are
// read or written. Nothing of them is read then, and nothing is applied. The text says what is wrong and what to do.
var ErrForeignRecords = errors.New("the records of policies are not ours alone")

// trustSQL finds what lets anybody else decide what a reader or writer of the records runs. It reads the catalog only.
//
// The applying role is trusted because its rights are all that there is to gain. An app role that can become the owner is
// not, and neither is one that runs as a superuser by mistake and made the table. The shape has to be exactly ours: each
// default, constraint, index and rule would be code that runs with the rights of whoever applies.
const trustSQL = `
with n as (select * from pg_namespace where nspname = $1),
     t as (select c.* from pg_class c join n on n.oid = c.relnamespace where c.relname = 'rls_records'),
     trusted as (select r.oid from pg_roles r where (r.rolsuper or r.rolname = current_user)
        and not exists (select from pg_roles a where a.rolname = $2
                           and (a.oid = r.oid or not a.rolsuper and pg_has_role(a.oid, r.oid, 'MEMBER'))))
select exists (select from n), exists (select from t),
       coalesce((select has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(t.oid, 'SELECT') from n, t), true),
array(
  select format('schema %I belongs to %I', nspname, pg_get_userbyid(nspowner)) from n where nspowner not in (select oid from trusted)
  union all
  select format('%s may create in schema %I', case g.grantee when 0 then 'everybody' else quote_ident(pg_get_userbyid(g.grantee)) end, nspname)
    from n, aclexplode(nspacl) g
   where g.privilege_type = 'CREATE' and g.grantee <> nspowner and g.grantee not in (select oid from trusted)
  union all
  select format('rls_records belongs to %I', pg_get_userbyid(relowner)) from t where relowner not in (select oid from trusted)
  union all
  select format('%s has rights on rls_records', case g.grantee when 0 then 'everybody' else quote_ident(pg_get_userbyid(g.grantee)) end)
    from t, lateral (select relacl as acl union all select attacl from pg_attribute where attrelid = t.oid) a, aclexplode(a.acl) g
   where g.grantee <> relowner and g.grantee not in (select oid from trusted)
  union all
  select 'rls_records is no plain table' from t where relkind <> 'r' or relpersistence <> 'p' or reloftype <> 0
  union all
  select 'rls_records inherits, or is inherited from' from t
   where exists (select from pg_inherits i where t.oid in (i.inhrelid, i.inhparent))
  union all
  select 'rls_records has triggers, rules or policies' from t
   where relrowsecurity or relforcerowsecurity or exists (select from pg_policy where polrelid = t.oid)
      or exists (select from pg_trigger where tgrelid = t.oid and not tgisinternal)
      or relkind = 'r' and exists (select from pg_rewrite where ev_class = t.oid)
  union all
  select 'rls_records has other columns, defaults, constraints, indexes or statistics than ours' from t
   where relkind = 'r' and (exists (select from pg_statistic_ext s where s.stxrelid = t.oid) or exists (select from pg_index i where i.indrelid = t.oid
                                       and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.conrelid = t.oid))
      or $3 is distinct from concat_ws(E'\n',
           (select string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), nullif(a.attidentity::text, ''), nullif(a.attgenerated::text, ''),
                                        case when a.attnotnull then 'not null' end, pg_get_expr(d.adbin, d.adrelid)), E'\n' order by a.attnum)
              from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
             where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped),
           (select string_agg(pg_get_constraintdef(c.oid), E'\n' order by c.contype)
              from pg_constraint c where c.conrelid = t.oid and c.contype <> 'n')))
)`

// shape is the table of recordsSQL as trustSQL prints it.
const shape = `id bigint a not null
at timestamp with time zone not null clock_timestamp()
login text not null SESSION_USER
action text not null
undoes bigint
note text not null
config jsonb not null
changes jsonb not null
CHECK ((action = ANY (ARRAY['apply'::text, 'rollback'::text])))
FOREIGN KEY (undoes) REFERENCES ` + RecordSchema + `.rls_records(id)
PRIMARY KEY (id)
UNIQUE (undoes)`

// whereRecords is which parts of the place of the records are there.
type whereRecords struct{ Schema, Table bool }

// lookAtRecords refuses records that are not ours alone, and locks them, so that they stay what was looked at until the
// transaction ends. app is the app role, "" if it is not known yet.
func lookAtRecords(ctx context.Context, tx pgx.Tx, app string) (whereRecords, error) {
	where, readable, err := trusted(ctx, tx, app)
	if err != nil && (readable || !errors.Is(err, ErrForeignRecords)) || err == nil && !where.Table {
		return where, err
	}
	// Records of another role that this one may not read are no attack: the server refuses the lock. Only the trusted can
	// make it wait. Whatever took the place of the table meanwhile is found below.
	if _, err := tx.Exec(ctx, "lock table only "+RecordSchema+".rls_records in access share mode"); err != nil {
		return where, err
	}
	where, _, err = trusted(ctx, tx, app)
	return where, err
}

func trusted(ctx context.Context, tx pgx.Tx, app string) (where whereRecords, readable bool, err error) {
	var faults []string
	err = tx.QueryRow(ctx, trustSQL, RecordSchema, app, shape).Scan(&where.Schema, &where.Table, &readable, &faults)
	if err == nil && len(faults) > 0 {
		err = fmt.Errorf("%w: %s. Nothing in schema %s was read, because its code would run with your rights. "+
			"If somebody put it there, have a superuser drop the schema, and apply again with all that was declared; "+
			"if it is yours, take these rights away or log in as its owner", ErrForeignRecords, strings.Join(faults, "; "), RecordSchema)
	}
	return where, readable, err
}

// makeRecords makes what is missing. It takes over nothing that somebody else made since lookAtRecords: without "if not
// exists" the server refuses. Default privileges may have granted rights on what is new.
func makeRecords(ctx context.Context, tx pgx.Tx, where whereRecords) error {
	if !where.Schema {
		if _, err := tx.Exec(ctx, "create schema "+RecordSchema); err != nil {
			return err
		}
		if err := takeFromOthers(ctx, tx, "schema "+RecordSchema, `select nspacl from pg_namespace where nspname = $1`, RecordSchema); err != nil {
			return err
		}
	}
	if where.Table {
		return nil
	}
	if _, err := tx.Exec(ctx, recordsSQL); err != nil {
		return err
	}
	return takeFromOthers(ctx, tx, "table "+RecordSchema+".rls_records", `select relacl from pg_class where oid = $1::regclass`, RecordSchema+".rls_records")
}

func takeFromOthers(ctx context.Context, tx pgx.Tx, on, aclSQL, name string) error {
	var revokes []string
	if err := each(ctx, tx, func(g struct{ Grantee string }) {
		revokes = append(revokes, "revoke all on "+on+" from "+granteeIdent(g.Grantee))
	}, `select distinct case when g.grantee = 0 then '' else pg_get_userbyid(g.grantee) end
  from aclexplode((`+aclSQL+`)) g where pg_get_userbyid(g.grantee) <> current_user`, name); err != nil {
		return err
	}
	return run(ctx, tx, on, "rights", revokes)
}
