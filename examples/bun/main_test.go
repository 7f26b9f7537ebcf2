package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *bun.DB) {
	t.Helper()
	f := fleettest.New(t)
	db, err := open(f.DSN)
	require.NoError(t, err)
	f.Close(db)
	return f, db
}

func TestTenantsSeeTheirOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, &customer{Name: "ann"}, &order{Item: "of " + tenant, Quantity: 2}))
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		orders, err := list(f.As(tenant), db)
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
	}
	require.Equal(t, "of acme,of hooli", f.Outside("eu", "select string_agg(item, ',' order by item) from orders"))
	require.Equal(t, "of globex", f.Outside("us", "select string_agg(item, ',' order by item) from orders"))
}

func TestJoinsAndPreloadsStayInTheTenant(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, &customer{Name: "ann"}, &order{Item: "of " + tenant, Quantity: 2}))
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		orders, err := list(f.As(tenant), db)
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "ann", orders[0].Customer.Name)
		all, err := customers(f.As(tenant), db)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Len(t, all[0].Orders, 1, "the preloaded orders")
		require.Equal(t, "of "+tenant, all[0].Orders[0].Item)
	}
}

func TestTransactionsCommitAndRollBack(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	require.NoError(t, place(f.As("acme"), db, &customer{Name: "ann"}, &order{Item: "anvil", Quantity: 1}))
	err := place(f.As("acme"), db, &customer{Name: "bob"}, &order{Item: "rocket", Quantity: -1})
	require.ErrorContains(t, err, "23514", "the check on the quantity")
	require.Equal(t, "ann", f.Outside("eu", "select string_agg(name, ',') from customers"), "bob went with his order")
}

func TestSavepointsUndoAPart(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	refused := errors.New("changed my mind")
	err := db.RunInTx(f.As("acme"), nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&customer{Name: "ann"}).Exec(ctx); err != nil {
			return err
		}
		err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { // a savepoint
			if _, err := tx.NewInsert().Model(&customer{Name: "bob"}).Exec(ctx); err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) {
			return fmt.Errorf("the nested transaction: %w", err)
		}
		_, err = tx.NewInsert().Model(&customer{Name: "cid"}).Exec(ctx)
		return err
	})
	require.NoError(t, err)
	require.Equal(t, "acme: ann,acme: cid", f.Outside("eu", "select string_agg(tenant_id || ': ' || name, ',' order by name) from customers"))
}

func TestManyRowsGoInOneStatement(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	c := customer{Name: "ann"}
	require.NoError(t, place(f.As("globex"), db, &c, &order{Item: "anvil", Quantity: 1}))
	many := make([]order, 500)
	for n := range many {
		many[n] = order{CustomerID: c.ID, Item: "rocket", Quantity: n + 1}
	}
	require.NoError(t, load(f.As("globex"), db, many))
	require.NotZero(t, many[len(many)-1].ID)
	orders, err := list(f.As("globex"), db)
	require.NoError(t, err)
	require.Len(t, orders, len(many)+1)
	require.Equal(t, "globex", f.Outside("us", "select string_agg(distinct tenant_id, ',') from orders"))
}

func TestPreparedStatementsServeAllTenants(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	insert, err := db.PrepareContext(f.As("acme"), "insert into customers (name) values ($1)")
	require.NoError(t, err)
	defer insert.Close()
	for n := range 10 {
		for _, tenant := range []string{"acme", "globex", "hooli"} {
			_, err := insert.ExecContext(f.As(tenant), fmt.Sprint(tenant, " ", n))
			require.NoError(t, err)
		}
	}
	for shard, want := range map[string]string{"eu": "20", "us": "10"} {
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers where name like tenant_id || ' %'"))
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers"))
	}
}

func TestTenantsWithTablesOfTheirOwnMigrateThem(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	f.AddUmbrella()
	for _, tenant := range []string{"initech", "umbrella"} {
		require.NoError(t, createTables(f.As(tenant), db))
		require.NoError(t, createTables(f.As(tenant), db), "a second time changes nothing")
		require.NoError(t, place(f.As(tenant), db, &customer{Name: tenant}, &order{Item: "of " + tenant, Quantity: 1}))
		orders, err := list(f.As(tenant), db)
		require.NoError(t, err)
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
	}
	require.Equal(t, "of initech", f.Outside("eu", "select item from tenant_initech.orders"))
	require.Equal(t, "of umbrella", f.InUmbrella("select item from public.orders"))
}

func TestShardsAreMigratedForAllTheirTenants(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, shard := range []string{"eu", "us"} {
		require.NoError(t, migrateShard(t.Context(), f.Connector(), shard))
	}
	for _, tenant := range []string{"acme", "globex"} {
		var notes []string
		require.NoError(t, db.NewSelect().Model((*order)(nil)).Column("note").Scan(f.As(tenant), &notes))
	}
	_, err := db.NewDropColumn().Model((*order)(nil)).Column("note").Exec(f.As("acme"))
	require.ErrorContains(t, err, "42501", "a shared tenant may not change what others use")
}

func TestTablesMayChangeUnderLoad(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, tenant := range []string{"acme", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, &customer{Name: tenant}, &order{Item: "of " + tenant, Quantity: 1}))
	}
	f.ChangeUnderLoad(func(ctx context.Context, _ int) error {
		orders, err := list(ctx, db)
		if err != nil {
			return err
		}
		tenant, _ := shardedpg.TenantFrom(ctx)
		if len(orders) != 1 || orders[0].Item != "of "+tenant || orders[0].Customer.Name != tenant {
			return fmt.Errorf("tenant %s sees %v", tenant, orders)
		}
		var quantity int
		_, err = db.NewUpdate().Model(&orders[0]).Set("quantity = quantity % 7 + 1").WherePK().Returning("quantity").Exec(ctx, &quantity)
		return err
	})
}

func TestCancelledRequestsStopOnTheServer(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	err := f.CancelMidway("acme", "eu", func(ctx context.Context) error {
		var slept string
		return db.NewRaw(fleettest.SlowQuery).Scan(ctx, &slept)
	})
	require.ErrorIs(t, err, context.Canceled)
	_, err = list(f.As("acme"), db)
	require.NoError(t, err)
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	_, err := list(t.Context(), db)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(t.Context(), db, &customer{}, &order{}), shardedpg.ErrNoTenant)
	_, err = db.Exec("delete from orders")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant, "a method without a context")
	require.NoError(t, db.Ping(), "asks the registry")
	require.ErrorIs(t, place(f.As("nobody"), db, &customer{}, &order{}), shardedpg.ErrTenantNotFound)
}
