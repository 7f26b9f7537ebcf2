package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
	"github.com/sharded-pg/sharded-pg/examples/sqlc/store"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *sql.DB, *store.Queries) {
	t.Helper()
	f := fleettest.New(t)
	db, queries, err := open(f.DSN)
	require.NoError(t, err)
	f.Close(db)
	return f, db, queries
}

func TestTenantsSeeTheirOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f, db, queries := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, queries, "ann", "of "+tenant, 2))
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		orders, err := queries.ListOrders(f.As(tenant)) // a join
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
		require.Equal(t, "ann", orders[0].Customer)
	}
	require.Equal(t, "of acme,of hooli", f.Outside("eu", "select string_agg(item, ',' order by item) from orders"))
	require.Equal(t, "of globex", f.Outside("us", "select string_agg(item, ',' order by item) from orders"))
}

func TestTransactionsCommitAndRollBack(t *testing.T) {
	t.Parallel()
	f, db, queries := newShop(t)
	require.NoError(t, place(f.As("acme"), db, queries, "ann", "anvil", 1))
	require.ErrorContains(t, place(f.As("acme"), db, queries, "bob", "rocket", -1), "23514", "the check on the quantity")
	require.Equal(t, "ann", f.Outside("eu", "select string_agg(name, ',') from customers"), "bob went with his order")
}

func TestManyRowsGoInOneStatement(t *testing.T) {
	t.Parallel()
	f, _, queries := newShop(t)
	customer, err := queries.AddCustomer(f.As("globex"), "ann")
	require.NoError(t, err)
	items, quantities := make([]string, 1000), make([]int32, 1000)
	for n := range items {
		items[n], quantities[n] = "rocket", int32(n+1)
	}
	require.NoError(t, load(f.As("globex"), queries, customer, items, quantities))
	orders, err := queries.ListOrders(f.As("globex"))
	require.NoError(t, err)
	require.Len(t, orders, len(items))
	require.Equal(t, "globex", f.Outside("us", "select string_agg(distinct tenant_id, ',') from orders"))
}

func TestPreparedStatementsServeAllTenants(t *testing.T) {
	t.Parallel()
	f, db, _ := newShop(t)
	queries, err := store.Prepare(f.As("acme"), db)
	require.NoError(t, err)
	defer queries.Close()
	for n := range 10 {
		for _, tenant := range []string{"acme", "globex", "hooli"} {
			require.NoError(t, place(f.As(tenant), db, queries, fmt.Sprint(tenant, " ", n), "anvil", 1))
		}
	}
	for shard, want := range map[string]string{"eu": "20", "us": "10"} {
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers where name like tenant_id || ' %'"))
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers"))
	}
}

func TestTablesMayChangeUnderLoad(t *testing.T) {
	t.Parallel()
	f, db, _ := newShop(t)
	queries, err := store.Prepare(f.As("acme"), db)
	require.NoError(t, err)
	defer queries.Close()
	for _, tenant := range []string{"acme", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, queries, tenant, "of "+tenant, 1))
	}
	f.ChangeUnderLoad(func(ctx context.Context, _ int) error {
		orders, err := queries.ListOrders(ctx)
		if err != nil {
			return err
		}
		tenant, _ := shardedpg.TenantFrom(ctx)
		if len(orders) != 1 || orders[0].Item != "of "+tenant || orders[0].Customer != tenant {
			return fmt.Errorf("tenant %s sees %v", tenant, orders)
		}
		return queries.RaiseQuantities(ctx, 1)
	})
}

func TestCancelledRequestsStopOnTheServer(t *testing.T) {
	t.Parallel()
	f, _, queries := newShop(t)
	require.ErrorIs(t, f.CancelMidway("acme", "eu", queries.Sleep), context.Canceled)
	_, err := queries.ListOrders(f.As("acme"))
	require.NoError(t, err)
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	f, db, queries := newShop(t)
	_, err := queries.ListOrders(t.Context())
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(t.Context(), db, queries, "ann", "anvil", 1), shardedpg.ErrNoTenant)
	_, err = store.Prepare(t.Context(), db)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(f.As("nobody"), db, queries, "ann", "anvil", 1), shardedpg.ErrTenantNotFound)
}
