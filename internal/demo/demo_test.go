package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func TestDemoShowsEachTenantItsRowsServesAndStops(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts three servers and measures")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, in, "127.0.0.1:0", true)
		_ = in.Close()
		ended <- err
	}()

	url := regexp.MustCompile(`acme\.localhost' http://(\S+)/orders`)
	var text strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if m := url.FindStringSubmatch(lines.Text()); m != nil {
			client := newClient(m[1])
			status, body, err := client.do(ctx, "GET", "acme.localhost", "/orders", "")
			require.NoError(t, err)
			require.Equal(t, 200, status, body)
			require.Contains(t, body, `"item":"acme-1"`)
			client.http.CloseIdleConnections()
			cancel()
		}
	}
	require.NoError(t, <-ended, text.String())
	for _, c := range customers {
		require.Regexp(t, `(?m)^`+c.ID+` .* 0$`, text.String())
	}
	require.Contains(t, text.String(), "shardedpg: tenant: no tenant in the context")
	require.Contains(t, text.String(), "Stopping.")
}
