// Command matrix runs the conformance suite on each supported PostgreSQL major, direct and behind each kind of PgBouncer, in each
// execution mode of pgx, and writes what passed, failed and was left out as docs/compatibility-matrix.md.
//
//	go run ./internal/matrix                          everything; writes the page
//	go run ./internal/matrix -major 18 -pooler direct some of it, printed
//
// The servers come from script/setup-matrix. A failure fails the run, and so does a test that is skipped without being called
// excluded: nothing is left out silently. The page is written only when nothing failed.
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
	results := runAll(ctx, out, suite, chosen, parallel)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprintf(out, "\n%s", table(results))
	var errs []error
	for _, c := range chosen {
		if r := results[c]; r.problem != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c, r.problem))
		}
	}
	if len(errs) == 0 && c == (choice{}) {
		errs = append(errs, os.WriteFile(page, []byte(report(results)), 0o644))
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

func runAll(ctx context.Context, out io.Writer, suite string, chosen []cell, parallel int) map[cell]*result {
	results := make(map[cell]*result, len(chosen))
	var mu sync.Mutex // guards results and out
	var group sync.WaitGroup
	free := make(chan struct{}, max(parallel, 1))
	for _, c := range chosen {
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
			fmt.Fprintf(out, "%-40s %14s  %3.0fs\n", c, r.counts, time.Since(began).Seconds())
		})
	}
	group.Wait()
	return results
}
