// Package compat_test writes docs/compatibility.md from the recipes, and fails when it differs from them:
//
//	go test ./compat -update    runs the tests of all recipes, and writes the page when they pass
package compat_test

import (
	_ "embed"
	"flag"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "run the recipes' tests and write docs/compatibility.md")

//go:embed common.md
var common string

// recipe is a folder next to this one.
type recipe struct {
	title, folder string
	modules       []string // whose versions matter
}

var recipes = []recipe{
	{"net/http and database/sql", "quickstart", nil},
	{"GORM", "gorm", []string{"gorm.io/gorm", "gorm.io/driver/postgres"}},
	{"sqlx", "sqlx", []string{"github.com/jmoiron/sqlx"}},
	{"bun", "bun", []string{"github.com/uptrace/bun"}},
	{"ent", "ent", []string{"entgo.io/ent"}},
	{"sqlc", "sqlc", []string{"github.com/sqlc-dev/sqlc"}},
	{"goose", "goose", []string{"github.com/pressly/goose/v3"}},
	{"River", "river", []string{"github.com/riverqueue/river"}},
	{"chi, echo, gin, gRPC, JWT, errgroup", "middleware", []string{
		"github.com/go-chi/chi/v5", "github.com/labstack/echo/v4", "github.com/gin-gonic/gin", "google.golang.org/grpc",
		"github.com/golang-jwt/jwt/v5", "golang.org/x/sync",
	}},
}

func TestThePageSaysWhatTheRecipesDo(t *testing.T) {
	t.Parallel()
	page := filepath.Join("..", "..", "docs", "compatibility.md")
	if *update {
		runRecipes(t)
		require.NoError(t, os.WriteFile(page, []byte(render(t)), 0o644))
	}
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, render(t), string(got), "run in examples: go test ./compat -update")
}

// runRecipes fails unless every test that the page will name has passed.
func runRecipes(t *testing.T) {
	t.Helper()
	args := []string{"test", "-race"} // as script/test runs them, so that results may be cached
	for _, r := range recipes {
		args = append(args, "../"+r.folder)
	}
	out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestRecipesSkipNothing(t *testing.T) {
	t.Parallel()
	for _, r := range recipes {
		for _, f := range r.files(t, "_test.go") {
			ast.Inspect(f, func(n ast.Node) bool {
				if call, ok := n.(*ast.SelectorExpr); ok {
					require.NotContains(t, call.Sel.Name, "Skip", r.folder)
				}
				return true
			})
		}
	}
}

func render(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("<!-- Written by the tests in examples/compat from the recipes; edit those. -->\n\n")
	b.WriteString(common)
	for _, r := range recipes {
		fmt.Fprintf(&b, "## %s\n\nRecipe: [examples/%s](../examples/%s)", r.title, r.folder, r.folder)
		if len(r.modules) > 0 {
			var versions []string
			for _, module := range r.modules {
				versions = append(versions, "`"+module+"` "+r.version(t, module))
			}
			b.WriteString(". Tested with " + strings.Join(versions, ", "))
		}
		b.WriteString(".\n\n")
		if opening := r.opening(t); opening != "" {
			fmt.Fprintf(&b, "```go\n%s\n```\n\n", opening)
		}
		b.WriteString("What the tests show:\n\n")
		for _, name := range r.tests(t) {
			fmt.Fprintf(&b, "- %s\n", sentence(name))
		}
		fmt.Fprintf(&b, "\nWhat to know:\n\n%s\n", r.toKnow(t))
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// files parses the recipe's own files whose names end in suffix.
func (r recipe) files(t *testing.T, suffix string) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", r.folder, "*"+suffix))
	require.NoError(t, err)
	require.NotEmpty(t, names, r.folder)
	for _, name := range names {
		if suffix == ".go" && strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, f)
	}
	return files
}

// version is what go.mod requires; sqlc is no module that anything links, and its version is in the command that runs it.
func (r recipe) version(t *testing.T, module string) string {
	t.Helper()
	for file, pattern := range map[string]string{
		filepath.Join("..", "go.mod"):                `(?m)^\s+` + regexp.QuoteMeta(module) + ` (v\S+)`,
		filepath.Join("..", r.folder, "generate.go"): regexp.QuoteMeta(module) + `/cmd/\w+@(v\S+)`,
	} {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		if m := regexp.MustCompile(pattern).FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	t.Fatalf("nothing says which version of %s recipe %s uses", module, r.folder)
	return ""
}

// opening is the source of the recipe's function open.
func (r recipe) opening(t *testing.T) string {
	t.Helper()
	name := filepath.Join("..", r.folder, "main.go")
	text, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return ""
	}
	require.NoError(t, err)
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, 0)
	require.NoError(t, err)
	for _, decl := range f.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Name.Name == "open" {
			return string(text[fset.Position(fn.Pos()).Offset:fset.Position(fn.End()).Offset])
		}
	}
	t.Fatalf("%s has no function open", name)
	return ""
}

// tests are the names of the recipe's tests, in the order of the source.
func (r recipe) tests(t *testing.T) (names []string) {
	t.Helper()
	for _, f := range r.files(t, "_test.go") {
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				names = append(names, strings.TrimPrefix(fn.Name.Name, "Test"))
			}
		}
	}
	return names
}

// toKnow is the list under "What to know" in the recipe's package comment.
func (r recipe) toKnow(t *testing.T) string {
	t.Helper()
	for _, f := range r.files(t, ".go") {
		if f.Doc == nil {
			continue
		}
		doc := new(comment.Parser).Parse(f.Doc.Text())
		at := slices.IndexFunc(doc.Content, func(b comment.Block) bool {
			heading, ok := b.(*comment.Heading)
			return ok && len(heading.Text) == 1 && heading.Text[0] == comment.Plain("What to know")
		})
		if at >= 0 {
			printer := comment.Printer{DocLinkURL: func(link *comment.DocLink) string { return path.Join("https://pkg.go.dev", link.ImportPath) }}
			text := string(printer.Markdown(&comment.Doc{Content: doc.Content[at+1:]}))
			return regexp.MustCompile(`(?m)^  - `).ReplaceAllString(text, "- ")
		}
	}
	t.Fatalf("the package comment of %s does not say what to know", r.folder)
	return ""
}

// sentence turns the name of a test into words: "ATokenIsRead" into "a token is read".
func sentence(name string) string {
	runes := []rune(name)
	var words []string
	start := 0
	for n := 1; n <= len(runes); n++ {
		// A word ends before a capital, except inside a run of capitals.
		if n < len(runes) && (!unicode.IsUpper(runes[n]) || unicode.IsUpper(runes[n-1]) && (n+1 == len(runes) || unicode.IsUpper(runes[n+1]))) {
			continue
		}
		word := string(runes[start:n])
		if len(word) == 1 || word != strings.ToUpper(word) {
			word = strings.ToLower(word)
		}
		words = append(words, word)
		start = n
	}
	return strings.Join(words, " ")
}

func TestNamesBecomeSentences(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"ATokenIsRead":                 "a token is read",
		"GRPCCallsHaveTheirTenant":     "GRPC calls have their tenant",
		"SavingNeedsAKeyOfTheIDAlone":  "saving needs a key of the ID alone",
		"WithoutATenantNothingRuns":    "without a tenant nothing runs",
		"SavepointsUndoAPart":          "savepoints undo a part",
		"TheGinContextItselfHasNoneID": "the gin context itself has none ID",
	} {
		require.Equal(t, want, sentence(name))
	}
}
