// Package conformance is the driver's test suite for use from outside: it runs against any *sql.DB that was opened with
// this driver, or with something wrapped around it, on your servers, through your pooler, with your way of opening it.
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Harness{
//			Open:  func(t testing.TB, o conformance.Options) *sql.DB { ... },
//			A:     "acme",
//			B:     "globex",
//			C:     "elsewhere",
//			Home:  admin,
//			Away:  otherAdmin,
//			Login: "app",
//			...
//		})
//	}
//
// [Run] makes tables, policies and rows of its own in the databases of those tenants, lets tenants share one server
// connection, has them do to it whatever SQL can do, and looks at what the next tenant finds. It drops what it made. Use
// databases that hold nothing else.
//
// # Categories
//
// Each is a subtest of t, and each scenario a subtest of its category:
//
//	isolation       whose rows a statement reads and writes
//	sessions        what a tenant leaves on a connection does not reach the next one
//	policies        what the policies hold without any help of the driver
//	schemas         tenants with a schema and a role of their own
//	lifecycle       what database/sql does with connections, statements and rows
//	transactions    what a transaction keeps, and how it ends
//	statements      every kind of statement in each execution mode of pgx
//	cancellation    contexts that end at any moment
//	limits          a plan's statement_timeout and work_mem
//	errors          each refusal of the driver, and PostgreSQL's errors as they are
//	schema changes  tables change under cached statements
//	network         connections that break at the worst moment
//	poolers         two programs behind one server connection
//	load            many goroutines, few connections, random work
//
// # Exclusions
//
// Nothing is left out silently. [Harness].Exclude names a category or a scenario and says why; the suite itself leaves
// out what PostgreSQL or a pooler makes impossible. Both are printed under go test -v, one line each, beginning with
// "excluded:". A name that does not exist fails the run.
//
// # A whole harness
//
// conformance_test.go in this package's folder is one: servers of its own, two shards, tenants in each state and model, direct
// and behind PgBouncer.
package conformance
