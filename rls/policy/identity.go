package policy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls"
)

// Identity says what policies take the tenant from.
type Identity string

const (
	// Plain policies read the tenant setting, which every statement can change: they stop mistakes.
	Plain Identity = "plain"
	// Signed policies read a token that the driver has signed with a key of the shard: they stop injected SQL, too.
	Signed Identity = "signed"
)

const (
	keyTable       = RecordSchema + ".ctx_key"
	tenantFunction = RecordSchema + ".current_tenant()"
	keysFunction   = RecordSchema + ".identity_keys()"
)

// keyTableSQL: the pads of HMAC are kept, not the key, so that a signature takes two of the built-in hashes and no extension.
const keyTableSQL = `create table if not exists ` + keyTable + ` (
  kid  text primary key,
  ipad bytea not null,
  opad bytea not null,
  installed_at timestamptz not null default clock_timestamp()
)`

// keyShape is that table as identitySQL prints it.
const keyShape = "kid text not null, ipad bytea not null, opad bytea not null, " +
	"installed_at timestamp with time zone not null clock_timestamp(), PRIMARY KEY (kid)"

// identityFunction is one of the functions that verify tokens. They run as the owner of the keys.
type identityFunction struct {
	name, returns, language, body string
	cost                          int
}

// identityFunctions are those of a database. The cost keeps the planner from calling the first for each row where the form is bare and an
// index could take its result once.
//
// What is signed is compared by its hash, so that the time that it takes tells nothing. transaction_timestamp, because the
// setting is the transaction's: a long one must not lose its tenant halfway.
func identityFunctions(guc string) []identityFunction {
	fail := func(what, hint string) string {
		return "raise exception 'shardedpg: " + what + "' using errcode = '28000', hint = '" + hint + "'; "
	}
	return []identityFunction{
		{
			tenantFunction, "text", "plpgsql", `
declare
  token text := current_setting('` + rls.TokenSetting + `', true);
  claim text; key text; process text; until text; inner_pad bytea; outer_pad bytea;
begin
  if token is null or token = '' then
    if nullif(current_setting(` + literal(guc) + `, true), '') is not null then
      ` + fail("the tenant is not signed", "Programs must use sharded_identity=signed here.") + `
    end if;
    return null;
  end if;
  claim := substr(token, 66);
  key := split_part(claim, ':', 1);
  process := split_part(claim, ':', 2);
  until := split_part(claim, ':', 3);
  select k.ipad, k.opad into inner_pad, outer_pad from ` + keyTable + ` k where k.kid = key;
  if not found then
    ` + fail("the tenant is signed with a key that is not here", "shardedpg rls keys list shows which keys a shard has.") + `
  end if;
  if sha256(convert_to(left(token, 65), 'UTF8')) <>
     sha256(convert_to(encode(sha256(outer_pad || sha256(inner_pad || convert_to(claim, 'UTF8'))), 'hex') || ':', 'UTF8')) then
    ` + fail("the signature of the tenant is wrong", "Something other than the driver has set it.") + `
  end if;
  if process <> '0' and process <> pg_backend_pid()::text then
    ` + fail("the tenant was signed for another connection", "Something other than the driver has set it.") + `
  end if;
  if until::bigint < extract(epoch from transaction_timestamp()) then
    ` + fail("the signature of the tenant has expired", "It is old, or the clocks of server and program run apart.") + `
  end if;
  return substr(claim, length(key) + length(process) + length(until) + 4);
end
`, 1000,
		},
		{
			keysFunction, "text[]", "sql", `
select coalesce(array_agg(k.kid || ':' || left(encode(sha256('shardedpg fingerprint'::bytea || k.ipad), 'hex'), 16) order by k.installed_at, k.kid), '{}')
  from ` + keyTable + ` k
`, 100,
		},
	}
}

func (f identityFunction) create() string {
	return fmt.Sprintf("create or replace function %s returns %s language %s stable security definer parallel restricted cost %d "+
		"set search_path = pg_catalog, pg_temp as %s", f.name, f.returns, f.language, f.cost, literal(f.body))
}

// text is how identitySQL prints it.
func (f identityFunction) text(owner string) string {
	hash := sha256.Sum256([]byte(f.body))
	return fmt.Sprintf(`owner %s, returns %s, security definer, stable, parallel restricted, cost %d, %s, {"search_path=pg_catalog, pg_temp"}, body %x`,
		owner, f.returns, f.cost, f.language, hash[:8])
}

// identityState is what of the identity is there. Texts are as identitySQL prints them, "" for what is not.
type identityState struct {
	schema, table, tenant, keys string
	usage, calls                string // rights of the roles of the configuration
	readable                    bool   // the table
	count                       int    // keys; -1 if that is not known
}

const identitySQL = `
with n as (select * from pg_namespace where nspname = $1),
     t as (select c.* from pg_class c join n on n.oid = c.relnamespace where c.relname = 'ctx_key'),
     f as (select p.proname, p.proowner, p.proacl, concat_ws(', ', 'owner ' || pg_get_userbyid(p.proowner), 'returns ' || format_type(p.prorettype, null),
                   case when p.prosecdef then 'security definer' end, case p.provolatile when 's' then 'stable' else 'volatility ' || p.provolatile::text end,
                   case p.proparallel when 'r' then 'parallel restricted' else 'parallel ' || p.proparallel::text end, 'cost ' || p.procost, l.lanname, p.proconfig::text,
                   'body ' || left(encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex'), 16)) as text
             from pg_proc p join n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang where p.pronargs = 0)
select coalesce((select 'owner ' || pg_get_userbyid(nspowner) from n), ''),
       coalesce((select concat_ws(', ', 'owner ' || pg_get_userbyid(t.relowner),
          case when t.relkind <> 'r' or t.relpersistence <> 'p' or t.reloftype <> 0 then 'no plain table' end,
          case when t.relrowsecurity or exists (select from pg_trigger where tgrelid = t.oid) or t.relkind = 'r' and exists (select from pg_rewrite where ev_class = t.oid)
                 or exists (select from pg_inherits where t.oid in (inhrelid, inhparent)) then 'with triggers, rules or children' end,
          (select 'rights of ' || string_agg(distinct case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end, ' and ')
             from (select t.relacl as acl union all select attacl from pg_attribute where attrelid = t.oid) a, aclexplode(a.acl) g where g.grantee <> t.relowner),
          (select string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                                       pg_get_expr(d.adbin, d.adrelid)), ', ' order by a.attnum)
             from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped),
          (select string_agg(pg_get_constraintdef(c.oid), ', ' order by c.contype) from pg_constraint c where c.conrelid = t.oid and c.contype <> 'n')) from t), ''),
       coalesce((select text from f where proname = 'current_tenant'), ''), coalesce((select text from f where proname = 'identity_keys'), ''),
       coalesce((select string_agg(distinct case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end, ', ')
                   from n, aclexplode(nspacl) g where g.grantee <> n.nspowner and g.privilege_type = 'USAGE' and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($2))), ''),
       coalesce((select string_agg(who, ', ' order by who) from (
          select f.proname || ' ' || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end as who
            from f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) g
           where f.proname in ('current_tenant', 'identity_keys') and g.grantee <> f.proowner and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($2))) e), ''),
       coalesce((select has_schema_privilege(n.oid, 'usage') and has_table_privilege(t.oid, 'select') from n, t), false)`

// readIdentity looks at what verifies tokens. Keys are counted only in a table that is ours: reading another could run code.
func readIdentity(ctx context.Context, tx pgx.Tx, c Config) (s identityState, err error) {
	err = tx.QueryRow(ctx, identitySQL, RecordSchema, []string{c.App, c.Owner, c.Maintenance, c.KeyOwner}).
		Scan(&s.schema, &s.table, &s.tenant, &s.keys, &s.usage, &s.calls, &s.readable)
	switch {
	case err != nil || s.table == "":
	case s.table != keyTableText(c) || !s.readable:
		s.count = -1
	default:
		err = tx.QueryRow(ctx, "select count(*) from "+keyTable).Scan(&s.count)
	}
	return s, err
}

func keyTableText(c Config) string { return "owner " + c.KeyOwner + ", " + keyShape }

// identity are the changes that make what verifies tokens. A rollback leaves all of it alone: programs that sign go on to look
// for it, and plain policies do not mind.
func (c Config) identity(s identityState) (changes []Change) {
	add := func(object, property, was, want string, do ...string) {
		changes = append(changes, Change{Object: object, Property: property, Was: was, Want: want, Do: do})
	}
	sorted := func(names []string) string { return strings.Join(slices.Sorted(slices.Values(names)), ", ") }
	callers := []string{c.App, c.Owner, c.Maintenance}
	quoted := ident(c.App) + ", " + ident(c.Owner) + ", " + ident(c.Maintenance)
	schema := s.schema
	if schema == "" {
		schema = "the owner of what is applied"
	}
	add("schema "+RecordSchema, "owner", s.schema, schema, "create schema if not exists "+RecordSchema)
	using := slices.DeleteFunc(append(slices.Clone(callers), c.KeyOwner), func(name string) bool { return s.schema == "owner "+name })
	add("schema "+RecordSchema, "may use it", s.usage, sorted(using),
		"revoke all on schema "+RecordSchema+" from public", "grant usage on schema "+RecordSchema+" to "+quoted+", "+ident(c.KeyOwner))
	add("table "+keyTable, "definition", s.table, keyTableText(c),
		keyTableSQL, "alter table "+keyTable+" owner to "+ident(c.KeyOwner), "revoke all on "+keyTable+" from public, "+quoted)
	var calls, grants []string
	for i, f := range identityFunctions(c.GUC) {
		add("function "+f.name, "definition", []string{s.tenant, s.keys}[i], f.text(c.KeyOwner),
			f.create(), "alter function "+f.name+" owner to "+ident(c.KeyOwner))
		grants = append(grants, "revoke all on function "+f.name+" from public", "grant execute on function "+f.name+" to "+quoted)
		for _, name := range callers {
			calls = append(calls, strings.TrimSuffix(strings.TrimPrefix(f.name, RecordSchema+"."), "()")+" "+name)
		}
	}
	add("functions of the tenant's identity", "may call", s.calls, sorted(calls), grants...)
	return changes
}
