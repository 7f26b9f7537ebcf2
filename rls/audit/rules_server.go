package audit

// serverRules are about the server and what it gives to everybody.
var serverRules = []Rule{
	{
		ID: "SPG070", Severity: High, Level: Standard,
		Title: "the app role may make temporary objects",
		Why:   "A temporary table of the same name catches the statements of the next tenant on the connection, where nothing resets it.",
		Fix:   "revoke temporary on database {object} from public, {role}; or shardedpg rls apply",
		query: `select current_database()::text as object, 'TEMPORARY for '||pool.rolname as detail
 from pool where has_database_privilege(pool.oid, current_database(), 'TEMPORARY')`,
	},
	{
		ID: "SPG071", Severity: High, Level: Standard,
		Title: "the app role may create objects in a schema, or owns it",
		Why:   "Its function or table is found instead of the real one, and an owner drops and replaces those of others.",
		Fix:   "revoke create on schema {object} from public, {role}, and give it another owner; or shardedpg rls apply",
		query: `select n.nspname::text as object, 'CREATE for '||pool.rolname as detail
 from pg_namespace n, pool where n.nspname !~ '^pg_(toast|temp)' and has_schema_privilege(pool.oid, n.oid, 'CREATE')
 union all select n.nspname, 'owned by '||pg_get_userbyid(n.nspowner)||', which '||reach.pool||' is or can become'
 from pg_namespace n, reach, cfg where n.nspowner = reach.oid and n.nspname !~ '^pg_(toast|temp)' and n.nspname !~ cfg.tschemas`,
	},
	{
		ID: "SPG072", Severity: Medium, Level: Hardened,
		Title: "the app role may call set_config, and policies trust a plain setting",
		Why:   "A statement can name another tenant in its middle: injected SQL reads that tenant's rows.",
		Fix:   "sign tenants, so that policies do not trust the setting: shardedpg rls keys install, shardedpg rls apply --identity signed",
		query: `select pool.rolname as object, 'EXECUTE on set_config; policies on '||(select count(*) from pol, cfg where
  position('current_setting('''||cfg.guc in ex) > 0)||' policies read the plain GUC' as detail
 from pool where has_function_privilege(pool.oid, 'pg_catalog.set_config(text,text,boolean)', 'EXECUTE') and exists (select 1 from
  pol, cfg where position('current_setting('''||cfg.guc in ex) > 0)`,
	},
	{
		ID: "SPG073", Severity: Medium, Level: Hardened,
		Title: "the app role may signal sessions of its own role",
		Why:   "One tenant's statement can end those of others.",
		Fix:   "revoke execute on function pg_cancel_backend, pg_terminate_backend from public; shardedpg rls apply --lockdown",
		query: `select pool.rolname as object, p.proname::text as detail
 from pool, pg_proc p where p.pronamespace='pg_catalog'::regnamespace and p.proname in
  ('pg_terminate_backend','pg_cancel_backend') and has_function_privilege(pool.oid, p.oid, 'EXECUTE')`,
	},
	{
		ID: "SPG074", Severity: Medium, Level: Hardened,
		Title: "the app role may take session advisory locks",
		Why:   "Their keys are common to all tenants, and enough of them fill the server's lock table.",
		Fix:   "revoke execute on the functions from public; shardedpg rls apply --lockdown",
		query: `select pool.rolname as object, count(*)||' advisory lock functions' as detail
 from pool, pg_proc p where p.pronamespace='pg_catalog'::regnamespace and p.proname ~ '^pg_(try_)?advisory_lock' and
  has_function_privilege(pool.oid, p.oid, 'EXECUTE') group by 1`,
	},
	{
		ID: "SPG075", Severity: Low, Level: Hardened,
		Title: "the app role may run SQL that built-in functions make from text",
		Why:   "No check of a statement's text sees it.",
		Fix:   "revoke execute on the functions from public; shardedpg rls apply --lockdown",
		query: `select pool.rolname as object, string_agg(distinct p.proname, ',') as detail
 from pool, pg_proc p where p.pronamespace='pg_catalog'::regnamespace and (p.proname ~
  '^(query|cursor|table|schema|database)_to_xml' or p.proname = 'ts_stat') and p.proname !~ 'xmlschema$' and
  has_function_privilege(pool.oid, p.oid, 'EXECUTE') group by 1`,
	},
	{
		ID: "SPG076", Severity: Medium, Level: Hardened,
		Title: "the app role sees the statements of its other sessions",
		Why:   "Statement texts of other tenants, with the literals in them.",
		Fix:   "revoke execute on function pg_stat_get_activity(int) from public; shardedpg rls apply --lockdown",
		query: `select pool.rolname as object, 'pg_stat_get_activity' as detail
 from pool where has_function_privilege(pool.oid, 'pg_catalog.pg_stat_get_activity(int)', 'EXECUTE')`,
	},
	{
		ID: "SPG077", Severity: Medium, Level: Hardened,
		Title: "the app role may use large objects",
		Why:   "They belong to the role that all tenants share, and have no policies.",
		Fix:   "revoke execute on the functions from public; shardedpg rls apply --lockdown",
		query: `select pool.rolname as object, count(*)||' lo_ functions, '||(select count(*) from pg_largeobject_metadata)||' large objects' as
  detail from pool, pg_proc p where p.pronamespace='pg_catalog'::regnamespace and p.proname in
  ('lo_get','lo_create','lo_creat','lo_from_bytea','lo_put','lo_open','loread','lowrite') and has_function_privilege(pool.oid,
  p.oid, 'EXECUTE') group by 1`,
	},
	{
		ID: "SPG078", Severity: Medium, Level: Hardened,
		Title: "the app role may use a trusted language",
		Why:   "DO blocks run statements that nobody has checked.",
		Fix:   "revoke usage on language {object} from public; shardedpg rls apply --lockdown",
		query: `select l.lanname::text as object, pool.rolname::text as detail
 from pg_language l, pool where l.lanpltrusted and has_language_privilege(pool.oid, l.oid, 'USAGE')`,
	},
	{
		ID: "SPG079", Severity: High, Level: Standard,
		Title: "the server lacks a release that fixes row security",
		Why:   "Known errors of this release show rows to the wrong role.",
		Fix:   "upgrade the server to the newest release of its major version",
		query: `select current_setting('server_version') as object, 'floor for this major is '||f as detail
 from (select cfg.version as v from cfg) y, lateral (select case y.v/10000 when 14 then 140023 when 15 then 150018 when 16 then
  160014 when 17 then 170010 when 18 then 180004 else 0 end as f) x where y.v < x.f or y.v < 140000`,
	},
	{
		ID: "SPG080", Severity: Medium, Level: Standard,
		Title: "prepared transactions are enabled",
		Why:   "A forgotten one holds its locks against all tenants, also after a restart.",
		Fix:   "set max_prepared_transactions = 0 and restart the server",
		query: `select 'max_prepared_transactions' as object, current_setting('max_prepared_transactions') as detail
 where current_setting('max_prepared_transactions')::int > 0`,
	},
}
