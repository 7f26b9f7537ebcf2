package audit

// rightsRules are about rights on tables and sequences.
var rightsRules = []Rule{
	{
		ID: "SPG042", Severity: High, Level: Standard,
		Title: "the app role may TRUNCATE a table of tenants",
		Why:   "No policy applies to TRUNCATE: it removes the rows of all.",
		Fix:   "revoke truncate on {object} from {role}",
		query: `select ttab.fq as object, pool.rolname as detail
 from ttab, pool where has_table_privilege(pool.oid, ttab.oid, 'TRUNCATE')`,
	},
	{
		ID: "SPG043", Severity: Medium, Level: Standard,
		Title: "the app role has REFERENCES, TRIGGER or MAINTAIN on a table of tenants",
		Why:   "They reach rows, or hold locks, without a policy.",
		Fix:   "revoke references, trigger on {object} from {role} (and maintain, from PostgreSQL 17 on)",
		query: `select distinct ttab.fq as object, p.priv||' to '||pool.rolname as detail
 from ttab, pool, unnest(case when current_setting('server_version_num')::int >= 170000 then
  array['REFERENCES','TRIGGER','MAINTAIN'] else array['REFERENCES','TRIGGER'] end) p(priv) where has_table_privilege(pool.oid,
  ttab.oid, p.priv)`,
	},
	{
		ID: "SPG044", Severity: High, Level: Standard,
		Title: "PUBLIC has rights on a table of tenants",
		Why:   "Every role of the server has them, also those made later.",
		Fix:   "revoke all on {object} from public",
		query: `select ttab.fq as object, string_agg(x.privilege_type, ',') as detail
 from ttab, aclexplode(ttab.relacl) x where x.grantee = 0 group by 1`,
	},
	{
		ID: "SPG045", Severity: Medium, Level: Standard,
		Title: "the app role may set a sequence",
		Why:   "Setting it back makes the inserts of all tenants fail.",
		Fix:   "revoke update on sequence {object} from {role}",
		query: `select rel.fq as object, pool.rolname as detail
 from rel, pool where rel.relkind = 'S' and has_sequence_privilege(pool.oid, rel.oid, 'UPDATE')`,
	},
	{
		ID: "SPG046", Severity: Medium, Level: Standard,
		Title: "future tables are granted before they have policies",
		Why:   "Between CREATE TABLE and its policies, all tenants see all rows.",
		Fix:   "alter default privileges … revoke all on tables; or shardedpg rls apply",
		query: `select pg_get_userbyid(d.defaclrole)||' in '||coalesce(n.nspname,'any schema') as object, x.privilege_type||' to '||case when
  x.grantee=0 then 'PUBLIC' else pg_get_userbyid(x.grantee) end as detail
 from cfg, pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace, aclexplode(d.defaclacl) x
 where d.defaclobjtype = 'r' and (x.grantee = 0 or x.grantee in (select oid from pool)
   or x.grantee in (select oid from reach) and coalesce(n.nspname !~ cfg.tschemas, true))`,
	},
}
