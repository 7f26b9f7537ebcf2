package registry

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Labels of a shard that say what it has to share out: {"capacity.slots": "200", "capacity.memory": "48GB"}.
const (
	SlotsLabel  = "capacity.slots"  // see [Capacity]; where a pooler in front allows fewer than the server
	MemoryLabel = "capacity.memory" // see [Capacity]; a whole number of kB, MB, GB or TB. No server can be asked for it
)

// Capacity is what a shard has to share out. Zero means: not known, and not compared.
type Capacity struct {
	Slots    int   // connections that tenants may have at once, over all programs
	MemoryKB int64 // memory for work_mem: what shared buffers and the system leave
}

// Capacity is what the labels of the shard say.
func (s Shard) Capacity() Capacity {
	slots, _ := parseSlots(s.Labels[SlotsLabel])
	memory, _ := parseMemory(s.Labels[MemoryLabel])
	return Capacity{slots, memory}
}

// or fills in what is not known.
func (c Capacity) or(other Capacity) Capacity {
	if c.Slots == 0 {
		c.Slots = other.Slots
	}
	if c.MemoryKB == 0 {
		c.MemoryKB = other.MemoryKB
	}
	return c
}

func checkCapacity(p *problems, labels map[string]string) {
	if slots, ok := labels[SlotsLabel]; ok {
		if _, ok := parseSlots(slots); !ok {
			p.add("label %s is %q: use a number of connections", SlotsLabel, cut(slots))
		}
	}
	if memory, ok := labels[MemoryLabel]; ok {
		if _, ok := parseMemory(memory); !ok {
			p.add("label %s is %q: use a whole number and a unit, kB, MB, GB or TB, such as 48GB", MemoryLabel, cut(memory))
		}
	}
}

func parseSlots(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return 0, false
	}
	return n, true
}

func parseMemory(text string) (kb int64, ok bool) {
	units := []string{"kB", "MB", "GB", "TB"}
	i := slices.IndexFunc(units, func(unit string) bool { return strings.HasSuffix(text, unit) })
	if i < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(text, units[i]), 10, 64)
	if most := int64(math.MaxInt64) >> (10 * (i + 1)); err != nil || n < 1 || n > most {
		return 0, false
	}
	return n << (10 * i), true
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
		texts = append(texts, fmt.Sprintf("%s may use %d connections together, in each program, %.1f times the %d there are: "+
			"when many are busy they wait for each other; lower max conns of their plans, or put some on another shard",
			many(c.Tenants, "tenant"), c.MaxConns, float64(c.MaxConns)/float64(slots), slots))
	}
	// No more statements run than there are slots, whatever the plans promise.
	need := c.WorkMemKB
	if slots := int64(c.Capacity.Slots); slots > 0 && c.MaxConns > slots {
		need = int64(float64(need) * float64(slots) / float64(c.MaxConns))
	}
	if memory := c.Capacity.MemoryKB; memory > 0 && need > memory {
		texts = append(texts, fmt.Sprintf("work_mem of statements that may run at once is %d MB, %.1f times the %d MB there are: "+
			"the server may run out of memory; lower work_mem of their plans, or sharded_max_conns of the programs",
			need>>10, float64(need)/float64(memory), memory>>10))
	}
	return texts
}

// Overcommit adds up the limits of all tenants that may run statements, overrides and throttles included, for each shard. What
// capacities do not say of a shard is taken from its labels.
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
			all[i] = Commitment{Shard: shard.Name, Capacity: capacities[shard.Name].or(shard.Capacity())}
			sums[shard.Name] = &all[i]
		}
		for _, t := range tenants {
			if sum := sums[t.Shard]; sum != nil && t.runs() {
				plan := t.limits(plans[t.Plan], now)
				sum.Tenants++
				sum.MaxConns += int64(plan.MaxConns)
				sum.WorkMemKB += int64(plan.MaxConns) * int64(plan.WorkMemKB)
			}
		}
		return all, nil
	})
}
