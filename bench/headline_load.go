package main

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tick is how often the clock is looked at: who is due begins then. Waking up for each would take part of the machine.
	tick = 250 * time.Microsecond
	// lostAfter is how far statements may be late before a run is given up.
	lostAfter = time.Second
)

// run puts a load on the fleet and measures. Statements are timed from when they should have begun.
func (h *headline) run(ctx context.Context, p *headlinePeer, r loadRun) (loadRun, error) {
	runtime.GC()
	before := p.counts()
	cpu, err := h.cpu(ctx, p)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	took, err := h.load(ctx, p, &r, begin)
	elapsed := time.Since(begin)
	if err != nil {
		return r, err
	}
	used, err := h.cpu(ctx, p)
	if err != nil {
		return r, err
	}
	n := float64(max(len(took), 1))
	r.achieved = float64(len(took)) / elapsed.Seconds()
	r.headlineCounts = p.counts().since(before)
	r.client, r.servers = used.since(cpu.cpuTime)
	r.others = (used.machine - cpu.machine).Seconds() - (r.client+r.servers)/1e6
	r.others, r.client, r.servers = max(r.others, 0)/elapsed.Seconds(), r.client/n, r.servers/n
	slices.Sort(took)
	r.p50, r.p99, r.p999 = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999)
	return r, nil
}

// load returns how long each statement took, in nanoseconds.
func (h *headline) load(ctx context.Context, p *headlinePeer, r *loadRun, begin time.Time) ([]int64, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	due := make(chan time.Duration, int(r.rate*r.length.Seconds()))
	var wg sync.WaitGroup
	took := make([][]int64, h.workers)
	for w := range h.workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), uint64(begin.UnixNano())))
			for ctx.Err() == nil {
				planned := time.Since(begin)
				if r.rate > 0 {
					var ok bool
					if planned, ok = <-due; !ok {
						return
					}
				} else if planned > r.length {
					return
				}
				if err := h.statement(ctx, p, rng, r.writes); err != nil {
					stop(err)
					return
				}
				took[w] = append(took[w], (time.Since(begin) - planned).Nanoseconds())
			}
		})
	}
	r.ended = true
	for n := 0; n < cap(due) && ctx.Err() == nil; {
		planned := time.Duration(float64(n) / r.rate * 1e9)
		late := time.Since(begin) - planned
		if late < 0 {
			pause(max(-late, tick))
			continue
		}
		if float64(len(due)) > r.rate*lostAfter.Seconds() {
			r.ended = false
			for len(due) > 0 {
				select {
				case <-due:
				default:
				}
			}
			break
		}
		due <- planned
		n++
	}
	close(due)
	wg.Wait()
	return slices.Concat(took...), context.Cause(ctx)
}

// statement is one of the caller's: a transaction of its own.
func (h *headline) statement(ctx context.Context, p *headlinePeer, rng *rand.Rand, writes bool) error {
	tenant, row := h.draw(rng)
	at, tenant, row := p.at(tenant, row, rng)
	id := tenantID(tenant)
	if !writes || rng.IntN(100) >= writePercent {
		return readOne(ctx, at, id, row)
	}
	err := at.Do(ctx, id, func(ctx context.Context, q querier) error { return update(ctx, q, row) })
	if err == nil {
		h.writes[tenant].Add(1)
	}
	return err
}

// visit opens the connections and meets all tenants, as a program has that has run for a while.
func (h *headline) visit(ctx context.Context, p *headlinePeer) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range h.workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for n := next.Add(1) - 1; n < headlineTenants && ctx.Err() == nil; n = next.Add(1) - 1 {
				at, tenant, row := p.at(int(n), 1, rng)
				if err := readOne(ctx, at, tenantID(tenant), row); err != nil {
					stop(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

type headlineCPU struct {
	cpuTime
	machine time.Duration // by anybody
}

func (h *headline) cpu(ctx context.Context, p *headlinePeer) (all headlineCPU, err error) {
	all.servers = map[int]int64{}
	for _, f := range h.shards {
		t, err := cpuOf(ctx, f.admin, p.name)
		if err != nil {
			return all, err
		}
		for pid, ns := range t.servers {
			all.servers[pid] = ns
		}
		all.client = t.client
	}
	all.machine = machineTime()
	return all, nil
}

// machineTime is the processor time that the machine has used; 0 where /proc does not tell.
func machineTime() (used time.Duration) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) { // cpu user nice system idle iowait irq softirq steal guest guest_nice
		if n, err := strconv.ParseInt(field, 10, 64); err == nil && i != 4 && i != 5 && i < 9 {
			used += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return used
}
