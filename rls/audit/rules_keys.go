package audit

// keysRules are about indexes, keys and constraints.
var keysRules = []Rule{
	{
		ID: "SPG037", Severity: Medium, Level: Standard,
		Title: "no index begins with the tenant column",
		Why:   "Every query of a tenant reads the rows of all.",
		Fix:   "create index concurrently on {object} (tenant column)",
		query: `select fq as object, 'every policy check is a scan' as detail
 from ttab where not exists (select 1 from pg_index i where i.indrelid = ttab.oid and i.indisvalid and i.indkey[0] = ttab.tattnum)`,
	},
	{
		ID: "SPG038", Severity: Low, Level: Standard,
		Title: "an index cannot be used below a policy",
		Why:   "Its operators are not leakproof, so PostgreSQL applies the policy to all rows first.",
		Fix:   "index a type whose operators are leakproof (bigint, text, uuid, timestamptz), or keep such a table in a schema per tenant",
		query: `select distinct i.indexrelid::regclass::text as object, 'opclass '||oc.opcname||' on '||ttab.fq as detail
 from ttab join pg_index i on i.indrelid = ttab.oid cross join lateral unnest(i.indclass::oid[]) with ordinality k(opc, n) join
  pg_opclass oc on oc.oid = k.opc join pg_am am on am.oid = oc.opcmethod
 where ttab.relrowsecurity and not i.indisunique and i.indkey[k.n-1] <> ttab.tattnum and (oc.opcname like '%pattern_ops' or exists
  (select 1 from pg_amop ao join pg_operator o on o.oid = ao.amopopr join pg_proc p on p.oid = o.oprcode where ao.amopfamily =
  oc.opcfamily and ao.amoppurpose = 's' and ao.amoplefttype = oc.opcintype and not p.proleakproof))`,
	},
	{
		ID: "SPG039", Severity: High, Level: Standard,
		Title: "the tenant column has a collation to which different texts are equal",
		Why:   "Tenants whose IDs differ in what it leaves out, such as upper and lower case, see each other's rows.",
		Fix:   "alter table {object} alter column … type text collate \"C\"",
		query: `select ttab.fq as object, 'collation '||l.collname as detail
 from ttab join pg_attribute a on a.attrelid = ttab.oid and a.attnum = ttab.tattnum join pg_collation l on l.oid = a.attcollation
 where not l.collisdeterministic`,
	},
	{
		ID: "SPG040", Severity: Medium, Level: Standard,
		Title: "a unique key does not contain the tenant",
		Why:   "It tells a tenant which values others have, and blocks its inserts while others hold them.",
		Fix:   "a unique index that begins with the tenant column, in place of {object}",
		query: `select i.indexrelid::regclass::text as object, 'on '||ttab.fq as detail
 from ttab join pg_index i on i.indrelid = ttab.oid
 where (i.indisunique or i.indisexclusion) and not (ttab.tattnum = any (i.indkey::int2[])) and not exists (select 1 from
  pg_attribute a where a.attrelid = ttab.oid and a.attnum = any (i.indkey::int2[]) and (a.atttypid = 'uuid'::regtype or
  a.attidentity <> '' or a.atthasdef and exists (select 1 from pg_attrdef ad where ad.adrelid = ttab.oid and ad.adnum = a.attnum
  and pg_get_expr(ad.adbin, ad.adrelid) ~ '^nextval')))`,
	},
	{
		ID: "SPG041", Severity: High, Level: Standard,
		Title: "a foreign key between tables of tenants does not carry the tenant",
		Why:   "Rows can point at another tenant's row, and are deleted with it: foreign keys pass all policies.",
		Fix:   "shardedpg rls generate prints the key that carries it",
		query: `select a.fq||'/'||c.conname as object, a.fq||' -> '||b.fq||case c.confdeltype when 'c' then ' ON DELETE CASCADE' else '' end as
  detail from pg_constraint c join ttab a on a.oid = c.conrelid join ttab b on b.oid = c.confrelid
 where c.contype = 'f' and c.conparentid = 0 and not exists (select 1 from generate_subscripts(c.conkey,1) s where c.conkey[s] =
  a.tattnum and c.confkey[s] = b.tattnum)`,
	},
	{
		ID: "SPG047", Severity: Medium, Level: Standard,
		Title: "a CHECK constraint reads a setting",
		Why:   "Dumps with rows of several tenants cannot be restored, and nothing is protected from reading.",
		Fix:   "drop the constraint: the check of the policy does this",
		query: `select ttab.fq||'/'||c.conname as object, pg_get_constraintdef(c.oid) as detail
 from ttab join pg_constraint c on c.conrelid = ttab.oid and c.contype = 'c'
 where pg_get_constraintdef(c.oid) ~ 'current_setting'`,
	},
}
