package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// How a test ended. Absent is the zero value: it never ran.
const (
	passed  = "pass"
	failed  = "fail"
	skipped = "skip"
	missing = ""
)

// outcomes are how the tests of one run ended, by package and name.
type outcomes struct {
	ended  map[string]string
	output map[string][]string
	broken []string // packages that failed with no test to blame: they do not build, or their start-up failed
	major  int      // of the PostgreSQL server
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output string
	FailedBuild                               string
}

// key names a test in its package: names repeat between packages.
func (e event) key() string { return e.Package + "\x00" + e.Test }

func name(key string) string { return key[strings.IndexByte(key, 0)+1:] }

// read collects the outcomes of a run. A test that began and did not end has failed: its process died.
func read(in io.Reader) (*outcomes, error) {
	o := &outcomes{ended: map[string]string{}, output: map[string][]string{}}
	running := map[string]bool{}
	blamed := map[string]bool{}
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		var e event
		if json.Unmarshal(scan.Bytes(), &e) != nil { // go reports some errors as plain text
			o.broken = append(o.broken, scan.Text()+"\n")
			continue
		}
		switch e.Action {
		case "run":
			running[e.key()] = true
		case "output":
			o.output[e.key()] = append(o.output[e.key()], e.Output)
		case "build-output":
			o.output[e.ImportPath] = append(o.output[e.ImportPath], e.Output)
		case passed, failed, skipped:
			if e.Test != "" {
				delete(running, e.key())
				o.ended[e.key()] = e.Action
				blamed[e.Package] = blamed[e.Package] || e.Action == failed
				continue
			}
			if e.Action != failed {
				continue
			}
			for key := range running {
				if strings.HasPrefix(key, e.Package+"\x00") {
					delete(running, key)
					o.ended[key], blamed[e.Package] = failed, true
					o.output[key] = append(o.output[key], "did not end\n")
				}
			}
			if !blamed[e.Package] {
				o.broken = append(o.broken, strings.Join(slices.Concat(o.output[e.FailedBuild], o.output[e.key()]), ""))
			}
		}
	}
	return o, scan.Err()
}

// count counts tests. One with subtests counts as those, unless it failed by itself.
func (o *outcomes) count() (n counts) {
	parents, blamed := map[string]bool{}, map[string]bool{}
	for key, ended := range o.ended {
		for parent := range above(key) {
			parents[parent] = true
			blamed[parent] = blamed[parent] || ended == failed
		}
	}
	for key, ended := range o.ended {
		switch {
		case parents[key] && (ended != failed || blamed[key]):
		case ended == passed:
			n.passed++
		case ended == failed:
			n.failed++
		case ended == skipped:
			n.skipped++
		}
	}
	return n
}

// above yields the tests that a subtest belongs to.
func above(key string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := strings.LastIndexByte(key, '/'); i > strings.IndexByte(key, 0); i = strings.LastIndexByte(key, '/') {
			key = key[:i]
			if !yield(key) {
				return
			}
		}
	}
}

type counts struct{ passed, failed, skipped int }

func (n counts) String() string { return fmt.Sprintf("%d / %d / %d", n.passed, n.failed, n.skipped) }

// change is a test that ended in another way than on plain pgx.
type change struct {
	key, plain, here string
}

// differences lists the tests that end in another way in o than in plain, without those that only hold one that does.
func (o *outcomes) differences(plain *outcomes) []change {
	keys := map[string]bool{}
	for _, all := range []map[string]string{o.ended, plain.ended} {
		for key := range all {
			if o.ended[key] != plain.ended[key] {
				keys[key] = true
			}
		}
	}
	for _, key := range slices.Collect(maps.Keys(keys)) {
		for parent := range above(key) {
			delete(keys, parent)
		}
	}
	var list []change
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		list = append(list, change{key, plain.ended[key], o.ended[key]})
	}
	return list
}

// show prints the output of the tests that failed, without those that only hold one that did.
func (o *outcomes) show(out io.Writer, variant string) {
	holds := map[string]bool{}
	for key, ended := range o.ended {
		for parent := range above(key) {
			holds[parent] = holds[parent] || ended == failed
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.ended)) {
		if o.ended[key] == failed && !holds[key] {
			fmt.Fprintf(out, "\n%s: %s", variant, strings.Join(o.output[key], ""))
		}
	}
}
