package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// testTimeout bounds one run of the suite, which takes half a minute on an idle machine.
const testTimeout = 5 * time.Minute

// result is what a run of the suite gave.
type result struct {
	counts
	excluded map[string]string // scenario or category → reason
	versions string            // of the servers
	problem  error             // what failed
}

type counts struct{ passed, failed, excluded int }

func (n counts) String() string { return fmt.Sprintf("%d / %d / %d", n.passed, n.failed, n.excluded) }

// build compiles the suite once for all runs.
func build(ctx context.Context, suite string) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", suite, "./conformance").CombinedOutput()
	if err != nil {
		return fmt.Errorf("building the suite: %w\n%s", err, out)
	}
	return nil
}

func test(ctx context.Context, suite string, c cell) *result {
	command := exec.CommandContext(ctx, "go", "tool", "test2json", suite, "-test.v=test2json", "-test.run=^TestConformance$",
		"-test.timeout="+testTimeout.String(), "-conformance.major="+strconv.Itoa(c.major), "-conformance.pooler="+c.pooler,
		"-conformance.mode="+c.mode)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.Dir = "conformance"
	var out, problem bytes.Buffer
	command.Stdout, command.Stderr = &out, &problem
	runErr := command.Run()
	r, err := read(&out)
	if err == nil && r.problem == nil && (runErr != nil || r.passed == 0) {
		err = fmt.Errorf("the suite did not run to its end: %w\n%s", errors.Join(runErr), problem.String())
	}
	if err != nil {
		r.failed++
		r.problem = errors.Join(r.problem, err)
	}
	return r
}

// event is a line of go tool test2json.
type event struct{ Action, Test, Output string }

var (
	excludedLine = regexp.MustCompile(`excluded: ([^:]+): (.*)`)
	versionsLine = regexp.MustCompile(`on: (PostgreSQL .*)`)
)

// read collects the outcomes of a run. A scenario counts, what holds scenarios does not, unless it failed by itself. One that
// began and did not end has failed.
func read(in io.Reader) (*result, error) {
	r := &result{excluded: map[string]string{}}
	ended, output := map[string]string{}, map[string]string{}
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		var e event
		if json.Unmarshal(scan.Bytes(), &e) != nil {
			continue // what the process printed past the tests
		}
		switch e.Action {
		case "run":
			ended[e.Test] = "fail"
		case "pass", "fail", "skip":
			if e.Test != "" {
				ended[e.Test] = e.Action
			}
		case "output":
			output[e.Test] += e.Output
			if m := versionsLine.FindStringSubmatch(e.Output); m != nil {
				r.versions = m[1]
			}
		}
	}
	holds := map[string]bool{} // a test that holds others, and whether one of them failed
	for name, how := range ended {
		for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
			holds[name[:i]] = holds[name[:i]] || how == "fail"
		}
	}
	for name, how := range ended {
		failedBelow, holder := holds[name]
		switch {
		case holder && (how != "fail" || failedBelow):
		case how == "pass":
			r.passed++
		case how == "skip":
			if m := excludedLine.FindStringSubmatch(output[name]); m != nil {
				r.counts.excluded++
				r.excluded[m[1]] = m[2]
				continue
			}
			fallthrough
		default:
			r.failed++
			r.problem = errors.Join(r.problem, fmt.Errorf("%s: %s\n%s", name, how, output[name]))
		}
	}
	return r, scan.Err()
}
