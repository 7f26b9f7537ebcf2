package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"text/tabwriter"
	"time"
)

const (
	noisyAlone, noisyBeside = "noisy_alone", "noisy_beside"

	noisyTenants   = 200
	noisyRows      = 200_000 // of the noisy tenant; the quiet ones have as many together
	maxNoisyConns  = 64      // two pools of one peer, or a connection for each tenant, find room on the server
	noisyWorkMemKB = 4 << 10 // as PostgreSQL has it, so that peers without plans do the same
	quietRate      = 2       // statements per second of each quiet tenant
	noisyFactor    = 100
	quietPatience  = 5 * time.Second // after which the caller of a quiet tenant has gone

	// noiseSQL sorts all rows of the tenant on disk: they take more memory than noisyWorkMemKB.
	noiseSQL = "select max(n) from (select row_number() over (order by md5(note)) n from orders) s"
)

// noisyTimes is how long a peer is measured: in each round alone, beside the noise, and not at all until the noise is gone.
type noisyTimes struct {
	rounds        int
	phase, settle time.Duration
}

func (t noisyTimes) round() time.Duration { return 2*t.phase + t.settle }

// noisyRun is what one peer's quiet tenants saw.
type noisyRun struct {
	kind       peerKind
	peer       string // its name, and what is different
	conns      int
	noisyConns int // as in peerConfig
	noisyIdle  bool

	rounds [][]arrival
	noise  int // statements of the noisy tenant that were answered
}

// measureNoisy prints what 200 tenants that ask a little notice of one that asks for a hundred times as much, of statements that
// take a thousand times as long, on one shard. A peer has the server to itself in its turn.
func measureNoisy(ctx context.Context, out io.Writer, o options) (_ results, err error) {
	f, err := startFleet(ctx, o.noisyRows, noisyTenants)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	b := &bench{options: o, fleet: f, out: out}
	var all results
	var runs []*noisyRun
	for _, conns := range o.noisyConns {
		var some []*noisyRun
		for _, kind := range o.peers {
			if !kind.floor {
				some = append(some, &noisyRun{kind: kind, peer: kind.name, conns: conns})
			}
		}
		shown := len(some) // in the chart
		some = append(some, floors(o.peers, conns)...)
		for round := range o.noisyTimes.rounds {
			for _, i := range turn(len(some), round) {
				if err := b.noisyRound(ctx, some[i]); err != nil {
					return nil, fmt.Errorf("noisy, %s, %d connections: %w", some[i].peer, conns, err)
				}
			}
		}
		rs := results{}
		for _, r := range some {
			rs = append(rs, r.results(o.noisyTimes)...)
		}
		for i, r := range rs { // of what the slowest wait for: throughput is what was asked for
			if limit, ok := rs.find(r.Case, limitPeer, conns, 0); ok {
				rs[i].RatioToLimit = r.P99us / limit.P99us
			}
		}
		if err := printNoisy(out, some, rs, o.noisyTimes, f.rows*noisyTenants); err != nil {
			return nil, err
		}
		runs, all = append(runs, some[:shown]...), append(all, rs...)
	}
	return all, writeFile(o.noisyChart, noisyChart(runs, o.noisyTimes))
}

// floors are what a peer would be if the noise were less: they tell what is the queue's and what the machine's.
func floors(kinds []peerKind, conns int) (all []*noisyRun) {
	if (conns+1)/2 <= runtime.NumCPU() { // one tenant's share
		return nil
	}
	for _, kind := range kinds {
		if kind.name != limitPeer && kind.name != ownPeer {
			continue
		}
		for _, n := range []int{1, runtime.NumCPU()} {
			all = append(all, &noisyRun{kind: kind, conns: conns, noisyConns: n, peer: fmt.Sprintf("%s, noise on %d", kind.name, n)})
		}
		if kind.name == limitPeer && idleClassWorks {
			all = append(all, &noisyRun{kind: kind, conns: conns, noisyIdle: true, peer: kind.name + ", noise when idle"})
		}
	}
	return all
}

// noisyRound is one turn of one peer.
func (b *bench) noisyRound(ctx context.Context, run *noisyRun) (err error) {
	kind := run.kind
	cfg := peerConfig{
		noisyConns: run.noisyConns, noisyIdle: run.noisyIdle, name: kind.name, dsn: b.fleet.server.DSN(benchRole, benchDatabase), dial: b.line.dial, concurrency: run.conns,
		conns: run.conns, tenants: b.fleet.tenants, wide: b.fleet.wide, noisy: b.fleet.wide, backends: noisyTenants + 1,
	}
	p, err := kind.open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	quiet := cfg.tenants
	if kind.fixed {
		quiet = quiet[:1]
	}
	for _, tenant := range quiet { // connections and routes are there, as in a program that has run for a while
		if err := readOne(ctx, p, tenant, 1); err != nil {
			return err
		}
	}
	runtime.GC()
	var noise []arrival
	var wg sync.WaitGroup
	begin := time.Now()
	wg.Go(func() { noise = b.makeNoise(ctx, p, begin.Add(b.noisyTimes.phase)) })
	interval := time.Second / (quietRate * noisyTenants)
	arrivals := openLoop(ctx, begin, interval, int(b.noisyTimes.round()/interval), func(ctx context.Context, n int) error {
		ctx, cancel := context.WithTimeout(ctx, quietPatience)
		defer cancel()
		return readOne(ctx, p, quiet[n%len(quiet)], int64(1+n%b.fleet.rows))
	})
	wg.Wait()
	run.rounds = append(run.rounds, arrivals)
	for _, a := range arrivals {
		if a.err != nil && a.planned < b.noisyTimes.phase {
			return fmt.Errorf("while nobody made noise: %w", a.err)
		}
	}
	for _, a := range noise {
		if a.err == nil {
			run.noise++
		}
	}
	return errors.Join(wrongRow(arrivals), wrongRow(noise), ctx.Err())
}

// makeNoise is the noisy tenant. It has all the patience in the world, does not mind being refused, and is gone at the end of the
// phase.
func (b *bench) makeNoise(ctx context.Context, p peer, begin time.Time) []arrival {
	ctx, cancel := context.WithDeadline(ctx, begin.Add(b.noisyTimes.phase))
	defer cancel()
	interval := time.Second / (quietRate * noisyFactor)
	want := b.fleet.rows * len(b.fleet.tenants)
	return openLoop(ctx, begin, interval, int(b.noisyTimes.phase/interval), func(ctx context.Context, _ int) error {
		return p.Do(ctx, b.fleet.wide, func(ctx context.Context, q querier) error {
			var got int
			if err := q.QueryRowContext(ctx, noiseSQL).Scan(&got); err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%w: tenant %s sees %d rows, it has %d", errWrongRow, b.fleet.wide, got, want)
			}
			return nil
		})
	})
}

// wrongRow returns the one kind of error that no load excuses.
func wrongRow(all []arrival) error {
	for _, a := range all {
		if errors.Is(a.err, errWrongRow) {
			return a.err
		}
	}
	return nil
}

// samples of what was to begin in a part of each round. Who got no answer has waited as long as anybody does: a refusal is not a
// fast answer.
func (r *noisyRun) samples(from, to time.Duration) (all []sample) {
	for _, round := range r.rounds {
		var nanos []int64
		served := 0
		for _, a := range round {
			if a.planned < from || a.planned >= to {
				continue
			}
			if a.err == nil {
				served++
			} else {
				a.took = max(a.took, quietPatience)
			}
			nanos = append(nanos, a.took.Nanoseconds())
		}
		s := summarize(nanos)
		s.ops = float64(served) / (to - from).Seconds()
		all = append(all, s)
	}
	return all
}

// results are the medians over the rounds, as of all cases.
func (r *noisyRun) results(times noisyTimes) (all results) {
	for i, name := range []string{noisyAlone, noisyBeside} {
		s := r.samples(times.phase*time.Duration(i), times.phase*time.Duration(i+1))
		all = append(all, result{
			Case: name, Peer: r.peer, Concurrency: r.conns,
			P50us:   median(s, func(s sample) float64 { return s.p50 }),
			P99us:   median(s, func(s sample) float64 { return s.p99 }),
			OpsPerS: median(s, func(s sample) float64 { return s.ops }),
		})
	}
	return all
}

func printNoisy(out io.Writer, runs []*noisyRun, rs results, times noisyTimes, rows int) error {
	fmt.Fprintf(out, "\n%d quiet tenants, %d statements a second each, alone and beside one that asks for %d a second that sort %d rows\n",
		noisyTenants, quietRate, quietRate*noisyFactor, rows)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "connections\tpeer\talone p50\tp99\tbeside p50\tp99\tto alone\tto plain\tno answer\tsorts/s\t")
	for _, r := range runs {
		alone, _ := rs.find(noisyAlone, r.peer, r.conns, 0)
		beside, _ := rs.find(noisyBeside, r.peer, r.conns, 0)
		lost, asked := 0, 0
		for _, round := range r.rounds {
			asked += len(round)
			for _, a := range round {
				if a.err != nil {
					lost++
				}
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.2f\t%.1f%%\t%.1f\t\n", r.conns, r.peer,
			microseconds(alone.P50us), microseconds(alone.P99us), microseconds(beside.P50us), microseconds(beside.P99us),
			beside.P99us/alone.P99us, beside.RatioToLimit, 100*float64(lost)/float64(asked),
			float64(r.noise)/(float64(times.rounds)*times.phase.Seconds()))
	}
	return w.Flush()
}
