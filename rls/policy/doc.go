// Package policy generates what keeps the tenants of a shared database apart, from the catalog of that database: forced
// row-level security and policies on each table with the tenant column, the roles and their grants, and defaults.
//
//	plan, err := policy.Read(ctx, conn, policy.Config{App: "app", Global: []string{"public.countries"}})
//	fmt.Print(plan.Script())   // all of it, as SQL
//	fmt.Print(plan.Diff())     // what the database lacks or has besides
//
// A [Plan] is a list of changes. Each one is a property of an object, with what it is, what it should be, the SQL that makes
// it so and the SQL that takes it back. Texts are compared as this server prints them, so a plan of a database that is as
// it should be has no drift, whatever the major version.
//
// [Apply] makes the changes in one transaction, looks at the catalog again before it commits, and keeps a record in the
// database itself. [Rollback] takes the newest record back.
//
// # Three roles
//
//	app          what tenants' statements run as: reads and writes rows, owns nothing, passes no policy
//	owner        owns the tables, for migrations (set role); nobody logs in. Policies are forced, so it sees no row either
//	maintenance  BYPASSRLS and no superuser, for work on the rows of all tenants; nobody logs in
//
// # Signed tenants
//
// [InstallKeys] makes a database verify tokens of keys, and [Signed] is the identity of policies that believe nothing else. What
// verifies them is in schema shardedpg and belongs to a fourth role, which nobody logs in as and which owns nothing else.
// [Harden] takes from PUBLIC what reaches across tenants without touching a table.
//
// # What is not generated
//
// Keys that do not carry the tenant are reported as [Advice] with the SQL for them: a new key can fail on the rows that are
// there, and its index would be built under the lock of everything else.
package policy
