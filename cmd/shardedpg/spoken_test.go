package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// goNames finds words with which only a Go program can do something.
var goNames = regexp.MustCompile(`\b(?:\w+\.[A-Z]\w+|[A-Z][a-z]+[A-Z]\w*|Err[A-Z]\w+|Init\b)`)

// others look like one.
var others = strings.NewReplacer("PostgreSQL", "", "PgBouncer", "", "SQLSTATE", "")

// unseen begins a text that no command leads to.
const unseen = "%w: shard %q: UpdateShard changes neither name nor DSN"

// Errors of the library name functions for Go programs. Each one that an operator can get is spoken in commands.
func TestErrorsOfTheLibraryAreSpokenInCommands(t *testing.T) {
	t.Parallel()
	texts := 0
	for _, folder := range []string{"registry", "registry/provision", "registry/health", "registry/fleetfile"} {
		files, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			require.NoError(t, err)
			for _, text := range errorTexts(parsed) {
				texts++
				if !strings.HasPrefix(text, unseen) {
					require.Empty(t, goNames.FindString(others.Replace(speak(text))), "%s: %q", file, speak(text))
				}
			}
		}
	}
	require.Greater(t, texts, 100, "the texts were found")
}

// errorTexts returns the texts that calls of Errorf, New, add, problem and warning are given.
func errorTexts(file *ast.File) (texts []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := ""
		switch f := call.Fun.(type) {
		case *ast.SelectorExpr:
			name = f.Sel.Name
		case *ast.Ident:
			name = f.Name
		}
		switch name {
		case "Errorf", "New", "add", "problem", "warning", "refuse", "shardInUse":
			for _, argument := range call.Args {
				texts = append(texts, literals(argument)...)
			}
		}
		return true
	})
	return texts
}

// literals joins the parts of a text that is written as several.
func literals(e ast.Expr) []string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return []string{text}
		}
	case *ast.BinaryExpr:
		left, right := literals(e.X), literals(e.Y)
		if len(left) == 1 && len(right) == 1 {
			return []string{left[0] + right[0]}
		}
		return append(left, right...)
	}
	return nil
}

// Customers may choose IDs, and operators paste the commands that are proposed to them.
func TestProposedCommandsNameTheTenantAndNothingElse(t *testing.T) {
	t.Parallel()
	f := ready(t)
	for _, id := range []string{"acme", "müller-日本", "$(echo)", "a|cat", "a&true", "a>b", "~", "*", "a#b", "!x", "a=b"} {
		proposed := []string{f.run(t, "", "tenant", "add", id, "--no-provision").notes, f.run(t, "", "tenant", "show", id).notes, f.run(t, "", "tenant", "enable", id).notes}
		for _, text := range proposed {
			_, command, found := strings.Cut(text, "shardedpg tenant provision ")
			require.True(t, found, text)
			words, err := exec.CommandContext(t.Context(), "bash", "-c", "cd /; printf '%s|' "+command).Output()
			require.NoError(t, err, text)
			require.Equal(t, id+"|", string(words), text)
		}
		throttled := f.run(t, "", "tenant", "throttle", id).notes
		require.Regexp(t, `shardedpg tenant kill (\S+) ends it; shardedpg tenant throttle (\S+) --clear`, throttled)
		require.Equal(t, strings.Contains(proposed[0], "'"), strings.Contains(throttled, "kill '"+id+"' ends"), throttled)
	}
}
