package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const none = "–"

// table is one line for each server and pooler, and one column for each mode.
func table(results map[cell]*result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| PostgreSQL | PgBouncer | %s |\n|---|---|%s\n", strings.Join(modes, " | "), strings.Repeat("---|", len(modes)))
	for _, major := range majors {
		for _, p := range poolers {
			server, bouncer, row, any := fmt.Sprint(major), "", "", false
			for _, mode := range modes {
				r := results[cell{major, p.name, mode}]
				if r == nil {
					row += " " + none + " |"
					continue
				}
				any = true
				row += " " + r.counts.String() + " |"
				if r.versions != "" {
					server, bouncer, _ = strings.Cut(strings.TrimPrefix(r.versions, "PostgreSQL "), ", PgBouncer ")
				}
			}
			if any {
				fmt.Fprintf(&b, "| %s | %s |%s\n", server, strings.TrimPrefix(bouncer+", "+p.title, ", "), row)
			}
		}
	}
	return b.String()
}

const intro = `<!-- Written by make test-matrix; edit internal/matrix. -->

# Compatibility matrix

` + "`make test-matrix`" + ` runs the [conformance](../conformance) suite on each supported PostgreSQL, direct and behind PgBouncer, in each
execution mode of pgx (` + "`default_query_exec_mode`" + ` in the shard's DSN), and writes this page when nothing failed.

Scenarios passed / failed / excluded; ` + none + ` is a combination that cannot work, see below.

%s
## Combinations that cannot work

%s
## Exclusions

What the suite leaves out in a run, and why: each is PostgreSQL's doing or a pooler's. A scenario that is skipped in another way
fails the run. A name without a slash is a whole category and counts as one.

%s`

// report is the page.
func report(results map[cell]*result) string {
	var apart strings.Builder
	for _, a := range absences {
		fmt.Fprintf(&apart, "- `%s` with %s: %s.\n", a.mode, titles(a.poolers), a.reason)
	}
	return fmt.Sprintf(intro, table(results), apart.String(), exclusions(results))
}

func titles(names []string) string {
	var list []string
	for _, p := range poolers {
		if slices.Contains(names, p.name) {
			list = append(list, p.title)
		}
	}
	return strings.Join(list, "; ")
}

// exclusions lists each excluded scenario once with its reason, and where it is excluded.
func exclusions(results map[cell]*result) string {
	where := map[[2]string][]cell{}
	for _, c := range cells() {
		if r := results[c]; r != nil {
			for name, reason := range r.excluded {
				key := [2]string{name, reason}
				where[key] = append(where[key], c)
			}
		}
	}
	var b strings.Builder
	fmt.Fprint(&b, "| scenario | where | why |\n|---|---|---|\n")
	for _, key := range slices.SortedFunc(maps.Keys(where), func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) }) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", key[0], places(where[key], results), key[1])
	}
	return b.String()
}

// places says where in the fewest words that are true: a major, a pooler or a mode is named only where the others of it ran
// and were not excluded.
func places(list []cell, results map[cell]*result) string {
	var words []string
	name := func(of func(cell) string, title func([]string) string) {
		in, all := map[string]bool{}, map[string]bool{}
		for _, c := range list {
			in[of(c)] = true
		}
		for c := range results {
			all[of(c)] = true
		}
		if len(in) < len(all) {
			words = append(words, title(slices.Sorted(maps.Keys(in))))
		}
	}
	name(func(c cell) string { return fmt.Sprint(c.major) }, func(in []string) string { return "PostgreSQL " + strings.Join(in, ", ") })
	name(func(c cell) string { return c.pooler }, titles)
	pooled := map[cell]*result{} // not each mode runs behind each pooler
	for c, r := range results {
		if slices.ContainsFunc(list, func(l cell) bool { return l.pooler == c.pooler }) {
			pooled[c] = r
		}
	}
	results = pooled
	name(func(c cell) string { return c.mode }, func(in []string) string { return "`" + strings.Join(in, "`, `") + "`" })
	if len(words) == 0 {
		return "everywhere"
	}
	return strings.Join(words, "; ")
}
