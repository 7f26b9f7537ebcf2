package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// This test is inside the package: a program exports nothing.

func summarize(t *testing.T, lines ...string) (out string, ok bool) {
	t.Helper()
	var b strings.Builder
	s := newSummary(&b)
	require.NoError(t, s.read(strings.NewReader(strings.Join(lines, "\n"))))
	ok = s.finish()
	return b.String(), ok
}

func TestSummaryCountsTestsAndShowsOnlyWhatFailed(t *testing.T) {
	t.Parallel()
	out, ok := summarize(t,
		`{"Action":"run","Package":"p","Test":"TestA"}`,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}`,
		`{"Action":"pass","Package":"p","Test":"TestA/sub"}`,
		`{"Action":"pass","Package":"p","Test":"TestA"}`,
		`{"Action":"run","Package":"p","Test":"TestB"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"b_test.go:7: loud\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestB"}`,
		`{"Action":"skip","Package":"p","Test":"TestC"}`,
		`{"Action":"fail","Package":"p","Elapsed":1.5}`,
	)
	require.False(t, ok)
	require.Contains(t, out, "b_test.go:7: loud\n")
	require.NotContains(t, out, "quiet")
	require.Contains(t, out, "FAIL  p  1.5s\n")
	require.True(t, strings.HasSuffix(out, "\n1 passed, 1 failed, 1 skipped\n"), out)
}

func TestSummaryLeavesOutSkippedWhenNoneWas(t *testing.T) {
	t.Parallel()
	out, ok := summarize(t, `{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p"}`)
	require.True(t, ok)
	require.True(t, strings.HasSuffix(out, "\n1 passed, 0 failed\n"), out)
}

func TestPackageThatDoesNotBuildIsOneFailure(t *testing.T) {
	t.Parallel()
	out, ok := summarize(t,
		`{"Action":"build-output","ImportPath":"p [p.test]","Output":"x.go:1: undefined: y\n"}`,
		`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
	)
	require.False(t, ok)
	require.Contains(t, out, "x.go:1: undefined: y\n")
	require.Contains(t, out, "\n0 passed, 1 failed\n")
}

func TestTestThatNeverEndedHasFailed(t *testing.T) {
	t.Parallel()
	out, ok := summarize(t,
		`{"Action":"run","Package":"p","Test":"TestA"}`,
		`{"Action":"output","Package":"p","Output":"panic: test timed out\n"}`,
		`{"Action":"fail","Package":"p"}`,
	)
	require.False(t, ok)
	require.Contains(t, out, "did not end")
	require.Contains(t, out, "panic: test timed out\n")
	require.Contains(t, out, "\n0 passed, 1 failed\n")
}

func TestFailureOfGoTestItselfCounts(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	s := newSummary(&b)
	s.broke(errors.New("go test: exit status 1"))
	require.False(t, s.finish())
	require.Contains(t, b.String(), "exit status 1\n\n0 passed, 1 failed\n")
}
