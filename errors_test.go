package shardedpg_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// What no error of the driver may repeat.
const (
	secretPassword = "s3cr3t-passw0rd"
	secretSQL      = "sql_marker"
	secretArgument = "argument-marker"
)

// refusal is a way to provoke an error of the driver.
type refusal struct {
	options  fleetOptions
	provoke  func(t *testing.T, f *fleet) error
	sentinel error
	stage    shardedpg.Stage
	tenant   string // must be named; "" when nobody knows it
	shard    bool   // must be named
	todo     string // what the text says to do
	sent     bool   // something of the caller's may have run
}

// try sends one statement full of things that no error may repeat.
func try(f *fleet, ctx context.Context) error {
	_, err := f.db.ExecContext(ctx, "select $1::text as "+secretSQL, secretArgument)
	return err
}

func refusals() map[string]refusal {
	oneState := func(state resolver.State) fleetOptions {
		return fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].State = state }}
	}
	shardAt := func(dsn string) fleetOptions {
		return fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Shard.DSN = dsn }}
	}
	simple := func(_ *testing.T, f *fleet) error { return try(f, f.a) }
	return map[string]refusal{
		"ErrNoTenant": {
			provoke: func(t *testing.T, f *fleet) error { return try(f, t.Context()) }, sentinel: shardedpg.ErrNoTenant,
			stage: shardedpg.StageTenant, todo: "put one into the context with WithTenant",
		},
		"ErrInvalidTenant": {
			provoke:  func(t *testing.T, f *fleet) error { return try(f, shardedpg.WithTenant(t.Context(), "a b")) },
			sentinel: shardedpg.ErrInvalidTenant, stage: shardedpg.StageTenant, tenant: "a b", todo: "' ' is not allowed",
		},
		"ErrInvalidTenant of another spelling": {
			provoke: func(t *testing.T, f *fleet) error {
				return try(f, shardedpg.WithTenant(t.Context(), "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"))
			},
			sentinel: shardedpg.ErrInvalidTenant, stage: shardedpg.StageTenant, todo: "write it as",
		},
		"ErrTenantMismatch in a transaction": {
			provoke: func(_ *testing.T, f *fleet) error {
				tx := f.begin(f.a)
				defer func() { _ = tx.Rollback() }()
				_, err := tx.ExecContext(f.b, "select $1 as "+secretSQL, secretArgument)
				return err
			},
			sentinel: shardedpg.ErrTenantMismatch, stage: shardedpg.StageTenant, tenant: tenantB, todo: "start another one",
		},
		"ErrTenantMismatch in a context": {
			provoke:  func(_ *testing.T, f *fleet) error { return try(f, shardedpg.WithTenant(f.a, tenantB)) },
			sentinel: shardedpg.ErrTenantMismatch, stage: shardedpg.StageTenant, tenant: tenantB, todo: "use SwitchTenant",
		},
		"ErrTenantNotFound": {
			provoke:  func(t *testing.T, f *fleet) error { return try(f, shardedpg.WithTenant(t.Context(), "nobody")) },
			sentinel: shardedpg.ErrTenantNotFound, stage: shardedpg.StageRoute, tenant: "nobody", todo: "add it to the registry",
		},
		"ErrTenantDisabled": {
			options: oneState(resolver.StateDisabled), provoke: simple, sentinel: shardedpg.ErrTenantDisabled,
			stage: shardedpg.StageRoute, tenant: tenantA, shard: true, todo: "enable it in the registry",
		},
		"ErrTenantReadOnly": {
			options: oneState(resolver.StateReadOnly),
			provoke: func(_ *testing.T, f *fleet) error {
				_, err := f.db.ExecContext(f.a, "insert into orders (note) values ($1) -- "+secretSQL, secretArgument)
				return err
			},
			sentinel: shardedpg.ErrTenantReadOnly, stage: shardedpg.StageStatement, tenant: tenantA, shard: true,
			todo: "make the tenant active",
		},
		"ErrShardBusy": {
			options: fleetOptions{config: func(c *shardedpg.Config) { c.AcquireTimeout = time.Millisecond }},
			provoke: func(_ *testing.T, f *fleet) error {
				tx := f.begin(f.b)
				defer func() { _ = tx.Rollback() }()
				return try(f, f.a)
			},
			sentinel: shardedpg.ErrShardBusy, stage: shardedpg.StageSlot, tenant: tenantA, shard: true, todo: "retry later",
		},
		"ErrTenantBusy": {
			options: fleetOptions{config: func(c *shardedpg.Config) { c.AcquireTimeout = time.Millisecond }},
			provoke: func(_ *testing.T, f *fleet) error {
				tx := f.begin(f.a)
				defer func() { _ = tx.Rollback() }()
				return try(f, f.a)
			},
			sentinel: shardedpg.ErrTenantBusy, stage: shardedpg.StageSlot, tenant: tenantA, shard: true, todo: `raise max_conns of plan "test"`,
		},
		"ErrRateLimited": {
			options: fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Plan.Rate = 0.5 }},
			provoke: func(t *testing.T, f *fleet) error {
				require.NoError(t, f.db.PingContext(f.a))
				return try(f, f.a)
			},
			sentinel: shardedpg.ErrRateLimited, stage: shardedpg.StageSlot, tenant: tenantA, shard: true, todo: "raise the rate",
		},
		"ErrShardUnavailable at a closed port": {
			options: shardAt("postgres://app:" + secretPassword + "@127.0.0.1:1/x"), provoke: simple,
			sentinel: shardedpg.ErrShardUnavailable, stage: shardedpg.StageBackend, tenant: tenantA, shard: true,
			todo: "check that the server is up",
		},
		"ErrShardUnavailable for a name": {
			options: shardAt("postgres://app:" + secretPassword + "@no-such-host.invalid/x"), provoke: simple,
			sentinel: shardedpg.ErrShardUnavailable, stage: shardedpg.StageBackend, tenant: tenantA, shard: true,
			todo: "check that the server is up",
		},
		"ErrShardUnavailable without the database": {
			options: fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) { routes[tenantA].Database = "no_such_database" }},
			provoke: simple, sentinel: shardedpg.ErrShardUnavailable, stage: shardedpg.StageBackend, tenant: tenantA, shard: true,
			todo: "check that the server is up",
		},
		"ErrShardUnavailable at a server of the other kind": {
			options: fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
				routes[tenantA].Shard.DSN += " target_session_attrs=standby"
			}},
			provoke: simple, sentinel: shardedpg.ErrShardUnavailable, stage: shardedpg.StageBackend, tenant: tenantA, shard: true,
			todo: "server is not in hot standby mode",
		},
		"a shard's connection string that is none": {
			options: shardAt("postgres://app:" + secretPassword + "@host:port:port/x"), provoke: simple,
			stage: shardedpg.StageBackend, tenant: tenantA, shard: true, todo: "it should read like",
		},
		"ErrShardUnavailable for a lost transaction": {
			provoke: func(t *testing.T, f *fleet) error {
				tx := f.begin(f.a)
				pid := f.pid(f.a, tx)
				_, err := f.su.Exec(t.Context(), "select pg_terminate_backend($1)", pid)
				require.NoError(t, err)
				f.requireOutside("the backend is gone", 0, "select count(*) from pg_stat_activity where pid = $1", pid)
				_, _ = tx.ExecContext(f.a, "select 1")
				_, err = tx.ExecContext(f.a, "select $1 as "+secretSQL, secretArgument)
				_ = tx.Rollback()
				return err
			},
			sentinel: shardedpg.ErrShardUnavailable, stage: shardedpg.StageStatement, tenant: tenantA, shard: true,
			todo: "start it again", sent: true,
		},
		"ErrRegistryUnavailable": {
			provoke: func(_ *testing.T, f *fleet) error {
				f.store.mu.Lock()
				f.store.down = errors.New("no route to host")
				f.store.mu.Unlock()
				return try(f, f.a)
			},
			sentinel: shardedpg.ErrRegistryUnavailable, stage: shardedpg.StageRoute, tenant: tenantA, todo: "check the registry, and retry",
		},
		"ErrRegistryUnavailable with a bad connection": {
			provoke: func(_ *testing.T, f *fleet) error {
				f.store.mu.Lock()
				f.store.down = driver.ErrBadConn
				f.store.mu.Unlock()
				return try(f, f.a)
			},
			sentinel: shardedpg.ErrRegistryUnavailable, stage: shardedpg.StageRoute, tenant: tenantA, todo: "check the registry, and retry",
		},
		"ErrUnsafeRole": {
			options: fleetOptions{user: "unsafe_super"}, provoke: simple, sentinel: shardedpg.ErrUnsafeRole,
			stage: shardedpg.StageBackend, tenant: tenantA, shard: true, todo: "use a login that is none of these",
		},
		"ErrStatementRefused": {
			provoke: func(_ *testing.T, f *fleet) error {
				_, err := f.db.ExecContext(f.a, "alter role app password '"+secretPassword+"' /* "+secretSQL+" */")
				return err
			},
			sentinel: shardedpg.ErrStatementRefused, stage: shardedpg.StageStatement, tenant: tenantA, shard: true,
			todo: "run it through ShardDB",
		},
		"ErrStatementRefused by the strict guard": {
			options: fleetOptions{config: func(c *shardedpg.Config) { c.Guard = shardedpg.GuardStrict }},
			provoke: func(_ *testing.T, f *fleet) error {
				f.requireOwnRows()
				_, err := f.db.ExecContext(f.a, "select set_config('"+secretSQL+".x', $1, false)", secretArgument)
				return err
			},
			sentinel: shardedpg.ErrStatementRefused, stage: shardedpg.StageStatement, tenant: tenantA, shard: true,
			todo: "sharded_guard=strict",
		},
		"ErrPrologue": {
			options: fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
				r := routes[tenantA]
				r.Model, r.Schema, r.Role = resolver.ModelSchema, "s", "no_such_role"
			}},
			provoke: simple, sentinel: shardedpg.ErrPrologue, stage: shardedpg.StagePrologue, tenant: tenantA, shard: true,
			todo: "check the tenant's plan, schema and role",
		},
		"open rows": {
			provoke: func(t *testing.T, f *fleet) error {
				conn := f.conn(f.a)
				rows, err := conn.QueryContext(f.a, "select 1 from generate_series(1, 10000)")
				require.NoError(t, err)
				defer rows.Close()
				_, err = conn.ExecContext(f.a, "select 1 as "+secretSQL)
				return errors.Join(err, rows.Err())
			},
			stage: shardedpg.StageStatement, tenant: tenantA, shard: true, todo: "close them first",
		},
		"a transaction ended by a statement": {
			provoke: func(_ *testing.T, f *fleet) error {
				tx := f.begin(f.a)
				f.exec(f.a, tx, "select 1")
				f.exec(f.a, tx, "commit")
				_, err := tx.ExecContext(f.a, "select 1 as "+secretSQL)
				_ = tx.Rollback()
				return err
			},
			stage: shardedpg.StageStatement, tenant: tenantA, shard: true, todo: "use the methods of sql.Tx", sent: true,
		},
		"BeginTx inside a raw transaction": {
			provoke: func(_ *testing.T, f *fleet) error {
				conn := f.conn(f.a)
				f.exec(f.a, conn, "begin")
				f.exec(f.a, conn, "select 1")
				_, err := conn.BeginTx(f.a, nil)
				return err
			},
			stage: shardedpg.StageStatement, tenant: tenantA, shard: true, todo: "end it before BeginTx",
		},
	}
}

func TestErrorsSayWhatForWhomAndWhatToDoAndNoSecret(t *testing.T) {
	t.Parallel()
	for name, r := range refusals() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.options.dsn = "password=" + secretPassword
			f := newFleet(t, r.options)
			err := r.provoke(t, f)
			require.Error(t, err)
			t.Log(err)
			if r.sentinel != nil {
				require.ErrorIs(t, err, r.sentinel)
			}
			require.NotErrorIs(t, err, driver.ErrBadConn)
			var ours *shardedpg.Error
			require.ErrorAs(t, err, &ours)
			require.Equal(t, r.stage, ours.Stage)
			text := err.Error()
			require.True(t, strings.HasPrefix(text, "shardedpg: "+string(r.stage)+": "), text)
			require.Contains(t, text, r.todo)
			if r.tenant != "" {
				require.Contains(t, text, fmt.Sprintf("%q", r.tenant))
			}
			if r.shard {
				require.Contains(t, text, `shard "s1"`)
				require.Equal(t, "s1", ours.Shard)
			}
			require.Equal(t, !r.sent, pgconn.SafeToRetry(err))
			require.Equal(t, !r.sent, ours.SafeToRetry())
			requireNoSecret(t, f, err)
		})
	}
}

// requireNoSecret looks at the forms in which an error is likely to be logged.
func requireNoSecret(t *testing.T, f *fleet, err error) {
	t.Helper()
	dir, _ := f.server.Socket()
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%q", err)} {
		for _, secret := range []string{secretPassword, secretSQL, secretArgument, "password", "user=app", f.database + " ", "host=" + dir} {
			require.NotContains(t, text, secret)
		}
	}
}

func TestEachSentinelHasATestThatProvokesIt(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	require.NoError(t, err)
	all := refusals()
	found := 0
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if !strings.HasPrefix(name.Name, "Err") {
					continue
				}
				found++
				provoked := false
				for title := range all {
					provoked = provoked || title == name.Name || strings.HasPrefix(title, name.Name+" ")
				}
				require.True(t, provoked, "add %s to refusals", name.Name)
			}
		}
	}
	require.NotZero(t, found)
}

func TestPostgresErrorsPassUntouched(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for query, code := range map[string]string{
		"select 1/0": "22012", "select * from nowhere": "42P01", "selec": "42601", "do $$begin raise 'x' using errcode = 'ZZ999'; end$$": "ZZ999",
		"insert into customers (id, email) select id, email from customers": "23505",
		"do $$begin raise 'x' using errcode = '40001'; end$$":               "40001",
		"do $$begin raise 'x' using errcode = '57P01'; end$$":               "57P01",
		"do $$begin raise 'x' using errcode = '25001'; end$$":               "25001",
		"do $$begin raise 'x' using errcode = '0A000'; end$$":               "0A000",
		"do $$begin raise 'x' using errcode = '57014'; end$$":               "57014",
	} {
		_, err := f.db.ExecContext(f.a, query)
		requireCode(t, err, code)
		require.NotErrorIs(t, err, driver.ErrBadConn)
		require.False(t, shardedpg.TimedOutByPlan(err))
		f.requireOwnRows()
		tx := f.begin(f.a)
		_, err = tx.ExecContext(f.a, query)
		requireCode(t, err, code)
		require.NoError(t, tx.Rollback())
	}
	require.False(t, shardedpg.TimedOutByPlan(nil))
	require.False(t, shardedpg.TimedOutByPlan(context.DeadlineExceeded))
}

func TestALongTenantIsCutInErrors(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, id := range []string{strings.Repeat("x", 200), strings.Repeat("x", 100000)} {
		err := try(f, shardedpg.WithTenant(t.Context(), id))
		require.Error(t, err)
		require.Less(t, len(err.Error()), 400)
	}
}

func TestAWriteCutOffInTheMiddleIsNotCalledSafe(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	done := make(chan error, 1)
	go func() {
		_, err := f.db.ExecContext(f.a, "insert into orders (note) select 'cut' from pg_sleep(20)")
		done <- err
	}()
	f.requireOutside("one backend was ended", 1, `select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and query like '%pg_sleep(20)%' and pid <> pg_backend_pid() and state = 'active'`)
	err := <-done
	require.Error(t, err)
	require.False(t, pgconn.SafeToRetry(err))
	require.NotErrorIs(t, err, driver.ErrBadConn)
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'cut'"))
	f.requireOwnRows()
}
