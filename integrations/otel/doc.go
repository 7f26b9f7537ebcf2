// Package otelshard shows what the driver does to OpenTelemetry: a span for each statement, and metrics, by the conventions
// for database clients where they have a name for it.
//
//	cfg, err := shardedpg.ParseDSN(os.Getenv("REGISTRY_DSN"))
//	connector, err := otelshard.NewConnector(cfg, otelshard.Options{})
//	db := sql.OpenDB(connector)
//
// # Spans
//
// A span is named after the command and the shard ("SELECT eu"). It lasts from the caller's call to the end of the rows, with
// an event at the moment when the statement has its connection, so that waiting and running can be told apart. A statement
// that the driver sends again is one span, and says how often. BeginTx has a span for its wait, Commit and Rollback one for
// their round trip, and connecting to a shard one of its own below whatever needed it.
//
// Statements that were refused have spans as well: with the error's type and the stage at which it ended, and no plan, since
// none was in force.
//
// # Metrics
//
// docs/observability.md lists them. Most read [shardedpg.Connector.Stats] when somebody collects them and cost nothing
// otherwise. They are by shard and plan. Tenants are on spans ([Options].Tenants), and on the metrics of as many of the busiest
// as [Options].BusiestTenants says.
//
// # What is never recorded
//
// Arguments, connection strings, and texts of errors: PostgreSQL repeats values in them. Errors are recorded by type: the
// SQLSTATE, or the name of the driver's error ("tenant_busy").
//
// # What changes for the program
//
// Rows, results and errors are the driver's. What sql.Conn.Raw hands out is no *shardedpg.Conn; it has the same methods:
//
//	err = conn.Raw(func(c any) error { return c.(interface{ Conn() *pgx.Conn }).Conn().SendBatch(ctx, batch).Close() })
package otelshard
