package audit

// rolesRules are about roles that tenants' statements run as.
var rolesRules = []Rule{
	{
		ID: "SPG001", Severity: Critical, Level: Standard,
		Title: "the app role is a superuser",
		Why:   "No policy applies to a superuser: each statement of a tenant sees all rows.",
		Fix:   "alter role {object} nosuperuser",
		query: `select rolname as object, 'SUPERUSER ignores every policy' as detail
 from pool where rolsuper`,
	},
	{
		ID: "SPG002", Severity: Critical, Level: Standard,
		Title: "the app role has BYPASSRLS",
		Why:   "No policy applies to it: each statement of a tenant sees all rows.",
		Fix:   "alter role {object} nobypassrls",
		query: `select rolname as object, 'BYPASSRLS ignores every policy' as detail
 from pool where rolbypassrls`,
	},
	{
		ID: "SPG003", Severity: Critical, Level: Standard,
		Title: "the app role owns a table of tenants",
		Why:   "An owner can switch row security off, and passes it where it is not forced.",
		Fix:   "alter table {object} owner to a role that nobody logs in as; or shardedpg rls apply",
		query: `select ttab.fq as object, 'owned by the app role '||pool.rolname as detail
 from ttab join pool on pool.oid = ttab.relowner`,
	},
	{
		ID: "SPG004", Severity: Critical, Level: Standard,
		Title: "the app role can become a superuser or a BYPASSRLS role",
		Why:   "set_config('role', …) inside a SELECT is enough to pass all policies.",
		Fix:   "revoke that membership from {object}",
		query: `select reach.pool as object, 'can SET ROLE '||s.rolname as detail
 from reach join strong s on s.oid = reach.oid join pool on pool.rolname = reach.pool and pool.oid <> s.oid`,
	},
	{
		ID: "SPG005", Severity: Critical, Level: Standard,
		Title: "the app role is a member of an owner of tenants' tables",
		Why:   "As a member it can become the owner, and switch row security off.",
		Fix:   "revoke that membership from {object}",
		query: `select distinct reach.pool as object, 'member of owner '||pg_get_userbyid(reach.oid)||' of '||ttab.fq as detail
 from reach join ttab on ttab.relowner = reach.oid join pool on pool.rolname = reach.pool and pool.oid <> reach.oid`,
	},
	{
		ID: "SPG006", Severity: High, Level: Standard,
		Title: "the app role is a member of a predefined role with wide rights",
		Why:   "These roles read all tables, files or statements, or end other sessions.",
		Fix:   "revoke that membership from {object}",
		query: `select reach.pool as object, 'member of '||r.rolname as detail
 from reach join pg_roles r on r.oid = reach.oid
 where r.rolname in
  ('pg_read_all_data','pg_write_all_data','pg_read_server_files','pg_write_server_files','pg_execute_server_program','pg_monitor','pg_read_all_stats','pg_read_all_settings','pg_stat_scan_tables','pg_signal_backend','pg_maintain','pg_checkpoint','pg_create_subscription','pg_use_reserved_connections')`,
	},
	{
		ID: "SPG007", Severity: High, Level: Standard,
		Title: "the app role may make roles or databases, or replicate",
		Why:   "Each of them is a way to rows that no policy guards.",
		Fix:   "alter role {object} nocreaterole nocreatedb noreplication",
		query: `select r.rolname as object, concat_ws(',', case when r.rolcreaterole then 'CREATEROLE' end, case when r.rolcreatedb then
  'CREATEDB' end, case when r.rolreplication then 'REPLICATION' end) as detail from pg_roles r join pool using (oid) where
  r.rolcreaterole or r.rolcreatedb or r.rolreplication`,
	},
	{
		ID: "SPG008", Severity: High, Level: Standard,
		Title: "a stored setting names a tenant or weakens isolation",
		Why:   "A connection without a tenant would not be empty: RESET ALL returns to stored settings.",
		Fix:   "alter role … [in database …] reset of that setting",
		query: `select coalesce(r.rolname,'ALL')||'@'||coalesce(d.datname,'ALL') as object, cfgline as detail
 from pg_db_role_setting s cross join lateral unnest(s.setconfig) cfgline left join pg_roles r on r.oid = s.setrole left join
  pg_database d on d.oid = s.setdatabase, cfg
 where (s.setrole = 0 or s.setrole in (select oid from pool)) and (s.setdatabase = 0 or d.datname = current_database()) and
  (split_part(cfgline,'=',1) = cfg.guc or split_part(cfgline,'=',1) like cfg.ctxs||'.%' or split_part(cfgline,'=',1) in
  ('role','row_security','session_replication_role','default_transaction_read_only','standard_conforming_strings'))`,
	},
	{
		ID: "SPG009", Severity: Medium, Level: Standard,
		Title: "the app role has no stored statement or idle timeout",
		Why:   "Sessions that the driver does not limit can hold locks for ever.",
		Fix:   "alter role {object} set statement_timeout = '60s', and idle_in_transaction_session_timeout; or shardedpg rls apply",
		query: `select pool.rolname as object, 'no stored '||k as detail
 from pool, unnest(array['statement_timeout','idle_in_transaction_session_timeout']) k, here
 where not exists (select 1 from pg_db_role_setting s, unnest(s.setconfig) c where (s.setrole in (pool.oid,0)) and s.setdatabase
  in (0, here.oid) and split_part(c,'=',1) = k and split_part(c,'=',2) not in ('0','')) and (select reset_val
 from pg_settings where name = k and source not in ('default','client','session')) is null`,
	},
	{
		ID: "SPG010", Severity: High, Level: Standard,
		Title: "the app role's stored search_path does not end with pg_temp",
		Why:   "A temporary table of the same name is found in front of the real one.",
		Fix:   "alter role {object} set search_path = …, pg_temp; or shardedpg rls apply",
		query: `select pool.rolname as object, coalesce(path.c, 'search_path=(not stored)') as detail
 from pool left join lateral (select c from pg_db_role_setting s, unnest(s.setconfig) c, here
  where s.setrole = pool.oid and s.setdatabase in (0, here.oid) and c like 'search_path=%' order by s.setdatabase desc limit 1) path on true
 where path.c is null or ` + tempNotLast("path.c"),
	},
	{
		ID: "SPG011", Severity: High, Level: Standard,
		Title: "the login itself may use several schemas of tenants",
		Why:   "Without becoming the role of one tenant it reaches the tables of all.",
		Fix:   "revoke usage on these schemas from {object}, and grant it to the role of each tenant",
		query: `select pool.rolname as object, count(*)||' tenant schemas usable without SET ROLE' as detail
 from pool, pg_namespace n, cfg where n.nspname ~ cfg.tschemas and has_schema_privilege(pool.oid, n.oid, 'USAGE') group by 1
  having count(*) > 1`,
	},
	{
		ID: "SPG012", Severity: Critical, Level: Standard,
		Title: "the app role owns the database, or can become its owner",
		Why:   "It makes schemas, changes settings of all sessions, and owns schema public: its code is found instead of yours.",
		Fix:   "alter database {object} owner to a role that nobody logs in as; or shardedpg rls apply",
		query: `select here.datname::text as object, 'owned by '||pg_get_userbyid(datdba)||', which '||reach.pool||' is or can become' as detail
 from here join reach on reach.oid = here.datdba`,
	},
}

// tempNotLast is that a stored search_path does not name pg_temp, or not as the last one only.
func tempNotLast(c string) string {
	return `(` + c + ` !~ '^search_path=(.*,)?\s*(pg_temp|"pg_temp")\s*$' or ` + c + ` ~ '[=,]\s*"?pg_temp"?\s*,')`
}
