package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/ent/store"
	"github.com/sharded-pg/sharded-pg/examples/ent/store/order"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *store.Client) {
	t.Helper()
	f := fleettest.New(t)
	client, err := open(f.DSN)
	require.NoError(t, err)
	f.Close(client)
	return f, client
}

func TestTenantsSeeTheirOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(f.As(tenant), client, "ann", "of "+tenant, 2))
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		orders, err := list(f.As(tenant), client)
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
	}
	require.Equal(t, "of acme,of hooli", f.Outside("eu", "select string_agg(item, ',' order by item) from orders"))
	require.Equal(t, "of globex", f.Outside("us", "select string_agg(item, ',' order by item) from orders"))
}

func TestJoinsAndPreloadsStayInTheTenant(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(f.As(tenant), client, "ann", "of "+tenant, 2))
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		orders, err := list(f.As(tenant), client)
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "ann", orders[0].Edges.Customer.Name)
		orders, err = ordersOf(f.As(tenant), client, "ann")
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
	}
}

func TestTransactionsCommitAndRollBack(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	require.NoError(t, place(f.As("acme"), client, "ann", "anvil", 1))
	require.Error(t, place(f.As("acme"), client, "bob", "rocket", -1), "ent's own check on the quantity")
	require.Error(t, place(f.As("acme"), client, "ann", "rocket", 1), "the name is taken")
	require.Equal(t, "ann: anvil", f.Outside("eu",
		"select string_agg(c.name || ': ' || o.item, ',') from customers c left join orders o on o.customer_id = c.id"))
}

func TestATransactionInATransactionIsRefused(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	tx, err := client.Tx(f.As("acme"))
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.Client().Tx(f.As("acme"))
	require.ErrorIs(t, err, store.ErrTxStarted)
}

func TestErrorsOfTheServerAreRecognised(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	require.NoError(t, place(f.As("acme"), client, "ann", "anvil", 1))
	require.True(t, store.IsConstraintError(place(f.As("acme"), client, "ann", "rocket", 1)))
	require.NoError(t, place(f.As("hooli"), client, "ann", "anvil", 1), "another tenant's name is free")
}

func TestManyRowsGoInOneStatement(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	require.NoError(t, place(f.As("globex"), client, "ann", "anvil", 1))
	ann, err := client.Customer.Query().Only(f.As("globex"))
	require.NoError(t, err)
	many := make([]string, 500)
	for n := range many {
		many[n] = fmt.Sprint("rocket ", n)
	}
	require.NoError(t, load(f.As("globex"), client, ann.ID, many))
	orders, err := list(f.As("globex"), client)
	require.NoError(t, err)
	require.Len(t, orders, len(many)+1)
	require.Equal(t, "globex", f.Outside("us", "select string_agg(distinct tenant_id, ',') from orders"))
}

func TestTenantsWithTablesOfTheirOwnMigrateThem(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	f.AddUmbrella()
	for _, tenant := range []string{"initech", "umbrella"} {
		require.NoError(t, createTables(f.As(tenant), client))
		require.NoError(t, createTables(f.As(tenant), client), "a second time changes nothing")
		require.NoError(t, place(f.As(tenant), client, tenant, "of "+tenant, 1))
		orders, err := list(f.As(tenant), client)
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
	}
	require.Equal(t, "of initech", f.Outside("eu", "select item from tenant_initech.orders"))
	require.Equal(t, "of umbrella", f.InUmbrella("select item from public.orders"))
}

func TestSchemaCreateNeedsATransaction(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	require.ErrorIs(t, client.Schema.Create(f.As("initech")), shardedpg.ErrNoTenant)
}

func TestShardsAreMigratedForAllTheirTenants(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	for _, shard := range []string{"eu", "us"} {
		require.NoError(t, migrateShard(t.Context(), f.Connector(), shard))
	}
	for _, tenant := range []string{"acme", "globex"} {
		require.NoError(t, place(f.As(tenant), client, "ann", "anvil", 1))
	}
	require.ErrorContains(t, createTables(f.As("acme"), client), "42501", "a shared tenant may not change what others use")
}

func TestTablesMayChangeUnderLoad(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	for _, tenant := range []string{"acme", "hooli"} {
		require.NoError(t, place(f.As(tenant), client, tenant, "of "+tenant, 1))
	}
	f.ChangeUnderLoad(func(ctx context.Context, worker int) error {
		orders, err := list(ctx, client)
		if err != nil {
			return err
		}
		tenant, _ := shardedpg.TenantFrom(ctx)
		if len(orders) != 1 || orders[0].Item != "of "+tenant || orders[0].Edges.Customer.Name != tenant {
			return fmt.Errorf("tenant %s sees %v", tenant, orders)
		}
		return client.Order.Update().Where(order.ID(orders[0].ID)).SetQuantity(int32(worker) + 1).Exec(ctx)
	})
}

func TestCancelledRequestsStopOnTheServer(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	require.NoError(t, place(f.As("acme"), client, "ann", "anvil", 1)) // without a row, nothing is evaluated
	err := f.CancelMidway("acme", "eu", func(ctx context.Context) error {
		_, err := client.Order.Query().Where(func(s *entsql.Selector) {
			s.Where(entsql.ExprP("(" + fleettest.SlowQuery + ") = ''"))
		}).All(ctx)
		return err
	})
	require.ErrorIs(t, err, context.Canceled)
	orders, err := list(f.As("acme"), client)
	require.NoError(t, err)
	require.Len(t, orders, 1)
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	f, client := newShop(t)
	_, err := list(t.Context(), client)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(t.Context(), client, "ann", "anvil", 1), shardedpg.ErrNoTenant)
	require.ErrorIs(t, client.Order.Create().SetCustomerID(1).SetItem("anvil").SetQuantity(1).Exec(t.Context()), shardedpg.ErrNoTenant)
	require.ErrorIs(t, createTables(t.Context(), client), shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(f.As("nobody"), client, "ann", "anvil", 1), shardedpg.ErrTenantNotFound)
}

func TestEntOpenDoesNotKnowTheDriver(t *testing.T) {
	t.Parallel()
	f := fleettest.New(t)
	_, err := store.Open(shardedpg.DriverName, f.DSN)
	require.ErrorContains(t, err, "unsupported driver")
	_, err = entsql.Open(dialect.Postgres, f.DSN)
	require.ErrorContains(t, err, "unknown driver", "a dialect's name is not the driver's")
}
