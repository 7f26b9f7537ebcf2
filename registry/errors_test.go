package registry_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

var errBoom = errors.New("boom")

func mocked(t *testing.T) (sqlmock.Sqlmock, *registry.Postgres) {
	t.Helper()
	db, mock, err := sqlmock.New()
	require.NoError(t, err)
	store, err := registry.New(db, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, mock.ExpectationsWereMet())
		mock.ExpectClose()
		require.NoError(t, store.Close())
		require.NoError(t, db.Close())
	})
	return mock, store
}

var (
	acme     = registry.Tenant{ID: "acme", Shard: "s1"}
	s1       = registry.Shard{Name: "s1", DSN: "host=s1 password=opensesame"}
	routeRow = []string{
		"database", "model", "schema", "role", "state", "epoch", "name", "dsn",
		"plan", "statement_timeout_ms", "work_mem_kb", "max_conns", "weight", "rate", "burst", "override", "under_throttle", "now",
	}
	shardRow  = []string{"name", "dsn", "admin_dsn", "region", "labels", "max_tenants", "max_bytes", "state"}
	planRow   = []string{"name", "statement_timeout_ms", "work_mem_kb", "max_conns", "weight", "rate", "burst"}
	tenantRow = []string{
		"id", "shard", "database", "model", "schema", "role", "plan", "state", "epoch", "assignment", "schema_version", "slug",
		"labels", "override", "under_throttle", "removed_at", "created_at", "updated_at",
	}
)

func TestLookupFailsOnRowsItCannotRead(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	mock.ExpectQuery(`from "sharded_pg".tenants`).WithArgs("acme").WillReturnRows(sqlmock.NewRows(routeRow).
		AddRow("", "shared", "", "", "active", "many", "s1", "host=s1", "free", 1, 64, 1, 1, 0.0, 0, "", "", time.Now()))
	_, err := store.Lookup(t.Context(), "acme")
	require.ErrorContains(t, err, "epoch")
	require.NotErrorIs(t, err, resolver.ErrTenantNotFound)
}

func TestLookupRefusesWhatANewerProgramWrote(t *testing.T) {
	t.Parallel()
	for name, row := range map[string][]driver.Value{
		"model": {"", "hexagonal", "", "", "active", 1, "s1", "host=s1", "free", nil, 64, 1, 1, 0.0, 0, "", "", time.Now()},
		"state": {"", "shared", "", "", "dreaming", 1, "s1", "host=s1", "free", nil, 64, 1, 1, 0.0, 0, "", "", time.Now()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mock, store := mocked(t)
			mock.ExpectQuery(`tenants`).WillReturnRows(sqlmock.NewRows(routeRow).AddRow(row...))
			_, err := store.Lookup(t.Context(), "acme")
			require.ErrorIs(t, err, resolver.ErrRouteUnusable)
			require.ErrorContains(t, err, "newer program")
		})
	}
}

func TestLookupDoesNotRepeatWhatTheServerRefused(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	refused := &pgconn.PgError{Severity: "ERROR", Code: "42501", Message: "permission denied"}
	mock.ExpectQuery(`tenants`).WillReturnError(refused)
	_, err := store.Lookup(t.Context(), "acme")
	require.ErrorIs(t, err, refused)
}

func TestLookupRepeatsOnceAfterAnAdministratorEndedTheConnection(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	mock.ExpectQuery(`tenants`).WillReturnError(&pgconn.PgError{Severity: "FATAL", Code: "57P01"})
	mock.ExpectQuery(`tenants`).WillReturnRows(sqlmock.NewRows(routeRow).
		AddRow("", "shared", "", "", "active", 3, "s1", "host=s1", "free", nil, 64, 1, 1, 0.0, 0, "", "", time.Now()))
	route, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.EqualValues(t, 3, route.Epoch)
	require.Equal(t, resolver.Unlimited, route.Plan.StatementTimeout)
}

func TestBadConnNeverLeavesTheStore(t *testing.T) {
	t.Parallel()
	db := sql.OpenDB(brokenConnector{})
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	store, err := registry.New(db, nil)
	require.NoError(t, err)
	_, err = store.Lookup(t.Context(), "acme")
	require.ErrorContains(t, err, "connection to the registry was lost")
	require.NotErrorIs(t, err, driver.ErrBadConn)
	err = store.PutShard(t.Context(), s1)
	require.ErrorContains(t, err, "connection to the registry was lost")
	require.NotErrorIs(t, err, driver.ErrBadConn)
}

type brokenConnector struct{}

func (brokenConnector) Connect(context.Context) (driver.Conn, error) { return nil, driver.ErrBadConn }
func (brokenConnector) Driver() driver.Driver                        { return nil }

func TestShardsFailsWhenRowsEndEarly(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	mock.ExpectQuery(`"sharded_pg".shards`).WillReturnRows(sqlmock.NewRows(shardRow).
		AddRow("s1", "host=s1", "", "", "{}", 500, 0, "open").AddRow("s2", "host=s2", "", "", "{}", 500, 0, "open").RowError(1, errBoom))
	shards, err := store.Shards(t.Context())
	require.ErrorIs(t, err, errBoom)
	require.Empty(t, shards)

	mock.ExpectQuery(`"sharded_pg".shards`).WillReturnRows(sqlmock.NewRows(shardRow).
		AddRow("s1", nil, "", "", "{}", 500, 0, "open"))
	_, err = store.Shards(t.Context())
	require.ErrorContains(t, err, "dsn")
	require.NotContains(t, err.Error(), "opensesame")
}

func TestWritesRollBackWhenAStepFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		expect func(sqlmock.Sqlmock)
		put    func(context.Context, *registry.Postgres) error
	}{
		"begin": {
			func(m sqlmock.Sqlmock) { m.ExpectBegin().WillReturnError(errBoom) },
			func(ctx context.Context, s *registry.Postgres) error { return s.PutShard(ctx, s1) },
		},
		"upsert": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				expectAbsent(m, "shards", shardRow)
				m.ExpectExec(`insert into "sharded_pg".shards`).WillReturnError(errBoom)
				m.ExpectRollback()
			},
			func(ctx context.Context, s *registry.Postgres) error { return s.PutShard(ctx, s1) },
		},
		"audit": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				expectAbsent(m, "shards", shardRow)
				m.ExpectExec(`insert into "sharded_pg".shards`).WillReturnResult(sqlmock.NewResult(0, 1))
				m.ExpectQuery(`(?s)audit_log.*pg_notify`).WillReturnError(errBoom)
				m.ExpectRollback().WillReturnError(errors.New("the connection is gone, too"))
			},
			func(ctx context.Context, s *registry.Postgres) error { return s.PutShard(ctx, s1) },
		},
		"commit": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				expectAbsent(m, "plans", planRow)
				m.ExpectExec(`insert into "sharded_pg".plans`).WillReturnResult(sqlmock.NewResult(0, 1))
				m.ExpectQuery(`audit_log`).WithArgs(sqlmock.AnyArg(), "put_plan", "plan", "free", nil, sqlmock.AnyArg(), "",
					"sharded_pg_changes", "f:").WillReturnRows(sqlmock.NewRows([]string{"version", "told"}).AddRow(2, false))
				m.ExpectCommit().WillReturnError(errBoom)
			},
			func(ctx context.Context, s *registry.Postgres) error {
				return s.PutPlan(ctx, registry.DefaultPlans()[0])
			},
		},
		"references": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				m.ExpectQuery(`from "sharded_pg".shards`).WithArgs("s1").WillReturnError(errBoom)
				m.ExpectRollback()
			},
			func(ctx context.Context, s *registry.Postgres) error { return s.PutTenant(ctx, acme) },
		},
		"stored tenant": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				m.ExpectQuery(`from "sharded_pg".shards`).WillReturnRows(sqlmock.NewRows(shardRow).AddRow("s1", "host=s1", "", "", "{}", 500, 0, "open"))
				m.ExpectQuery(`from "sharded_pg".plans`).WillReturnRows(sqlmock.NewRows(planRow).AddRow("free", nil, 64, 1, 1, 0.0, 0))
				m.ExpectQuery(`for update`).WillReturnError(errBoom)
				m.ExpectRollback()
			},
			func(ctx context.Context, s *registry.Postgres) error { return s.PutTenant(ctx, acme) },
		},
		"state": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				m.ExpectQuery(`for update`).WillReturnRows(storedAcme())
				m.ExpectExec(`update "sharded_pg".tenants`).WillReturnError(errBoom)
				m.ExpectRollback()
			},
			func(ctx context.Context, s *registry.Postgres) error {
				return s.SetTenantState(ctx, "acme", resolver.StateDisabled)
			},
		},
		"init lock": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				m.ExpectExec(`pg_advisory_xact_lock`).WithArgs("sharded_pg").WillReturnError(errBoom)
				m.ExpectRollback()
			},
			func(ctx context.Context, s *registry.Postgres) error { return s.Init(ctx) },
		},
		"init tables": {
			func(m sqlmock.Sqlmock) {
				m.ExpectBegin()
				m.ExpectExec(`pg_advisory_xact_lock`).WillReturnResult(sqlmock.NewResult(0, 1))
				m.ExpectQuery(`to_regnamespace`).WillReturnRows(sqlmock.NewRows([]string{"s", "v"}).AddRow(false, false))
				m.ExpectExec(`create schema "sharded_pg"`).WillReturnResult(sqlmock.NewResult(0, 0))
				m.ExpectExec(`create table "sharded_pg".versions`).WillReturnResult(sqlmock.NewResult(0, 0))
				m.ExpectExec(`create table "sharded_pg".shards`).WillReturnError(errBoom)
				m.ExpectRollback()
			},
			func(ctx context.Context, s *registry.Postgres) error { return s.Init(ctx) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mock, store := mocked(t)
			c.expect(mock)
			err := c.put(t.Context(), store)
			require.ErrorIs(t, err, errBoom)
			require.NotContains(t, err.Error(), "opensesame")
		})
	}
}

// expectAbsent expects the lock for changes of shards and plans, and that there is no such row yet.
func expectAbsent(m sqlmock.Sqlmock, table string, columns []string) {
	m.ExpectExec(`pg_advisory_xact_lock`).WithArgs("sharded_pg").WillReturnResult(sqlmock.NewResult(0, 1))
	m.ExpectQuery(`from "sharded_pg".` + table).WillReturnRows(sqlmock.NewRows(columns))
}

func storedAcme() *sqlmock.Rows {
	return sqlmock.NewRows(tenantRow).AddRow("acme", "s1", "", "shared", "", "", "free", "active", 1, "hash", "", "", "{}", "", "",
		nil, time.Now(), time.Now())
}

func TestUnchangedRowsAreNeitherAuditedNorTold(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	mock.ExpectBegin()
	mock.ExpectQuery(`for update`).WillReturnRows(storedAcme())
	mock.ExpectCommit()
	require.NoError(t, store.SetTenantState(t.Context(), "acme", resolver.StateActive))
}

func TestAChangeThatAnotherGotInFrontOfIsRunAgain(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	mock.ExpectBegin()
	expectAbsent(mock, "shards", shardRow)
	mock.ExpectExec(`insert into "sharded_pg".shards`).WillReturnResult(sqlmock.NewResult(0, 0))
	mock.ExpectRollback()
	mock.ExpectBegin()
	mock.ExpectExec(`pg_advisory_xact_lock`).WillReturnResult(sqlmock.NewResult(0, 1))
	mock.ExpectQuery(`shards`).WillReturnRows(sqlmock.NewRows(shardRow).AddRow("s1", s1.DSN, "", "", "{}", 500, 0, "open"))
	mock.ExpectCommit()
	require.NoError(t, store.PutShard(t.Context(), s1))
}

func TestAChangeOfANewerRegistryIsRolledBack(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	mock.ExpectBegin()
	mock.ExpectQuery(`for update`).WillReturnRows(storedAcme())
	mock.ExpectExec(`update`).WillReturnResult(sqlmock.NewResult(0, 1))
	mock.ExpectQuery(`audit_log`).WillReturnRows(sqlmock.NewRows([]string{"version", "told"}).AddRow(99, false))
	mock.ExpectRollback()
	err := store.SetTenantState(t.Context(), "acme", resolver.StateDisabled)
	require.ErrorIs(t, err, registry.ErrNewerRegistry)
	require.ErrorContains(t, err, "use a newer program")
}

func TestEndOfTheContextIsReportedAsSuch(t *testing.T) {
	t.Parallel()
	mock, store := mocked(t)
	ctx, cancel := context.WithCancel(t.Context())
	mock.ExpectQuery(`tenants`).WillDelayFor(time.Hour).WillReturnRows(sqlmock.NewRows(routeRow))
	timer := time.AfterFunc(20*time.Millisecond, cancel)
	defer timer.Stop()
	_, err := store.Lookup(ctx, "acme")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, store.PutShard(ctx, s1), context.Canceled)
}

func TestWatchNeedsPgx(t *testing.T) {
	t.Parallel()
	_, store := mocked(t)
	require.ErrorContains(t, store.Watch(t.Context(), registry.Handler{}), "pgx")
}

func TestStaticFleetReportsAllProblems(t *testing.T) {
	t.Parallel()
	schema := resolver.ModelSchema
	_, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{Name: "s1", DSN: "host=s1"}, {Name: "s1", DSN: "host=s1"}, {Name: "s2"}},
		Plans:  []registry.Plan{{Name: "free"}, {Name: "free", StatementTimeout: 1, WorkMemKB: 1, MaxConns: 1, Weight: 1}},
		Tenants: []registry.Tenant{
			{ID: "acme", Shard: "s1"},
			{ID: "acme", Shard: "s9", Plan: "gold"},
			{ID: "beta", Shard: "s1"},
			{ID: "beta", Shard: "s1"},
			{ID: "c d", Shard: "s1"},
			{ID: "e", Shard: "s1", Model: schema, Schema: "x", Role: "r"},
			{ID: "f", Shard: "s1", Model: schema, Schema: "x", Role: "r"},
		},
	})
	require.ErrorIs(t, err, registry.ErrInvalid)
	require.ErrorIs(t, err, registry.ErrConflict)
	require.ErrorIs(t, err, registry.ErrShardNotFound)
	require.ErrorIs(t, err, registry.ErrPlanNotFound)
	for _, text := range []string{
		`shard "s1" is listed twice`, `shard "s2": dsn is empty`, `plan "free" is listed twice`, "work_mem is 0", "work_mem is 1",
		`tenant "beta" is listed twice`, `"c d"`, `schema "x" on shard "s1"`, `role "r" on shard "s1"`,
	} {
		require.ErrorContains(t, err, text)
	}
}

func TestStaticPlanReplacesTheDefaultOfItsName(t *testing.T) {
	t.Parallel()
	plan := registry.Plan{Name: "free", StatementTimeout: resolver.Unlimited, WorkMemKB: 64, MaxConns: 9, Weight: 9}
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{Name: "s1", DSN: "host=s1"}}, Plans: []registry.Plan{plan},
		Tenants: []registry.Tenant{acme, {ID: "beta", Shard: "s1", Plan: "growth"}},
	})
	require.NoError(t, err)
	route, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, plan, route.Plan)
	route, err = store.Lookup(t.Context(), "beta")
	require.NoError(t, err)
	require.Equal(t, registry.DefaultPlans()[2], route.Plan)
}
