package shardedpg_test

import (
	"bytes"
	"context"
	"database/sql"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

var fenced = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks returns the fenced blocks of a document in one language.
func blocks(t *testing.T, file, language string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

func TestProgramOfTheReadmePrintsWhatItSays(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs a program")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte(blocks(t, "README.md", "go")[0]), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", file)
	cmd.Env = append(os.Environ(), "REGISTRY_DSN="+registryDSN())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.Equal(t, blocks(t, "README.md", "text")[0], string(got))
}

// documents are the pages for users, and what they say has to be true of the tree.
func documents(t *testing.T) []string {
	t.Helper()
	files := []string{"README.md"}
	require.NoError(t, filepath.WalkDir("docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	}))
	return files
}

func TestGoCodeInDocumentsIsGo(t *testing.T) {
	t.Parallel()
	for _, file := range documents(t) {
		for _, code := range blocks(t, file, "go") {
			switch {
			case strings.HasPrefix(code, "package "):
			case strings.HasPrefix(code, "func "):
				code = "package p\n" + code
			default:
				code = "package p\nfunc _() {\n" + code + "\n}"
			}
			_, err := parser.ParseFile(token.NewFileSet(), file, code, parser.AllErrors)
			require.NoError(t, err, code)
		}
	}
}

func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]+))?(?: "[^"]*")?\)`)
	others := []string{"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md", "cmd/tenantlint/README.md"}
	for _, file := range append(documents(t), others...) {
		for _, m := range link.FindAllStringSubmatch(prose(t, file), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := file
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(file), m[1])
			}
			_, err := os.Stat(target)
			require.NoError(t, err, "a link of %s", file)
			if m[2] != "" {
				require.Contains(t, anchors(t, target), m[2], "a link of %s to %s", file, target)
			}
		}
	}
}

// prose is a document without its blocks of code.
func prose(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return fenced.ReplaceAllString(string(text), "")
}

// anchors are the names by which the headings of a document can be linked to.
func anchors(t *testing.T, file string) (names []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(prose(t, file), -1) {
		plain := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(plain, " ", "-"))
	}
	return names
}

func TestOperationsPageNamesEveryErrorAndOption(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("docs", "operations.md"))
	require.NoError(t, err)
	errorsGo, err := os.ReadFile("errors.go")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^\t(Err\w+)\s+=`).FindAllStringSubmatch(string(errorsGo), -1) {
		require.Contains(t, string(page), "| `"+m[1]+"` |")
	}
	configGo, err := os.ReadFile("config.go")
	require.NoError(t, err)
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(sharded_\w+) `).FindAllStringSubmatch(string(configGo), -1) {
		listed = append(listed, m[1])
	}
	_, err = shardedpg.ParseDSN("postgres://localhost/?sharded_unknown=1")
	require.Error(t, err)
	options := regexp.MustCompile(`sharded_\w+`).FindAllString(err.Error(), -1)
	require.Greater(t, len(options), 1)
	for _, option := range options {
		if option != "sharded_unknown" {
			require.Contains(t, string(page), "| `"+option+"` |")
			require.Contains(t, listed, option, "the manual sends readers to ParseDSN")
		}
	}
}

func TestSQLOfTheOperationsPageKeepsTenantsApart(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "operations")
	database := server.NewDatabase(t)
	store, err := registry.Open(server.DSN("postgres", database), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Init(t.Context()))
	require.NoError(t, server.Exec(t.Context(), database, blocks(t, filepath.Join("docs", "operations.md"), "sql")...))
	require.NoError(t, store.PutShard(t.Context(), registry.Shard{Name: "eu", DSN: server.DSN("app", database)}))
	for _, tenant := range []registry.Tenant{
		{ID: "acme", Shard: "eu"}, {ID: "globex", Shard: "eu"}, {ID: "initech", Shard: "eu", Model: resolver.ModelSchema},
	} {
		require.NoError(t, store.PutTenant(t.Context(), tenant))
	}

	db, err := sql.Open("sharded-pg", server.DSN("router", database))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	tenants := []string{"acme", "globex", "initech"}
	for n, tenant := range tenants {
		for range n + 1 {
			_, err := db.ExecContext(shardedpg.WithTenant(t.Context(), tenant), "insert into orders (note) values ($1)", tenant)
			require.NoError(t, err)
		}
	}
	for n, tenant := range tenants {
		ctx := shardedpg.WithTenant(t.Context(), tenant)
		var rows int
		var first, last string
		require.NoError(t, db.QueryRowContext(ctx, "select count(*), min(note), max(note) from orders").Scan(&rows, &first, &last))
		require.Equal(t, n+1, rows)
		require.Equal(t, tenant, first)
		require.Equal(t, tenant, last)
	}
	_, err = db.ExecContext(shardedpg.WithTenant(t.Context(), "acme"), "select * from tenant_initech.orders")
	require.ErrorContains(t, err, "42501", "the login has no rights of a schema tenant but in its transactions")
}
