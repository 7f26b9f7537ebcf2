package main

import (
	"fmt"
	"slices"
	"strings"
)

// suite is the tests of another project, as its module ships them, and what has to change so that they open their database
// through the adapter.
type suite struct {
	Name    string // as the table calls it, and -only
	Module  string
	Version string
	About   string // what it shows, in a sentence

	Packages []string          // what go test runs
	Run      string            // go test -run; empty runs all
	Skip     string            // go test -skip
	Args     []string          // for the test binary
	Env      map[string]string // for the tests; ${URL} is the database's
	Require  []string          // newer modules than it asks for, as path@version
	Patches  []patch

	// Differs explains the tests that do not end as on plain pgx. One that is not listed fails the run, and so does one
	// that is listed and does not differ.
	Differs []difference
}

// patch replaces text in one file of a suite.
type patch struct {
	File     string
	Old, New string
	Times    int // how often Old is there; another number means that the patch has to be written again
}

// difference says why a test, with its subtests, does not end as on plain pgx.
type difference struct {
	Test   string
	In     []string // variants
	Reason string
}

// covers reports whether a test is this one or one of its subtests.
func (d difference) covers(test string) bool {
	return test == d.Test || strings.HasPrefix(test, d.Test+"/")
}

// explanation returns why a test does not end as on plain pgx in a variant, or nil.
func (s suite) explanation(variant, test string) *difference {
	for i, d := range s.Differs {
		if slices.Contains(d.In, variant) && d.covers(test) {
			return &s.Differs[i]
		}
	}
	return nil
}

// absence is a suite that cannot be had.
type absence struct{ Name, Tried string }

// apply makes the replacement in a file's text.
func (p patch) apply(text string) (string, error) {
	if n := strings.Count(text, p.Old); n != p.Times {
		return "", fmt.Errorf("%s: %q is there %d times instead of %d; the suite has changed, so write the patch again",
			p.File, p.Old, n, p.Times)
	}
	return strings.ReplaceAll(text, p.Old, p.New), nil
}
