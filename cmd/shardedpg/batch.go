package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"

	"github.com/sharded-pg/sharded-pg/registry"
)

// barTexts is how many columns a progress bar has besides the bar itself, with numbers of six digits, and hours to go.
const barTexts = 70

// mostFailures ends a batch: after so many, the cause is one for all.
const mostFailures = 20

// all calls do for each tenant, some of them at once, and prints what happened. It goes on after failures that are the
// tenant's own, and ends after many, with an interrupt, and when there is nowhere to add to.
func (b *batch) all(ctx context.Context, a *app, ids []string, do func(ctx context.Context, id string) (bool, error)) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	bar, done := a.bar("tenants", len(ids))
	defer done()
	b.result = newResult()

	next := make(chan string)
	var first error
	var wg sync.WaitGroup
	for range b.Jobs {
		wg.Go(func() {
			for id := range next {
				added, err := do(ctx, id)
				b.mu.Lock()
				switch {
				case err != nil && ctx.Err() != nil:
					b.result.NotTried = append(b.result.NotTried, id)
				case err != nil:
					b.result.Failed[id] = clean(speak(err.Error()))
					if first == nil {
						first = err
					}
					if hopeless(err) || len(b.result.Failed) >= mostFailures {
						stop()
					}
				case added:
					b.result.Added = append(b.result.Added, id)
				default:
					b.result.Existing = append(b.result.Existing, id)
				}
				b.mu.Unlock()
				bar()
			}
		})
	}
	for i, id := range ids {
		select {
		case next <- id:
			continue
		case <-ctx.Done():
			b.mu.Lock()
			b.result.NotTried = append(b.result.NotTried, ids[i:]...)
			b.mu.Unlock()
		}
		break
	}
	close(next)
	wg.Wait()
	done()
	return b.report(a, first)
}

func newResult() batchResult {
	return batchResult{Added: []string{}, Existing: []string{}, Failed: map[string]string{}, NotTried: []string{}}
}

// hopeless reports whether the next tenant would fail for the same reason.
func hopeless(err error) bool {
	for _, cause := range []error{
		registry.ErrNoShardFits, registry.ErrShardNotFound, registry.ErrPlanNotFound, registry.ErrNotInitialized, registry.ErrInvalid,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

func (b *batch) report(a *app, first error) error {
	r := &b.result
	for _, list := range [][]string{r.Added, r.Existing, r.NotTried} {
		slices.Sort(list)
	}
	err := a.show(r, func() {
		a.say("%s added; %d there already", count(len(r.Added), "tenant"), len(r.Existing))
		for _, id := range slices.Sorted(maps.Keys(r.Failed)) {
			a.note("failed: %s: %s", id, r.Failed[id])
		}
	})
	if err != nil {
		return err
	}
	if n := len(r.Failed) + len(r.NotTried); n == 0 {
		return nil
	}
	if len(r.Failed) == 0 && a.ctx.Err() != nil {
		a.note("interrupted: %d not tried, or not to the end; run the same again to go on", len(r.NotTried))
		return errReported
	}
	a.note("%d failed, %d not tried: run the same again when the cause is gone", len(r.Failed), len(r.NotTried))
	if next := hint(first); next != "" {
		a.note("next: %s", next)
	}
	return errReported
}

// bar shows progress on a terminal. done may be called more than once.
func (a *app) bar(what string, total int) (step, done func()) {
	if !a.bars {
		return func() {}, func() {}
	}
	w := progress.NewWriter()
	w.SetOutputWriter(a.notes)
	w.SetUpdateFrequency(100 * time.Millisecond)
	// A line that the terminal breaks is not erased whole, and each update would leave a part of it.
	w.SetTerminalWidth(a.columns - 1)
	w.SetTrackerLength(min(max(a.columns-barTexts, 5), 30))
	style := progress.StyleDefault
	style.Visibility = progress.StyleVisibility{ETA: true, Percentage: true, Time: true, Tracker: true, Value: true} // no ETA without Time
	style.Options.ErrorString = "stopped"
	style.Options.TimeInProgressPrecision = time.Second
	w.SetStyle(style)
	units := progress.Units{Formatter: func(n int64) string { return fmt.Sprintf("%d of %d", n, total) }}
	tracker := &progress.Tracker{Message: what, Total: int64(total), Units: units}
	w.AppendTracker(tracker)
	rendered := make(chan struct{})
	go func() {
		defer close(rendered)
		w.Render()
	}()
	return func() { tracker.Increment(1) }, sync.OnceFunc(func() {
		if tracker.IsDone() {
			tracker.MarkAsDone()
		} else {
			tracker.MarkAsErrored()
		}
		w.Stop()
		<-rendered
	})
}
