package conformance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// Many goroutines, few connections, random work of all tenants.
var load = []scenario{
	{name: "no foreign row and no lost write", run: underLoad, conns: 4},
}

const (
	loadTime    = 2 * time.Second
	loadWorkers = 32
)

// written counts what a tenant wrote: for sure, and perhaps, because the context ended first.
type written struct{ sure, perhaps atomic.Int64 }

func underLoad(s *scene) {
	ctx, cancel := context.WithTimeout(s.Context(), loadTime)
	defer cancel()
	tenants := []string{s.h.A, s.h.B}
	ledger := make([]written, len(tenants))
	var group sync.WaitGroup
	for w := range loadWorkers {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for ctx.Err() == nil && !s.Failed() {
				n := r.IntN(len(tenants))
				if err := s.workOnce(r, tenants[n], &ledger[n]); err != nil {
					s.Errorf("tenant %q: %v", tenants[n], err)
				}
			}
		})
	}
	group.Wait()
	for i, tenant := range tenants {
		got := outside[int64](s, "select count(*) from orders where note = 'load' and tenant_id = $1", tenant)
		sure, perhaps := ledger[i].sure.Load(), ledger[i].perhaps.Load()
		if got < sure || got > sure+perhaps {
			s.Errorf("tenant %q wrote %d rows for sure and %d perhaps; there are %d", tenant, sure, perhaps, got)
		}
	}
}

// workOnce does one random thing. Errors that its own cancelled context explains are none.
func (s *scene) workOnce(r *rand.Rand, tenant string, ledger *written) error {
	ctx := shardedpg.SwitchTenant(s.Context(), tenant)
	cancelled := r.IntN(20) == 0
	if cancelled {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(3*time.Millisecond))
		defer cancel()
	}
	fine := func(err error) error {
		if err != nil && cancelled && ctx.Err() != nil {
			return nil
		}
		return err
	}
	read := func(q querier) error {
		var foreign int
		var setting string
		err := q.QueryRowContext(ctx, "select count(*) filter (where tenant_id <> $1), current_setting($2) from orders", tenant, s.h.GUC).
			Scan(&foreign, &setting)
		if err == nil && (foreign > 0 || setting != tenant) {
			return fmt.Errorf("saw %d foreign rows under the setting %q", foreign, setting)
		}
		return err
	}
	write := func(q querier) error { return execErr(ctx, q, "insert into orders (note) values ($1)", "load") }
	count := func(err error) error {
		if err == nil {
			ledger.sure.Add(1)
		} else {
			ledger.perhaps.Add(1)
		}
		return err
	}
	switch r.IntN(8) {
	case 0, 1, 2:
		return fine(read(s.db))
	case 3:
		return fine(count(write(s.db)))
	case 4:
		if err := execErr(ctx, s.db, "select 1/0"); codeOf(err) != "22012" {
			return fine(fmt.Errorf("1/0 gave: %w", errors.Join(err)))
		}
		return nil
	case 5:
		return fine(execErr(ctx, s.db, "set work_mem = '1MB'; create temp table if not exists orders (tenant_id text, note text)"))
	default:
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return fine(err)
		}
		if err := errors.Join(read(tx), write(tx)); err != nil || r.IntN(3) == 0 {
			_ = tx.Rollback()
			return fine(err)
		}
		return fine(count(tx.Commit()))
	}
}
