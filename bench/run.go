package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"
)

// run measures everything the options ask for, prints it, writes the JSON and fails when a case did not run correctly. A
// missed target is not a failure.
func run(ctx context.Context, out io.Writer, o options) (err error) {
	if o.only != "" && o.only != "cases" {
		return runAlone(ctx, out, o)
	}
	begin := time.Now()
	f, err := startFleet(ctx, o.rows, o.tenants)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	version, err := f.version(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "PostgreSQL %s (fsync off), %s, %d CPUs, %d tenants, %d rows each; loaded in %s\n", version,
		runtime.Version(), runtime.NumCPU(), len(f.tenants), f.rows, time.Since(begin).Round(100*time.Millisecond))
	for _, p := range o.peers {
		fmt.Fprintf(out, "  %-17s %s\n", p.name, p.note)
	}
	b := &bench{options: o, fleet: f, out: out}
	for _, d := range o.delays {
		for _, c := range o.concurrency {
			if err := b.measure(ctx, d, c); err != nil {
				return err
			}
		}
	}
	if o.cpuProfile != "" {
		if err := b.profile(ctx); err != nil {
			return err
		}
	}
	if err := b.report(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s in all\n", time.Since(begin).Round(time.Second))
	return nil
}

// runAlone measures one section.
func runAlone(ctx context.Context, out io.Writer, o options) (err error) {
	var rs results
	var targets []target
	switch o.only {
	case "registry":
		rs, err = measureRegistry(ctx, out, o.registry)
	case "noisy":
		rs, err = measureNoisy(ctx, out, o)
	case "outage":
		rs, err = measureOutage(ctx, out, o)
	case "headline":
		rs, err = measureHeadline(ctx, out, o.headline)
	case "identity":
		rs, err = measureIdentity(ctx, out, o)
	case "routing":
		var tenants []string
		for n := range o.tenants {
			tenants = append(tenants, tenantID(n))
		}
		targets, err = measureRouting(ctx, out, tenants, o.burst)
	}
	if err != nil {
		return err
	}
	if err := printTargets(out, append(targets, rs.judge()...)); err != nil {
		return err
	}
	return writeJSON(o.jsonFile, rs)
}

// bench is one run.
type bench struct {
	options
	fleet *fleet
	out   io.Writer
	line  line // between all peers and the server

	results    results
	footprints []footprint
	failures   []string
	writes     int64
}

// dsn of the fleet's server.
func (b *bench) dsn(delayMS float64) (string, error) {
	if delayMS == 0 && b.tcp {
		return b.fleet.tcpDSN()
	}
	return b.fleet.server.DSN(benchRole, benchDatabase), nil
}

// measure runs all cases at one delay and one concurrency and prints their table.
func (b *bench) measure(ctx context.Context, delayMS float64, concurrency int) error {
	dsn, err := b.dsn(delayMS)
	if err != nil {
		return err
	}
	peers, closeAll, err := b.open(ctx, b.peers, dsn, concurrency)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := b.prepare(ctx, peers, delayMS); err != nil {
		return err
	}
	for _, c := range b.cases {
		some := slices.DeleteFunc(slices.Clone(peers), func(o *opened) bool { return c.tx && o.kind.floor })
		switch {
		case !c.idle:
			err = measureCase(ctx, some, c, b.rounds, b.roundTime)
		case concurrency == 1:
			err = measureIdle(ctx, some, c, b.idleRounds, b.idle)
		}
		if err != nil {
			return err
		}
	}
	rs, failures := collect(peers, b.cases, concurrency, delayMS)
	b.results = append(b.results, rs...)
	b.failures = append(b.failures, failures...)
	for _, o := range peers {
		b.writes += o.writes()
		print, err := footprintOf(ctx, b.fleet.admin, o.kind.name)
		if err != nil {
			return err
		}
		print.delayMS, print.concurrency = delayMS, concurrency
		b.footprints = append(b.footprints, print)
	}
	figure := "ratio: latency p50 to that of " + limitPeer
	if concurrency > 1 {
		figure = "ratio: throughput of " + limitPeer + " to this one's"
	}
	return printResults(b.out, rs, fmt.Sprintf("delay %g ms, concurrency %d (%s)", delayMS, concurrency, figure))
}

// open opens the peers next to each other; closeAll may be called once, also when not all of them could be opened.
func (b *bench) open(ctx context.Context, kinds []peerKind, dsn string, concurrency int) (_ []*opened, closeAll func(), err error) {
	var peers []*opened
	closeAll = func() {
		for _, o := range peers {
			if err := o.peer.Close(); err != nil {
				b.failures = append(b.failures, fmt.Sprintf("close %s: %v", o.kind.name, err))
			}
		}
	}
	for _, kind := range kinds {
		// One *sql.DB may have several connections while others have one: leave room for that.
		cfg := peerConfig{
			name: kind.name, dsn: dsn, dial: b.line.dial, concurrency: concurrency, tenants: b.fleet.tenants,
			backends: perTenantShare - 2*concurrency,
		}
		if kind.fixed {
			cfg.wide = b.fleet.wide
		}
		p, err := kind.open(ctx, cfg)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("open %s: %w", kind.name, err)
		}
		peers = append(peers, newOpened(kind, p, cfg, b.fleet))
	}
	return peers, closeAll, nil
}

// prepare introduces all tenants to the peers that learn them, and then switches the delay on.
func (b *bench) prepare(ctx context.Context, peers []*opened, delayMS float64) error {
	b.line.set(0)
	for _, o := range peers {
		if !o.kind.learns {
			continue
		}
		if err := o.visit(ctx, b.fleet.tenants); err != nil {
			return fmt.Errorf("visit all tenants with %s: %w", o.kind.name, err)
		}
	}
	b.line.set(time.Duration(delayMS * float64(time.Millisecond)))
	return nil
}

// profile repeats the rounds of our peer alone under the CPU profiler: a profile cannot be paused between turns.
func (b *bench) profile(ctx context.Context) (err error) {
	own, err := choosePeers(ownPeer)
	if err != nil {
		return err
	}
	file, err := os.Create(b.cpuProfile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	for _, d := range b.delays {
		for _, c := range b.concurrency {
			if err := b.profileOne(ctx, own, d, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) profileOne(ctx context.Context, own []peerKind, delayMS float64, concurrency int) error {
	dsn, err := b.dsn(delayMS)
	if err != nil {
		return err
	}
	peers, closeAll, err := b.open(ctx, own, dsn, concurrency)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := b.prepare(ctx, peers, delayMS); err != nil {
		return err
	}
	for _, c := range b.cases {
		if c.idle {
			continue
		}
		if err := measureCase(ctx, peers, c, b.rounds, b.roundTime); err != nil {
			return err
		}
	}
	for _, o := range peers {
		b.writes += o.writes()
		for name, err := range o.err {
			b.failures = append(b.failures, fmt.Sprintf("profile of %s: %v", name, err))
		}
	}
	return nil
}

// report prints what the whole run says, and returns an error when a peer did something wrong.
func (b *bench) report(ctx context.Context) error {
	if b.noisy {
		rs, err := measureNoisy(ctx, b.out, b.options)
		if err != nil {
			return err
		}
		b.results = append(b.results, rs...)
	}
	if b.outage {
		rs, err := measureOutage(ctx, b.out, b.options)
		if err != nil {
			return err
		}
		b.results = append(b.results, rs...)
	}
	if b.headline.length > 0 {
		rs, err := measureHeadline(ctx, b.out, b.headline)
		if err != nil {
			return err
		}
		b.results = append(b.results, rs...)
	}
	if b.identity {
		rs, err := measureIdentity(ctx, b.out, b.options)
		if err != nil {
			return err
		}
		b.results = append(b.results, rs...)
	}
	targets := b.results.judge()
	if b.routing {
		routing, err := measureRouting(ctx, b.out, b.fleet.tenants, b.burst)
		if err != nil {
			return err
		}
		targets = append(targets, routing...)
		dsn := b.fleet.server.DSN(benchRole, benchDatabase)
		if err := measurePrologues(ctx, b.out, dsn, b.fleet.tenants[0]); err != nil {
			return err
		}
		if err := measureResets(ctx, b.out, dsn, b.fleet.tenants[0]); err != nil {
			return err
		}
	}
	if b.registry > 0 {
		rs, err := measureRegistry(ctx, b.out, b.registry)
		if err != nil {
			return err
		}
		b.results = append(b.results, rs...)
	}
	if err := printFootprints(b.out, b.footprints); err != nil {
		return err
	}
	if err := printTargets(b.out, targets); err != nil {
		return err
	}
	if err := writeJSON(b.jsonFile, b.results); err != nil {
		return err
	}
	for _, text := range b.failures {
		fmt.Fprintln(b.out, "FAILED", text)
	}
	if len(b.failures) > 0 {
		return fmt.Errorf("%d cases did not run correctly", len(b.failures))
	}
	return b.fleet.verifyWrites(ctx, b.writes)
}
