package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
	"time"
)

const (
	headlineRead, headlineMixed = "headline_read", "headline_mixed"

	headlineRate  = 50_000 // statements per second
	headlineP99   = 50 * time.Millisecond
	headlineStep  = 0.92 // of the rate before, where that was too high
	headlineTries = 8    // of these, after which the rate is what it is
	writePercent  = 20   // of the statements of headline_mixed
)

// headlineOptions are the flags of the section.
type headlineOptions struct {
	length  time.Duration // of the run that counts; 0 leaves the section out
	step    time.Duration // of one step of the search for its rate
	conns   int           // to each shard
	workers int           // goroutines that statements run on
	scale   int           // rows of a small tenant; ten times and a hundred times as many in a medium and a large one
}

// measureHeadline prints how many single statements per second a fleet of four shards on this machine answers in time, with the
// servers on the same processors: those of plain, and ours.
func measureHeadline(ctx context.Context, out io.Writer, o headlineOptions) (_ results, err error) {
	begin := time.Now()
	h, err := startHeadline(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	h.describe(out, time.Since(begin))
	var all results
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tpeer\tstatements/s\tp50\tp99\tp99.9\tcpu µs client\tserver\tfull at\tothers' cpu\tlane 1\tlane 3\tconnections\twaited\tsearched\t")
	for _, c := range []string{headlineRead, headlineMixed} {
		for _, open := range []func(headlineOptions) (*headlinePeer, error){h.plain, h.sharded} {
			p, err := open(o)
			if err != nil {
				return nil, err
			}
			r, err := h.search(ctx, p, c == headlineMixed)
			if err = errors.Join(err, p.close()); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", c, p.name, err)
			}
			all = append(all, r.result(c, p.name, o.conns))
			r.print(w, c, p.name)
		}
	}
	all.setRatios()
	if err := w.Flush(); err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Peer == limitPeer && r.OpsPerS < headlineRate {
			fmt.Fprintf(out, "  without tenancy (%s) this machine does %.0f/s of %s, not %d/s: each takes %.1f µs of its %d processors\n",
				limitPeer, r.OpsPerS, r.Case, headlineRate, r.ClientUS+r.ServersUS, runtime.NumCPU())
		}
	}
	return all, h.verifyWrites(ctx)
}

// search looks for the highest rate at which statements are answered in time, from the one that callers reach who wait for
// each other downwards, in short steps, and runs the whole time at it.
func (h *headline) search(ctx context.Context, p *headlinePeer, writes bool) (loadRun, error) {
	if err := h.visit(ctx, p); err != nil {
		return loadRun{}, err
	}
	r, err := h.run(ctx, p, loadRun{length: h.step, writes: writes})
	if err != nil {
		return r, err
	}
	searched := fmt.Sprintf("%.0f closed", r.achieved)
	rate, try := r.achieved*headlineStep, 1
	for _, length := range []time.Duration{h.step, h.length} {
		if length == h.length {
			try = max(try, headlineTries-2) // these take long
		}
		for ; ; try++ {
			if r, err = h.run(ctx, p, loadRun{length: length, writes: writes, rate: rate}); err != nil {
				return r, err
			}
			if r.inTime() || try >= headlineTries {
				break
			}
			searched += fmt.Sprintf(", %.0f no", rate)
			rate *= headlineStep
		}
	}
	r.searched = searched
	return r, nil
}

func (h *headline) describe(out io.Writer, loading time.Duration) {
	o := h.headlineOptions
	fmt.Fprintf(out, "\nheadline: the highest rate of single statements, begun by the clock, with p99 below %v; %s for each\n", headlineP99, o.length)
	fmt.Fprintf(out, "  %d shards, a server each, %d connections to each; %d goroutines; %d CPUs for all; fsync, full_page_writes and synchronous_commit off\n",
		headlineShards, o.conns, o.workers, runtime.NumCPU())
	fmt.Fprintf(out, "  on each shard %d tenants with %d rows together, and as many rows of one more for %s; loaded in %s\n", headlineTenants/headlineShards,
		h.rows, limitPeer, loading.Round(time.Second))
	for _, c := range sizes {
		fmt.Fprintf(out, "  %2d%% of the tenants are %-6s %6d rows each, %2d%% of the statements\n", c.tenants*5, c.name+":", c.factor*o.scale, c.load)
	}
}

// loadRun is a time under load: first what is asked for, then what came of it.
type loadRun struct {
	length time.Duration
	writes bool    // some of the statements
	rate   float64 // statements per second; 0: each caller begins the next when it has the answer

	ended           bool // nobody was left behind
	achieved        float64
	p50, p99, p999  float64 // microseconds
	client, servers float64 // microseconds of processor time per statement
	others          float64 // processors in use by anybody else
	headlineCounts
	searched string
}

// inTime reports whether the rate was borne.
func (r loadRun) inTime() bool { return r.ended && r.p99 < float64(headlineP99.Microseconds()) }

// full is the rate at which statements would take all processors.
func (r loadRun) full() float64 { return float64(runtime.NumCPU()) * 1e6 / (r.client + r.servers) }

func (r loadRun) result(c, peer string, conns int) result {
	return result{
		Case: c, Peer: peer, Concurrency: conns, P50us: r.p50, P99us: r.p99, P999us: r.p999, OpsPerS: r.achieved,
		ClientUS: r.client, ServersUS: r.servers, Lane1: r.lane1, Lane3: r.lane3, Waited: r.waited, Connections: r.conns,
	}
}

func (r loadRun) print(w io.Writer, c, peer string) {
	lane1, lane3 := "-", "-"
	if n := float64(r.lane1 + r.lane3); n > 0 {
		lane1, lane3 = fmt.Sprintf("%.0f%%", 100*float64(r.lane1)/n), fmt.Sprintf("%.0f%%", 100*float64(r.lane3)/n)
	}
	note := ""
	if !r.inTime() {
		note = " NOT IN TIME"
	}
	fmt.Fprintf(w, "%s\t%s\t%.0f%s\t%s\t%s\t%s\t%.1f\t%.1f\t%.0f/s\t%.2f\t%s\t%s\t%d\t%.0f%%\t%s\t\n", c, peer, r.achieved, note,
		microseconds(r.p50), microseconds(r.p99), microseconds(r.p999), r.client, r.servers, r.full(), r.others, lane1, lane3, r.conns,
		100*float64(r.waited)/max(1, r.achieved*r.length.Seconds()), r.searched)
}
