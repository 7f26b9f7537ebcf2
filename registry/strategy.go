package registry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Candidate is a shard that may take the tenant.
type Candidate struct {
	Shard   Shard
	Tenants int     // who live there now
	Size    float64 // what the strategy's Sizer measured, if it is one
}

// Strategy chooses a shard for a new tenant. Stored tenants stay where they are, whatever a strategy would say today.
// Write one of your own by implementing it.
type Strategy interface {
	// Name is recorded with the tenant.
	Name() string
	// Pick returns the name of one of the candidates, of which there is at least one, by name. It runs under the lock
	// that lets one tenant at a time be assigned: so it sees true counts, needs no locking of its own, and must neither
	// wait for anything nor use the registry. What takes time is done before, by a Strategy that is a [Sizer], too.
	Pick(tenant string, candidates []Candidate) (shard string, err error)
}

// Sizer measures shards. A Strategy that is one has its answers as [Candidate].Size; they are from a moment before the
// lock. A shard that is missing in the answer is no candidate.
type Sizer interface {
	Sizes(ctx context.Context, shards []Shard) (map[string]float64, error)
}

// Hash spreads tenants evenly by their ID: each shard has a rank for each tenant (rendezvous hashing over the names of
// shards), and the first that may take it does. It is the default. Another shard changes the answer for the tenants that
// rank it first, and for no others.
type Hash struct{}

// Name returns "hash".
func (Hash) Name() string { return "hash" }

// Pick returns the candidate that ranks first for the tenant.
func (Hash) Pick(tenant string, candidates []Candidate) (string, error) {
	var best string
	var most uint64
	for _, c := range candidates {
		sum := sha256.Sum256([]byte(c.Shard.Name + "\x00" + tenant))
		if rank := binary.BigEndian.Uint64(sum[:8]); best == "" || rank > most {
			best, most = c.Shard.Name, rank
		}
	}
	return best, nil
}

// Smallest gives a tenant to the shard with the least on it: the fewest tenants, or the smallest size if it has a sizer
// (then the fewest tenants among equals). See [Bytes] and [Load].
type Smallest struct {
	By Sizer // default: the number of tenants
}

// Name returns "smallest".
func (Smallest) Name() string { return "smallest" }

// Sizes asks the sizer.
func (s Smallest) Sizes(ctx context.Context, shards []Shard) (map[string]float64, error) {
	if s.By == nil {
		return make(map[string]float64), nil
	}
	return s.By.Sizes(ctx, shards)
}

// Pick returns the smallest candidate, the first by name among equals.
func (Smallest) Pick(_ string, candidates []Candidate) (string, error) {
	best := candidates[0]
	for _, c := range candidates[1:] {
		if c.Size < best.Size || c.Size == best.Size && c.Tenants < best.Tenants {
			best = c
		}
	}
	return best.Shard.Name, nil
}

// needsSize reports whether a candidate without a size is none.
func needsSize(s Strategy) bool {
	if smallest, ok := s.(Smallest); ok {
		return smallest.By != nil
	}
	_, ok := s.(Sizer)
	return ok
}

// StrategyByName returns a strategy of this package, for command lines: hash, smallest, smallest-bytes, smallest-load.
func StrategyByName(name string) (Strategy, error) {
	switch name {
	case "hash":
		return Hash{}, nil
	case "smallest":
		return Smallest{}, nil
	case "smallest-bytes":
		return Smallest{By: Bytes{}}, nil
	case "smallest-load":
		return Smallest{By: Load{}}, nil
	}
	return nil, fmt.Errorf("%w: unknown strategy %q: use hash, smallest, smallest-bytes or smallest-load", ErrInvalid, cut(name))
}
