// Package audit looks for ways around row-level security in a database of tenants: roles, tables, policies, keys, views,
// functions and rights that PostgreSQL gives to everybody.
//
//	report, err := audit.Run(ctx, conn, audit.Config{App: []string{"app"}})
//	report.Waive(waivers, "eu1", time.Now())
//	if worst := report.Worst(); worst.AtLeast(audit.High) { ... }
//
// A [Rule] is data: a query that returns what is wrong, why that matters, and what to do. A query that cannot be run is
// reported and never counts as a rule that found nothing. Everything runs in one read-only transaction.
//
// Rules of level [Standard] can be kept by every database, managed ones included, and what package policy generates keeps
// them. Rules of level [Hardened] are about rights that PostgreSQL gives to everybody and only a superuser takes away; at
// level Standard their findings are accepted, and shown when asked for.
package audit
