package verify_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
	"github.com/sharded-pg/sharded-pg/verify"
)

var roles atomic.Int64

// appRole is a name of its own: roles are the server's, which tests share.
func appRole() string { return fmt.Sprintf("app_%d", roles.Add(1)) }

// site is a database that the generator has made safe.
type site struct {
	policytest.Database
	server *pgtest.Server
	name   string
	config verify.Config
}

func newSite(t testing.TB, s *pgtest.Server, d policytest.Database) *site {
	t.Helper()
	b := &site{Database: d, server: s, name: s.NewDatabase(t, d.Schema...)}
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres", b.name))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "create role "+d.Config.App+" login")
	require.NoError(t, err)
	_, err = policy.Apply(t.Context(), conn, d.Config, nil)
	require.NoError(t, err)
	b.config = verify.Config{
		DSN: s.DSN(d.Config.App, b.name), AdminDSN: s.DSN("postgres", b.name),
		TenantColumn: d.Config.TenantColumn, Global: d.Config.Global,
	}
	return b
}

func (b *site) exec(t testing.TB, statements ...string) {
	t.Helper()
	for i := range statements {
		statements[i] = strings.NewReplacer("{app}", b.Config.App, "{owner}", b.Config.Owner, "{db}", b.name).Replace(statements[i])
	}
	require.NoError(t, b.server.Exec(t.Context(), b.name, statements...))
}

func (b *site) run(t testing.TB) *verify.Report {
	t.Helper()
	r, err := verify.Run(t.Context(), b.config)
	require.NoError(t, err)
	return r
}

// not returns the attacks that did not hold.
func not(r *verify.Report) (found []string) {
	for _, one := range r.Results {
		if one.Outcome != verify.Held && one.Outcome != verify.Known {
			found = append(found, fmt.Sprintf("%s: %s, %s: %s", one.Outcome, one.Object, one.Attack, one.Detail))
		}
	}
	return found
}

func TestWhatTheGeneratorMakesHolds(t *testing.T) {
	t.Parallel()
	for _, make := range []func(string) policytest.Database{policytest.Views, policytest.Partitioned, policytest.Chatwoot} {
		d := make(appRole())
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			b := newSite(t, pgtest.Shared(t, "verify"), d)
			before := b.rows(t)
			r := b.run(t)
			require.Empty(t, not(r))
			require.True(t, r.Proved())
			require.Equal(t, before, b.rows(t))
		})
	}
}

func TestTwoRunsDoNotOverlap(t *testing.T) {
	t.Parallel()
	b := newSite(t, pgtest.Shared(t, "verify"), shop(appRole()))
	b.config.Tables = []string{"app.customers"}
	var group errgroup.Group
	for range 2 {
		group.Go(func() error {
			r, err := verify.Run(t.Context(), b.config)
			if err == nil && (!r.Proved() || len(r.Notes) > 0) {
				err = fmt.Errorf("%v %v", not(r), r.Notes)
			}
			return err
		})
	}
	require.NoError(t, group.Wait())
	b.nothingLeft(t)
}

// rows are all rows of tables, and all that a run might leave beside them.
func (b *site) rows(t testing.TB) (all []string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.server.DSN("postgres", b.name))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	found, err := conn.Query(t.Context(), `select c.oid::regclass::text from pg_class c where c.relkind = 'r' and relnamespace::regnamespace::text in ('app', 'public')`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(found, pgx.RowTo[string])
	require.NoError(t, err)
	for _, table := range append(tables, "pg_largeobject_metadata") {
		found, err := conn.Query(t.Context(), "select '"+table+" ' || x::text from "+table+" x order by 1")
		require.NoError(t, err)
		texts, err := pgx.CollectRows(found, pgx.RowTo[string])
		require.NoError(t, err)
		all = append(all, texts...)
	}
	return all
}

// nothingLeft makes sure that no row of a run's tenants is there.
func (b *site) nothingLeft(t testing.TB) {
	t.Helper()
	for _, row := range b.rows(t) {
		require.NotContains(t, row, "shardedpg-verify")
		require.NotContains(t, row, "pg_largeobject_metadata")
	}
}

// Between rls keys install and rls apply --identity signed, and after the way back, the database can verify tokens and policies do
// not ask for one.
func TestAProgramThatDoesNotSignHoldsWhereKeysAreInstalled(t *testing.T) {
	t.Parallel()
	b := newSite(t, pgtest.Shared(t, "verify"), shop(appRole()))
	conn, err := pgx.Connect(t.Context(), b.server.DSN("postgres", b.name))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	keys, err := rls.ParseKeys("1 " + strings.Repeat("ab", 32))
	require.NoError(t, err)
	b.Config.KeyOwner = b.Config.App + "_keys"
	_, err = policy.InstallKeys(t.Context(), conn, b.Config, []*rls.ShardKey{keys[0].For("verify")}, nil)
	require.NoError(t, err)
	r := b.run(t)
	require.Empty(t, not(r))
	require.True(t, r.Proved())
}
