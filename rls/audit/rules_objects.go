package audit

// objectsRules are about views, functions and what else reaches rows.
var objectsRules = []Rule{
	{
		ID: "SPG050", Severity: Critical, Level: Standard,
		Title: "a view that the app role reaches runs with its owner's rights",
		Why:   "The owner's policies apply instead of the tenant's, and none if the owner passes them.",
		Fix:   "alter view {object} set (security_invoker = true)",
		query: `, dep(view, base) as (select r.ev_class, d.refobjid from pg_rewrite r join pg_depend d on d.classid='pg_rewrite'::regclass and
  d.objid=r.oid and d.refclassid='pg_class'::regclass and d.refobjid<>r.ev_class), clos(view, base) as (select view, base
 from dep union select c.view, d.base from clos c join dep d on d.view = c.base) select distinct v.fq as object,
  'owner '||pg_get_userbyid(v.relowner)||case when v.relowner in (select oid from strong) then ' BYPASSES every policy' else ''
  end as detail from rel v join acc using (oid) join clos on clos.view = v.oid join ttab on ttab.oid = clos.base
 where v.relkind = 'v' and not coalesce((select lower(option_value) in ('true','on','1','yes') from
  pg_options_to_table(v.reloptions) where option_name = 'security_invoker'), false)`,
	},
	{
		ID: "SPG051", Severity: Critical, Level: Standard,
		Title: "the app role reaches a materialized view",
		Why:   "It keeps rows, and no policy applies to them.",
		Fix:   "revoke all on {object} from {role}, or declare it global",
		query: `select rel.fq as object, 'reachable by '||acc.who as detail
 from rel join acc using (oid), cfg where relkind = 'm' and rel.plain !~ cfg.shared`,
	},
	{
		ID: "SPG052", Severity: Critical, Level: Standard,
		Title: "a SECURITY DEFINER function runs as a role that passes policies",
		Why:   "Whoever calls it sees the rows of all tenants.",
		Fix:   "alter function {object} security invoker, or give it an owner that policies apply to",
		query: `select n.nspname||'.'||p.proname||'('||pg_get_function_identity_arguments(p.oid)||')' as object,
  'owner '||pg_get_userbyid(p.proowner) as detail
 from pg_proc p join pg_namespace n on n.oid = p.pronamespace, cfg
 where p.prosecdef and n.nspname not in ('pg_catalog','information_schema', cfg.ctxs) and exists (select 1 from pool where
  has_function_privilege(pool.oid, p.oid, 'EXECUTE') and has_schema_privilege(pool.oid, n.oid, 'USAGE')) and (p.proowner in
  (select oid from strong) or exists (select 1 from ttab where ttab.relowner = p.proowner and not ttab.relforcerowsecurity))`,
	},
	{
		ID: "SPG053", Severity: High, Level: Standard,
		Title: "a SECURITY DEFINER function takes its search_path from the caller",
		Why:   "The caller decides which tables and functions it uses, with its owner's rights.",
		Fix:   "alter function {object} set search_path = pg_catalog, pg_temp",
		query: `select n.nspname||'.'||p.proname as object, 'search_path taken from the caller' as detail
 from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where p.prosecdef and n.nspname not in ('pg_catalog','information_schema') and p.prosqlbody is null and not exists (select 1 from
  unnest(p.proconfig) c where c like 'search_path=%')`,
	},
	{
		ID: "SPG054", Severity: Medium, Level: Standard,
		Title: "a SECURITY DEFINER function does not search pg_temp last",
		Why:   "A temporary table of the caller stands in front of the real one.",
		Fix:   "alter function {object} set search_path = …, pg_temp",
		query: `select n.nspname||'.'||p.proname as object, c as detail
 from pg_proc p join pg_namespace n on n.oid = p.pronamespace, unnest(p.proconfig) c
 where p.prosecdef and n.nspname not in ('pg_catalog','information_schema') and c like 'search_path=%'
  and ` + tempNotLast("c") + ` and c not in ('search_path=','search_path=""')`,
	},
	{
		ID: "SPG055", Severity: High, Level: Standard,
		Title: "a function is marked LEAKPROOF",
		Why:   "It runs in front of the policy and sees the rows of all tenants.",
		Fix:   "alter function {object} not leakproof",
		query: `select n.nspname||'.'||p.proname as object, 'LEAKPROOF, owner '||pg_get_userbyid(p.proowner) as detail
 from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where p.proleakproof and not exists (select 1 from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and
  e.deptype = 'e') and n.nspname not in ('pg_catalog','information_schema')`,
	},
	{
		ID: "SPG056", Severity: Medium, Level: Standard,
		Title: "a function that the app role may call executes text that it is given",
		Why:   "It runs what no check of a statement's text has seen.",
		Fix:   "revoke execute on function {object} from public, {role}",
		query: `select n.nspname||'.'||p.proname||'('||pg_get_function_identity_arguments(p.oid)||')' as object, 'EXECUTE in body' as detail
 from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
 where n.nspname not in ('pg_catalog','information_schema') and l.lanname = 'plpgsql' and p.prosrc ~* '\mexecute\M' and
  p.prorettype <> 'trigger'::regtype and p.prorettype <> 'event_trigger'::regtype and p.proargtypes::oid[] &&
  array['text'::regtype,'varchar'::regtype,'json'::regtype,'jsonb'::regtype]::oid[] and exists (select 1 from pool where
  has_function_privilege(pool.oid, p.oid, 'EXECUTE') and has_schema_privilege(pool.oid, n.oid, 'USAGE'))`,
	},
	{
		ID: "SPG057", Severity: Critical, Level: Standard,
		Title: "the app role reaches a foreign table",
		Why:   "No policy can be put on a foreign table.",
		Fix:   "revoke all on {object} from {role}, or declare it global",
		query: `select rel.fq as object, 'reachable by '||acc.who as detail
 from rel join acc using (oid), cfg where relkind = 'f' and rel.plain !~ cfg.shared`,
	},
	{
		ID: "SPG058", Severity: High, Level: Standard,
		Title: "the app role may open connections or files from SQL",
		Why:   "What comes back has passed no policy of this database.",
		Fix:   "revoke execute or usage on {object} from public, {role}",
		query: `select n.nspname||'.'||p.proname as object, 'extension '||e.extname as detail
 from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_depend d on d.classid='pg_proc'::regclass and d.objid=p.oid
  and d.deptype='e' join pg_extension e on e.oid=d.refobjid
 where e.extname in ('dblink','adminpack','pg_background','plproxy','http','pg_net') and exists (select 1 from pool where
  has_function_privilege(pool.oid, p.oid, 'EXECUTE') and has_schema_privilege(pool.oid, n.oid, 'USAGE')) union all select
  w.fdwname, 'USAGE on foreign data wrapper'
 from pg_foreign_data_wrapper w, pool where has_foreign_data_wrapper_privilege(pool.oid, w.oid, 'USAGE')
 union all select s.srvname, 'USAGE on foreign server'
 from pg_foreign_server s, pool where has_server_privilege(pool.oid, s.oid, 'USAGE')`,
	},
	{
		ID: "SPG059", Severity: High, Level: Standard,
		Title: "a SECURITY DEFINER trigger on a table of tenants runs as a role that passes policies",
		Why:   "It sees and writes the rows of all tenants on behalf of one.",
		Fix:   "alter the function of trigger {object} to security invoker",
		query: `select ttab.fq||'/'||t.tgname as object, p.proname||' owned by '||pg_get_userbyid(p.proowner) as detail
 from ttab join pg_trigger t on t.tgrelid = ttab.oid and not t.tgisinternal join pg_proc p on p.oid = t.tgfoid
 where p.prosecdef and p.proowner in (select oid from strong)`,
	},
	{
		ID: "SPG060", Severity: Medium, Level: Standard,
		Title: "a rewrite rule on a table of tenants",
		Why:   "Its actions run with the rights of the rule's owner.",
		Fix:   "drop rule {name} on {table}",
		query: `select ttab.fq||'/'||r.rulename as object, case when r.is_instead then 'INSTEAD' else 'ALSO' end as detail
 from ttab join pg_rewrite r on r.ev_class = ttab.oid`,
	},
	{
		ID: "SPG061", Severity: Info, Level: Standard,
		Title: "a table of tenants is published without a row filter",
		Why:   "Whoever subscribes gets the rows of all tenants.",
		Fix:   "a row filter in the publication (PostgreSQL 15 or later), if the subscriber is one tenant's",
		query: `select pt.schemaname||'.'||pt.tablename as object, 'publication '||pt.pubname as detail
 from pg_publication_tables pt join ttab on ttab.nspname = pt.schemaname and ttab.relname = pt.tablename
 where to_jsonb(pt) ->> 'rowfilter' is null`,
	},
	{
		ID: "SPG062", Severity: High, Level: Standard,
		Title: "a view shows the app role a table that it may not read",
		Why:   "The view runs with its owner's rights: what is private, or of another server, is every tenant's through it.",
		Fix:   "alter view {object} set (security_invoker = true), or declare it global",
		query: `, dep(view, base) as (select r.ev_class, d.refobjid from pg_rewrite r join pg_depend d on d.classid='pg_rewrite'::regclass and
  d.objid=r.oid and d.refclassid='pg_class'::regclass and d.refobjid<>r.ev_class), clos(view, base) as (select view, base
 from dep union select c.view, d.base from clos c join dep d on d.view = c.base) select distinct v.fq as object, 'reads '||b.fq as detail
 from rel v join acc using (oid) join clos on clos.view = v.oid join rel b on b.oid = clos.base, cfg
 where v.relkind = 'v' and b.relkind in ('r', 'p', 'f', 'm') and v.plain !~ cfg.shared and b.plain !~ cfg.shared
  and not exists (select 1 from pool where not pool.rolsuper and has_table_privilege(pool.oid, b.oid, 'SELECT'))
  and b.oid not in (select oid from ttab)
  and not exists (select 1 from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = v.oid and e.deptype = 'e')
  and not coalesce((select lower(option_value) in ('true','on','1','yes') from pg_options_to_table(v.reloptions) where option_name =
  'security_invoker'), false)`,
	},
}
