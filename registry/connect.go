package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
)

// tryDSNs connects with the DSNs of a shard. Its errors name the field, the server's answer and no part of a DSN.
func tryDSNs(ctx context.Context, shard Shard) error {
	var errs []error
	for _, try := range []struct{ field, dsn string }{{"dsn", shard.DSN}, {"admin dsn", shard.AdminDSN}} {
		if try.dsn == "" {
			continue
		}
		dsn, err := expandField(shard.Name, try.field, try.dsn)
		if err == nil {
			if err = onShard(ctx, dsn, func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) }); err != nil {
				err = fmt.Errorf("%w: check server, login and password", err)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be used: %w", try.field, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shard %q: %w\nnothing was stored", shard.Name, err)
	}
	return nil
}

// onShard runs ask on a connection of its own.
func onShard(ctx context.Context, dsn string, ask func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	cfg, err := connstring.Parse(dsn)
	if err != nil {
		return fmt.Errorf("it is no PostgreSQL URL or keyword/value string that can be used: %w", err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // behind each pooler
	conn, err := hosts.Connect(ctx, cfg)
	if err != nil {
		return connectError(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return ask(ctx, conn)
}

// connectError keeps what the server or the network said.
func connectError(err error) error {
	err = connerr.Failed(err)
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return fmt.Errorf("the server refuses it: %s (SQLSTATE %s)", answer.Message, answer.Code)
	}
	return err
}

// Bytes measures how much the databases of a shard hold.
type Bytes struct{}

// Load measures how busy a shard is: how many statements ran there at once, on average since its statistics began.
type Load struct{}

const (
	bytesSQL = `select coalesce(sum(pg_database_size(oid)), 0)::float8 from pg_database
 where has_database_privilege(oid, 'connect') or pg_has_role('pg_read_all_stats', 'member')`

	loadSQL = `select (coalesce(sum(active_time), 0) / 1000 /
       greatest(extract(epoch from now() - coalesce(min(stats_reset), pg_postmaster_start_time())), 1))::float8
  from pg_stat_database`
)

// Sizes asks each shard, all at once, on its admin DSN if it has one.
func (Bytes) Sizes(ctx context.Context, shards []Shard) (map[string]float64, error) {
	return measure(ctx, shards, bytesSQL)
}

// Sizes asks each shard, all at once, on its admin DSN if it has one.
func (Load) Sizes(ctx context.Context, shards []Shard) (map[string]float64, error) {
	return measure(ctx, shards, loadSQL)
}

// measure returns the answers of those that gave one, and an error for the others.
func measure(ctx context.Context, shards []Shard, query string) (map[string]float64, error) {
	var (
		mu    sync.Mutex
		sizes = make(map[string]float64, len(shards))
		errs  []error
		wg    sync.WaitGroup
	)
	for _, shard := range shards {
		wg.Go(func() {
			dsn := shard.AdminDSN
			if dsn == "" {
				dsn = shard.DSN
			}
			var size float64
			dsn, err := expandField(shard.Name, "dsn", dsn)
			if err == nil {
				err = onShard(ctx, dsn, func(ctx context.Context, conn *pgx.Conn) error {
					return conn.QueryRow(ctx, query).Scan(&size)
				})
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("shard %q was not measured: %w", shard.Name, err))
				return
			}
			sizes[shard.Name] = size
		})
	}
	wg.Wait()
	return sizes, errors.Join(errs...)
}
