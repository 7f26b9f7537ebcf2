package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHeadlineSectionRunsAlone(t *testing.T) {
	t.Parallel()
	needServer(t)
	o, err := parseOptions([]string{"-only=headline", "-out", filepath.Join(t.TempDir(), "headline.json")}, io.Discard)
	require.NoError(t, err)
	o.headline = headlineOptions{length: 200 * time.Millisecond, step: 100 * time.Millisecond, conns: 2, workers: 10, scale: 1}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, o), "output:\n%s", &out)
	require.Contains(t, out.String(), headlineRead+": statements per second with p99 below 50ms")

	text, err := os.ReadFile(o.jsonFile)
	require.NoError(t, err)
	var got results
	require.NoError(t, json.Unmarshal(text, &got))
	for _, c := range []string{headlineRead, headlineMixed} {
		for _, p := range []string{limitPeer, ownPeer} {
			r, ok := got.find(c, p, 2, 0)
			require.True(t, ok, "%s of %s", c, p)
			require.Positive(t, r.OpsPerS)
			require.GreaterOrEqual(t, r.P999us, r.P99us)
			require.GreaterOrEqual(t, r.P99us, r.P50us)
			require.Positive(t, r.ClientUS)
			require.Equal(t, p == ownPeer, r.Lane1+r.Lane3 > 0)
			require.Greater(t, r.Connections, headlineShards)
			require.LessOrEqual(t, r.Connections, 2*headlineShards)
			require.Positive(t, r.RatioToLimit)
		}
	}
}

func TestFewTenantsHaveMostOfTheLoad(t *testing.T) {
	t.Parallel()
	h := &headline{headlineOptions: headlineOptions{scale: 3}}
	rng := rand.New(rand.NewPCG(1, 2))
	const draws = 200_000
	seen, shards, load := map[int]bool{}, map[int]int{}, map[int]int{}
	for range draws {
		tenant, row := h.draw(rng)
		seen[tenant] = true
		shards[tenant%headlineShards]++
		k, rows := tenant/headlineShards%20, int64(300)
		switch {
		case k < 16:
			rows = 3
		case k < 19:
			rows = 30
		}
		load[int(rows)]++
		require.GreaterOrEqual(t, row, int64(1))
		require.LessOrEqual(t, row, rows)
	}
	require.InDelta(t, 0.05*draws, load[3], 0.005*draws)
	require.InDelta(t, 0.15*draws, load[30], 0.005*draws)
	require.InDelta(t, 0.80*draws, load[300], 0.005*draws)
	require.Greater(t, len(seen), 7000)
	for s := range headlineShards {
		require.InDelta(t, draws/headlineShards, shards[s], 0.01*draws)
	}
}

// slow is a peer on which each statement takes a second.
type slow struct{ peer }

func (slow) Do(context.Context, string, func(context.Context, querier) error) error {
	<-time.After(time.Second)
	return nil
}

func TestARunIsGivenUpWhenStatementsPileUp(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{20 * time.Millisecond, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h := &headline{headlineOptions: headlineOptions{workers: 2, scale: 1}}
			p := &headlinePeer{at: func(tenant int, row int64, _ *rand.Rand) (peer, int, int64) { return slow{}, tenant, row }}
			r := &loadRun{rate: 1000, length: length}
			took, err := h.load(t.Context(), p, r, time.Now().Add(-time.Minute)) // as late as that
			require.NoError(t, err)
			if length > lostAfter {
				require.False(t, r.ended)
				require.False(t, r.inTime())
				require.Less(t, len(took), 10, "what waited is dropped")
				return
			}
			require.True(t, r.ended)
			require.Len(t, took, 20)
			for _, d := range took {
				require.Greater(t, time.Duration(d), 55*time.Second, "since it should have begun")
			}
		})
	}
}
