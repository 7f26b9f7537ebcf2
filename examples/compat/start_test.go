package compat_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/examples/shop"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// TestTheProgramsOfGettingStartedPrintWhatThePageSays does what the page says, with the modules of this workspace instead
// of a new one.
func TestTheProgramsOfGettingStartedPrintWhatThePageSays(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs two programs")
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "getting-started.md"))
	require.NoError(t, err)
	blocks := map[string][]string{}
	for _, m := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	require.Len(t, blocks["go"], 2)
	require.Len(t, blocks["text"], 1)

	server := pgtest.Shared(t, "start")
	ctx := t.Context()
	require.NoError(t, server.Exec(ctx, "postgres", shop.RolesSQL, "create database shop_control", "create database shop_eu", "create database shop_us"))
	require.NoError(t, server.Exec(ctx, "shop_eu", shop.SharedSQL))
	require.NoError(t, server.Exec(ctx, "shop_us", shop.SharedSQL))
	folder, port := server.Socket()

	run := func(program string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "main.go")
		require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
		cmd := exec.CommandContext(ctx, "go", "run", file)
		cmd.Env = append(os.Environ(), "PGHOST="+folder, "PGPORT="+strconv.Itoa(port), "PGUSER=postgres", "APP_PASSWORD=none-is-asked-for")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		return string(out)
	}
	run(blocks["go"][0])
	run(blocks["go"][0]) // it may run again
	require.Equal(t, blocks["text"][0], run(blocks["go"][1]))
	require.Equal(t, blocks["text"][0], run(blocks["go"][1]), "and so may the program")
}
