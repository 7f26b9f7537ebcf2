// Command river takes orders and sends their receipts in the background, with River, for many tenants.
//
// A job is inserted in the transaction of the order that it is about: both are there, or neither. So River's tables are on
// each shard, and so is a client that works the shard's jobs. The arguments of a job name its tenant; a middleware puts it
// back into the context, and from there on the worker's statements are the tenant's.
//
// # What to know
//
//   - The client that inserts needs no database, only the tenant's transaction. The clients that work belong to no tenant:
//     they use ShardDB, one for each shard.
//   - A tenant's login must be able to insert jobs, and must see its own only. The policy on river_job compares the tenant in
//     the arguments with the one in force, so a tenant cannot make a job for another either. River's own work is done by
//     the owner of the tables, whom the policy does not hold.
//   - The recipe is for shared tenants. One with a schema of its own has neither rights on River's tables nor a search path
//     that finds them.
//   - On database/sql, River polls and does not listen.
//   - A job without a tenant, or with a wrong one, fails and is retried as any other; it never runs as somebody else.
package main

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, os.Getenv("REGISTRY_DSN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve works the jobs of two shards until ctx ends.
func serve(ctx context.Context, dsn string) error {
	connector, db, err := open(dsn)
	if err != nil {
		return err
	}
	defer db.Close() // closes the connector as well
	var working []*river.Client[*sql.Tx]
	for _, shard := range []string{"eu", "us"} {
		if err := migrateShard(ctx, connector, shard); err != nil {
			return err
		}
		client, err := workShard(connector, shard, db)
		if err != nil {
			return err
		}
		if err := client.Start(ctx); err != nil {
			return err
		}
		working = append(working, client)
	}
	<-ctx.Done()
	for _, client := range working {
		<-client.Stopped()
	}
	return nil
}

func open(dsn string) (*shardedpg.Connector, *sql.DB, error) {
	cfg, err := shardedpg.ParseDSN(dsn)
	if err != nil {
		return nil, nil, err
	}
	connector, err := shardedpg.NewConnector(cfg)
	if err != nil {
		return nil, nil, err
	}
	return connector, sql.OpenDB(connector), nil
}

// receipt is the job.
type receipt struct {
	Tenant string `json:"tenant"`
	Order  int64  `json:"order"`
}

// Kind names the job in River's table.
func (receipt) Kind() string { return "receipt" }

// inserter makes jobs in transactions that are given to it.
func inserter() (*river.Client[*sql.Tx], error) {
	return river.NewClient(riverdatabasesql.New(nil), &river.Config{})
}

// place takes an order and its job in one transaction of the tenant.
func place(ctx context.Context, db *sql.DB, jobs *river.Client[*sql.Tx], item string) error {
	tenant, _ := shardedpg.TenantFrom(ctx) // without one, the transaction fails
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit

	job := receipt{Tenant: tenant}
	err = tx.QueryRowContext(ctx, `
		with customer as (insert into customers (name) values ('customer of ' || $1) returning id)
		insert into orders (customer_id, item, quantity) select id, $1, 1 from customer returning id`, item).Scan(&job.Order)
	if err != nil {
		return err
	}
	if _, err := jobs.InsertTx(ctx, tx, job, nil); err != nil {
		return err
	}
	return tx.Commit()
}

// asTenant runs each job as the tenant that its arguments name.
type asTenant struct{ river.MiddlewareDefaults }

var _ rivertype.WorkerMiddleware = (*asTenant)(nil)

// Work is called around the worker.
func (*asTenant) Work(ctx context.Context, job *rivertype.JobRow, inner func(context.Context) error) error {
	var args struct{ Tenant string }
	if err := json.Unmarshal(job.EncodedArgs, &args); err != nil {
		return err
	}
	if args.Tenant == "" {
		return fmt.Errorf("job %d: %w", job.ID, shardedpg.ErrNoTenant)
	}
	return inner(shardedpg.WithTenant(ctx, args.Tenant))
}

// sender is the worker. It knows neither tenants nor shards.
type sender struct {
	river.WorkerDefaults[receipt]
	db *sql.DB
}

// Work sends one receipt.
func (s *sender) Work(ctx context.Context, job *river.Job[receipt]) error {
	var item string
	err := s.db.QueryRowContext(ctx, `update orders set item = item || ', receipt sent' where id = $1 returning item`,
		job.Args.Order).Scan(&item)
	if errors.Is(err, sql.ErrNoRows) {
		return river.JobCancel(err) // the order is gone
	}
	return err
}

// workShard returns a client for the jobs of one shard; db is what their statements run on.
func workShard(connector *shardedpg.Connector, shard string, db *sql.DB) (*river.Client[*sql.Tx], error) {
	admin, err := connector.ShardDB(shard, "work jobs")
	if err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &sender{db: db})
	return river.NewClient(riverdatabasesql.New(admin), &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 10}},
		Workers:           workers,
		Middleware:        []rivertype.Middleware{&asTenant{}},
		FetchPollInterval: 200 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
}

// jobsSQL lets tenants insert jobs and see their own.
//
//go:embed jobs.sql
var jobsSQL string

// migrateShard makes River's tables on a shard.
func migrateShard(ctx context.Context, connector *shardedpg.Connector, shard string) error {
	admin, err := connector.ShardDB(shard, "migrate River's tables")
	if err != nil {
		return err
	}
	migrator, err := rivermigrate.New(riverdatabasesql.New(admin), nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	_, err = admin.ExecContext(ctx, jobsSQL)
	return err
}
