// Package shardedpg is a database/sql driver that makes a fleet of PostgreSQL shards with many tenants look like one
// *sql.DB. The tenant travels in the context. Each statement goes to the shard of its tenant, runs with that tenant's
// row-level security setting and limits in force in the same transaction, and does not run at all without a tenant.
//
// Types, arguments, execution modes and errors are those of [pgx], whose own database/sql connection does the work.
//
// # Opening
//
// A [registry] says where tenants live. Open it by name, with the registry's connection string:
//
//	db, err := sql.Open("sharded-pg", "postgres://router@control:5432/control?sharded_max_conns=32")
//
// or with a [Config], when there is more to say than a string can:
//
//	connector, err := shardedpg.NewConnector(shardedpg.Config{DSN: dsn, Logger: logger})
//	if err != nil {
//		return err
//	}
//	db := sql.OpenDB(connector)
//
// Neither connects to anything: a program starts while the registry or a shard is down. db.PingContext asks the registry
// when its context names no tenant, and the tenant's shard when it does. [ParseDSN] lists what a string may say. Leave
// sql.DB's MaxOpenConns at 0: what limits connections, and where statements wait, are the slots of each shard
// (Config.MaxConns). Closing the *sql.DB closes the connector.
//
// # Tenants
//
// Put the tenant into the context once, where the request comes in, and pass the context on:
//
//	ctx = shardedpg.WithTenant(ctx, "acme")
//	rows, err := db.QueryContext(ctx, "select id, note from orders")
//
// [WithTenant] does not replace a tenant: a context that was given two fails each use with [ErrTenantMismatch].
// [SwitchTenant] replaces it on purpose, for a job that goes from tenant to tenant. Package httptenant does this for HTTP.
// The methods of database/sql without a context have no tenant and fail with [ErrNoTenant], except in a transaction and
// on a *sql.Conn, which know theirs.
//
// # Transactions
//
// A transaction belongs to the tenant that it began with:
//
//	tx, err := db.BeginTx(ctx, nil) // nothing is sent yet
//	...
//	_, err = tx.ExecContext(ctx, "insert into orders (note) values ($1)", note) // BEGIN flies with it
//	...
//	err = tx.Commit()
//
// A statement whose context names no tenant inherits the transaction's; one that names another is refused with
// [ErrTenantMismatch] before it is sent. Errors of BEGIN surface at the first statement. Commit returns
// pgx.ErrTxCommitRollback when the server rolled back because a statement had failed. Use the methods of sql.Tx to end a
// transaction: one that a statement's own COMMIT or ROLLBACK has ended refuses everything from then on.
//
// # One connection for several statements
//
// A *sql.Conn keeps one server connection, for the tenant of its first operation, until it is closed:
//
//	conn, err := db.Conn(ctx)
//	...
//	defer conn.Close()
//	_, err = conn.ExecContext(ctx, "create temp table picked (id bigint)")
//
// What such statements leave on the server connection (settings, temporary tables, advisory locks, LISTEN) lasts as long
// as the *sql.Conn and is gone before another tenant uses the connection.
//
// What database/sql cannot express is a step further, on pgx's own connection, with the tenant still in force:
//
//	err = conn.Raw(func(c any) error {
//		return c.(*shardedpg.Conn).Conn().SendBatch(ctx, batch).Close()
//	})
//
// Raw gets no context. The tenant is the one of an earlier operation, else of the context given to db.Conn; without
// either, and where no connection can be had, Conn returns nil, so call conn.PingContext(ctx) first, which says why. The
// server connection is closed afterwards.
//
// # Prepared statements
//
// A *sql.Stmt is a text and belongs to no tenant:
//
//	stmt, err := db.PrepareContext(ctx, "select note from orders where id = $1")
//	...
//	err = stmt.QueryRowContext(otherCtx, 7).Scan(&note) // as the tenant of otherCtx
//
// It may be kept for the life of the program. Preparing is rarely worth it: pgx prepares each text once for each server
// connection by itself.
//
// # Poolers
//
// A PgBouncer between this driver and a shard is noticed when connecting. Use an execution mode that needs no statement
// to be remembered on a server connection, in the DSN of the shard:
//
//	host=bouncer port=6432 user=app dbname=app default_query_exec_mode=exec
//
// simple_protocol and cache_describe work as well. So does pgx's default mode in session pooling, and from PgBouncer 1.21 on
// with max_prepared_statements; there, a migration needs a RECONNECT on PgBouncer's console, because PgBouncer keeps what the
// server has prepared. describe_exec is refused behind a pooler with [ErrStatementRefused]: it sends a statement and its
// execution apart, and the server connection may have changed in between. Keep Config.MaxConns at or below the pooler's pool
// size, so that statements wait in this driver and not in the pooler.
//
// # Errors
//
// PostgreSQL's errors arrive as they are, as *pgconn.PgError:
//
//	var pg *pgconn.PgError
//	if errors.As(err, &pg) && pg.Code == "23505" {
//		return errDuplicate
//	}
//
// What the driver refuses is an [Error] around one of the sentinels, which are for errors.Is:
//
//	var refusal *shardedpg.Error
//	if errors.Is(err, shardedpg.ErrShardBusy) && errors.As(err, &refusal) && refusal.RetryAfter > 0 {
//		w.Header().Set("Retry-After", strconv.Itoa(1+int(refusal.RetryAfter.Seconds()))) // most are below a second
//	}
//
// Its text names the stage, the tenant and the shard, and holds no SQL, argument or connection string.
// pgconn.SafeToRetry(err) reports whether nothing of the statement was sent.
//
// # Timeouts
//
// The tenant's plan limits each statement, and so does the deadline of its context, whichever is earlier. Both reach the
// server as statement_timeout with the statement itself:
//
//	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
//	defer cancel()
//	_, err := db.ExecContext(ctx, "update orders set note = upper(note)")
//	if shardedpg.TimedOutByPlan(err) {
//		return errTooSlowForPlan // and not cancelled by us
//	}
//
// Waiting for a slot is limited by the context and by Config.AcquireTimeout, and ends with [ErrTenantBusy] or [ErrShardBusy].
//
// # Work that belongs to no tenant
//
// Migrations and jobs over all tenants use the shard's admin connection string, with a reason that is logged:
//
//	db, err := connector.ShardDB("eu", "migrate to version 12")
//
// It is a plain *sql.DB on one shard. No setting is in force on it; nothing else goes around the tenant. Do not close it.
//
// # Limits
//
// PostgreSQL refuses COPY FROM on tables with row-level security (SQLSTATE 0A000). In the models schema and database it
// works, on the connection that Raw gives; elsewhere insert many rows with INSERT ... SELECT unnest($1), unnest($2).
//
// As with pgx: COPY through Exec is of no use (use Raw), LastInsertId and several result sets are not supported (use
// RETURNING), and a text of several statements is for Exec without arguments.
//
// Statements that refuse a transaction block (VACUUM, CREATE INDEX CONCURRENTLY) cost two more round trips, and the
// connection is closed afterwards; behind a pooler PostgreSQL refuses them (25001), as it does in any pipeline. On
// PostgreSQL 18 the same is true of DO and CALL with a COMMIT inside (2D000). A statement reaches one shard: there are no
// queries across shards.
//
// A statement that names the tenant setting can change it. With [Config].Signed, and policies generated for it, that shows it no
// other tenant's rows; otherwise the driver is no wall against injected SQL. Bind values as arguments, as everywhere.
//
// [pgx]: https://pkg.go.dev/github.com/jackc/pgx/v5
// [registry]: https://pkg.go.dev/github.com/sharded-pg/sharded-pg/registry
package shardedpg
