package health_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/health"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func TestAHealthyShardHasNoProblems(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{
		"wal_level": "logical", "max_connections": "30", "superuser_reserved_connections": "5",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", `create role app login`))
	shard := registry.Shard{Name: "s1", DSN: server.DSN("app", "postgres"), AdminDSN: server.DSN("postgres", "postgres")}
	report := health.Check(t.Context(), shard, &health.Options{
		Timeout: time.Minute, MinFreeDisk: 10, FreeDisk: func(context.Context, string) (int64, error) { return 11, nil },
	})
	require.Empty(t, report.Problems)
	require.Empty(t, report.Warnings)
	require.True(t, report.Reachable)
	require.Equal(t, "logical", report.WALLevel)
	require.Equal(t, 30, report.MaxConns)
	require.Equal(t, 25, report.Slots)
	require.Greater(t, report.FreeConns, 15)
	require.Less(t, report.FreeConns, 25, "we hold one")
	require.Greater(t, report.Bytes, int64(1e6))
	require.Equal(t, server.Major(), report.Version/10000)
	require.Less(t, report.Clock.Abs(), time.Second, "it is the same clock")
}

func TestSeveralHostsHaveToSayWhichOneIsWanted(t *testing.T) {
	t.Parallel()
	primary, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = primary.Stop() })
	require.NoError(t, primary.Exec(t.Context(), "postgres", `create role app login`))
	standby, err := pgtest.StartStandby(t.Context(), primary, pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = standby.Stop() })
	for asks, problems := range map[string]int{" target_session_attrs=read-write": 0, "": 2} {
		shard := registry.Shard{
			Name: "s1", DSN: pgtest.HostsDSN("app", "postgres", standby, primary) + asks,
			AdminDSN: pgtest.HostsDSN("postgres", "postgres", standby, primary) + asks,
		}
		report := health.Check(t.Context(), shard, &health.Options{Timeout: time.Minute})
		require.Len(t, report.Problems, problems, report.Problems)
		if problems > 0 {
			require.Contains(t, report.Problems[0], "add target_session_attrs=read-write")
			require.Contains(t, report.Problems[1], "is a replica")
		}
	}
}

func TestReservedConnectionsAreNotFree(t *testing.T) {
	t.Parallel()
	majors, err := pgtest.Majors(t.Context())
	require.NoError(t, err)
	newest, free := slices.Max(majors), 27 // three are a superuser's
	settings := map[string]string{"max_connections": "30"}
	if newest >= 16 {
		settings["reserved_connections"] = "4"
		free -= 4
	}
	server, err := pgtest.Start(t.Context(), pgtest.Options{Major: newest, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	dsn := server.DSN("postgres", "postgres")
	require.Equal(t, free, health.Check(t.Context(), registry.Shard{Name: "s1", DSN: dsn, AdminDSN: dsn}, nil).Slots)
}

func TestALoginThatTheDriverRefusesToSchemaTenantsIsAProblem(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	database := server.NewDatabase(t, "create role app login noinherit", "create role tenant_a", "grant tenant_a to app", "create schema tenant_a",
		"create role b", "grant b to app", "comment on role b is 'sharded-pg: tenant b'", "create role readers", "grant readers to app", "create schema readers")
	shard := registry.Shard{Name: "s1", DSN: server.DSN("app", database), AdminDSN: server.DSN("postgres", database)}
	for _, c := range []struct{ change, problem string }{
		{"alter role app noinherit", ""},
		{"alter role app inherit", "rights of the roles b, tenant_a without becoming them"},
		{"revoke tenant_a from app", "rights of the roles b without"},
		{"revoke b from app", ""},
		{"alter role app set role = 'readers'", "makes the login of its DSN another role"},
	} {
		require.NoError(t, server.Exec(t.Context(), database, c.change))
		report := health.Check(t.Context(), shard, &health.Options{Timeout: time.Minute})
		if c.problem == "" {
			require.Empty(t, report.Problems, c.change)
			continue
		}
		require.Len(t, report.Problems, 1, c.change)
		require.Contains(t, report.Problems[0], c.problem)
	}
}

func TestEachProblemIsNamed(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	const name = "owner"
	database := server.NewDatabase(t, `create role `+name+` login bypassrls`, `create table t (tenant_id text)`,
		`alter table t enable row level security`, `alter table t owner to `+name)
	shard := registry.Shard{Name: "s1", DSN: server.DSN(name, database), AdminDSN: server.DSN("postgres", database), MaxBytes: 1}
	report := health.Check(t.Context(), shard, &health.Options{
		Timeout: time.Minute, MinFree: 1 << 20, MinVersion: 99, MaxClock: time.Nanosecond, MinFreeDisk: 12,
		FreeDisk: func(context.Context, string) (int64, error) { return 11, nil },
	})
	text := fmt.Sprint(report.Problems)
	for _, problem := range []string{
		"has BYPASSRLS", "owns tables", "oldest supported major is 99", "more than its max bytes 1", "connections are free",
		"11 bytes of its disk",
	} {
		require.Contains(t, text, problem)
	}
	require.NotContains(t, text, "is a superuser")
	require.Equal(t, []string{"its wal_level is replica: tenants cannot be moved while they write; set it to logical and restart the server"}, report.Warnings)
	require.NotContains(t, text, "wal_level", "a server comes with it")
	shard.AdminDSN = ""
	report = health.Check(t.Context(), shard, &health.Options{Timeout: time.Minute, FreeDisk: func(context.Context, string) (int64, error) {
		return 0, errors.New("the provider is down")
	}})
	require.Contains(t, fmt.Sprint(report.Problems), "no admin DSN")
	require.Contains(t, fmt.Sprint(report.Problems), "the provider is down")
}

func TestAnUnreachableShardIsAReportWithoutItsDSN(t *testing.T) {
	t.Parallel()
	for dsn, text := range map[string]string{
		"host=/nonexistent password=opensesame":        "its DSN does not work",
		"host=x password=opensesame sslmode=maybe":     "no PostgreSQL URL",
		"password=opensesame${SHARDEDPG_HEALTH_UNSET}": "SHARDEDPG_HEALTH_UNSET is not set",
	} {
		report := health.Check(t.Context(), registry.Shard{Name: "s1", DSN: dsn}, nil)
		require.False(t, report.Reachable)
		require.Len(t, report.Problems, 1)
		require.Contains(t, report.Problems[0], text)
		require.NotContains(t, report.Problems[0], "opensesame")
	}
}
