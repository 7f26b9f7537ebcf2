package main

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

type jobShop struct {
	*fleettest.Fleet
	connector *shardedpg.Connector
	db        *sql.DB
	jobs      *river.Client[*sql.Tx]
}

func newShop(t *testing.T) jobShop {
	t.Helper()
	s := jobShop{Fleet: fleettest.New(t)}
	var err error
	s.connector, s.db, err = open(s.DSN)
	require.NoError(t, err)
	s.Close(s.db)
	s.jobs, err = inserter()
	require.NoError(t, err)
	for _, shard := range []string{"eu", "us"} {
		require.NoError(t, migrateShard(t.Context(), s.connector, shard))
		require.NoError(t, migrateShard(t.Context(), s.connector, shard), "a second time changes nothing")
	}
	return s
}

// work runs the clients of both shards until the test ends.
func (s jobShop) work(t *testing.T) {
	t.Helper()
	for _, shard := range []string{"eu", "us"} {
		client, err := workShard(s.connector, shard, s.db)
		require.NoError(t, err)
		require.NoError(t, client.Start(context.Background()))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			require.NoError(t, client.StopAndCancel(ctx))
		})
	}
}

func TestJobsRunAsTheTenantThatMadeThem(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(s.As(tenant), s.db, s.jobs, "of "+tenant))
	}
	s.work(t)
	const sent = "select count(*) from orders where item = 'of ' || tenant_id || ', receipt sent'"
	require.Eventually(t, func() bool { return s.Outside("eu", sent) == "2" && s.Outside("us", sent) == "1" },
		30*time.Second, 20*time.Millisecond, "each order of each tenant has its receipt")
}

func TestAJobAndItsOrderAreThereTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	require.NoError(t, place(s.As("acme"), s.db, s.jobs, "anvil"))
	require.Equal(t, "acme", s.Outside("eu", "select string_agg(args ->> 'tenant', ',') from river_job"))

	tx, err := s.db.BeginTx(s.As("acme"), nil)
	require.NoError(t, err)
	_, err = s.jobs.InsertTx(s.As("acme"), tx, receipt{Tenant: "acme", Order: 1}, nil)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	require.Equal(t, "1", s.Outside("eu", "select count(*) from river_job"), "the job went with its transaction")
}

func TestATenantCannotMakeOrSeeJobsOfAnother(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	require.NoError(t, place(s.As("hooli"), s.db, s.jobs, "anvil"))
	tx, err := s.db.BeginTx(s.As("acme"), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	var seen int
	require.NoError(t, tx.QueryRowContext(s.As("acme"), "select count(*) from river_job").Scan(&seen))
	require.Zero(t, seen)
	_, err = s.jobs.InsertTx(s.As("acme"), tx, receipt{Tenant: "hooli", Order: 1}, nil)
	require.ErrorContains(t, err, "42501", "row-level security")
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	require.ErrorIs(t, place(t.Context(), s.db, s.jobs, "anvil"), shardedpg.ErrNoTenant)
	err := (&asTenant{}).Work(t.Context(), &rivertype.JobRow{EncodedArgs: []byte(`{"order": 1}`)}, func(context.Context) error {
		t.Error("a job without a tenant ran")
		return nil
	})
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	err = (&sender{db: s.db}).Work(t.Context(), &river.Job[receipt]{Args: receipt{Tenant: "acme"}})
	require.ErrorIs(t, err, shardedpg.ErrNoTenant, "a client without the middleware")
}
