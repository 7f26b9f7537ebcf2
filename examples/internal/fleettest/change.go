package fleettest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// The load on a table that is changed meanwhile.
const (
	workers = 8
	changes = 12 // rounds of changes
)

// ChangeUnderLoad changes table orders of shard eu again and again through ShardDB, as a migration does, while eight
// workers of two tenants call work. Each worker calls it at least once between two changes, so that each change meets
// statements that are prepared. The test fails when a call fails.
//
// Columns come and go, which changes what "select *" and "returning *" give; the type of a column that all statements
// name changes, too, so that no cached statement survives whatever its text is.
func (f *Fleet) ChangeUnderLoad(work func(ctx context.Context, worker int) error) {
	f.t.Helper()
	admin, err := f.Connector().ShardDB("eu", "change a table under load")
	require.NoError(f.t, err)

	var done atomic.Bool
	var rounds [workers]atomic.Int64
	group, ctx := errgroup.WithContext(f.t.Context())
	for n := range workers {
		tenant := []string{"acme", "hooli"}[n%2]
		group.Go(func() error {
			for !done.Load() {
				if err := work(shardedpg.WithTenant(ctx, tenant), n); err != nil {
					return fmt.Errorf("worker %d, tenant %s, round %d: %w", n, tenant, rounds[n].Load(), err)
				}
				rounds[n].Add(1)
			}
			return nil
		})
	}
	group.Go(func() error {
		defer done.Store(true)
		for round := range changes {
			for _, change := range []string{
				"alter table orders add column if not exists note text",
				"alter table orders alter column quantity type bigint",
				"alter table orders drop column note",
				"alter table orders alter column quantity type integer",
			} {
				if err := allWorked(ctx, &rounds); err != nil {
					return err
				}
				if _, err := admin.ExecContext(ctx, change); err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
			}
		}
		return allWorked(ctx, &rounds)
	})
	require.NoError(f.t, group.Wait(), "no change of the table may reach a caller")
}

// allWorked waits until every worker has made a whole call that began after now.
func allWorked(ctx context.Context, rounds *[workers]atomic.Int64) error {
	var from [workers]int64
	for n := range rounds {
		from[n] = rounds[n].Load()
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for n := range rounds {
		for rounds[n].Load() < from[n]+2 { // the call that is under way now began before
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-look.C:
			}
		}
	}
	return nil
}
