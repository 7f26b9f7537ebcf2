package shardedpg_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/observability.md tells the two kinds of Stats apart.
func TestDBStatsCountVirtualConnectionsAndConnectorStatsRealOnes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn, err := f.db.Conn(f.a)
	require.NoError(t, err)
	require.Equal(t, 1, f.db.Stats().InUse)
	require.Empty(t, f.connector.Stats().Shards, "nothing was run on it")

	require.NoError(t, conn.PingContext(f.a))
	require.Equal(t, 1, f.connector.Stats().Shards[0].Slots.Used)
	require.NoError(t, conn.Close())

	db, shard := f.db.Stats(), f.connector.Stats().Shards[0]
	require.Equal(t, 1, db.Idle)
	require.Zero(t, shard.Slots.Used)
	require.Equal(t, 1, shard.Backends.Idle)

	f.db.SetMaxIdleConns(-1)
	require.Zero(t, f.db.Stats().OpenConnections)
	require.EqualValues(t, 1, f.db.Stats().MaxIdleClosed)
	require.Equal(t, 1, f.connector.Stats().Shards[0].Backends.Open, "closing a virtual connection closes none")
}

func TestAConnectionWhoseTimeIsOverIsNoDrop(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{dsn: "pool_max_conn_lifetime=1ms"})
	for range 5 {
		f.exec(f.a, f.db, "select pg_sleep(0.01)")
	}
	require.EqualValues(t, 5, f.backends("s1").Connects)
	require.Zero(t, f.backends("s1").Drops)
	f.exec(f.a, f.db, "discard all")
	require.EqualValues(t, 1, f.backends("s1").Drops)
}

func TestLeasedSaysWhereACheckoutRuns(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn, err := f.db.Conn(f.a)
	require.NoError(t, err)
	leased := func() (said [3]string) {
		require.NoError(t, conn.Raw(func(c any) error {
			said[0], said[1], said[2] = c.(interface {
				Leased() (tenant, shard, plan string)
			}).Leased()
			return nil
		}))
		return said
	}
	require.Empty(t, leased()[0])
	require.NoError(t, conn.PingContext(f.a))
	said := leased()
	require.Equal(t, tenantA, said[0])
	require.Equal(t, f.connector.Stats().Shards[0].Name, said[1])
	require.NoError(t, conn.Close())
}
