package middleware

import (
	"context"
	"database/sql"
	"time"

	"golang.org/x/sync/errgroup"
)

// Summary is what a tenant's front page shows.
type Summary struct{ Customers, Orders int }

// Summarize asks two things at once. The group's context is made from the request's, so it has its tenant, and ends with
// the first error.
func Summarize(ctx context.Context, db *sql.DB) (s Summary, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return db.QueryRowContext(ctx, "select count(*) from customers").Scan(&s.Customers) })
	group.Go(func() error { return db.QueryRowContext(ctx, "select count(*) from orders").Scan(&s.Orders) })
	err = group.Wait()
	return s, err
}

// AfterResponse does work that may outlive the request that asked for it: as its tenant, and with a deadline of its own.
func AfterResponse(ctx context.Context, work func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	go func() {
		defer cancel()
		work(ctx)
	}()
}
