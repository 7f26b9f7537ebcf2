package pgtest_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// observed returns a plain pgx connection and the log of what it sends.
func observed(t *testing.T) (*pgx.Conn, *pgtest.WireLog) {
	t.Helper()
	proxy := startProxy(t, pgtest.Shared(t, "b"))
	t.Cleanup(func() { require.NoError(t, proxy.Log().Err()) })
	return connect(t, proxy.DSN("postgres", "postgres")), proxy.Log()
}

func types(log *pgtest.WireLog) []string {
	var all []string
	for _, flight := range log.Flights() {
		all = append(all, flight.Types())
	}
	return all
}

func TestStartUpIsNotAFlight(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	require.Empty(t, log.Flights())
	require.NoError(t, conn.Close(t.Context()))
	require.Empty(t, log.Flights())
}

func TestCachedStatementIsOneFlight(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	query := func() {
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "select $1::int4 + length($2::text)", 1, "acme").Scan(&n))
		require.Equal(t, 5, n)
	}
	query()
	require.Equal(t, []string{"PDS", "BES"}, types(log))
	parse := log.Flights()[0].Messages[0]
	require.Equal(t, "select $1::int4 + length($2::text)", parse.SQL)
	log.Reset()
	query()
	flights := log.Flights()
	require.Len(t, flights, 1)
	require.Equal(t, pgtest.Message{Type: 'B', Name: parse.Name, Params: []string{`\x00000001`, "acme"}}, flights[0].Messages[0])
	require.Equal(t, pgtest.Message{Type: 'E', Name: parse.Name}, flights[0].Messages[1])
	require.Positive(t, flights[0].Bytes)
}

func TestExecWithoutArgumentsIsOneQueryFlight(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	_, err := conn.Exec(t.Context(), "select 1; select 2")
	require.NoError(t, err)
	require.Equal(t, []string{"Q"}, types(log))
	require.Equal(t, []string{"select 1; select 2"}, log.Flights()[0].SQL())
	require.Equal(t, `conn 1: Query("select 1; select 2") (24 bytes)`, log.Flights()[0].String())
}

func TestTransactionOfPlainPgxIsAFlightPerStep(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, []string{"Q", "Q"}, types(log))
	require.Equal(t, []string{"commit"}, log.Flights()[1].SQL())
}

func TestBatchIsOneFlight(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	run := func() {
		batch := &pgx.Batch{}
		for range 50 {
			batch.Queue("select $1::text", strings.Repeat("x", 500))
		}
		require.NoError(t, conn.SendBatch(t.Context(), batch).Close())
	}
	run()
	log.Reset()
	run()
	require.Len(t, log.Flights(), 1)
}

func TestCopyIsCounted(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	_, err := conn.Exec(t.Context(), "create temp table copied (id int)")
	require.NoError(t, err)
	log.Reset()
	_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader("1\n2\n"), "copy copied from stdin")
	require.NoError(t, err)
	// pgx does not wait for the server's CopyInResponse, so the data may follow in the same flight.
	require.Equal(t, "Qdc", strings.Join(types(log), ""))
}

func TestCancelRequestIsCounted(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "select pg_sleep(60)")
		done <- err
	}()
	require.Eventually(t, func() bool { return len(log.Flights()) == 1 }, 10*time.Second, time.Millisecond)
	// The request may come before the server has begun, and then does nothing.
	require.Eventually(t, func() bool {
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		select {
		case err := <-done:
			require.ErrorContains(t, err, "57014")
			return true
		default:
			return false
		}
	}, 10*time.Second, 20*time.Millisecond)
	require.Positive(t, log.Cancels())
	require.Len(t, log.Flights(), 1)
}

func TestEncryptionOfferIsUnderstood(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, pgtest.Shared(t, "b"))
	// pgx asks for TLS only over TCP; the server without certificates answers N and goes on in the clear.
	config, err := pgx.ParseConfig("host=127.0.0.1 user=postgres dbname=postgres sslmode=prefer")
	require.NoError(t, err)
	dir, port := proxy.Socket()
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("%s/.s.PGSQL.%d", dir, port))
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	require.NoError(t, conn.Ping(t.Context()))
	require.Len(t, proxy.Log().Flights(), 1)
	require.NoError(t, proxy.Log().Err())
}

func TestRecordOffForgetsNothingOfTheProtocol(t *testing.T) {
	t.Parallel()
	conn, log := observed(t)
	log.Record(false)
	require.NoError(t, conn.Ping(t.Context()))
	require.Empty(t, log.Flights())
	log.Record(true)
	require.NoError(t, conn.Ping(t.Context()))
	require.Len(t, log.Flights(), 1)
}
