package audit

// policiesRules are about what policies say.
var policiesRules = []Rule{
	{
		ID: "SPG027", Severity: Critical, Level: Standard,
		Title: "a permissive policy without a tenant condition, and no restrictive one beside it",
		Why:   "Permissive policies are joined by OR: this one opens the table.",
		Fix:   "drop policy {name} on {table}; or shardedpg rls apply, which adds a restrictive one",
		query: `select pol.fq||'/'||polname as object, 'cmd='||polcmd::text||' USING '||coalesce(uq,'-') as detail
 from pol, cfg where polpermissive and polcmd in ('*','r','w','d') and (uq is null or uq !~ ('\m'||cfg.tcol||'\M') or
  (position(cfg.guc in uq) = 0 and position(cfg.ctxs||'.' in uq) = 0 and not fnref)) and not exists (select 1
 from pol r where r.polrelid = pol.polrelid and not r.polpermissive and r.polcmd in ('*', pol.polcmd) and r.uq ~
  ('\m'||cfg.tcol||'\M') and (position(cfg.guc in r.uq) > 0 or position(cfg.ctxs||'.' in r.uq) > 0 or r.fnref))`,
	},
	{
		ID: "SPG028", Severity: Critical, Level: Standard,
		Title: "a policy checks new rows without a tenant condition",
		Why:   "A tenant can put rows into another one's data.",
		Fix:   "shardedpg rls apply",
		query: `select pol.fq||'/'||polname as object, 'cmd='||polcmd::text||' WITH CHECK '||coalesce(wc, uq, '-') as detail
 from pol, cfg where polpermissive and polcmd in ('*','a','w') and (coalesce(wc,uq) is null or coalesce(wc,uq) !~
  ('\m'||cfg.tcol||'\M') or (position(cfg.guc in coalesce(wc,uq)) = 0 and position(cfg.ctxs||'.' in coalesce(wc,uq)) = 0 and not
  fnref)) and not exists (select 1 from pol r where r.polrelid = pol.polrelid and not r.polpermissive and r.polcmd in ('*',
  pol.polcmd) and coalesce(r.wc,r.uq) ~ ('\m'||cfg.tcol||'\M') and (position(cfg.guc in coalesce(r.wc,r.uq)) > 0
  or position(cfg.ctxs||'.' in coalesce(r.wc,r.uq)) > 0 or r.fnref))`,
	},
	{
		ID: "SPG029", Severity: Low, Level: Standard,
		Title: "a right is granted and no policy covers that command",
		Why:   "The statement never does anything, and somebody will look for the reason in the application.",
		Fix:   "revoke that right on {object}, or add a policy for the command",
		query: `select distinct ttab.fq as object, x.priv||' granted to '||pool.rolname||', no policy for it' as detail
 from ttab, pool, (values ('SELECT','r'),('INSERT','a'),('UPDATE','w'),('DELETE','d')) x(priv,c)
 where ttab.relrowsecurity and has_table_privilege(pool.oid, ttab.oid, x.priv) and exists (select 1 from pol where pol.polrelid =
  ttab.oid) and not exists (select 1 from pol
 where pol.polrelid = ttab.oid and polpermissive and polcmd in ('*', x.c::"char"))`,
	},
	{
		ID: "SPG030", Severity: Critical, Level: Standard,
		Title: "a policy lets rows through while no tenant is set",
		Why:   "A connection that forgot its tenant sees rows of all.",
		Fix:   "shardedpg rls apply",
		query: `select pol.fq||'/'||polname as object, ex as detail
 from pol, cfg where (position(cfg.guc in ex) > 0 or position(cfg.ctxs||'.' in ex) > 0) and (ex ~* '\mIS NULL\M' or ex ~*
  'IS NOT DISTINCT FROM|IS DISTINCT FROM' or ex ~* '\mCOALESCE\(' or ex ~* '= ''''::text')`,
	},
	{
		ID: "SPG031", Severity: Medium, Level: Standard,
		Title: "a policy raises an error while no tenant is set",
		Why:   "In a session that had a tenant before, the setting is empty and not null, and the cast of an empty text fails.",
		Fix:   "shardedpg rls apply",
		query: `select pol.fq||'/'||polname as object, ex as detail
 from pol where ex ~ 'current_setting\(''[^'']*''::text\)' or (ex ~ 'current_setting\(' and ex ~
  '::(uuid|bigint|integer|smallint|numeric)' and ex !~* 'NULLIF\(|"?substring"?\(')`,
	},
	{
		ID: "SPG032", Severity: Medium, Level: Standard,
		Title: "a policy looks the tenant up for each row",
		Why:   "Scans take several times as long, and a cached plan keeps the estimates of the first tenant.",
		Fix:   "shardedpg rls apply, which puts it into a sub-select",
		query: `select pol.fq||'/'||polname as object, ex as detail
 from pol, cfg where (uq ~ 'current_setting\(' or position(cfg.ctxs||'.' in coalesce(uq,'')) > 0) and uq !~*
  '\( SELECT .*current_setting\(' and uq !~* ('\( SELECT .*'||cfg.ctxs||'\.') and pol.polrelid not in (select oid from split)`,
	},
	{
		ID: "SPG033", Severity: Critical, Level: Standard,
		Title: "an IMMUTABLE function reads a setting",
		Why:   "A cached plan keeps the first tenant's value: the next tenant gets its rows.",
		Fix:   "alter function {object} stable",
		query: `select n.nspname||'.'||p.proname as object, case when exists (select 1 from pg_depend d where d.classid='pg_policy'::regclass and
  d.refclassid='pg_proc'::regclass and d.refobjid=p.oid) then 'used by a policy' else 'declared IMMUTABLE' end as detail from
  pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where n.nspname not in ('pg_catalog','information_schema') and p.provolatile = 'i' and p.prokind = 'f' and case when p.prokind =
  'f' then pg_get_functiondef(p.oid) end ~* 'current_setting|current_user|session_user|\mcurrent_tenant\M'`,
	},
	{
		ID: "SPG034", Severity: Medium, Level: Standard,
		Title: "a policy calls a VOLATILE function",
		Why:   "It runs for each row, and no index serves it.",
		Fix:   "alter the function to STABLE",
		query: `select pol.fq||'/'||pol.polname as object, n.nspname||'.'||p.proname as detail
 from pol join pg_depend d on d.classid='pg_policy'::regclass and d.objid=pol.oid and d.refclassid='pg_proc'::regclass join
  pg_proc p on p.oid=d.refobjid join pg_namespace n on n.oid=p.pronamespace
 where n.nspname<>'pg_catalog' and p.provolatile='v'`,
	},
	{
		ID: "SPG035", Severity: High, Level: Standard,
		Title: "a policy reads another setting than the driver sets",
		Why:   "The driver's tenant is not in force there: rows are hidden, or shown by a setting that anybody forgot.",
		Fix:   "shardedpg rls apply",
		query: `select pol.fq||'/'||polname as object, 'reads '||m[1] as detail
 from pol, cfg, lateral regexp_matches(ex, 'current_setting\(''([^'']+)''', 'g') m where m[1] <> cfg.guc and m[1] not like
  cfg.ctxs||'.%'`,
	},
	{
		ID: "SPG036", Severity: Medium, Level: Standard,
		Title: "a policy casts the tenant column",
		Why:   "No index on the column serves it.",
		Fix:   "cast the setting instead of the column; or shardedpg rls apply",
		query: `select pol.fq||'/'||polname as object, ex as detail
 from pol, cfg where ex ~ ('\('||cfg.tcol||'\)::')`,
	},
}
