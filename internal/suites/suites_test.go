package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/suites/adapter"
)

// These tests are inside the package: a program exports nothing.

// TestPgxsOwnTestsEndAsOnPlainPgx is one suite of make suites, the one that says most about a driver, without chaos.
func TestPgxsOwnTestsEndAsOnPlainPgx(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers and a compiler; run without -short")
	}
	t.Parallel()
	r, err := compare(t.Context(), t.Output(), pgx, t.TempDir(), []string{adapter.Plain, adapter.Through}, false)
	require.NoError(t, err)
	require.Empty(t, r.problems)
	require.NotZero(t, r.counts[adapter.Plain].passed)
	require.Zero(t, r.counts[adapter.Plain].failed)
}

func TestAPatchThatDoesNotFitIsAnError(t *testing.T) {
	t.Parallel()
	p := patch{File: "a_test.go", Old: "open(", New: "adapter.Open(", Times: 2}
	got, err := p.apply("open(1) open(2)")
	require.NoError(t, err)
	require.Equal(t, "adapter.Open(1) adapter.Open(2)", got)
	_, err = p.apply("open(1)")
	require.EqualError(t, err, `a_test.go: "open(" is there 1 times instead of 2; the suite has changed, so write the patch again`)
}

// lines are events of go test -json, as "action test" or "action" for the package.
func outcomesOf(t *testing.T, lines ...string) *outcomes {
	t.Helper()
	var b strings.Builder
	for _, line := range lines {
		action, test, _ := strings.Cut(line, " ")
		b.WriteString(`{"Action":"` + action + `","Package":"p","Test":"` + test + `"}` + "\n")
	}
	o, err := read(strings.NewReader(b.String()))
	require.NoError(t, err)
	return o
}

func TestATestWithSubtestsCountsAsThose(t *testing.T) {
	t.Parallel()
	o := outcomesOf(t, "pass A/1", "fail A/2", "fail A", "pass B/1/x", "pass B/1", "pass B", "skip C", "pass D/1", "fail D")
	require.Equal(t, "3 / 2 / 1", o.count().String(), "A/2 failed, and D by itself")
}

func TestATestThatDidNotEndHasFailed(t *testing.T) {
	t.Parallel()
	o := outcomesOf(t, "run A", "pass A", "run B", "run B/1", "fail")
	require.Equal(t, "1 / 1 / 0", o.count().String())
	require.Empty(t, o.broken)
}

func TestAPackageThatDoesNotBuildIsNoOutcome(t *testing.T) {
	t.Parallel()
	o := outcomesOf(t, "fail")
	require.Len(t, o.broken, 1)
}

func TestEachDifferenceNeedsAReason(t *testing.T) {
	t.Parallel()
	plain := outcomesOf(t, "pass A/1", "pass A/2", "pass A", "fail B", "pass C", "pass D")
	here := outcomesOf(t, "pass A/1", "fail A/2", "fail A", "pass B", "pass C", "skip D")
	r := &result{suite: suite{Name: "s"}, variants: variants, changes: map[string][]change{adapter.Through: here.differences(plain)}}
	problems := func(differs ...difference) (texts []string) {
		r.suite.Differs, r.problems = differs, nil
		r.explain()
		for _, err := range r.problems {
			texts = append(texts, err.Error())
		}
		return texts
	}
	through := []string{adapter.Through}
	require.Equal(t, []string{
		"s, through: A/2 fails, on plain pgx it passes, and nothing explains it; run with -only s -v",
		"s, through: B passes, on plain pgx it fails, and nothing explains it; run with -only s -v",
		"s, through: D is skipped, on plain pgx it passes, and nothing explains it; run with -only s -v",
	}, problems())
	require.Empty(t, problems(difference{"A", through, "…"}, difference{"B", through, "…"}, difference{"D", through, "…"}))
	require.Equal(t, []string{"s, through: C ends as on plain pgx; take its explanation away"},
		problems(difference{"A", through, "…"}, difference{"B", through, "…"}, difference{"C", through, "…"}, difference{"D", through, "…"}))
	require.Len(t, problems(difference{"A", []string{adapter.Chaos}, "…"}, difference{"B", through, "…"}, difference{"D", through, "…"}), 2,
		"a reason is for the variants that it names")
}

func TestSuitesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, s := range suites {
		require.False(t, names[s.Name], s.Name)
		names[s.Name] = true
		require.NotEmpty(t, s.About, s.Name)
		require.NotEmpty(t, s.Patches, "%s opens its database on plain pgx only", s.Name)
		for _, p := range s.Patches {
			require.NotEqual(t, p.Old, p.New)
			require.Positive(t, p.Times)
		}
		for _, d := range s.Differs {
			require.NotEmpty(t, d.Reason, d.Test)
			require.Subset(t, variants[1:], d.In, d.Test)
		}
	}
}

func TestChooseNamesTheSuitesThereAre(t *testing.T) {
	t.Parallel()
	_, err := choose("pgx,nothing")
	require.ErrorContains(t, err, `there is no suite "nothing"; there are: pgx, `)
	all, err := choose("")
	require.NoError(t, err)
	require.Len(t, all, len(suites))
}
