package policy

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// clusterState is what a plan needs to know besides relations.
type clusterState struct {
	roles       map[string]role
	rights      []right           // of PUBLIC and the three roles, on the database and on schemas
	database    string            // the owner of the database
	owners      map[string]string // of schemas, but for the server's own
	belongings  []belonging       // what else of this database belongs to the app role, outside skipped schemas
	defaults    []setting         // stored settings of the app role
	privilege   []defaultRight
	functions   []function
	groups      []group
	groupRights []groupRight
	languages   []string // trusted languages that PUBLIC may use
	becomes     []string // roles of schema tenants, as which only what PUBLIC may call lets set_config be called
}

type role struct {
	Name                                                    string
	Super, Bypass, Login, CreateRole, CreateDB, Replication bool
}

// right is a privilege on the database (Schema is "") or on a schema.
type right struct{ Schema, Grantee, Privilege string }

// belonging is an object that is no relation. Identity is quoted.
type belonging struct{ Schema, Type, Identity string }

// setting is a stored setting, for all databases or for this one.
type setting struct {
	Here  bool
	Name  string
	Value string
}

// defaultRight is what a role's future objects of one kind will grant.
type defaultRight struct{ Role, Schema, Kind, Grantee, Privilege string }

// function is one of the built-in functions that the lock-down takes from PUBLIC, if PUBLIC has it.
type function struct{ Signature string }

const (
	rolesSQL = `select rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication from pg_roles where rolname = any ($1)`

	rightsSQL = `
select '', case when g.grantee = 0 then '' else pg_get_userbyid(g.grantee) end, g.privilege_type
  from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) g
 where d.datname = current_database() and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($1)) and g.grantee <> d.datdba
union all
select n.nspname, case when g.grantee = 0 then '' else pg_get_userbyid(g.grantee) end, g.privilege_type
  from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($1))
 order by 1, 2, 3`

	ownersSQL = `
select nspname, pg_get_userbyid(nspowner) from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
union all
select '', pg_get_userbyid(datdba) from pg_database where datname = current_database()`

	// belongingsSQL leaves out what has a change of its own, large objects, which tenants make, and types that follow another.
	belongingsSQL = `
select coalesce(i.schema, ''), i.type, i.identity
  from pg_shdepend d join pg_roles r on r.oid = d.refobjid, pg_identify_object(d.classid, d.objid, d.objsubid) i
 where d.deptype = 'o' and d.refclassid = 'pg_authid'::regclass and r.rolname = $1
   and d.dbid = (select oid from pg_database where datname = current_database())
   and d.classid not in ('pg_namespace'::regclass, 'pg_largeobject'::regclass) and coalesce(i.schema, '') !~ '^pg_'
   and (d.classid <> 'pg_class'::regclass or i.type = 'composite type')
   and not exists (select from pg_type t where d.classid = 'pg_type'::regclass and t.oid = d.objid and t.typtype = 'm')
 order by 1, 2, 3`

	settingsSQL = `
select s.setdatabase <> 0, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
  from pg_db_role_setting s join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) c
 where r.rolname = $1 and (s.setdatabase = 0 or s.setdatabase = (select oid from pg_database where datname = current_database()))
 order by 1, 2`

	defaultRightsSQL = `
select pg_get_userbyid(a.defaclrole), coalesce(n.nspname, ''), a.defaclobjtype::text,
       case when g.grantee = 0 then '' else pg_get_userbyid(g.grantee) end, g.privilege_type
  from pg_default_acl a left join pg_namespace n on n.oid = a.defaclnamespace, aclexplode(a.defaclacl) g
 where a.defaclobjtype in ('r', 'S') and (g.grantee = 0 or pg_get_userbyid(g.grantee) = any ($1)) and g.grantee <> a.defaclrole
 order by 1, 2, 3, 4, 5`

	// functionsSQL lists what reaches across tenants and is everybody's by default. Advisory locks that end with the
	// transaction stay, and so does setting a parameter for the driver: see lockdown.
	functionsSQL = `
select p.oid::regprocedure::text from pg_proc p
 where p.pronamespace = 'pg_catalog'::regnamespace
   and (p.proname in ('set_config', 'pg_terminate_backend', 'pg_cancel_backend', 'pg_notify', 'pg_logical_emit_message', 'pg_export_snapshot',
          'pg_stat_get_activity', 'pg_stat_get_backend_activity', 'pg_lock_status', 'pg_prepared_statement', 'pg_cursor', 'pg_prepared_xact',
          'ts_stat', 'lastval', 'loread', 'lowrite')
     or p.proname ~ '^(query|cursor|table|schema|database)_to_xml' or p.proname ~ '^pg_(try_)?advisory_(lock|unlock)' or p.proname ~ '^lo_'
     or p.oid = 'pg_catalog.ts_rewrite(tsquery,text)'::regprocedure)
   and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g where g.grantee = 0)
 order by 1`

	becomesSQL = `
select r.rolname from pg_roles r where r.rolname <> all ($2) and not r.rolsuper and not r.rolcanlogin
   and pg_has_role((select oid from pg_roles where rolname = $1), r.oid, 'member')
   and not exists (select from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
     where p.oid = 'pg_catalog.set_config(text,text,boolean)'::regprocedure
       and case when g.grantee <> 0 then pg_has_role(r.oid, g.grantee, 'usage') end)
 order by 1`

	languagesSQL = `
select l.lanname from pg_language l, aclexplode(coalesce(l.lanacl, acldefault('l', l.lanowner))) g
 where l.lanpltrusted and g.grantee = 0 order by 1`
)

func readCluster(ctx context.Context, tx pgx.Tx, c Config) (clusterState, error) {
	s := clusterState{roles: map[string]role{}, owners: map[string]string{}}
	ours := []string{c.App, c.Owner, c.Maintenance}
	for _, read := range []func() error{
		func() (err error) {
			s.groups, s.groupRights, err = readGroups(ctx, tx, c)
			return err
		},
		func() error {
			return each(ctx, tx, func(r role) { s.roles[r.Name] = r }, rolesSQL, append(ours, c.KeyOwner))
		},
		func() error { return each(ctx, tx, func(r right) { s.rights = append(s.rights, r) }, rightsSQL, ours) },
		func() error {
			return each(ctx, tx, func(o struct{ Schema, Owner string }) {
				if o.Schema == "" {
					s.database = o.Owner
				} else {
					s.owners[o.Schema] = o.Owner
				}
			}, ownersSQL)
		},
		func() error {
			return each(ctx, tx, func(o belonging) {
				if !matches(c.SkipSchemas, o.Schema) && o.Schema != RecordSchema {
					s.belongings = append(s.belongings, o)
				}
			}, belongingsSQL, c.App)
		},
		func() error {
			return each(ctx, tx, func(d setting) { s.defaults = append(s.defaults, d) }, settingsSQL, c.App)
		},
		func() error {
			return each(ctx, tx, func(d defaultRight) { s.privilege = append(s.privilege, d) }, defaultRightsSQL, ours)
		},
		func() error {
			return each(ctx, tx, func(f function) { s.functions = append(s.functions, f) }, functionsSQL)
		},
		func() error {
			return each(ctx, tx, func(r struct{ Name string }) { s.becomes = append(s.becomes, r.Name) }, becomesSQL, c.App, ours)
		},
		func() error {
			return each(ctx, tx, func(l struct{ Name string }) { s.languages = append(s.languages, l.Name) }, languagesSQL)
		},
	} {
		if err := read(); err != nil {
			return s, err
		}
	}
	return s, nil
}
