package registry_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
)

// scales answers with one size and counts how often it was asked.
type scales struct {
	size  float64
	asked int
}

func (s *scales) Sizes(_ context.Context, shards []registry.Shard) (map[string]float64, error) {
	s.asked++
	sizes := make(map[string]float64, len(shards))
	for _, shard := range shards {
		sizes[shard.Name] = s.size
	}
	return sizes, nil
}

func TestABatchMeasuresAShardOnceInHalfAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sizer := &scales{size: 10}
		store, err := registry.NewMemory(&registry.Options{Sizer: sizer})
		require.NoError(t, err)
		require.NoError(t, store.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1", MaxBytes: 100}))
		added := 0
		add := func() error {
			added++
			_, err := store.AddTenant(t.Context(), registry.Tenant{ID: fmt.Sprintf("t%d", added)}, nil)
			return err
		}
		for range 20 {
			require.NoError(t, add())
		}
		require.Equal(t, 1, sizer.asked)

		time.Sleep(31 * time.Second)
		require.NoError(t, add())
		require.Equal(t, 2, sizer.asked)

		sizer.size = 1000
		time.Sleep(31 * time.Second)
		require.ErrorIs(t, add(), registry.ErrNoShardFits)
		sizer.size = 10
		require.NoError(t, store.SetShardState(t.Context(), "s1", registry.ShardOpen, "there is room again"))
		require.NoError(t, add(), "a size above the limit is not kept")
	})
}

func TestALowerLimitIsComparedWithTheSizeThatIsKnown(t *testing.T) {
	t.Parallel()
	sizer := &scales{size: 10}
	store, err := registry.NewMemory(&registry.Options{Sizer: sizer})
	require.NoError(t, err)
	require.NoError(t, store.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1", MaxBytes: 100}))
	_, err = store.AddTenant(t.Context(), registry.Tenant{ID: "first"}, nil)
	require.NoError(t, err)
	require.NoError(t, store.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1", MaxBytes: 5}))
	_, err = store.AddTenant(t.Context(), registry.Tenant{ID: "second"}, nil)
	require.ErrorIs(t, err, registry.ErrNoShardFits)
}
