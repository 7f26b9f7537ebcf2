package registry

import (
	"context"
	"fmt"
	"time"
)

// Capacity is what a shard has to share out. Zero means: not known, and not compared.
type Capacity struct {
	Slots    int   // connections that tenants may have at once, over all programs
	MemoryKB int64 // memory for work_mem: what shared buffers and the system leave
}

// Commitment compares what the plans of a shard's tenants promise with what the shard has.
type Commitment struct {
	Shard     string   `json:"shard"`
	Tenants   int      `json:"tenants"` // active and readonly ones
	MaxConns  int64    `json:"max_conns"`
	WorkMemKB int64    `json:"work_mem_kb"` // if each tenant used all its connections, with one work_mem each
	Capacity  Capacity `json:"capacity"`
}

// Warnings says which promises cannot all be kept at once, with numbers. Promising more than there is can be right,
// since tenants are rarely busy together; it should be known.
func (c Commitment) Warnings() (texts []string) {
	if slots := int64(c.Capacity.Slots); slots > 0 && c.MaxConns > slots {
		texts = append(texts, fmt.Sprintf("%d tenants may use %d connections together, %.1f times the %d there are",
			c.Tenants, c.MaxConns, float64(c.MaxConns)/float64(slots), slots))
	}
	// No more statements run than there are slots, whatever the plans promise.
	need := c.WorkMemKB
	if slots := int64(c.Capacity.Slots); slots > 0 && c.MaxConns > slots {
		need = int64(float64(need) * float64(slots) / float64(c.MaxConns))
	}
	if memory := c.Capacity.MemoryKB; memory > 0 && need > memory {
		texts = append(texts, fmt.Sprintf("work_mem of statements that may run at once is %d MB, %.1f times the %d MB there are",
			need>>10, float64(need)/float64(memory), memory>>10))
	}
	return texts
}

// Overcommit adds up the limits of all tenants that may run statements, overrides included, for each shard.
func (a *Admin) Overcommit(ctx context.Context, capacities map[string]Capacity) ([]Commitment, error) {
	now := time.Now()
	return view(ctx, a, "adding up the plans", func(tx *change) ([]Commitment, error) {
		shards, err := tx.shards.all(ctx)
		if err != nil {
			return nil, err
		}
		listed, err := tx.plans.all(ctx)
		if err != nil {
			return nil, err
		}
		plans := make(map[string]Plan, len(listed))
		for _, plan := range listed {
			plans[plan.Name] = plan
		}
		tenants, err := tx.tenants.all(ctx)
		if err != nil {
			return nil, err
		}
		sums := make(map[string]*Commitment, len(shards))
		all := make([]Commitment, len(shards))
		for i, shard := range shards {
			all[i] = Commitment{Shard: shard.Name, Capacity: capacities[shard.Name]}
			sums[shard.Name] = &all[i]
		}
		for _, t := range tenants {
			if sum := sums[t.Shard]; sum != nil && t.runs() {
				plan := plans[t.Plan]
				if t.Override != nil && !t.Override.expired(now) {
					plan = t.Override.over(plan)
				}
				sum.Tenants++
				sum.MaxConns += int64(plan.MaxConns)
				sum.WorkMemKB += int64(plan.MaxConns) * int64(plan.WorkMemKB)
			}
		}
		return all, nil
	})
}
