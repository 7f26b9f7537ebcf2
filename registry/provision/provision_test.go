package provision_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// rows is the rule for a table of shared tenants.
const rows = `(tenant_id = nullif(current_setting('app.current_tenant_id', true), ''))`

var schema = []string{
	`create table orders (tenant_id text not null, id bigint generated always as identity, note text, primary key (tenant_id, id))`,
	`create table items (tenant_id text not null, id bigint, order_id bigint not null, primary key (tenant_id, id),
	 foreign key (tenant_id, order_id) references orders)`,
	`create table events (tenant_id text not null, at timestamptz not null default now(), what text) partition by list (tenant_id)`,
	`create table rates (currency text primary key)`,
	`create schema tenant_template`,
	`create table tenant_template.customers (id bigserial primary key, name text not null unique check (name <> ''))`,
	`create table tenant_template."Big Orders" (id bigint primary key generated always as identity,
	 customer bigint not null references tenant_template.customers on delete cascade, note text default 'none')`,
	`create index on tenant_template."Big Orders" (customer)`,
}

// shard is one database on the shared server, with tables for all models and a login that is nobody.
type shard struct {
	server   *pgtest.Server
	database string
	login    string
	admin    *registry.Admin
}

var logins atomic.Int64

func newShard(t testing.TB) *shard {
	t.Helper()
	s := &shard{server: pgtest.Shared(t, "shard"), login: fmt.Sprintf("app_%d_%d", time.Now().UnixNano(), logins.Add(1))}
	s.database = s.server.NewDatabase(t, schema...)
	statements := []string{`create role ` + s.login + ` login noinherit`}
	for _, table := range []string{"orders", "items", "events"} {
		statements = append(statements,
			`alter table `+table+` enable row level security`, `alter table `+table+` force row level security`,
			`create policy tenant_rows on `+table+` using `+rows+` with check `+rows,
			`create policy tenant_only on `+table+` as restrictive for all to public using `+rows+` with check `+rows,
			`grant select, insert, update, delete on `+table+` to `+s.login)
	}
	require.NoError(t, s.server.Exec(t.Context(), s.database, statements...))
	s.renew(t)
	return s
}

// renew gives the shard an empty registry.
func (s *shard) renew(t testing.TB) {
	t.Helper()
	store, err := registry.NewMemory(nil)
	require.NoError(t, err)
	s.admin = store.Admin
	require.NoError(t, s.admin.PutShard(t.Context(), registry.Shard{
		Name: "s1", DSN: s.server.DSN(s.login, s.database), AdminDSN: s.server.DSN("postgres", s.database),
		MaxTenants: registry.UnlimitedTenants,
	}))
}

func (s *shard) add(t testing.TB, id string, model resolver.Model) registry.TenantInfo {
	t.Helper()
	tenant := registry.Tenant{ID: id, Model: model}
	if model == resolver.ModelDatabase {
		tenant.Database = s.database + "_" + id // databases are the server's, which tests share
	}
	if model == resolver.ModelSchema { // and so are roles
		tenant.Role = s.database + "_" + id
	}
	info, err := s.admin.AddTenant(t.Context(), tenant, nil)
	require.NoError(t, err)
	return info
}

func (s *shard) state(t testing.TB, id string) resolver.State {
	t.Helper()
	info, err := s.admin.Tenant(t.Context(), id)
	require.NoError(t, err)
	return info.State
}

// as runs a statement as the application does for a tenant, and returns the first column as text.
func (s *shard) as(t testing.TB, tenant registry.TenantInfo, statement string) (values []string, err error) {
	t.Helper()
	database := s.database
	if tenant.Database != "" {
		database = tenant.Database
	}
	conn, err := pgx.Connect(t.Context(), s.server.DSN(s.login, database))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		settings := map[string]string{"app.current_tenant_id": tenant.ID}
		if tenant.Model == resolver.ModelSchema {
			settings["role"], settings["search_path"] = tenant.Role, fmt.Sprintf("%q, pg_temp", tenant.Schema)
		}
		for name, value := range settings {
			if _, err := tx.Exec(t.Context(), `select set_config($1, $2, true)`, name, value); err != nil {
				return err
			}
		}
		rows, err := tx.Query(t.Context(), statement)
		if err != nil {
			return err
		}
		values, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return values, err
}

// query asks as the superuser.
func (s *shard) query(t testing.TB, database, statement string, args ...any) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.server.DSN("postgres", database))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	return ask(t, conn, statement, args...)
}

func ask(t testing.TB, conn *pgx.Conn, statement string, args ...any) []string {
	t.Helper()
	found, err := conn.Query(t.Context(), statement, args...)
	require.NoError(t, err)
	values, err := pgx.CollectRows(found, pgx.RowTo[string])
	require.NoError(t, err)
	return values
}

// options returns options whose tenants of model database are copied from a database of this test.
func (s *shard) options(t testing.TB) *provision.Options {
	t.Helper()
	template := s.server.NewDatabase(t, `create table orders (id bigint primary key, note text)`,
		`grant select, insert, update, delete on orders to `+s.login)
	return &provision.Options{TemplateDatabase: template}
}

var inserts = map[resolver.Model]string{
	resolver.ModelShared:    `insert into orders (tenant_id, note) values (current_setting('app.current_tenant_id'), 'x') returning note`,
	resolver.ModelPartition: `insert into events (tenant_id, what) values (current_setting('app.current_tenant_id'), 'x') returning what`,
	resolver.ModelSchema:    `with c as (insert into customers (name) values ('y') returning 1) insert into "Big Orders" (customer, note) overriding system value values (1, 'x') returning note`,
	resolver.ModelDatabase:  `insert into orders (id, note) values (1, 'x') returning note`,
}

func TestEachModelWorksOnceProvisionedAndNotBefore(t *testing.T) {
	t.Parallel()
	for model, insert := range inserts {
		t.Run(string(model), func(t *testing.T) {
			t.Parallel()
			s := newShard(t)
			opts := s.options(t)
			a, b := s.add(t, "a", model), s.add(t, "b", model)
			require.Equal(t, resolver.StateProvisioning, s.state(t, "a"))
			for range 2 {
				require.NoError(t, provision.Tenant(t.Context(), s.admin, "a", opts))
				require.Equal(t, resolver.StateActive, s.state(t, "a"))
			}
			require.NoError(t, provision.Tenant(t.Context(), s.admin, "b", opts))
			if model == resolver.ModelSchema {
				_, err := s.as(t, a, `insert into customers (name) values ('first') returning name`)
				require.NoError(t, err)
				insert = `insert into "Big Orders" (customer) values (1) returning note`
				got, err := s.as(t, a, insert)
				require.NoError(t, err)
				require.Equal(t, []string{"none"}, got)
				_, err = s.as(t, b, `select note from `+a.Schema+`."Big Orders"`)
				require.ErrorContains(t, err, "permission denied for schema")
				_, err = s.as(t, b, `insert into "Big Orders" (customer) values (1) returning note`)
				require.ErrorContains(t, err, "violates foreign key", "its customers are its own")
				return
			}
			got, err := s.as(t, a, insert)
			require.NoError(t, err)
			require.Equal(t, []string{"x"}, got)
		})
	}
}

func TestAPartitionHidesItsRowsFromWhoNamesIt(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	a, b := s.add(t, "a", resolver.ModelPartition), s.add(t, "b", resolver.ModelPartition)
	for _, id := range []string{"a", "b"} {
		require.NoError(t, provision.Tenant(t.Context(), s.admin, id, nil))
	}
	_, err := s.as(t, a, inserts[resolver.ModelPartition])
	require.NoError(t, err)
	direct := `select what from ` + provision.PartitionName("events", "a")
	_, err = s.as(t, a, direct)
	require.ErrorContains(t, err, "42501", "the login has rights on the table and not on its parts")
	require.NoError(t, s.server.Exec(t.Context(), s.database, `grant select on `+provision.PartitionName("events", "a")+` to `+s.login))
	got, err := s.as(t, a, direct)
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, got)
	got, err = s.as(t, b, direct)
	require.NoError(t, err)
	require.Empty(t, got, "its policies are those of the table")
}

func TestACrashAtAnyStepLeavesProvisioningAndIsCompleted(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, model := range []resolver.Model{resolver.ModelShared, resolver.ModelPartition, resolver.ModelSchema, resolver.ModelDatabase} {
		t.Run(string(model), func(t *testing.T) {
			t.Parallel()
			s := newShard(t)
			opts := s.options(t)
			var steps []string
			opts.Before(func(step string) error { steps = append(steps, step); return nil })
			s.add(t, "whole", model)
			require.NoError(t, provision.Tenant(t.Context(), s.admin, "whole", opts))
			require.GreaterOrEqual(t, len(steps), 3)
			for i := range steps {
				id := fmt.Sprintf("crash%d", i)
				s.add(t, id, model)
				var at int
				opts.Before(func(string) error {
					if at++; at > i {
						return boom
					}
					return nil
				})
				err := provision.Tenant(t.Context(), s.admin, id, opts)
				require.ErrorIs(t, err, boom)
				require.ErrorContains(t, err, steps[i])
				require.Equal(t, resolver.StateProvisioning, s.state(t, id))
				opts.Before(nil)
				require.NoError(t, provision.Tenant(t.Context(), s.admin, id, opts), steps[i])
				require.Equal(t, resolver.StateActive, s.state(t, id))
			}
		})
	}
}

func TestProvisionersOfOneTenantWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	opts := s.options(t)
	models := []resolver.Model{resolver.ModelPartition, resolver.ModelSchema, resolver.ModelDatabase}
	var wg sync.WaitGroup
	for _, model := range models {
		s.add(t, string(model), model)
		for range 4 {
			wg.Go(func() {
				if err := provision.Tenant(t.Context(), s.admin, string(model), opts); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, model := range models {
		require.Equal(t, resolver.StateActive, s.state(t, string(model)))
	}
}

func TestTablesWithoutPoliciesAreRefused(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	require.NoError(t, s.server.Exec(t.Context(), s.database,
		`create table open_to_all (tenant_id text)`, `alter table orders no force row level security`))
	s.add(t, "a", resolver.ModelShared)
	err := provision.Tenant(t.Context(), s.admin, "a", nil)
	require.ErrorIs(t, err, registry.ErrInvalid)
	require.ErrorContains(t, err, `table "public"."open_to_all": row-level security is off`)
	require.ErrorContains(t, err, `table "public"."orders": row-level security is not forced`)
	require.Equal(t, resolver.StateProvisioning, s.state(t, "a"))
}

func TestSchemasOfSingleTenantsAreNoSharedTables(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	require.NoError(t, s.server.Exec(t.Context(), s.database, `create table tenant_template.own (tenant_id text)`))
	s.add(t, "own", resolver.ModelSchema)
	require.NoError(t, provision.Tenant(t.Context(), s.admin, "own", nil))
	s.add(t, "a", resolver.ModelShared)
	require.NoError(t, provision.Tenant(t.Context(), s.admin, "a", nil))
}

func TestWhatBelongsToSomethingElseIsNotTaken(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	opts := s.options(t)
	role := s.database + "_boss"
	require.NoError(t, s.server.Exec(t.Context(), s.database, `create schema tenant_other`,
		`comment on schema tenant_other is 'sharded-pg: tenant somebody'`, `create role `+role+` login`,
		`create table `+provision.PartitionName("events", "p")+` ()`))
	t.Cleanup(func() { _ = s.server.Exec(context.Background(), "postgres", `drop role `+role) })
	for id, tenant := range map[string]registry.Tenant{
		"other": {Model: resolver.ModelSchema, Role: s.database + "_x"},
		"boss":  {Model: resolver.ModelSchema, Role: role},
		"p":     {Model: resolver.ModelPartition},
	} {
		tenant.ID = id
		_, err := s.admin.AddTenant(t.Context(), tenant, nil)
		require.NoError(t, err)
		require.ErrorIs(t, provision.Tenant(t.Context(), s.admin, id, opts), registry.ErrConflict, id)
		require.Equal(t, resolver.StateProvisioning, s.state(t, id))
	}
	require.NoError(t, s.server.Exec(t.Context(), s.database, `create view tenant_template.v as select 1 as one`))
	s.add(t, "viewer", resolver.ModelSchema)
	err := provision.Tenant(t.Context(), s.admin, "viewer", opts)
	require.ErrorIs(t, err, provision.ErrTemplate)
	require.ErrorContains(t, err, "view v")
}

func TestCreateReplacesTheTemplates(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	opts := &provision.Options{Create: func(ctx context.Context, tx pgx.Tx, tenant registry.TenantInfo) error {
		_, err := tx.Exec(ctx, `create table own (id int)`)
		if err == nil && tenant.Model == resolver.ModelDatabase {
			_, err = tx.Exec(ctx, `grant select on own to `+s.login)
		}
		return err
	}}
	for _, model := range []resolver.Model{resolver.ModelSchema, resolver.ModelDatabase} {
		info := s.add(t, string(model), model)
		require.NoError(t, provision.Tenant(t.Context(), s.admin, info.ID, opts))
		got, err := s.as(t, info, `select count(*)::text from own`)
		require.NoError(t, err)
		require.Equal(t, []string{"0"}, got)
	}
}

func TestPurgeDestroysOneTenantAndCountsItsRows(t *testing.T) {
	t.Parallel()
	for _, model := range []resolver.Model{resolver.ModelShared, resolver.ModelPartition, resolver.ModelSchema, resolver.ModelDatabase} {
		t.Run(string(model), func(t *testing.T) {
			t.Parallel()
			s, ctx := newShard(t), t.Context()
			opts := s.options(t)
			tenants := map[string]registry.TenantInfo{}
			for _, id := range []string{"gone", "stays"} {
				tenants[id] = s.add(t, id, model)
				require.NoError(t, provision.Tenant(ctx, s.admin, id, opts))
				s.fill(t, tenants[id])
			}
			_, err := provision.Purge(ctx, s.admin, "gone", "gone", opts)
			require.ErrorContains(t, err, "disable or remove it first")
			require.NoError(t, s.admin.SetTenantState(ctx, "gone", resolver.StateDisabled))
			_, err = provision.Purge(ctx, s.admin, "gone", "stays", opts)
			require.ErrorContains(t, err, "repeat its ID")

			boom := errors.New("boom")
			for i := 0; ; i++ { // fail at the first step, then at the second, ...
				var at int
				opts.Before(func(string) error {
					if at++; at > i {
						return boom
					}
					return nil
				})
				rows, err := provision.Purge(ctx, s.admin, "gone", "gone", opts)
				if err == nil {
					require.Equal(t, filled[model](tenants["gone"]), rows, "rows of all attempts")
					break
				}
				require.ErrorIs(t, err, boom)
				require.Equal(t, resolver.StateDeleting, s.state(t, "gone"))
			}
			_, err = s.admin.Tenant(ctx, "gone")
			require.ErrorIs(t, err, resolver.ErrTenantNotFound)
			s.nothingLeft(t, tenants["gone"])
			got, err := s.as(t, tenants["stays"], selects[model])
			require.NoError(t, err)
			require.Equal(t, []string{"1"}, got)
		})
	}
}

var selects = map[resolver.Model]string{
	resolver.ModelShared:    `select count(*)::text from items`,
	resolver.ModelPartition: `select count(*)::text from events`,
	resolver.ModelSchema:    `select count(*)::text from customers`,
	resolver.ModelDatabase:  `select count(*)::text from orders`,
}

// filled is what fill puts in.
var filled = map[resolver.Model]func(registry.TenantInfo) map[string]int64{
	resolver.ModelShared: func(registry.TenantInfo) map[string]int64 {
		return map[string]int64{"public.orders": 2, "public.items": 1}
	},
	resolver.ModelPartition: func(registry.TenantInfo) map[string]int64 {
		return map[string]int64{"public.orders": 2, "public.items": 1, "public.events": 1}
	},
	resolver.ModelSchema: func(t registry.TenantInfo) map[string]int64 {
		return map[string]int64{t.Schema + ".customers": 1}
	},
	resolver.ModelDatabase: func(registry.TenantInfo) map[string]int64 { return map[string]int64{"public.orders": 1} },
}

func (s *shard) fill(t *testing.T, tenant registry.TenantInfo) {
	t.Helper()
	tid := `current_setting('app.current_tenant_id')`
	shared := []string{
		`insert into orders (tenant_id, note) values (` + tid + `, 'x'), (` + tid + `, 'y') returning note`,
		`insert into items (tenant_id, id, order_id) select tenant_id, 1, min(id) from orders group by tenant_id returning tenant_id`,
	}
	for _, statement := range map[resolver.Model][]string{
		resolver.ModelShared:    shared,
		resolver.ModelPartition: append(slices.Clone(shared), inserts[resolver.ModelPartition]),
		resolver.ModelSchema:    {`insert into customers (name) values ('x') returning name`},
		resolver.ModelDatabase:  {inserts[resolver.ModelDatabase]},
	}[tenant.Model] {
		_, err := s.as(t, tenant, statement)
		require.NoError(t, err)
	}
}

func (s *shard) nothingLeft(t *testing.T, tenant registry.TenantInfo) {
	t.Helper()
	require.Equal(t, []string{"0"}, s.query(t, s.database, `select count(*)::text from orders where tenant_id = $1`, tenant.ID))
	require.Equal(t, []string{"0"}, s.query(t, s.database, `select count(*)::text from pg_class where relname = $1`, provision.PartitionName("events", tenant.ID)))
	require.Equal(t, []string{"0"}, s.query(t, s.database, `select count(*)::text from pg_roles where rolname = $1`, tenant.Role))
	require.Equal(t, []string{"0"}, s.query(t, s.database, `select count(*)::text from pg_namespace where nspname = $1`, tenant.Schema))
	require.Equal(t, []string{"0"}, s.query(t, s.database, `select count(*)::text from pg_database where datname = $1`, tenant.Database))
}

func TestASchemaTenantMaySetWhatTheDriverSetsWhereItIsNotEverybodysRight(t *testing.T) {
	t.Parallel()
	s, ctx := newShard(t), t.Context()
	const setConfig = "pg_catalog.set_config(text,text,boolean)"
	require.NoError(t, s.server.Exec(ctx, s.database, "revoke execute on function "+setConfig+" from public", "grant execute on function "+setConfig+" to "+s.login))
	info := s.add(t, "a", resolver.ModelSchema)
	require.NoError(t, provision.Tenant(ctx, s.admin, "a", s.options(t)))
	may, err := s.as(t, info, "select set_config('work_mem', '1MB', true)")
	require.NoError(t, err)
	require.Equal(t, []string{"1MB"}, may)
	require.NoError(t, s.admin.RemoveTenant(ctx, "a"))
	_, err = provision.Purge(ctx, s.admin, "a", "a", s.options(t))
	require.NoError(t, err)
	s.nothingLeft(t, info)
}

func TestPurgeKeepsADatabaseOfOthers(t *testing.T) {
	t.Parallel()
	s, ctx := newShard(t), t.Context()
	opts := s.options(t)
	info := s.add(t, "a", resolver.ModelDatabase)
	require.NoError(t, provision.Tenant(ctx, s.admin, "a", opts))
	require.NoError(t, s.admin.PutTenant(ctx, registry.Tenant{ID: "b", Shard: "s1", Database: info.Database}))
	require.NoError(t, s.admin.RemoveTenant(ctx, "a"))
	_, err := provision.Purge(ctx, s.admin, "a", "a", opts)
	require.ErrorIs(t, err, registry.ErrConflict)
	require.ErrorContains(t, err, `tenant "b" lives in database`)
	require.Equal(t, []string{"1"}, s.query(t, s.database, `select count(*)::text from pg_database where datname = $1`, info.Database))
}

func TestErrorsHoldNoDSN(t *testing.T) {
	t.Parallel()
	store, err := registry.NewMemory(nil)
	require.NoError(t, err)
	ctx := t.Context()
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s1", DSN: "host=/nonexistent password=opensesame", AdminDSN: "host=/nonexistent password=opensesame"}))
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s2", DSN: "host=x password=opensesame sslmode=maybe"}))
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s3", DSN: "host=x", AdminDSN: "password=opensesame sslmode=maybe"}))
	for _, name := range []string{"s1", "s2", "s3"} {
		require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: name, Shard: name, State: resolver.StateProvisioning}))
		err := provision.Tenant(ctx, store.Admin, name, nil)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "opensesame")
		require.ErrorContains(t, err, fmt.Sprintf("tenant %q on shard %q", name, name))
	}
}
