package provision_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestCheckFindsWhatATenantIsMadeFromAndMakesNothing(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	template := s.server.NewDatabase(t, schema...)
	create := func(context.Context, pgx.Tx, registry.TenantInfo) error { panic("called") }
	for name, c := range map[string]struct {
		model resolver.Model
		opts  provision.Options
		want  error
		says  string
	}{
		"shared":               {model: resolver.ModelShared},
		"shared, no column":    {model: resolver.ModelShared, opts: provision.Options{TenantColumn: "customer"}, want: provision.ErrTemplate, says: `no table with a column "customer"`},
		"shared, no login":     {model: resolver.ModelShared, opts: provision.Options{Login: "nobody_here"}, want: registry.ErrInvalid, says: `no role "nobody_here"`},
		"partition":            {model: resolver.ModelPartition},
		"partition, no column": {model: resolver.ModelPartition, opts: provision.Options{TenantColumn: "note"}, want: provision.ErrTemplate, says: "partitioned by LIST"},
		"schema":               {model: resolver.ModelSchema},
		"schema, none":         {model: resolver.ModelSchema, opts: provision.Options{Template: "no where"}, want: provision.ErrTemplate, says: `schema "no where" is not there`},
		"schema, made":         {model: resolver.ModelSchema, opts: provision.Options{Template: "nowhere", Create: create}},
		"database":             {model: resolver.ModelDatabase, opts: provision.Options{TemplateDatabase: template}},
		"database, none":       {model: resolver.ModelDatabase, want: provision.ErrTemplate, says: `database "tenant_template" is not there`},
		"database, made":       {model: resolver.ModelDatabase, opts: provision.Options{Create: create}},
	} {
		tenant := registry.Tenant{ID: "acme", Shard: "s1", Model: c.model}
		switch c.model {
		case resolver.ModelSchema:
			tenant.Schema = "tenant_acme"
		case resolver.ModelDatabase:
			tenant.Database = "tenant_acme"
		}
		err := provision.Check(t.Context(), s.admin, tenant, &c.opts)
		if c.want == nil {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, c.want, name)
		require.ErrorContains(t, err, c.says, name)
		require.ErrorContains(t, err, "acme", name)
	}
	require.Equal(t, []string{"0"}, s.query(t, s.database,
		`select count(*)::text from pg_class c join pg_namespace n on n.oid = relnamespace where relispartition or nspname = 'tenant_acme'`))
	_, err := s.admin.Tenant(t.Context(), "acme")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
}

func TestCheckRefusesTablesWithoutPoliciesAndAMissingShard(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	require.NoError(t, s.server.Exec(t.Context(), s.database, `create table open (tenant_id text)`))
	for _, model := range []resolver.Model{resolver.ModelShared, resolver.ModelPartition} {
		err := provision.Check(t.Context(), s.admin, registry.Tenant{ID: "acme", Shard: "s1", Model: model}, nil)
		require.ErrorContains(t, err, `table "public"."open": row-level security is off`)
	}
	err := provision.Check(t.Context(), s.admin, registry.Tenant{ID: "acme", Shard: "s9"}, nil)
	require.ErrorIs(t, err, registry.ErrShardNotFound)
}
