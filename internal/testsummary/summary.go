package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is one line of go test -json (see go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of what a build-output line is about
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string // the ImportPath that stopped this package
}

// test names a test, or a package where name is empty.
type test struct{ pkg, name string }

// summary counts verdicts and keeps output until it is known whether anybody
// wants to see it.
type summary struct {
	out io.Writer

	passed, failed, skipped int

	output  map[test][]string
	build   map[string][]string
	running map[test]bool
	blamed  map[string]bool // packages with a failed test
}

func newSummary(out io.Writer) *summary {
	return &summary{
		out:     out,
		output:  map[test][]string{},
		build:   map[string][]string{},
		running: map[test]bool{},
		blamed:  map[string]bool{},
	}
}

// read takes events until the input ends. A line that is no event is passed on:
// go reports some errors as plain text.
func (s *summary) read(in io.Reader) error {
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadString('\n')
		var e event
		switch {
		case line == "":
		case !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil:
			s.print(line)
		default:
			s.take(e)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		s.build[e.ImportPath] = append(s.build[e.ImportPath], e.Output)
	case "output":
		s.output[t] = append(s.output[t], e.Output)
	case "run":
		s.running[t] = true
	case "pass", "skip", "fail":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(t, e.Action)
		}
	}
}

func (s *summary) endTest(t test, action string) {
	delete(s.running, t)
	if action == "fail" {
		s.blamed[t.pkg] = true
		s.print("\n", strings.Join(s.output[t], ""))
	}
	delete(s.output, t)
	if strings.Contains(t.name, "/") {
		return
	}
	switch action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
	case "skip":
		s.skipped++
	}
}

func (s *summary) endPackage(e event) {
	t := test{pkg: e.Package}
	word := "ok  "
	switch e.Action {
	case "skip":
		word = "none" // no test files
	case "fail":
		word = "FAIL"
		s.endRunning(e.Package)
		if !s.blamed[e.Package] {
			s.failed++
		}
		s.print("\n", strings.Join(s.build[e.FailedBuild], ""), strings.Join(s.output[t], ""))
	}
	s.print(fmt.Sprintf("%s  %s  %.1fs\n", word, e.Package, e.Elapsed))
	delete(s.output, t)
}

// endRunning fails the tests of a package that never ended, because the process
// died under them: a panic, the time limit.
func (s *summary) endRunning(pkg string) {
	var left []test
	for t := range s.running {
		if t.pkg == pkg {
			left = append(left, t)
		}
	}
	slices.SortFunc(left, func(a, b test) int { return strings.Compare(a.name, b.name) })
	for _, t := range left {
		s.output[t] = append(s.output[t], "    did not end\n")
		s.endTest(t, "fail")
	}
}

// broke records that go test itself failed. Failed tests are the usual reason,
// and then there is nothing to add.
func (s *summary) broke(err error) {
	if s.failed == 0 {
		s.failed++
		s.print(err.Error(), "\n")
	}
}

// finish prints the totals and reports whether everything passed.
func (s *summary) finish() bool {
	total := fmt.Sprintf("%d passed, %d failed", s.passed, s.failed)
	if s.skipped > 0 {
		total += fmt.Sprintf(", %d skipped", s.skipped)
	}
	s.print("\n", total, "\n")
	return s.failed == 0
}

// print shows text. There is nobody left to tell when standard output fails.
func (s *summary) print(texts ...string) {
	_, _ = io.WriteString(s.out, strings.Join(texts, ""))
}
