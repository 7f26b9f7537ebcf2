package audit

// head is in front of each query and names what the queries read from:
//
//	cfg     the configuration, one row        here    this database, one row
//	pool    the app roles                     reach   roles that these are, or can become
//	strong  roles that pass all policies      rel     relations outside the catalog
//	acc     relations that an app role reaches, and who
//	ttab    tables with the tenant column     pol     policies of these that apply to an app role
//	split   tables partitioned by the tenant, and their partitions, whose policies follow the table's
const head = `with recursive
cfg as (select string_to_array(current_setting('audit.app_roles'), chr(31)) as roles, current_setting('audit.tenant_column') as tcol,
               current_setting('audit.guc') as guc, current_setting('audit.ctx_schema') as ctxs, current_setting('audit.global') as shared,
               current_setting('audit.tenant_schemas') as tschemas,
               coalesce(nullif(current_setting('audit.version'), ''), current_setting('server_version_num'))::int as version),
here as (select oid, datname, datdba from pg_database where datname = current_database()),
pool as (select r.oid, r.rolname, r.rolsuper, r.rolbypassrls from pg_roles r, cfg where r.rolname = any (cfg.roles)),
reach(oid, pool) as (select oid, rolname from pool
  union select m.roleid, reach.pool from reach join (select roleid, member from pg_auth_members
    union all select 'pg_database_owner'::regrole, datdba from here) m on m.member = reach.oid),
strong as (select r.oid, r.rolname from pg_roles r where r.rolsuper or r.rolbypassrls),
rel as (select c.oid, c.relname, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.reloptions, c.relacl,
               n.nspname, format('%I.%I', n.nspname, c.relname) as fq, n.nspname || '.' || c.relname as plain
          from pg_class c join pg_namespace n on n.oid = c.relnamespace, cfg
         where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)' and n.nspname <> cfg.ctxs),
acc as (select rel.oid, string_agg(distinct pool.rolname, ',') as who from rel, pool
         where rel.relkind in ('r', 'p', 'v', 'm', 'f') and (has_table_privilege(pool.oid, rel.oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE')
               or has_any_column_privilege(pool.oid, rel.oid, 'SELECT,INSERT,UPDATE'))
         group by rel.oid),
ttab as (select rel.*, a.attnum as tattnum, a.attnotnull as tnotnull from rel, cfg, pg_attribute a
          where rel.relkind in ('r', 'p') and a.attrelid = rel.oid and a.attname = cfg.tcol and not a.attisdropped),
split(oid) as (select t.oid from ttab t join pg_partitioned_table pt on pt.partrelid = t.oid and t.tattnum = any (pt.partattrs)
  union select i.inhrelid from pg_inherits i join split on i.inhparent = split.oid),
pol as (select p.oid, p.polname, p.polrelid, p.polcmd, p.polpermissive, ttab.fq,
               pg_get_expr(p.polqual, p.polrelid) as uq, pg_get_expr(p.polwithcheck, p.polrelid) as wc,
               coalesce(pg_get_expr(p.polqual, p.polrelid), '') || ' ' || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') as ex,
               exists (select 1 from pg_depend d join pg_proc f on f.oid = d.refobjid
                        where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_proc'::regclass
                          and position(cfg.guc in coalesce(f.prosrc, '')) > 0) as fnref
          from cfg, pg_policy p join ttab on ttab.oid = p.polrelid
         where exists (select 1 from pool where 0 = any (p.polroles) or pool.oid = any (p.polroles)
                          or exists (select 1 from unnest(p.polroles) x where x <> 0 and pg_has_role(pool.oid, x, 'MEMBER'))))
`
