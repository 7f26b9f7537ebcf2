package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *sqlx.DB) {
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
		require.Equal(t, "ann", orders[0].Customer.Name)
	}
	require.Equal(t, "of acme,of hooli", f.Outside("eu", "select string_agg(item, ',' order by item) from orders"))
	require.Equal(t, "of globex", f.Outside("us", "select string_agg(item, ',' order by item) from orders"))
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
	tx, err := db.BeginTxx(f.As("acme"), nil)
	require.NoError(t, err)
	for _, statement := range []string{
		"insert into customers (name) values ('ann')",
		"savepoint more",
		"insert into customers (name) values ('bob')",
		"rollback to more",
		"insert into customers (name) values ('cid')",
	} {
		_, err := tx.Exec(statement) // without a context: the transaction's tenant
		require.NoError(t, err, statement)
	}
	require.NoError(t, tx.Commit())
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
	orders, err := list(f.As("globex"), db)
	require.NoError(t, err)
	require.Len(t, orders, len(many)+1)
	require.Equal(t, "globex", f.Outside("us", "select string_agg(distinct tenant_id, ',') from orders"))
}

func TestPreparedStatementsServeAllTenants(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	insert, err := db.PrepareNamedContext(f.As("acme"), "insert into customers (name) values (:name) returning id")
	require.NoError(t, err)
	defer insert.Close()
	for n := range 10 {
		for _, tenant := range []string{"acme", "globex", "hooli"} {
			c := customer{Name: fmt.Sprint(tenant, " ", n)}
			require.NoError(t, insert.GetContext(f.As(tenant), &c.ID, c))
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
		notes := []string{}
		require.NoError(t, db.SelectContext(f.As(tenant), &notes, "select note from orders"))
	}
	_, err := db.ExecContext(f.As("acme"), "alter table orders add column mine text")
	require.ErrorContains(t, err, "42501", "a shared tenant may not change what others use")
}

func TestTablesMayChangeUnderLoad(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	db = db.Unsafe() // lets "select *" find columns that the struct does not have
	for _, tenant := range []string{"acme", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, &customer{Name: tenant}, &order{Item: "of " + tenant, Quantity: 1}))
	}
	prepared, err := db.PreparexContext(f.As("acme"), "select * from orders")
	require.NoError(t, err)
	defer prepared.Close()
	f.ChangeUnderLoad(func(ctx context.Context, worker int) error {
		orders := []order{}
		if worker%2 == 0 {
			if err := prepared.SelectContext(ctx, &orders); err != nil {
				return err
			}
		}
		if err := db.SelectContext(ctx, &orders, "select * from orders where quantity > $1", 0); err != nil {
			return err
		}
		tenant, _ := shardedpg.TenantFrom(ctx)
		for _, o := range orders {
			if o.Item != "of "+tenant {
				return fmt.Errorf("tenant %s sees %q", tenant, o.Item)
			}
		}
		var quantity int64
		return db.GetContext(ctx, &quantity, "update orders set quantity = quantity % 7 + $1 returning quantity", 1)
	})
}

func TestCancelledRequestsStopOnTheServer(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	err := f.CancelMidway("acme", "eu", func(ctx context.Context) error {
		var slept string
		return db.GetContext(ctx, &slept, fleettest.SlowQuery)
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
	require.ErrorIs(t, db.Get(new(int), "select 1"), shardedpg.ErrNoTenant, "a method without a context")
	_, err = db.Beginx()
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	_, err = db.NamedExec("insert into customers (name) values (:name)", customer{Name: "nobody"})
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.NoError(t, db.Ping(), "asks the registry")
	require.ErrorIs(t, place(f.As("nobody"), db, &customer{}, &order{}), shardedpg.ErrTenantNotFound)
}

func TestConnectAndNamedParametersNeedTheDriversName(t *testing.T) {
	t.Parallel()
	f := fleettest.New(t)
	sqlx.BindDriver(shardedpg.DriverName, sqlx.DOLLAR)
	db, err := sqlx.Connect(shardedpg.DriverName, f.DSN)
	require.NoError(t, err, "its ping has no tenant")
	f.Close(db)
	_, err = db.NamedExecContext(f.As("acme"), "insert into customers (name) values (:name)", customer{Name: "ann"})
	require.NoError(t, err)
}
