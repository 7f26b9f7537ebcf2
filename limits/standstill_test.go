package limits_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sharded-pg/sharded-pg/limits"
)

// Two tenants below their caps, each held by callers that wait for the other: nobody will ever give a slot back.
func TestTenantsThatWaitForEachOtherAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slots(4))
		var held []limits.Slot
		for i := range 4 {
			held = append(held, acquire(t, d.s, request(fmt.Sprint("outer ", i), 2, 1)))
		}
		start := time.Now()
		for i := range 4 {
			d.queue(t.Context(), request(fmt.Sprint("inner ", i), 2, 1), i)
		}
		g := <-d.served
		require.ErrorIs(t, g.err, limits.ErrShardBusy)
		require.NotErrorIs(t, g.err, limits.ErrTenantBusy)
		require.ErrorContains(t, g.err, "all 4 slots have been held for 2s with nothing running on them, by transactions, rows or "+
			"connections left open, of 4 tenants; if the caller of this statement holds one, for another tenant, it would wait for itself")
		require.Zero(t, retryAfter(t, g.err))
		require.LessOrEqual(t, time.Since(start), 4*time.Second)
		require.Len(t, d.next(), 3)
		require.Zero(t, d.s.Stats().Waiting)
		for _, slot := range held {
			slot.Release()
		}
		require.Zero(t, d.s.Stats().Used)
	})
}

func TestAShardOnWhichSomethingHappensIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, tenants := range map[string][]string{
		"short statements with pauses": {"acme"},
		"slots that change hands":      {"acme", "globex", "initech", "umbrella", "hooli", "wayne"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, slots(2))
				acquire(t, d.s, request("idle", 2, 1))
				held := acquire(t, d.s, request(tenants[0], 2, 1))
				for i, tenant := range tenants[1:] {
					d.queue(t.Context(), request(tenant, 2, 1), i)
				}
				d.queue(t.Context(), request("last", 2, 1), 99)
				for range 6 {
					<-time.After(time.Second)
					if len(tenants) == 1 {
						held.Begin()
						held.End()
						require.Empty(t, d.next())
						continue
					}
					held.Release()
					g := d.one()
					require.NoError(t, g.err)
					held = g.slot
				}
				if len(tenants) == 1 {
					held.Release()
					require.NoError(t, d.one().err)
				}
			})
		})
	}
}

// movement is what TestOnlyAStandstillIsRefused knows of slots: when something last happened.
type movement struct {
	*model
	running map[limits.Slot]bool // by tenant: its slots are equal
	since   map[string]time.Time // when a slot of the tenant last moved; of the shard for ""
	came    map[int]time.Time
}

func (m *movement) moved(tenant string) {
	m.since[tenant], m.since[""] = time.Now(), time.Now()
}

// still is since when nothing has happened on what a statement of the tenant waits for; the zero time while it may move.
func (m *movement) still(tenant string) time.Time {
	own := m.used(tenant) >= m.limit[tenant]
	for _, g := range m.held {
		if m.running[g.slot] && (g.tenant == tenant || !own) {
			return time.Time{}
		}
	}
	if own {
		return m.since[tenant]
	}
	return m.since[""]
}

// TestOnlyAStandstillIsRefused: who waits for slots on which nothing has happened for four seconds has been told, and nobody is
// told while something has happened within two.
func TestOnlyAStandstillIsRefused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 4).Draw(rt, "size")
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				do: rapid.IntRange(0, 8).Draw(rt, "do"), tenant: rapid.IntRange(0, 3).Draw(rt, "tenant"),
				pick: rapid.IntRange(0, 99).Draw(rt, "pick"), conns: rapid.IntRange(1, 3).Draw(rt, "conns"),
			}
		}), 1, 60).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			m := &movement{newModel(t, size), map[limits.Slot]bool{}, map[string]time.Time{}, map[int]time.Time{}}
			m.s = limits.NewSlots(limits.Config{Size: size, Share: 1, Wait: time.Hour, TenantQueue: 99, ShardQueue: 99})
			conns := [4]int{}
			for i := range conns {
				conns[i] = steps[i%len(steps)].conns
				m.limit[fmt.Sprint("t", i)] = min(conns[i], size)
			}
			for _, st := range steps {
				m.step(st, conns[st.tenant])
			}
			for len(m.held) > 0 {
				m.release(0)
			}
			require.Empty(t, m.waiting)
		})
	})
}

func (m *movement) step(st step, conns int) {
	m.Helper()
	switch {
	case st.do <= 2:
		tenant := fmt.Sprint("t", st.tenant)
		ctx, cancel := context.WithCancel(m.Context())
		m.ids++
		m.came[m.ids] = time.Now()
		m.waiting = append(m.waiting, caller{tenant, m.ids, cancel})
		m.queue(ctx, request(tenant, conns, 1), m.ids)
	case st.do == 3 && len(m.held) > 0:
		m.release(st.pick % len(m.held))
	case st.do == 4 && len(m.held) > 0:
		g := m.held[st.pick%len(m.held)]
		if m.moved(g.tenant); m.running[g.slot] {
			g.slot.End()
		} else {
			g.slot.Begin()
		}
		m.running[g.slot] = !m.running[g.slot]
	case st.do == 5 && len(m.held) > 0:
		g := m.held[st.pick%len(m.held)]
		m.moved(g.tenant)
		g.slot.Begin()
		g.slot.End()
	default:
		for range st.pick / 10 { // in steps, so that what was told is compared with what was true then
			<-time.After(500 * time.Millisecond)
			m.look()
		}
	}
	m.look()
}

func (m *movement) release(i int) {
	g := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	if m.running[g.slot] && m.used(g.tenant) == 0 {
		g.slot.End()
		delete(m.running, g.slot)
	}
	m.moved(g.tenant)
	g.slot.Release()
	m.look()
}

// look takes over what has happened.
func (m *movement) look() {
	m.Helper()
	got := m.next()
	slices.SortFunc(got, func(a, b grant) int { return a.id - b.id })
	for _, g := range got { // those that were told, by what was true when they were
		if g.err == nil {
			continue
		}
		want := limits.ErrShardBusy
		if m.used(g.tenant) >= m.limit[g.tenant] {
			want = limits.ErrTenantBusy
		}
		require.ErrorIs(m, g.err, want)
		since := m.still(g.tenant)
		require.False(m, since.IsZero(), "%s was told of a standstill while something runs: %v", g.tenant, g.err)
		require.GreaterOrEqual(m, time.Since(since), 2*time.Second)
		m.waiting = slices.DeleteFunc(m.waiting, func(w caller) bool { return w.id == g.id })
	}
	for _, g := range got {
		if g.err == nil {
			m.moved(g.tenant)
			m.held = append(m.held, g)
			m.waiting = slices.DeleteFunc(m.waiting, func(w caller) bool { return w.id == g.id })
		}
	}
	for _, w := range m.waiting {
		if since := m.still(w.tenant); !since.IsZero() {
			since = slices.MaxFunc([]time.Time{since, m.came[w.id]}, time.Time.Compare)
			require.Less(m, time.Since(since), 4500*time.Millisecond, "%s still waits for slots on which nothing happens", w.tenant)
		}
	}
}
