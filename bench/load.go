package main

import (
	"context"
	"sync"
	"time"
)

// arrival is one operation of an open loop.
type arrival struct {
	planned time.Duration // when it should have begun
	took    time.Duration // from then on, so that whoever waits to begin is seen to wait
	err     error
}

// openLoop begins do(n) for each n at its time, n intervals after begin, whether those before have ended or not. It returns when
// all have ended; a context that ends lets no other begin.
func openLoop(ctx context.Context, begin time.Time, interval time.Duration, count int, do func(ctx context.Context, n int) error) []arrival {
	all := make([]arrival, 0, count) // never grows: each goroutine has an element of its own
	var wg sync.WaitGroup
	for n := range count {
		planned := time.Duration(n) * interval
		pause(time.Until(begin.Add(planned)))
		if ctx.Err() != nil {
			break
		}
		all = append(all, arrival{planned: planned})
		a := &all[n]
		wg.Go(func() {
			a.err = do(ctx, n)
			a.took = time.Since(begin) - planned
		})
	}
	wg.Wait()
	return all
}
