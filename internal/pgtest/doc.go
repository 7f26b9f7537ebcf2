// Package pgtest starts real, throwaway PostgreSQL servers PgBouncers and Redis, and a proxy that delays, cuts, stalls and
// records what flows between a client and a server.
//
// A test asks for a shared server and a database of its own:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
//	func TestSomething(t *testing.T) {
//		server := pgtest.Shared(t, "s1")
//		database := server.NewDatabase(t, `create table orders (id bigint primary key)`)
//		db, err := sql.Open("pgx", server.DSN("postgres", database))
//		...
//	}
//
// Programs (the demo, the benchmark) use [Start], [StartBouncer] and [StartProxy], which need no testing.T.
//
// Servers come from the binaries installed on the machine: see [Start] for where they are looked for. A cluster is a
// copy of a template that initdb made once for this user and version, so a start costs tens of milliseconds, not
// seconds. Durability is off: nothing here survives the machine, and on Linux nothing survives the process either,
// however it ends. Run as root, the servers run as the user postgres, or else nobody.
package pgtest
