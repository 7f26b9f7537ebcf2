// Command suites runs the tests that other projects ship in their modules (of pgx, sqlx, goose, GORM and others) on plain
// pgx, through this driver, and through it with another server connection at each checkout, and compares.
//
//	go run ./internal/suites                all of them; writes docs/suites.md
//	go run ./internal/suites -only pgx      one, printed
//	go run ./internal/suites -only pgx -v   with the output of each test that fails
//
// The tests come from the module cache, or from the module proxy, at a pinned version. They run in a temporary copy in which
// the place that opens the database opens it through package adapter. A test that ends in another way than on plain pgx has
// to be explained beside its suite, else the run fails.
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
	"slices"
	"strings"
	"syscall"
	"time"
)

// page is where a run of all suites writes its table, from the root of the repository.
const page = "docs/suites.md"

func main() {
	only := flag.String("only", "", "names of suites, separated by commas")
	keep := flag.String("keep", "", "work in this folder and leave it there")
	verbose := flag.Bool("v", false, "show the output of tests that fail")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *only, *keep, *verbose)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, only, keep string, verbose bool) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	dir := keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "suites"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	var results []*result
	for _, s := range chosen {
		r, err := compare(ctx, out, s, filepath.Join(dir, strings.ToLower(s.Name)), variants, verbose)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	fmt.Fprintf(out, "\n%s", table(results))
	var errs []error
	for _, r := range results {
		errs = append(errs, r.problems...)
	}
	if only == "" && len(errs) == 0 {
		errs = append(errs, os.WriteFile(page, []byte(report(results, results[0].major)), 0o644))
	}
	return errors.Join(errs...)
}

// choose returns the suites with these names, or all.
func choose(only string) ([]suite, error) {
	if only == "" {
		return suites, nil
	}
	var chosen []suite
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.Name == name })
		if i < 0 {
			var names []string
			for _, s := range suites {
				names = append(names, s.Name)
			}
			return nil, fmt.Errorf("there is no suite %q; there are: %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, suites[i])
	}
	return chosen, nil
}

// result is what the runs of a suite gave.
type result struct {
	suite    suite
	variants []string
	counts   map[string]counts
	changes  map[string][]change // by variant
	major    int                 // of the PostgreSQL server
	problems []error
}

// compare runs a suite in these variants, of which the first is what the others are compared with.
func compare(ctx context.Context, out io.Writer, s suite, dir string, in []string, verbose bool) (*result, error) {
	w, err := prepare(ctx, s, dir)
	if err != nil {
		return nil, err
	}
	r := &result{suite: s, variants: in, counts: map[string]counts{}, changes: map[string][]change{}}
	var plain *outcomes
	for _, variant := range in {
		began := time.Now()
		o, err := w.test(ctx, s, variant)
		if err != nil {
			return nil, err
		}
		if plain == nil {
			plain = o
		}
		r.counts[variant], r.changes[variant], r.major = o.count(), o.differences(plain), o.major
		fmt.Fprintf(out, "%-10s %-8s %15s  %4.0fs\n", s.Name, variant, r.counts[variant], time.Since(began).Seconds())
		if verbose {
			o.show(out, variant)
		}
	}
	r.explain()
	return r, nil
}

// explain holds each difference against the explanations.
func (r *result) explain() {
	used := map[string]bool{}
	for _, variant := range r.variants {
		for _, c := range r.changes[variant] {
			if d := r.suite.explanation(variant, name(c.key)); d != nil {
				used[variant+d.Test] = true
				continue
			}
			r.problems = append(r.problems, fmt.Errorf("%s, %s: %s, and nothing explains it; run with -only %s -v",
				r.suite.Name, variant, c, r.suite.Name))
		}
	}
	for _, d := range r.suite.Differs {
		for _, variant := range d.In {
			if slices.Contains(r.variants, variant) && !used[variant+d.Test] {
				r.problems = append(r.problems, fmt.Errorf("%s, %s: %s ends as on plain pgx; take its explanation away",
					r.suite.Name, variant, d.Test))
			}
		}
	}
}
