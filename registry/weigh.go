package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// sizeKept is how long a size is good for: a batch that measured each shard for each tenant would mostly measure.
const sizeKept = 30 * time.Second

// measured keeps sizes that were below the limit of their shard. Others are asked for again at once, so that a shard
// which an operator has made room on and opened takes tenants.
type measured struct {
	mu    sync.Mutex
	sizes map[string]measurement // by shard and DSNs
}

type measurement struct {
	size float64
	at   time.Time
}

func sizeKey(s Shard) string { return s.Name + "\x00" + s.DSN + "\x00" + s.AdminDSN }

// fresh returns the size of a shard, if it is known and young enough.
func (m *measured) fresh(s Shard) (float64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, known := m.sizes[sizeKey(s)]
	return last.size, known && time.Since(last.at) < sizeKept
}

func (m *measured) keep(s Shard, size float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sizes == nil {
		m.sizes = make(map[string]measurement)
	}
	m.sizes[sizeKey(s)] = measurement{size, time.Now()}
}

// weigh asks shards for their sizes where that is needed: before the lock, and never under it.
func (a *Admin) weigh(ctx context.Context, pick *picker) error {
	shards, err := view(ctx, a, "reading the shards", func(tx *change) ([]Shard, error) { return tx.shards.all(ctx) })
	if err != nil {
		return err
	}
	strategy := needsSize(pick.Strategy) && pick.chosen == ""
	if !strategy && !slices.ContainsFunc(shards, func(s Shard) bool { return s.MaxBytes > 0 }) {
		return nil
	}
	infos, err := a.ListShards(ctx)
	if err != nil {
		return err
	}
	var able, limited []Shard
	for _, info := range infos {
		if pick.refusal(info) != "" {
			continue
		}
		able = append(able, info.Shard)
		if info.MaxBytes > 0 && (pick.chosen == "" || pick.chosen == info.Name) {
			limited = append(limited, info.Shard)
		}
	}
	if sizer, ok := pick.Strategy.(Sizer); ok && strategy && len(able) > 0 {
		// Shards that were not measured are no candidates; the error is told when no other shard fits.
		pick.sizes, pick.unmeasured = sizer.Sizes(ctx, able)
	}
	a.limitBytes(ctx, pick, limited)
	return nil
}

// limitBytes refuses shards that hold more than they may.
func (a *Admin) limitBytes(ctx context.Context, pick *picker, limited []Shard) {
	limited = slices.DeleteFunc(limited, func(s Shard) bool {
		size, known := a.sizes.fresh(s)
		return known && size <= float64(s.MaxBytes)
	})
	if len(limited) == 0 {
		return
	}
	bytes, err := a.sizer.Sizes(ctx, limited)
	for _, shard := range limited {
		size, known := bytes[shard.Name]
		switch {
		case !known:
			pick.tooLarge[shard.Name] = "its size against max bytes could not be measured"
			pick.unmeasured = err
		case size > float64(shard.MaxBytes):
			pick.tooLarge[shard.Name] = fmt.Sprintf("its databases hold %.0f bytes, more than its max bytes %d", size, shard.MaxBytes)
			pick.outgrown = append(pick.outgrown, shard)
		default:
			a.sizes.keep(shard, size)
		}
	}
}

// closeOutgrown closes the shards that hold more than they may, so that the next one does not measure them again.
func (a *Admin) closeOutgrown(ctx context.Context, pick *picker) error {
	for _, shard := range pick.outgrown {
		if err := a.SetShardState(ctx, shard.Name, ShardFull, pick.tooLarge[shard.Name]); err != nil {
			return err
		}
	}
	return nil
}
