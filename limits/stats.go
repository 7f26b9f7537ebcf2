package limits

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Counts is what happened since the start.
type Counts struct {
	Waited      int64         // statements that had to wait
	WaitTime    time.Duration // of all of them together, those included that got nothing
	LongestWait time.Duration
	Waits       [len(WaitBounds) + 1]int64 // how many of them waited up to each of WaitBounds, and longer than the last

	TenantBusy, ShardBusy, RateLimited int64 // refused, by error
	Cancelled                          int64 // whose context was cancelled while they waited
}

// WaitBounds are the upper bounds of Counts.Waits.
var WaitBounds = [...]time.Duration{
	time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
	2 * time.Second, 10 * time.Second,
}

// Refused is how many statements got nothing.
func (c *Counts) Refused() int64 { return c.TenantBusy + c.ShardBusy + c.RateLimited + c.Cancelled }

func (c *Counts) add(o *Counts) {
	c.Waited += o.Waited
	c.WaitTime += o.WaitTime
	c.LongestWait = max(c.LongestWait, o.LongestWait)
	for i := range c.Waits {
		c.Waits[i] += o.Waits[i]
	}
	c.TenantBusy += o.TenantBusy
	c.ShardBusy += o.ShardBusy
	c.RateLimited += o.RateLimited
	c.Cancelled += o.Cancelled
}

// counts are those of a plan.
type counts struct {
	Counts
	name    string
	waiting int
}

func (s *Slots) counts(plan string) *counts {
	c := s.plans[plan]
	if c == nil {
		c = &counts{name: plan}
		s.plans[plan] = c
	}
	return c
}

func (c *counts) waitedFor(d time.Duration) {
	c.WaitTime += d
	c.LongestWait = max(c.LongestWait, d)
	i, _ := slices.BinarySearch(WaitBounds[:], d)
	c.Waits[i]++
}

// Stats is a snapshot of a shard's slots.
type Stats struct {
	Size, Used, Waiting int
	Counts
	Plans []PlanStats // by name
}

// PlanStats is the part of a shard's Stats that belongs to the tenants of one plan.
type PlanStats struct {
	Plan    string
	Waiting int
	Counts
}

// Stats returns the counts now.
func (s *Slots) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Size: s.cfg.Size, Used: s.used, Waiting: s.waiting}
	for _, c := range s.plans {
		st.add(&c.Counts)
		st.Plans = append(st.Plans, PlanStats{Plan: c.name, Waiting: c.waiting, Counts: c.Counts})
	}
	slices.SortFunc(st.Plans, func(a, b PlanStats) int { return cmp.Compare(a.Plan, b.Plan) })
	return st
}

// TenantStats is what a tenant has of a shard's slots now.
type TenantStats struct {
	Tenant, Plan         string
	Used, Limit, Waiting int
}

// Busiest returns the n tenants with the most statements waiting, and among equals those that hold the most slots. It looks
// at all tenants that hold or wait: call it to look, not for each statement.
func (s *Slots) Busiest(n int) []TenantStats {
	s.mu.Lock()
	all := make([]TenantStats, 0, len(s.tenants))
	for t := range maps.Values(s.tenants) {
		if t.used > 0 || t.queued > 0 {
			all = append(all, TenantStats{Tenant: t.name, Plan: t.plan.name, Used: t.used, Limit: t.limit, Waiting: t.queued})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b TenantStats) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.Used, a.Used), cmp.Compare(a.Tenant, b.Tenant))
	})
	return all[:min(n, len(all))]
}

// Present returns the tenants that hold slots or of which a statement waits.
func (s *Slots) Present() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, t := range s.tenants {
		if t.queued > 0 || t.used > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
