package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *gorm.DB) {
	t.Helper()
	f := fleettest.New(t)
	db, err := open(f.DSN)
	require.NoError(t, err)
	db.Logger = logger.Discard // errors are what some tests are about
	pool, err := db.DB()
	require.NoError(t, err)
	f.Close(pool)
	return f, db
}

func annsOrder(item string) *Customer {
	return &Customer{Name: "ann", Orders: []Order{{Item: item, Quantity: 2}}}
}

func TestTenantsSeeTheirOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, annsOrder("of "+tenant)))
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
		require.NoError(t, place(f.As(tenant), db, annsOrder("of "+tenant)))
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

func TestSavingAHasManyAssociationNeedsAKeyOfTheIDAlone(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	require.ErrorContains(t, db.WithContext(f.As("acme")).Create(annsOrder("anvil")).Error, "42P10", "a shared table")
	require.NoError(t, createTables(f.As("initech"), db))
	require.NoError(t, db.WithContext(f.As("initech")).Create(annsOrder("anvil")).Error)
	require.NoError(t, db.WithContext(f.As("acme")).Create(&Order{Item: "anvil", Quantity: 1, Customer: &Customer{Name: "ann"}}).Error,
		"the other way round")
}

func TestTransactionsCommitAndRollBack(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	ann, bob := annsOrder("anvil"), &Customer{Name: "bob"}
	require.NoError(t, place(f.As("acme"), db, ann))
	require.NoError(t, place(f.As("acme"), db, bob))
	require.NoError(t, move(f.As("acme"), db, ann.ID, bob.ID))
	all, err := customers(f.As("acme"), db)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "anvil", all[0].Orders[0].Item)

	require.Error(t, move(f.As("acme"), db, bob.ID, -1), "nobody has that id")
	all, err = customers(f.As("acme"), db)
	require.NoError(t, err)
	require.Len(t, all[0].Orders, 1, "the order is still bob's")
}

func TestSavepointsUndoAPart(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	refused := errors.New("changed my mind")
	err := db.WithContext(f.As("acme")).Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&Customer{Name: "ann"}).Error; err != nil {
			return err
		}
		err := tx.Transaction(func(tx *gorm.DB) error { // a savepoint
			if err := tx.Create(&Customer{Name: "bob"}).Error; err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) {
			return fmt.Errorf("the nested transaction: %w", err)
		}
		return tx.Create(&Customer{Name: "cid"}).Error
	})
	require.NoError(t, err)
	require.Equal(t, "acme: ann,acme: cid", f.Outside("eu", "select string_agg(tenant_id || ': ' || name, ',' order by name) from customers"))
}

func TestManyRowsGoInFewStatements(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	ann := annsOrder("anvil")
	require.NoError(t, place(f.As("globex"), db, ann))
	many := make([]Order, 500)
	for n := range many {
		many[n] = Order{CustomerID: ann.ID, Item: "rocket", Quantity: n + 1}
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
	for n := range 10 { // GORM keeps one *sql.Stmt for each text: the same for all three
		for _, tenant := range []string{"acme", "globex", "hooli"} {
			require.NoError(t, place(f.As(tenant), db, &Customer{Name: fmt.Sprint(tenant, " ", n)}))
		}
	}
	for shard, want := range map[string]string{"eu": "20", "us": "10"} {
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers where name like tenant_id || ' %'"))
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers"))
	}
}

func TestErrorsOfTheServerAreTranslated(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	require.NoError(t, place(f.As("acme"), db, &Customer{Name: "ann"}))
	require.ErrorIs(t, place(f.As("acme"), db, &Customer{Name: "ann"}), gorm.ErrDuplicatedKey)
	require.NoError(t, place(f.As("hooli"), db, &Customer{Name: "ann"}), "another tenant's name is free")
	require.ErrorIs(t, load(f.As("acme"), db, []Order{{CustomerID: -1, Item: "anvil", Quantity: 1}}), gorm.ErrForeignKeyViolated)
}

func TestTenantsWithTablesOfTheirOwnMigrateThem(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	f.AddUmbrella()
	for _, tenant := range []string{"initech", "umbrella"} {
		require.NoError(t, createTables(f.As(tenant), db))
		require.NoError(t, createTables(f.As(tenant), db), "a second time changes nothing")
		require.NoError(t, place(f.As(tenant), db, annsOrder("of "+tenant)))
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
		require.NoError(t, place(f.As(tenant), db, &Customer{Name: "ann"}))
		note := "before noon"
		o := OrderWithNote{Order: Order{Item: "anvil", Quantity: 1}, Note: &note}
		require.NoError(t, db.WithContext(f.As(tenant)).Model(&Customer{}).Select("id").Scan(&o.CustomerID).Error)
		require.NoError(t, db.WithContext(f.As(tenant)).Create(&o).Error)
	}
	require.Equal(t, "globex: before noon", f.Outside("us", "select tenant_id || ': ' || note from orders"))
	err := db.WithContext(f.As("acme")).Migrator().DropColumn(&OrderWithNote{}, "Note")
	require.ErrorContains(t, err, "42501", "a shared tenant may not change what others use")
}

func TestMigratingATableTwiceInATransactionNeedsConnAndNoPrepareStmt(t *testing.T) {
	t.Parallel()
	f := fleettest.New(t)
	migrate := func(prepare bool, config postgres.Config) error {
		db, err := gorm.Open(postgres.New(config), &gorm.Config{Logger: logger.Discard, PrepareStmt: prepare})
		require.NoError(t, err)
		pool, err := db.DB()
		require.NoError(t, err)
		f.Close(pool)
		return db.WithContext(f.As("initech")).Transaction(func(tx *gorm.DB) error {
			for _, table := range []any{&struct{ ID int64 }{}, &struct{ A int }{}, &struct{ B int }{}} {
				if err := tx.Table("things").AutoMigrate(table); err != nil {
					return err
				}
			}
			return tx.Migrator().DropTable("things")
		})
	}
	pool, err := sql.Open(shardedpg.DriverName, f.DSN)
	require.NoError(t, err)
	require.NoError(t, migrate(false, postgres.Config{Conn: pool}))
	require.ErrorContains(t, migrate(true, postgres.Config{Conn: pool}), "0A000")
	require.ErrorContains(t, migrate(false, postgres.Config{DriverName: shardedpg.DriverName, DSN: f.DSN}), "0A000")
}

func TestTablesMayChangeUnderLoad(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, tenant := range []string{"acme", "hooli"} {
		require.NoError(t, place(f.As(tenant), db, annsOrder("of "+tenant)))
	}
	f.ChangeUnderLoad(func(ctx context.Context, _ int) error {
		var orders []Order // "select *"
		if err := db.WithContext(ctx).Where("quantity > ?", 0).Find(&orders).Error; err != nil {
			return err
		}
		tenant, _ := shardedpg.TenantFrom(ctx)
		if len(orders) != 1 || orders[0].Item != "of "+tenant {
			return fmt.Errorf("tenant %s sees %v", tenant, orders)
		}
		return db.WithContext(ctx).Model(&orders[0]).Update("quantity", gorm.Expr("quantity % 7 + 1")).Error
	})
}

func TestCancelledRequestsStopOnTheServer(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	err := f.CancelMidway("acme", "eu", func(ctx context.Context) error {
		return db.WithContext(ctx).Exec(fleettest.SlowQuery).Error
	})
	require.ErrorIs(t, err, context.Canceled)
	_, err = list(f.As("acme"), db)
	require.NoError(t, err)
}

func TestOpenAsksTheRegistryUnlessToldNotTo(t *testing.T) {
	t.Parallel()
	const nowhere = "host=/nowhere dbname=none"
	_, err := open(nowhere)
	require.ErrorIs(t, err, shardedpg.ErrRegistryUnavailable)
	pool, err := sql.Open(shardedpg.DriverName, nowhere)
	require.NoError(t, err)
	defer pool.Close()
	_, err = gorm.Open(postgres.New(postgres.Config{Conn: pool}), &gorm.Config{DisableAutomaticPing: true})
	require.NoError(t, err)
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	_, err := list(t.Context(), db)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.ErrorIs(t, db.Find(&[]Order{}).Error, shardedpg.ErrNoTenant, "WithContext was forgotten")
	require.ErrorIs(t, place(t.Context(), db, annsOrder("anvil")), shardedpg.ErrNoTenant)
	require.ErrorIs(t, move(t.Context(), db, 1, 2), shardedpg.ErrNoTenant)
	require.ErrorIs(t, createTables(t.Context(), db), shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(f.As("nobody"), db, annsOrder("anvil")), shardedpg.ErrTenantNotFound)
}
