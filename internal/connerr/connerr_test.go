package connerr_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func connect(t *testing.T, dsn string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err == nil {
		_ = conn.Close(t.Context())
	}
	require.Error(t, err)
	return connerr.Reason(err)
}

func TestAServerThatIsDownIsNamedOnceWithoutTheDSN(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{TCP: true})
	require.NoError(t, err)
	address := server.Addr()
	require.NoError(t, server.Stop())
	host, port, _ := strings.Cut(address, ":")
	err = connect(t, "host="+host+" port="+port+" user=nobody password=opensesame dbname=secret") // with TLS, and without
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Equal(t, 1, strings.Count(err.Error(), "connection refused"), err.Error())
	for _, hidden := range []string{"nobody", "opensesame", "secret", "\n"} {
		require.NotContains(t, err.Error(), hidden)
	}

	err = connect(t, "host="+host+","+host+" port="+port+",1 user=nobody sslmode=disable")
	require.Equal(t, 2, strings.Count(err.Error(), "connection refused"), "two servers are two reasons")
	require.NotContains(t, err.Error(), "\n")
}

func TestWhatAServerAnsweredIsKept(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	var answer *pgconn.PgError
	require.ErrorAs(t, connect(t, server.DSN("postgres", "nowhere")), &answer)
	require.Equal(t, "3D000", answer.Code)
	other := errors.New("other")
	require.Equal(t, other, connerr.Reason(other))
}

func TestEachNameThatDoesNotResolveIsSaidOnce(t *testing.T) {
	t.Parallel()
	for hosts, want := range map[string]string{
		"one": "lookup one: no such host", "one,two": "lookup one: no such host; lookup two: no such host",
	} {
		cfg, err := pgx.ParseConfig("user=nobody dbname=secret host=" + hosts) // with TLS, and without
		require.NoError(t, err)
		cfg.LookupFunc = func(_ context.Context, name string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		}
		_, err = pgx.ConnectConfig(t.Context(), cfg)
		for _, says := range []func(error) error{connerr.Reason, connerr.Hosts} {
			require.EqualError(t, says(err), want)
			var dns *net.DNSError
			require.ErrorAs(t, says(err), &dns)
		}
	}
}
