package provision_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestATenantGetsNoDatabaseInWhichOthersLive(t *testing.T) {
	t.Parallel()
	s, ctx := newShard(t), t.Context()
	opts := s.options(t)
	own, group := s.database+"_own", s.database+"_group"
	t.Cleanup(func() { _ = s.server.Exec(context.Background(), "postgres", `drop database "`+own+`"`) })
	add := func(id string, model resolver.Model, database string) {
		_, err := s.admin.AddTenant(ctx, registry.Tenant{ID: id, Model: model, Database: database}, nil)
		require.NoError(t, err)
	}
	add("first", resolver.ModelDatabase, own)
	require.NoError(t, provision.Tenant(ctx, s.admin, "first", opts))
	add("second", resolver.ModelDatabase, own)
	add("of-the-group", resolver.ModelShared, group)
	add("alone-in-a-group", resolver.ModelDatabase, group)
	add("everybody", resolver.ModelDatabase, s.database)
	add("copy", resolver.ModelDatabase, opts.TemplateDatabase)
	for id, why := range map[string]string{
		"second":           `tenant "first" lives in database`,
		"alone-in-a-group": `tenant "of-the-group" lives in database`,
		"everybody":        "is the one of the shard's DSN",
		"copy":             "is the template",
	} {
		err := provision.Tenant(ctx, s.admin, id, opts)
		require.ErrorIs(t, err, registry.ErrConflict, id)
		require.ErrorContains(t, err, why)
		require.Equal(t, resolver.StateProvisioning, s.state(t, id))
	}
}

func TestATenantDoesNotGetTheTemplateItself(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	info, err := s.admin.AddTenant(t.Context(), registry.Tenant{ID: "template", Model: resolver.ModelSchema, Role: s.database + "_template"}, nil)
	require.NoError(t, err)
	require.Equal(t, "tenant_template", info.Schema)
	err = provision.Tenant(t.Context(), s.admin, "template", nil)
	require.ErrorIs(t, err, registry.ErrConflict)
	require.ErrorContains(t, err, `schema "tenant_template" is the template`)
}

// Whatever a comment says: it may be from a time, or by a hand, that did not know better.
func TestPurgeDropsNothingThatIsEverybodys(t *testing.T) {
	t.Parallel()
	s, ctx := newShard(t), t.Context()
	role := s.database + "_role"
	require.NoError(t, s.server.Exec(ctx, s.database,
		`comment on database "`+s.database+`" is 'sharded-pg: tenants'`,
		`comment on schema tenant_template is 'sharded-pg: tenant template'`))
	// From another database, the one of all tenants could be dropped.
	require.NoError(t, s.admin.PutShard(ctx, registry.Shard{
		Name: "s1", DSN: s.server.DSN(s.login, s.database), AdminDSN: s.server.DSN("postgres", "postgres"),
	}))
	for _, tenant := range []registry.Tenant{
		{ID: "everybody", Model: resolver.ModelDatabase, Database: s.database},
		{ID: "template", Model: resolver.ModelSchema, Role: role},
	} {
		tenant.Shard = "s1"
		require.NoError(t, s.admin.PutTenant(ctx, tenant))
		require.NoError(t, s.admin.RemoveTenant(ctx, tenant.ID))
		_, err := provision.Purge(ctx, s.admin, tenant.ID, tenant.ID, nil)
		require.ErrorIs(t, err, registry.ErrConflict, tenant.ID)
	}
	require.Equal(t, []string{"2"}, s.query(t, s.database, `select count(*)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where nspname = 'tenant_template' and relkind = 'r'`))
}

func TestPurgeDropsADatabaseThatWasNotFinished(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	opts := &provision.Options{TemplateDatabase: s.server.NewDatabase(t)} // without tables
	tenant := s.add(t, "halfway", resolver.ModelDatabase)
	require.ErrorIs(t, provision.Tenant(t.Context(), s.admin, tenant.ID, opts), provision.ErrTemplate)
	there := func() []string {
		return s.query(t, s.database, `select count(*)::text from pg_database where datname = $1`, tenant.Database)
	}
	require.Equal(t, []string{"1"}, there())
	require.NoError(t, s.admin.RemoveTenant(t.Context(), tenant.ID))
	_, err := provision.Purge(t.Context(), s.admin, tenant.ID, tenant.ID, opts)
	require.NoError(t, err)
	require.Equal(t, []string{"0"}, there())
}
