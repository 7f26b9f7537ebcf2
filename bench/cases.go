package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// The statements name no tenant: the policies do. Every tenant has the same row numbers, so a row of another tenant would
// come back without an error, and only the comparison below would notice.
const (
	readSQL  = "select tenant_id, id, total, note from orders where id = $1"
	writeSQL = "update orders set total = total + 1 where id = $1"
)

// benchCase is one thing an application does.
type benchCase struct {
	name string
	// idle: one operation after a second of idleness, at concurrency 1 only.
	idle bool
	tx   bool // a transaction
	run  func(ctx context.Context, p peer, w *worker) error
}

func allCases() []benchCase {
	return []benchCase{
		{name: "read_lane1", run: func(ctx context.Context, p peer, w *worker) error {
			return readOne(ctx, p, w.hotTenant(), w.hotRow())
		}},
		{name: "read_lane3", run: func(ctx context.Context, p peer, w *worker) error {
			tenant, id := w.any()
			return readOne(ctx, p, tenant, id)
		}},
		{name: "read_idle", idle: true, run: func(ctx context.Context, p peer, w *worker) error {
			return readOne(ctx, p, w.hotTenant(), w.hotRow())
		}},
		{name: "write", run: func(ctx context.Context, p peer, w *worker) error {
			id := w.hotRow()
			err := p.Do(ctx, w.hotTenant(), func(ctx context.Context, q querier) error { return update(ctx, q, id) })
			return w.wrote(err)
		}},
		{name: "tx1", tx: true, run: func(ctx context.Context, p peer, w *worker) error {
			tenant, id := w.hotTenant(), w.hotRow()
			return p.Tx(ctx, tenant, func(ctx context.Context, q querier) error { return read(ctx, q, tenant, id) })
		}},
		{name: "tx3", tx: true, run: func(ctx context.Context, p peer, w *worker) error {
			tenant, id := w.hotTenant(), w.hotRow()
			err := p.Tx(ctx, tenant, func(ctx context.Context, q querier) error {
				if err := read(ctx, q, tenant, id); err != nil {
					return err
				}
				if err := update(ctx, q, id); err != nil {
					return err
				}
				return read(ctx, q, tenant, id)
			})
			return w.wrote(err)
		}},
	}
}

func chooseCases(names string) ([]benchCase, error) {
	return choose("case", names, allCases(), func(c benchCase) string { return c.name })
}

// worker is one goroutine of a round: its random numbers, its rows and what it measured.
type worker struct {
	rng       *rand.Rand
	tenants   []string
	wide      string // set when the peer cannot change tenants: the one that has as many rows as all others together
	rows      int    // rows of any tenant but the hot one and the wide one
	index     int
	workers   int
	writes    int64
	latencies []int64 // nanoseconds
}

// The hot tenant is the first one; it has at least hotRows rows so that writers need not wait for each other.
const hotRows = 100

func (w *worker) hotTenant() string { return w.tenants[0] }

// any returns a tenant at random and a row of it. Who has one tenant only reads as many different rows: else it would be
// measured on a table that fits into the processor's caches, and the others on one that does not.
func (w *worker) any() (tenant string, id int64) {
	if w.wide != "" {
		return w.wide, 1 + int64(w.rng.IntN(w.rows*len(w.tenants)))
	}
	return w.tenants[w.rng.IntN(len(w.tenants))], 1 + int64(w.rng.IntN(w.rows))
}

// hotRow belongs to this worker alone, so that row locks are no part of the measurement.
func (w *worker) hotRow() int64 {
	return int64(1 + w.index + w.workers*w.rng.IntN(hotRows/w.workers))
}

func (w *worker) wrote(err error) error {
	if err == nil {
		w.writes++
	}
	return err
}

func readOne(ctx context.Context, p peer, tenant string, id int64) error {
	return p.Do(ctx, tenant, func(ctx context.Context, q querier) error { return read(ctx, q, tenant, id) })
}

// read fails unless the row belongs to the tenant that was asked for.
func read(ctx context.Context, q querier, tenant string, id int64) error {
	var (
		owner, total, note string
		got                int64
	)
	if err := q.QueryRowContext(ctx, readSQL, id).Scan(&owner, &got, &total, &note); err != nil {
		return fmt.Errorf("row %d of tenant %s: %w", id, tenant, err)
	}
	if owner != tenant || got != id {
		return fmt.Errorf("%w: asked for row %d of tenant %s, got row %d of tenant %s", errWrongRow, id, tenant, got, owner)
	}
	return nil
}

var errWrongRow = errors.New("row-level security failed")

// update fails unless exactly one row changed; the sums at the end of the run show that they were the right ones.
func update(ctx context.Context, q querier, id int64) error {
	res, err := q.ExecContext(ctx, writeSQL, id)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("update of row %d changed %d rows, want 1", id, n)
	}
	return nil
}
