package main

import (
	"fmt"
	"slices"
	"strings"
)

// majors are the PostgreSQL versions that the driver supports.
var majors = []int{14, 15, 16, 17, 18}

// modes are pgx's, its default first.
var modes = []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

// pooler is what stands between the driver and a server; its name is that of the suite's flag conformance.pooler.
type pooler struct{ name, title string }

var poolers = []pooler{
	{"direct", "direct"},
	{"session", "session pooling"},
	{"transaction", "transaction pooling"},
	{"prepared", "transaction pooling, prepared statements followed"},
}

func poolerNames() (names []string) {
	for _, p := range poolers {
		names = append(names, p.name)
	}
	return names
}

// cell is one run of the suite.
type cell struct {
	major        int
	pooler, mode string
}

func (c cell) String() string { return fmt.Sprintf("PostgreSQL %d %s %s", c.major, c.pooler, c.mode) }

// absence is a combination that cannot work, whatever the driver does, so that there is nothing to run. The tests beside this
// file show both on pgx alone.
type absence struct {
	poolers []string
	mode    string
	reason  string
}

var absences = []absence{
	{
		[]string{"transaction"},
		"cache_statement",
		"PgBouncer before 1.21, or with `max_prepared_statements = 0`, hands the names of prepared statements to whichever server " +
			"connection is free: PostgreSQL answers that a statement exists already, or that it does not exist. pgx alone gets the same",
	},
	{
		[]string{"session", "transaction", "prepared"},
		"describe_exec",
		"this mode sends an unnamed statement and its execution apart, and no PgBouncer follows unnamed statements: in transaction " +
			"mode, another client's may be executed. A pooler does not say which mode it is in, so the driver refuses it behind each " +
			"(`ErrStatementRefused`)",
	},
}

func (c cell) absence() *absence {
	for i, a := range absences {
		if a.mode == c.mode && slices.Contains(a.poolers, c.pooler) {
			return &absences[i]
		}
	}
	return nil
}

// choice is which cells to run; the zero value means all.
type choice struct {
	major        int
	pooler, mode string
}

func choose(c choice) (chosen []cell, err error) {
	if c.major != 0 && !slices.Contains(majors, c.major) {
		return nil, fmt.Errorf("PostgreSQL %d is not supported; the majors are %v", c.major, majors)
	}
	if c.pooler != "" && !slices.Contains(poolerNames(), c.pooler) {
		return nil, fmt.Errorf("there is no pooler %q; there are: %s", c.pooler, strings.Join(poolerNames(), ", "))
	}
	if c.mode != "" && !slices.Contains(modes, c.mode) {
		return nil, fmt.Errorf("there is no mode %q; there are: %s", c.mode, strings.Join(modes, ", "))
	}
	for _, all := range cells() {
		fits := (c.major == 0 || c.major == all.major) && (c.pooler == "" || c.pooler == all.pooler) && (c.mode == "" || c.mode == all.mode)
		if fits && all.absence() == nil {
			chosen = append(chosen, all)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("nothing to run: %s", (cell{pooler: c.pooler, mode: c.mode}).absence().reason)
	}
	return chosen, nil
}

// cells are all combinations, in the order of the page.
func cells() (all []cell) {
	for _, major := range majors {
		for _, p := range poolers {
			for _, mode := range modes {
				all = append(all, cell{major, p.name, mode})
			}
		}
	}
	return all
}
