package limits_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/limits"
)

func TestAcquireWithoutWaitingDoesNotAllocate(t *testing.T) {
	cfg := config(4)
	cfg.Rates = limits.NewLocalRates(10)
	s := limits.NewSlots(cfg)
	r := request("acme", 2, 1)
	r.Rate = 1e9
	require.Zero(t, testing.AllocsPerRun(100, func() {
		slot, err := s.Acquire(t.Context(), r)
		if err != nil {
			t.Error(err)
		}
		slot.Begin()
		slot.Count(t.Context())
		slot.End()
		slot.Release()
	}))
}

// BenchmarkNothingWaits is a slot taken and given back, by one tenant or by many in random order.
func BenchmarkNothingWaits(b *testing.B) {
	for _, rate := range []float64{0, 1e9} {
		for _, tenants := range []int{1, 10_000} {
			b.Run(fmt.Sprintf("rate=%v/tenants=%d", rate > 0, tenants), func(b *testing.B) {
				b.ReportAllocs()
				cfg := config(32)
				cfg.Rates = limits.NewLocalRates(tenants)
				s := limits.NewSlots(cfg)
				requests := make([]limits.Request, tenants)
				for i := range requests {
					requests[i] = request("tenant "+strconv.Itoa(i), 2, 1)
					requests[i].Rate = rate
				}
				rnd := rand.New(rand.NewPCG(1, 1))
				for b.Loop() {
					slot, err := s.Acquire(b.Context(), requests[rnd.IntN(tenants)])
					if err != nil {
						b.Fatal(err)
					}
					slot.Release()
				}
			})
		}
	}
}

// BenchmarkWaiters is a slot given back and taken by the next in line, who stands in line again, while so many others wait.
// B/waiter is what a waiter holds on the heap, its tenant included; its goroutine, which the caller has anyhow, is apart.
func BenchmarkWaiters(b *testing.B) {
	for _, n := range []int{100, 1000, 10000, 100000} {
		for _, tenants := range []int{1, 100, n} {
			b.Run(fmt.Sprintf("waiters=%d/tenants=%d", n, tenants), func(b *testing.B) {
				b.ReportAllocs()
				cfg := config(1)
				cfg.Wait = time.Hour
				s := limits.NewSlots(cfg)
				ctx, cancel := context.WithCancel(b.Context())
				held, err := s.Acquire(ctx, request("before", 1, 1))
				require.NoError(b, err)
				heap, stacks := memory()
				served := make(chan limits.Slot)
				gone := make(chan bool, n)
				for i := range n {
					go func() {
						r := request("tenant "+strconv.Itoa(i%tenants), 1, 1+i%4)
						for {
							slot, err := s.Acquire(ctx, r)
							if err != nil {
								gone <- true
								return
							}
							served <- slot
						}
					}()
				}
				require.Eventually(b, func() bool { return s.Stats().Waiting == n }, time.Minute, time.Millisecond)
				heapWith, stacksWith := memory()
				b.ResetTimer()
				for range b.N {
					held.Release()
					held = <-served
				}
				b.StopTimer()
				b.ReportMetric(float64(heapWith-heap)/float64(n), "B/waiter")
				b.ReportMetric(float64(stacksWith-stacks)/float64(n), "goroutine-B/waiter")
				cancel()
				for range n {
					<-gone
				}
				held.Release()
			})
		}
	}
}

func memory() (heap, stacks int64) {
	runtime.GC()
	runtime.GC() // the first one only marks what the finalizers hold
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.StackInuse)
}
