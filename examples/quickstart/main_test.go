package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
	"github.com/sharded-pg/sharded-pg/httptenant"
	"github.com/sharded-pg/sharded-pg/registry"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *sql.DB) {
	t.Helper()
	f := fleettest.New(t)
	db, err := open(f.DSN)
	require.NoError(t, err)
	f.Close(db)
	return f, db
}

// request sends one to a host and returns status and body.
func request(h http.Handler, method, host, body string) (status int, answer string) {
	r := httptest.NewRequest(method, "http://"+host+"/orders", strings.NewReader(body))
	w := httptest.NewRecorder()
	httptenant.Middleware(httptenant.FromSubdomain("localhost"))(h).ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestTenantsSeeTheirOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	h := handler(db)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		status, body := request(h, http.MethodPost, tenant+".localhost", `{"customer": "ann", "item": "of `+tenant+`", "quantity": 2}`)
		require.Equal(t, http.StatusOK, status, body)
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		status, body := request(h, http.MethodGet, tenant+".localhost", "")
		require.Equal(t, http.StatusOK, status, body)
		var orders []order
		require.NoError(t, json.Unmarshal([]byte(body), &orders))
		require.Len(t, orders, 1)
		require.Equal(t, "of "+tenant, orders[0].Item)
	}
	require.Equal(t, "of acme,of hooli", f.Outside("eu", "select string_agg(item, ',' order by item) from orders"))
	require.Equal(t, "of globex", f.Outside("us", "select string_agg(item, ',' order by item) from orders"))
}

func TestTransactionsCommitAndRollBack(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	require.NoError(t, place(f.As("acme"), db, &order{Customer: "ann", Item: "anvil", Quantity: 1}))
	err := place(f.As("acme"), db, &order{Customer: "bob", Item: "rocket", Quantity: -1})
	require.ErrorContains(t, err, "23514", "the check on the quantity")
	require.Equal(t, "ann", f.Outside("eu", "select string_agg(name, ',') from customers"), "bob went with his order")
}

func TestSavepointsUndoAPart(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	tx, err := db.BeginTx(f.As("acme"), nil)
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
	first := order{Customer: "ann", Item: "anvil", Quantity: 1}
	require.NoError(t, place(f.As("globex"), db, &first))
	var customer int64
	require.NoError(t, db.QueryRowContext(f.As("globex"), "select id from customers").Scan(&customer))

	const many = 1000
	items, quantities := make([]string, many), make([]int32, many)
	for n := range items {
		items[n], quantities[n] = "rocket", int32(n+1)
	}
	require.NoError(t, load(f.As("globex"), db, customer, items, quantities))
	orders, err := list(f.As("globex"), db)
	require.NoError(t, err)
	require.Len(t, orders, many+1)
	require.Equal(t, "globex", f.Outside("us", "select string_agg(distinct tenant_id, ',') from orders"))
}

func TestPreparedStatementsServeAllTenants(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	insert, err := db.PrepareContext(f.As("acme"), "insert into customers (name) values ($1)")
	require.NoError(t, err)
	defer insert.Close()
	var group sync.WaitGroup
	for range 4 {
		for _, tenant := range []string{"acme", "globex", "hooli"} {
			group.Go(func() {
				for n := range 10 {
					_, err := insert.ExecContext(f.As(tenant), tenant+" "+strings.Repeat("i", n)+" "+t.Name())
					// The same name twice is refused within a tenant, and only there.
					if err != nil && !strings.Contains(err.Error(), "23505") {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	for shard, want := range map[string]string{"eu": "20", "us": "10"} {
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers where name like tenant_id || ' %'"))
		require.Equal(t, want, f.Outside(shard, "select count(*) from customers"))
	}
}

func TestCancelledRequestsStopOnTheServer(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	err := f.CancelMidway("acme", "eu", func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, fleettest.SlowQuery)
		return err
	})
	require.ErrorIs(t, err, context.Canceled)
	_, err = list(f.As("acme"), db)
	require.NoError(t, err)
}

func TestATenantThatAsksTooMuchIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	cfg, err := shardedpg.ParseDSN(f.DSN)
	require.NoError(t, err)
	store, err := registry.Open(cfg.DSN, nil)
	require.NoError(t, err)
	f.Close(store)
	require.NoError(t, store.SetOverride(t.Context(), "acme", &registry.Override{Rate: 0.01, Burst: 1, Reason: "a test"}))
	h := handler(db)
	status, body := request(h, http.MethodGet, "acme.localhost", "")
	require.Equal(t, http.StatusOK, status, body)
	status, _ = request(h, http.MethodGet, "acme.localhost", "")
	require.Equal(t, http.StatusTooManyRequests, status)

	for refused, want := range map[error]int{
		shardedpg.ErrRateLimited: http.StatusTooManyRequests, shardedpg.ErrTenantBusy: http.StatusTooManyRequests,
		shardedpg.ErrShardBusy: http.StatusServiceUnavailable, shardedpg.ErrShardUnavailable: http.StatusServiceUnavailable,
	} {
		w := httptest.NewRecorder()
		answer(w, nil, &shardedpg.Error{Err: refused, RetryAfter: 1500 * time.Millisecond})
		require.Equal(t, want, w.Code, refused)
		require.Equal(t, "2", w.Header().Get("Retry-After"), refused)
	}
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	_, err := list(t.Context(), db)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.ErrorIs(t, place(t.Context(), db, &order{}), shardedpg.ErrNoTenant)
	_, err = db.Exec("delete from orders")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	_, err = db.Prepare("select 1")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.NoError(t, db.Ping(), "asks the registry")
	require.NoError(t, db.PingContext(f.As("acme")), "asks the shard")

	status, body := request(handler(db), http.MethodGet, "localhost", "")
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "the request names no tenant", body)
	status, _ = request(handler(db), http.MethodGet, "nobody.localhost", "")
	require.Equal(t, http.StatusNotFound, status)
}
