package limits_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sharded-pg/sharded-pg/limits"
)

var soakTime = flag.Duration("limits.soak", 2*time.Second, "how long TestSoak runs")

// step is one thing that happens to slots.
type step struct {
	do     int // acquire, release, cancel, change limits, let time pass
	tenant int
	pick   int // which of those there are
	conns  int
	weight int
}

// TestSlotsAgreeWithASimpleModel: never above a cap or the size, first in first out in a tenant, nobody waits while there is
// a slot for it, none lost, whatever happens in which order.
func TestSlotsAgreeWithASimpleModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 6).Draw(rt, "size")
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				do: rapid.IntRange(0, 5).Draw(rt, "do"), tenant: rapid.IntRange(0, 3).Draw(rt, "tenant"),
				pick: rapid.IntRange(0, 99).Draw(rt, "pick"), conns: rapid.IntRange(1, 4).Draw(rt, "conns"),
				weight: rapid.IntRange(1, 4).Draw(rt, "weight"),
			}
		}), 1, 80).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) { newModel(t, size).run(steps) })
	})
}

// model is what slots have to do, kept as plain lists.
type model struct {
	*desk
	size    int
	limit   map[string]int
	held    []grant
	waiting []caller // in the order in which they came
	ids     int
}

type caller struct {
	tenant string
	id     int
	cancel context.CancelFunc
}

func newModel(t *testing.T, size int) *model {
	t.Helper()
	return &model{desk: newDesk(t, slots(size)), size: size, limit: make(map[string]int)}
}

func (m *model) run(steps []step) {
	m.Helper()
	for _, st := range steps {
		tenant := fmt.Sprint("t", st.tenant)
		r := request(tenant, st.conns, st.weight)
		switch {
		case st.do <= 1:
			m.limit[tenant] = min(r.Conns, m.size)
			ctx, cancel := context.WithCancel(m.Context())
			m.ids++
			m.waiting = append(m.waiting, caller{tenant, m.ids, cancel})
			m.queue(ctx, r, m.ids)
		case st.do == 2 && len(m.held) > 0:
			i := st.pick % len(m.held)
			m.held[i].slot.Release()
			m.held = slices.Delete(m.held, i, i+1)
		case st.do == 3 && len(m.waiting) > 0:
			m.waiting[st.pick%len(m.waiting)].cancel()
		case st.do == 4:
			m.limit[tenant] = min(r.Conns, m.size)
			m.s.Update(r)
		case st.do == 5:
			<-time.After(time.Duration(st.pick) * time.Millisecond)
		}
		m.check()
	}
	for len(m.held) > 0 {
		m.held[0].slot.Release()
		m.held = m.held[1:]
		m.check()
	}
	require.Empty(m, m.waiting, "somebody still waits when all slots are free")
	for _, w := range m.waiting {
		w.cancel()
	}
}

// check takes what happened over into the model, and compares.
func (m *model) check() {
	m.Helper()
	got := m.next()
	// Those that were served in one step report in any order.
	slices.SortFunc(got, func(a, b grant) int { return a.id - b.id })
	for _, g := range got {
		i := slices.IndexFunc(m.waiting, func(w caller) bool { return w.id == g.id })
		m.waiting[i].cancel()
		if g.err != nil {
			require.ErrorIs(m, g.err, context.Canceled)
		} else {
			first := slices.IndexFunc(m.waiting, func(w caller) bool { return w.tenant == g.tenant })
			require.Equal(m, first, i, "%s: one that came later was served first", g.tenant)
			m.held = append(m.held, g)
			require.LessOrEqual(m, m.used(g.tenant), m.limit[g.tenant], "%s is above its limit", g.tenant)
		}
		m.waiting = slices.Delete(m.waiting, i, i+1)
	}
	require.LessOrEqual(m, len(m.held), m.size)
	if len(m.held) < m.size {
		for _, w := range m.waiting {
			require.GreaterOrEqual(m, m.used(w.tenant), m.limit[w.tenant], "%s waits for a slot that is free", w.tenant)
		}
	}
	st := m.s.Stats()
	require.Equal(m, [2]int{len(m.held), len(m.waiting)}, [2]int{st.Used, st.Waiting})
}

func (m *model) used(tenant string) (n int) {
	for _, g := range m.held {
		if g.tenant == tenant {
			n++
		}
	}
	return n
}

// TestTurnsStayProportionalToWeights: for any two tenants that always wait, turns divided by weight differ by no more than
// start-time fair queueing with that many slots allows, and one round for cutting tags to rounds.
func TestTurnsStayProportionalToWeights(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 8).Draw(rt, "size")
		weights := rapid.SliceOfN(rapid.IntRange(1, 9), 2, 6).Draw(rt, "weights")
		work := rapid.IntRange(0, 20).Draw(rt, "work, in ms")
		const turns = 120
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, slots(size))
			var held []limits.Slot
			for range size {
				held = append(held, acquire(t, d.s, request("before", size, 1)))
			}
			for i, w := range weights {
				for j := range turns {
					go func() {
						slot, err := d.s.Acquire(t.Context(), request(fmt.Sprint(i), size, w))
						d.served <- grant{fmt.Sprint(i), j, slot, err}
					}()
				}
			}
			synctest.Wait()
			got := make(map[string]float64)
			for range turns {
				<-time.After(time.Duration(work) * time.Millisecond)
				held[0].Release()
				g := d.one()
				held = append(held[1:], g.slot)
				got[g.tenant]++
				price := 1 + float64(work*size)/10 // of a turn: it is held until size others have come
				for i, w := range weights {
					for j, v := range weights {
						apart := got[fmt.Sprint(i)]/float64(w) - got[fmt.Sprint(j)]/float64(v)
						bound := float64(size+1)*(1/float64(w)+1/float64(v)) + 1/price + 1
						require.LessOrEqual(t, apart, bound, "%v of weights %v on %d slots", got, weights, size)
					}
				}
			}
			for served := turns; served < turns*len(weights); served++ {
				held[0].Release()
				held = append(held[1:], d.one().slot)
			}
			for _, slot := range held {
				slot.Release()
			}
			require.Zero(t, d.s.Stats().Used)
		})
	})
}

// TestSoak lets tenants, cancels and changing limits loose on each other, in real time. -limits.soak=10m for long.
func TestSoak(t *testing.T) {
	t.Parallel()
	const size, tenants, callers = 8, 50, 64
	s := slots(size)
	ctx, stop := context.WithTimeout(t.Context(), *soakTime)
	defer stop()
	var running, above, done atomic.Int64
	var each [tenants]atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(c), 1))
			for ctx.Err() == nil {
				id := r.IntN(tenants)
				if c < callers/2 {
					id = 0 // one makes half of the noise
				}
				wait, cancel := context.WithTimeout(ctx, time.Duration(r.IntN(int(2*time.Millisecond))))
				slot, err := s.Acquire(wait, request(fmt.Sprint(id), 1+r.IntN(4), 1+r.IntN(4)))
				cancel()
				if err != nil {
					continue
				}
				if running.Add(1) > size || each[id].Add(1) > 4 {
					above.Add(1)
				}
				slot.Begin()
				for range r.IntN(2000) {
					done.Load()
				}
				slot.End()
				each[id].Add(-1)
				running.Add(-1)
				done.Add(1)
				slot.Release()
			}
		})
	}
	wg.Wait()
	require.Zero(t, above.Load())
	require.Positive(t, done.Load())
	st := s.Stats()
	t.Logf("%d served, %d waited, the longest %s", done.Load(), st.Waited, st.LongestWait)
	require.Zero(t, st.Used)
	require.Zero(t, st.Waiting)
	require.Positive(t, st.Waited)
	require.Empty(t, s.Busiest(1))
}
