package audit

// tablesRules are about row security of tables.
var tablesRules = []Rule{
	{
		ID: "SPG020", Severity: Critical, Level: Standard,
		Title: "a table of tenants that the app role reaches has row security off",
		Why:   "Every tenant reads and writes the rows of all.",
		Fix:   "alter table {object} enable row level security, with policies; or shardedpg rls apply",
		query: `select ttab.fq as object, 'reachable by '||acc.who as detail
 from ttab join acc using (oid) where not relrowsecurity`,
	},
	{
		ID: "SPG021", Severity: High, Level: Standard,
		Title: "row security is not forced",
		Why:   "The owner, its views and its SECURITY DEFINER functions pass the policies.",
		Fix:   "alter table {object} force row level security; or shardedpg rls apply",
		query: `select fq as object, 'owner '||pg_get_userbyid(relowner)||' bypasses' as detail
 from ttab where relrowsecurity and not relforcerowsecurity`,
	},
	{
		ID: "SPG022", Severity: Critical, Level: Standard,
		Title: "a table has policies and row security is off",
		Why:   "The policies look like protection and do nothing.",
		Fix:   "alter table {object} enable row level security, and force it; or shardedpg rls apply",
		query: `select rel.fq as object, count(*)||' inert policies' as detail
 from rel join pg_policy p on p.polrelid = rel.oid
 where not rel.relrowsecurity group by 1`,
	},
	{
		ID: "SPG023", Severity: Medium, Level: Standard,
		Title: "row security is on and no policy lets the app role in",
		Why:   "Every statement finds nothing, and inserts fail.",
		Fix:   "shardedpg rls apply",
		query: `select ttab.fq as object, 'no applicable policy' as detail
 from ttab join acc using (oid) where relrowsecurity and not exists (select 1 from pol where pol.polrelid = ttab.oid and
  pol.polpermissive)`,
	},
	{
		ID: "SPG024", Severity: High, Level: Standard,
		Title: "the app role reaches a table without a tenant column",
		Why:   "Whatever a tenant writes there, all others read.",
		Fix:   "give it the column and policies, or declare it global and grant select only",
		query: `select rel.fq as object, 'reachable by '||acc.who as detail
 from rel join acc using (oid), cfg where rel.relkind in ('r','p') and not rel.relrowsecurity and not exists (select 1 from ttab
  where ttab.oid = rel.oid) and rel.nspname !~ cfg.tschemas and rel.plain !~ cfg.shared`,
	},
	{
		ID: "SPG025", Severity: Critical, Level: Standard,
		Title: "a partition or child is not protected and its parent is",
		Why:   "Policies of the parent do not hold for who names the child.",
		Fix:   "alter table {object} enable row level security, with the parent's policies, and revoke all on it; or shardedpg rls apply",
		query: `select child.fq as object, 'parent '||parent.fq||' is protected, child is not' as detail
 from pg_inherits i join rel child on child.oid = i.inhrelid join rel parent on parent.oid = i.inhparent
 where parent.relrowsecurity and not child.relrowsecurity`,
	},
	{
		ID: "SPG026", Severity: High, Level: Standard,
		Title: "the tenant column may be null",
		Why:   "Rows without a tenant belong to nobody, or to everybody where a policy compares with IS NOT DISTINCT FROM.",
		Fix:   "alter table {object} alter column … set not null; or shardedpg rls apply",
		query: `select fq as object, 'NULL rows belong to nobody (or to everybody with IS NOT DISTINCT FROM)' as detail
 from ttab where not tnotnull and not relispartition`,
	},
}
