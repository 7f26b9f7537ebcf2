package hosts_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func parse(t *testing.T, dsn string) *pgconn.Config {
	t.Helper()
	cc, err := pgconn.ParseConfig(dsn)
	require.NoError(t, err)
	return cc
}

func TestEachHostHasItsPartOfTheTime(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]struct{ each, others time.Duration }{
		"host=a":                               {0, 0},
		"host=a connect_timeout=7":             {7 * time.Second, 0},
		"host=a,a,a sslmode=prefer":            {0, 0}, // one host, however often it is tried
		"host=a,b sslmode=prefer":              {hosts.Patience, hosts.Patience},
		"host=a,a port=1,2":                    {hosts.Patience, hosts.Patience},
		"host=a,b,c connect_timeout=1":         {time.Second, 2 * time.Second},
		"host=a,b,c,d,e,f,g,h,i,j":             {time.Second, 9 * time.Second},
		"host=a,b connect_timeout=60":          {5 * time.Second, 5 * time.Second},
		"postgres://a:1,b:2/db?sslmode=prefer": {hosts.Patience, hosts.Patience},
	} {
		cc := parse(t, dsn)
		cc.LookupFunc = func(_ context.Context, name string) ([]string, error) { return []string{name}, nil }
		_, others := new(hosts.Memory).Share(t.Context(), cc, 10*time.Second)
		require.Equal(t, want.others, others, dsn)
		require.Equal(t, want.each, cc.ConnectTimeout, dsn)
	}
}

func TestTheHostThatTookTheLastConnectionIsTriedFirst(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "hosts", TCP: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	_, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	proxy, err := pgtest.StartProxy(t.Context(), server)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
	socket, _ := proxy.Socket()
	m := new(hosts.Memory)
	connect := func(asks string) {
		cc := parse(t, "host="+socket+",one.invalid port=5432,"+port+" user=postgres dbname=postgres sslmode=disable "+asks)
		cc.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
		m.Share(t.Context(), cc, hosts.Limit)
		conn, err := pgconn.ConnectConfig(t.Context(), cc)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	}
	const primary = "target_session_attrs=read-write"
	connect(primary)
	require.Equal(t, 1, proxy.Accepted(), "in the order of the connection string")
	proxy.Refuse(true)
	connect(primary)
	proxy.Refuse(false)
	connect(primary)
	require.Equal(t, 1, proxy.Accepted(), "not the first host, which has failed since")
	connect("")
	require.Equal(t, 2, proxy.Accepted(), "whoever takes any host relies on the order")
}
