package main

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// sample is what one round of one peer in one case gave.
type sample struct {
	p50, p99 float64 // microseconds
	ops      float64 // per second
	allocs   float64 // per operation, of the whole process

	client, servers float64 // microseconds of processor time per operation, of this process and of the peer's backends
}

// opened is a peer at work, with the samples of its rounds by case.
type opened struct {
	kind    peerKind
	peer    peer
	admin   *sql.DB // to find the peer's backends
	samples map[string][]sample
	err     map[string]error
	workers []*worker
}

// newOpened prepares the workers once: a round allocates nothing of its own while it measures.
func newOpened(kind peerKind, p peer, cfg peerConfig, f *fleet) *opened {
	o := &opened{kind: kind, peer: p, admin: f.admin, samples: map[string][]sample{}, err: map[string]error{}}
	for i := range cfg.concurrency {
		o.workers = append(o.workers, &worker{
			rng:       rand.New(rand.NewPCG(1, uint64(i))),
			tenants:   cfg.tenants,
			wide:      cfg.wide,
			rows:      f.rows,
			index:     i,
			workers:   cfg.concurrency,
			latencies: make([]int64, 0, 1<<16),
		})
	}
	return o
}

// round runs the case for the given time on all workers. The peer has the process to itself meanwhile.
func (o *opened) round(ctx context.Context, c benchCase, d time.Duration) (sample, error) {
	runtime.GC() // every round starts with the same heap, whoever ran before
	var before, after runtime.MemStats
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	cpu, err := cpuOf(ctx, o.admin, o.kind.name)
	if err != nil {
		return sample{}, err
	}
	runtime.ReadMemStats(&before)
	start := time.Now()
	for _, w := range o.workers {
		w.latencies = w.latencies[:0]
		wg.Go(func() {
			if err := w.loop(ctx, o.peer, c, start.Add(d), &failed); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	used, err := cpuOf(ctx, o.admin, o.kind.name)
	if err != nil {
		return sample{}, err
	}
	if err := failed.Load(); err != nil {
		return sample{}, *err
	}
	var all []int64
	for _, w := range o.workers {
		all = append(all, w.latencies...)
	}
	s := summarize(all)
	s.ops = float64(len(all)) / elapsed.Seconds()
	s.allocs = float64(after.Mallocs-before.Mallocs) / float64(len(all))
	s.client, s.servers = used.since(cpu)
	s.client /= float64(len(all))
	s.servers /= float64(len(all))
	return s, nil
}

// loop runs at least one operation, then goes on until the deadline or the first failure of any worker.
func (w *worker) loop(ctx context.Context, p peer, c benchCase, deadline time.Time, failed *atomic.Pointer[error]) error {
	for begin := time.Now(); ; {
		if err := c.run(ctx, p, w); err != nil {
			return err
		}
		end := time.Now()
		w.latencies = append(w.latencies, end.Sub(begin).Nanoseconds())
		if !end.Before(deadline) || failed.Load() != nil {
			return nil
		}
		begin = end
	}
}

// visit reads one row of each tenant, with as many goroutines as the peer has workers.
func (o *opened) visit(ctx context.Context, tenants []string) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range o.workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(tenants) && failed.Load() == nil; i = next.Add(1) - 1 {
				if err := readOne(ctx, o.peer, tenants[i], 1); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// measureCase interleaves the peers: each round gives every peer one turn, in an order that changes from round to round,
// so that a slow moment of the machine does not hit the same peer each time.
func measureCase(ctx context.Context, peers []*opened, c benchCase, rounds int, roundTime time.Duration) error {
	for _, o := range peers {
		if _, err := o.round(ctx, c, max(roundTime/3, time.Millisecond)); err != nil { // first use prepares statements
			o.err[c.name] = err
		}
	}
	for r := range rounds {
		for _, i := range turn(len(peers), r) {
			o := peers[i]
			if err := ctx.Err(); err != nil {
				return err
			}
			if o.err[c.name] != nil {
				continue
			}
			s, err := o.round(ctx, c, roundTime)
			if err != nil {
				o.err[c.name] = err
				continue
			}
			o.samples[c.name] = append(o.samples[c.name], s)
		}
	}
	return ctx.Err()
}

// measureIdle lets all peers rest for the same second and then asks each of them once.
func measureIdle(ctx context.Context, peers []*opened, c benchCase, rounds int, idle time.Duration) error {
	latencies := map[*opened][]int64{}
	for r := range rounds + 1 { // the first one prepares statements
		for _, i := range turn(len(peers), r) {
			o := peers[i]
			w := o.workers[0]
			begin := time.Now()
			if err := c.run(ctx, o.peer, w); err != nil {
				o.err[c.name] = err
				continue
			}
			if r > 0 {
				latencies[o] = append(latencies[o], time.Since(begin).Nanoseconds())
			}
		}
		if r == rounds {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(idle):
		}
	}
	for o, l := range latencies {
		s := summarize(l)
		s.ops = 1e6 / s.p50
		o.samples[c.name] = []sample{s}
	}
	return nil
}

// turn is the order of a round: rotated by one every second round and backwards in between, so that in time each peer
// runs first, last and after each neighbour.
func turn(n, round int) []int {
	order := make([]int, 0, n)
	for i := range n {
		order = append(order, (i+round/2)%n)
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// summarize sorts the latencies in place.
func summarize(nanos []int64) sample {
	slices.Sort(nanos)
	return sample{p50: quantile(nanos, 0.50), p99: quantile(nanos, 0.99)}
}

func quantile(sorted []int64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1)+0.5)]) / 1e3
}

// median of one figure over the rounds.
func median(samples []sample, figure func(sample) float64) float64 {
	values := make([]float64, 0, len(samples))
	for _, s := range samples {
		values = append(values, figure(s))
	}
	slices.Sort(values)
	switch n := len(values); {
	case n == 0:
		return 0
	case n%2 == 1:
		return values[n/2]
	default:
		return (values[n/2-1] + values[n/2]) / 2
	}
}

// writes adds up what the workers changed; call it when no round runs.
func (o *opened) writes() (n int64) {
	for _, w := range o.workers {
		n += w.writes
	}
	return n
}
