// Command matrix runs the conformance suite on each supported PostgreSQL major, direct and behind each kind of PgBouncer, in each
// execution mode of pgx, and writes what passed, failed and was left out as docs/compatibility-matrix.md.
//
//	go run ./internal/matrix                          everything; writes the page
//	go run ./internal/matrix -major 18 -pooler direct some of it, printed
//
// The servers come from script/setup-matrix. A failure fails the run, and so does a test that is skipped without being called
// excluded: nothing is left out silently. The page is written only when nothing failed. Until then a run of everything goes on
// from what has passed before, on the same build of suite and driver.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// page is where a run of everything writes its table, from the root of the repository.
const page = "docs/compatibility-matrix.md"

func main() {
	var c choice
	flag.IntVar(&c.major, "major", 0, "only this PostgreSQL major")
	flag.StringVar(&c.pooler, "pooler", "", "only this pooler: "+strings.Join(poolerNames(), ", "))
	flag.StringVar(&c.mode, "mode", "", "only this execution mode: "+strings.Join(modes, ", "))
	parallel := flag.Int("p", runtime.NumCPU(), "how many runs at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, c, *parallel)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, c choice, parallel int) (err error) {
	chosen, err := choose(c)
	if err != nil {
		return err
	}
	if err := present(ctx, chosen); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "matrix")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	suite := filepath.Join(dir, "conformance.test")
	if err := build(ctx, suite); err != nil {
		return err
	}
	whole := c == (choice{})
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	passed, err := keep(filepath.Join(cache, "sharded-pg", "matrix"), suite)
	if err != nil {
		return err
	}
	results := make(map[cell]*result, len(chosen))
	if whole {
		if err := recall(out, passed, chosen, results); err != nil {
			return err
		}
	}
	err = runAll(ctx, out, suite, chosen, parallel, results, passed)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s", table(results))
	var errs []error
	for _, c := range chosen {
		if r := results[c]; r.problem != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c, r.problem))
		}
	}
	if len(errs) == 0 && whole {
		errs = append(errs, os.WriteFile(page, []byte(report(results)), 0o644), passed.forget())
	}
	return errors.Join(errs...)
}

// present makes sure that there is a server of each major, before anything runs for minutes.
func present(ctx context.Context, chosen []cell) error {
	here, err := pgtest.Majors(ctx)
	if err != nil {
		return err
	}
	for _, c := range chosen {
		if !slices.Contains(here, c.major) {
			return fmt.Errorf("there is no PostgreSQL %d here; run script/setup-matrix, which fetches it", c.major)
		}
	}
	return nil
}

// recall fills results with what has passed before.
func recall(out io.Writer, passed kept, chosen []cell, results map[cell]*result) error {
	for _, c := range chosen {
		r, err := passed.load(c)
		if err != nil {
			return fmt.Errorf("what an earlier run has kept: %w; remove %s", err, passed)
		}
		if r != nil {
			results[c] = r
		}
	}
	if len(results) > 0 {
		fmt.Fprintf(out, "%d of %d have passed before, on this build\n", len(results), len(chosen))
	}
	return nil
}

// runAll runs what is not in results yet.
func runAll(ctx context.Context, out io.Writer, suite string, chosen []cell, parallel int, results map[cell]*result, passed kept) error {
	var mu sync.Mutex // guards results, out and errs
	var errs []error
	var group sync.WaitGroup
	free := make(chan struct{}, max(parallel, 1))
	for _, c := range chosen {
		mu.Lock()
		_, done := results[c]
		mu.Unlock()
		if done {
			continue
		}
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			if ctx.Err() != nil {
				return
			}
			began := time.Now()
			r := test(ctx, suite, c)
			mu.Lock()
			defer mu.Unlock()
			results[c] = r
			if ctx.Err() == nil {
				errs = append(errs, passed.save(c, r))
			}
			fmt.Fprintf(out, "%-40s %14s  %3.0fs\n", c, r.counts, time.Since(began).Seconds())
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
