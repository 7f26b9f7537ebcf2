package provision_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

var oddIDs = []string{
	"acme", "ACME", `a"; drop schema public cascade; --`, "a'b", "tenant_a", "ü", "a.b", "a-b", "pg_x", "x$y", "a/*b*/", "%s", "😀",
	strings.Repeat("x", 56), strings.Repeat("x", 57), strings.Repeat("y", 255), "a\x00b", "a_b", "public", "template", "\\", "E'",
	strings.Repeat("é", 28), strings.Repeat("é", 28) + "e",
}

// FuzzIDsBecomeIdentifiersOfTheirOwn gives any text as an ID to a real server: it is refused, or gets exactly the objects
// that the registry names, and no other tenant's.
func FuzzIDsBecomeIdentifiersOfTheirOwn(f *testing.F) {
	for _, id := range oddIDs {
		f.Add(id, id+"2")
	}
	s := newShard(f)
	conn := s.observer(f)
	f.Fuzz(func(t *testing.T, one, two string) {
		s.makeAndDestroy(t, conn, resolver.ModelSchema, nil, one, two)
		s.makeAndDestroy(t, conn, resolver.ModelPartition, nil, one, two)
		require.Equal(t, []string{"0"}, ask(t, conn, `select count(*)::text from pg_namespace where nspname ~ '^tenant_' and nspname <> 'tenant_template'`))
	})
}

// FuzzIDsBecomeDatabasesOfTheirOwn is apart, and begins with few, because a database takes the time of many schemas.
func FuzzIDsBecomeDatabasesOfTheirOwn(f *testing.F) {
	f.Add("acme", "ACME")
	f.Add("a/*b*/$1%s", strings.Repeat("é", 28))
	f.Add(strings.Repeat("x", 56), strings.Repeat("x", 57))
	s := newShard(f)
	conn, opts := s.observer(f), s.options(f)
	f.Fuzz(func(t *testing.T, one, two string) { s.makeAndDestroy(t, conn, resolver.ModelDatabase, opts, one, two) })
}

// observer is a connection that looks at the shard's server.
func (s *shard) observer(f *testing.F) *pgx.Conn {
	f.Helper()
	conn, err := pgx.Connect(f.Context(), s.server.DSN("postgres", s.database))
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// made finds the comment by which an object is known as a tenant's.
var made = map[resolver.Model]string{
	resolver.ModelSchema:    `select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = $1`,
	resolver.ModelPartition: `select obj_description(oid, 'pg_class') from pg_class where relname = $1`,
	resolver.ModelDatabase:  `select shobj_description(oid, 'pg_database') from pg_database where datname = $1`,
}

// makeAndDestroy takes two tenants through their lives at the same time.
func (s *shard) makeAndDestroy(t *testing.T, conn *pgx.Conn, model resolver.Model, opts *provision.Options, one, two string) {
	t.Helper()
	s.renew(t)                 // purged IDs stay taken
	ids := map[string]string{} // by the name of what is theirs
	for _, id := range []string{one, two} {
		info, err := s.admin.AddTenant(t.Context(), registry.Tenant{ID: id, Model: model}, nil)
		if err != nil {
			continue
		}
		err = provision.Tenant(t.Context(), s.admin, id, opts)
		if model == resolver.ModelSchema && id == "template" { // its schema is everybody's
			require.ErrorIs(t, err, registry.ErrConflict)
			continue
		}
		var refused *pgconn.PgError
		require.NotErrorAs(t, err, &refused, "%q", id)
		require.NoError(t, err, "%q", id)
		name := map[resolver.Model]string{
			resolver.ModelSchema: info.Schema, resolver.ModelPartition: provision.PartitionName("events", id),
			resolver.ModelDatabase: info.Database,
		}[model]
		require.LessOrEqual(t, len(name), 63)
		require.NotContains(t, ids, name)
		ids[name] = id
		comment := "sharded-pg: tenant " + id
		if model == resolver.ModelDatabase {
			comment = "sharded-pg: tenants"
		}
		require.Equal(t, []string{comment}, ask(t, conn, made[model], name), "%q", id)
	}
	for name, id := range ids {
		require.NoError(t, s.admin.RemoveTenant(t.Context(), id))
		_, err := provision.Purge(t.Context(), s.admin, id, id, opts)
		require.NoError(t, err, "%q", id)
		require.Empty(t, ask(t, conn, made[model], name), "%q", id)
	}
}
