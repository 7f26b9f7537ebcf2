package audit

// contextRules are about the signed tenant context, and schemas of tenants.
var contextRules = []Rule{
	{
		ID: "SPG081", Severity: Critical, Level: Standard,
		Title: "others reach the schema of the records and of the tenant context",
		Why:   "Whoever reads the key signs any tenant; whoever writes records, or owns what is in their place, decides what an apply or a rollback runs.",
		Fix:   "revoke all on {object} from public, {role}; what they own or have put there: drop it; a key that was readable: retire it",
		query: `select n.nspname||'.'||c.relname as object, 'grantee '||case when x.grantee=0 then 'PUBLIC' else pg_get_userbyid(x.grantee)
  end||' '||x.privilege_type as detail from pg_class c join pg_namespace n on n.oid=c.relnamespace, cfg, aclexplode(c.relacl) x
 where n.nspname = cfg.ctxs and c.relkind in ('r','p','v','m','f') and x.grantee <> c.relowner
 union all select n.nspname||'.'||c.relname, 'owned by reachable role '||pg_get_userbyid(c.relowner)
 from pg_class c join pg_namespace n on n.oid=c.relnamespace, cfg
 where n.nspname = cfg.ctxs and c.relkind in ('r','p','v','m','f') and c.relowner in (select oid from reach)
 union all select n.nspname, 'owned by reachable role '||pg_get_userbyid(n.nspowner)
 from pg_namespace n, cfg where n.nspname = cfg.ctxs and n.nspowner in (select oid from reach)
 union all select n.nspname||'.'||c.relname, 'runs '||x.what
 from pg_class c join pg_namespace n on n.oid=c.relnamespace, cfg, lateral (select 'trigger '||t.tgname as what
  from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal
  union all select 'rule '||r.rulename from pg_rewrite r where r.ev_class = c.oid) x
 where n.nspname = cfg.ctxs`,
	},
	{
		ID: "SPG082", Severity: Critical, Level: Standard,
		Title: "the function of the tenant context is not as it must be",
		Why:   "Whoever may replace it, or make the planner keep its result, decides who the tenant is.",
		Fix:   "shardedpg rls apply --identity signed",
		query: `select n.nspname||'.'||p.proname as object, concat_ws(', ', case when not p.prosecdef then 'not SECURITY DEFINER' end, case when
  p.provolatile <> 's' then 'not STABLE' end, case when p.proowner in (select oid from reach) then 'owned by a reachable role'
  end, case when p.proparallel = 's' then 'PARALLEL SAFE but checks pg_backend_pid()' end, case when not coalesce(p.proconfig::text, '')
  like '%search_path=pg_catalog, pg_temp%' then 'search_path not pinned' end, case when has_schema_privilege((select
  oid from pool limit 1), n.oid, 'CREATE') then 'schema writable' end) as detail from pg_proc p join pg_namespace n on n.oid =
  p.pronamespace, cfg where n.nspname = cfg.ctxs and p.proname = 'current_tenant' and (not p.prosecdef or p.provolatile <> 's' or
  p.proowner in (select oid from reach) or p.proparallel = 's' or not coalesce(p.proconfig::text, '') like '%search_path=pg_catalog, pg_temp%'
  or has_schema_privilege((select oid from pool limit 1), n.oid,
  'CREATE'))`,
	},
	{
		ID: "SPG083", Severity: High, Level: Standard,
		Title: "a shared schema has a table of the same name as schemas of tenants",
		Why:   "A tenant whose schema is missing would use the shared one.",
		Fix:   "drop or move {object}",
		query: `select s.fq as object, count(distinct t.nspname)||' tenant schemas have the same table' as detail
 from rel s join rel t on t.relname = s.relname and t.relkind in ('r','p') join acc on acc.oid = s.oid, cfg
 where s.relkind in ('r','p','v') and s.nspname !~ cfg.tschemas and t.nspname ~ cfg.tschemas group by 1`,
	},
	{
		ID: "SPG084", Severity: Medium, Level: Standard,
		Title: "a name of a tenant's schema or role is as long as names can be",
		Why:   "PostgreSQL cuts names at 63 bytes: two tenants can get one schema.",
		Fix:   "derive the name from a bounded identifier",
		query: `select n.nspname::text as object, 'length 63' as detail
 from pg_namespace n, cfg where n.nspname ~ cfg.tschemas and octet_length(n.nspname) >= 63
 union all select r.rolname::text, 'role name length 63'
 from pg_roles r, cfg where r.rolname ~ cfg.tschemas and octet_length(r.rolname) >= 63`,
	},
	{
		ID: "SPG085", Severity: Low, Level: Standard,
		Title: "a table of tenants is owned by a superuser or a role that can log in",
		Why:   "Who logs in as the owner can switch row security off.",
		Fix:   "alter table {object} owner to a role that nobody logs in as; or shardedpg rls apply",
		query: `select ttab.fq as object, 'owner '||r.rolname as detail
 from ttab join pg_roles r on r.oid = ttab.relowner
 where r.rolsuper or r.rolcanlogin`,
	},
	{
		ID: "SPG086", Severity: High, Level: Standard,
		Title: "a table trusts the plain setting, and others of this database only signed tenants",
		Why:   "Injected SQL that is stopped at the others reads this table of any tenant.",
		Fix:   "shardedpg rls apply",
		query: `select ttab.fq as object, 'no restrictive policy on it asks '||cfg.ctxs||'.current_tenant()' as detail
 from ttab, cfg where exists (select 1 from pol where position(cfg.ctxs||'.current_tenant' in pol.ex) > 0)
  and exists (select 1 from pol where pol.polrelid = ttab.oid)
  and not exists (select 1 from pol where pol.polrelid = ttab.oid and not pol.polpermissive and pol.polcmd = '*'
   and position(cfg.ctxs||'.current_tenant' in pol.uq) > 0 and position(cfg.ctxs||'.current_tenant' in coalesce(pol.wc, pol.uq)) > 0)`,
	},
	{
		ID: "SPG087", Severity: Medium, Level: Standard,
		Title: "keys of signed tenants are installed, and policies trust the plain setting",
		Why:   "Programs can sign, and nothing asks for it: a statement can still name another tenant in its middle.",
		Fix:   "when all programs have sharded_identity=signed: shardedpg rls apply --identity signed",
		query: `select cfg.ctxs||'.ctx_key' as object, count(*)||' tables have policies on the plain setting' as detail
 from cfg, ttab where exists (select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = cfg.ctxs and c.relname = 'ctx_key')
  and exists (select 1 from pol where pol.polrelid = ttab.oid)
  and not exists (select 1 from pol where pol.polrelid = ttab.oid and position(cfg.ctxs||'.current_tenant' in pol.ex) > 0)
 group by 1`,
	},
}
