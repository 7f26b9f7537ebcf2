package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tiny is the whole program with rounds of a few milliseconds.
func tiny(t *testing.T, args ...string) options {
	t.Helper()
	o, err := parseOptions(append([]string{
		"-rounds=2", "-round-time=3ms", "-rows=2000", "-out", filepath.Join(t.TempDir(), "out", "latest.json"),
	}, args...), io.Discard)
	require.NoError(t, err)
	o.tenants, o.idle, o.idleRounds, o.routing, o.noisy, o.outage, o.registry = 50, 5*time.Millisecond, 1, false, false, false, 0
	o.headline.length = 0
	return o
}

func needServer(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
}

func TestEveryPeerRunsEveryCase(t *testing.T) {
	t.Parallel()
	needServer(t)
	o := tiny(t, "-concurrency=1,3")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, o), "output:\n%s", &out)

	text, err := os.ReadFile(o.jsonFile)
	require.NoError(t, err)
	var got results
	require.NoError(t, json.Unmarshal(text, &got))
	for _, delay := range []float64{0, 1} {
		for _, concurrency := range []int{1, 3} {
			for _, c := range allCases() {
				for _, p := range allPeers() {
					r, ok := got.find(c.name, p.name, concurrency, delay)
					if c.idle && concurrency > 1 || c.tx && p.floor {
						require.False(t, ok, "%s of %s has no meaning at %d goroutines", c.name, p.name, concurrency)
						continue
					}
					require.True(t, ok, "%s of %s at %d goroutines, %g ms", c.name, p.name, concurrency, delay)
					require.Positive(t, r.P50us)
					require.GreaterOrEqual(t, r.P99us, r.P50us)
					require.Positive(t, r.OpsPerS)
					require.Positive(t, r.RatioToLimit)
				}
			}
		}
	}
}

func TestProfileHoldsOurPeer(t *testing.T) {
	t.Parallel()
	needServer(t)
	file := filepath.Join(t.TempDir(), "cpu.pprof")
	o := tiny(t, "-cases=read_lane1", "-peers="+ownPeer, "-delay=0", "-concurrency=2", "-tcp", "-cpuprofile", file)
	require.NoError(t, run(t.Context(), io.Discard, o))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Positive(t, info.Size())
}

func TestRegistrySectionRunsAlone(t *testing.T) {
	t.Parallel()
	needServer(t)
	file := filepath.Join(t.TempDir(), "registry.json")
	o, err := parseOptions([]string{"-only=registry", "-registry-tenants=1200", "-out", file}, io.Discard)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, o))
	require.Contains(t, out.String(), "registry of 1200 tenants")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var got results
	require.NoError(t, json.Unmarshal(text, &got))
	var names []string
	for _, r := range got {
		names = append(names, r.Case)
		require.Positive(t, r.P50us, r.Case)
		require.GreaterOrEqual(t, r.P99us, r.P50us, r.Case)
		require.Positive(t, r.OpsPerS, r.Case)
	}
	require.Equal(t, []string{
		"registry_add", "registry_list_page", "registry_resolve_cold", "registry_resolve_cached", "registry_provision_schema",
	}, names)
}

func TestOutageSectionRunsAlone(t *testing.T) {
	t.Parallel()
	needServer(t)
	o := tiny(t, "-only=outage")
	o.outageTimes = outageTimes{rounds: 1, phase: time.Second}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, o), "output:\n%s", &out)
	text, err := os.ReadFile(o.jsonFile)
	require.NoError(t, err)
	var got results
	require.NoError(t, json.Unmarshal(text, &got))
	for _, f := range faults {
		if f.name == "disk full" && !smallDisks {
			continue
		}
		for _, phase := range outageNames {
			r, ok := got.find(phase, f.name, outageConns, 0)
			require.True(t, ok, "%s, %s", f.name, phase)
			require.Positive(t, r.P50us)
			require.GreaterOrEqual(t, r.P99us, r.P50us)
			require.Positive(t, r.RatioToLimit)
		}
		require.Contains(t, out.String(), "outage_during, one shard "+f.name+": ratio to before")
	}
}

func TestNoisySectionRunsAlone(t *testing.T) {
	t.Parallel()
	needServer(t)
	dir := t.TempDir()
	o, err := parseOptions([]string{
		"-only=noisy", "-noisy-conns=2", "-out", filepath.Join(dir, "noisy.json"), "-noisy-chart", filepath.Join(dir, "noisy.svg"),
	}, io.Discard)
	require.NoError(t, err)
	o.noisyRows, o.noisyTimes = 2000, noisyTimes{rounds: 1, phase: 500 * time.Millisecond, settle: 100 * time.Millisecond}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, o))
	require.Contains(t, out.String(), "p99 of quiet tenants beside a noisy one, 2 connections: ratio to alone")

	text, err := os.ReadFile(o.jsonFile)
	require.NoError(t, err)
	var got results
	require.NoError(t, json.Unmarshal(text, &got))
	chart, err := os.ReadFile(o.noisyChart)
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal(chart, new(any)))
	for _, p := range allPeers() {
		for _, c := range []string{noisyAlone, noisyBeside} {
			r, ok := got.find(c, p.name, 2, 0)
			if p.floor {
				require.False(t, ok)
				continue
			}
			require.True(t, ok, "%s of %s", c, p.name)
			require.Positive(t, r.P50us)
			require.GreaterOrEqual(t, r.P99us, r.P50us)
			require.Positive(t, r.OpsPerS)
			require.Positive(t, r.RatioToLimit)
		}
		require.Equal(t, !p.floor, strings.Contains(string(chart), ">"+p.name+"<"))
	}
}

func TestAnOpenLoopCountsFromWhenItShouldHaveBegun(t *testing.T) {
	t.Parallel()
	const late = time.Second
	second := make(chan bool)
	got := openLoop(t.Context(), time.Now().Add(-late), 10*time.Millisecond, 2, func(_ context.Context, n int) error {
		if n == 1 {
			close(second)
			return io.EOF
		}
		<-second // nobody waits for those before
		return nil
	})
	require.Len(t, got, 2)
	for n, a := range got {
		require.Equal(t, time.Duration(n)*10*time.Millisecond, a.planned)
		require.GreaterOrEqual(t, a.took, late-a.planned)
	}
	require.NoError(t, got[0].err)
	require.ErrorIs(t, got[1].err, io.EOF)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Empty(t, openLoop(ctx, time.Now(), time.Microsecond, 10, nil))
}

func TestPartsOfARoundAreApart(t *testing.T) {
	t.Parallel()
	times := noisyTimes{rounds: 3, phase: time.Second, settle: time.Second}
	r := &noisyRun{peer: ownPeer, conns: 4}
	for round := range 3 {
		var all []arrival
		for n := range 300 {
			took := time.Duration(1+round) * time.Millisecond
			if n >= 100 && n < 200 {
				took *= 4
			}
			all = append(all, arrival{planned: time.Duration(n) * 10 * time.Millisecond, took: took})
		}
		all[150].err, all[151].err = io.EOF, io.EOF
		r.rounds = append(r.rounds, all)
	}
	rs := r.results(times)
	require.Equal(t, results{
		{Case: noisyAlone, Peer: ownPeer, Concurrency: 4, P50us: 2000, P99us: 2000, OpsPerS: 100},
		{Case: noisyBeside, Peer: ownPeer, Concurrency: 4, P50us: 8000, P99us: 5e6, OpsPerS: 98},
	}, rs)
	targets := rs.judge()
	require.Len(t, targets, 1)
	require.InDelta(t, 2500, targets[0].got, 1e-9)
	require.False(t, targets[0].met())
}

func TestUnknownNamesAreRefused(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"peer":        {"-peers=plain,none"},
		"case":        {"-cases=none"},
		"delay":       {"-delay=fast"},
		"concurrency": {"-concurrency=0"},
		"rounds":      {"-rounds=0"},
		"section":     {"-only=none"},
		"noisy":       {"-noisy-conns=0"},
		"no registry": {"-only=registry", "-registry-tenants=0"},
		"argument":    {"read_lane1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseOptions(args, io.Discard)
			require.Error(t, err)
		})
	}
}

func TestQuickKeepsWhatIsAskedForExplicitly(t *testing.T) {
	t.Parallel()
	o, err := parseOptions([]string{"-quick", "-rows=5"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 5, o.rows)
	require.Equal(t, 3, o.rounds)
}

func TestRatioIsLatencyForOneAndThroughputForMany(t *testing.T) {
	t.Parallel()
	rs := results{
		{Case: "write", Peer: limitPeer, Concurrency: 1, P50us: 100, OpsPerS: 1},
		{Case: "write", Peer: ownPeer, Concurrency: 1, P50us: 120, OpsPerS: 1},
		{Case: "write", Peer: limitPeer, Concurrency: 16, P50us: 1, OpsPerS: 3000},
		{Case: "write", Peer: ownPeer, Concurrency: 16, P50us: 9, OpsPerS: 2000},
		{Case: "tx1", Peer: ownPeer, Concurrency: 1, P50us: 9, OpsPerS: 2000},
	}
	rs.setRatios()
	require.InDelta(t, 1.2, rs[1].RatioToLimit, 1e-9)
	require.InDelta(t, 1.5, rs[3].RatioToLimit, 1e-9)
	require.Zero(t, rs[4].RatioToLimit, "no ratio without the limit")
}

func TestTargetsAreJudgedInTheirDirection(t *testing.T) {
	t.Parallel()
	rs := results{
		{Case: "read_lane1", Peer: limitPeer, Concurrency: 1, DelayMS: 1, P50us: 1000},
		{Case: "read_lane1", Peer: ownPeer, Concurrency: 1, DelayMS: 1, P50us: 1100},
		{Case: "read_lane1", Peer: "begin-set-commit", Concurrency: 1, DelayMS: 1, P50us: 4000},
	}
	rs.setRatios()
	got := map[bool]int{}
	for _, target := range rs.judge() {
		got[target.met()]++
		require.Equal(t, target.atLeast, target.met(), target.name) // 1.1 > 1.02, 3.6 > 3.5
	}
	require.Equal(t, map[bool]int{true: 1, false: 1}, got)
}

func TestEachPeerGetsEachPlaceInTheOrder(t *testing.T) {
	t.Parallel()
	const peers = 4
	for i := range peers {
		first := false
		for r := range 2 * peers {
			order := turn(peers, r)
			require.ElementsMatch(t, []int{0, 1, 2, 3}, order)
			first = first || order[0] == i
		}
		require.True(t, first, "peer %d is never first", i)
	}
}

func TestQuantilesAndMedians(t *testing.T) {
	t.Parallel()
	s := summarize([]int64{5000, 1000, 3000, 2000, 4000})
	require.InDelta(t, 3, s.p50, 1e-9)
	require.InDelta(t, 5, s.p99, 1e-9)
	require.InDelta(t, 2.5, median([]sample{{p50: 4}, {p50: 1}, {p50: 2}, {p50: 3}},
		func(s sample) float64 { return s.p50 }), 1e-9)
}

func TestStampedeIsOneLookup(t *testing.T) {
	t.Parallel()
	tenants := []string{tenantID(0)}
	lookups, _, err := stampede(t.Context(), staticRoutes(tenants), tenants[0], 200)
	require.NoError(t, err)
	require.EqualValues(t, 1, lookups)
}
