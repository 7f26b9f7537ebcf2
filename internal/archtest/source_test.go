// Package archtest holds the rules of the code base that a program can check:
// who may import whom, how long a file gets, and what the root package exports.
// It reads source text only, so it reports while a package does not compile yet.
package archtest_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/sharded-pg/sharded-pg"

var update = flag.Bool("update", false, "rewrite docs/api.txt")

// root is the top of the repository, seen from this directory.
var root = filepath.Join("..", "..")

// source is one Go file of the repository.
type source struct {
	path   string // slash-separated, from the top of the repository
	dir    string // "." for the root package
	nested bool   // part of a nested module
	test   bool   // a _test.go file
	lines  int
	syntax *ast.File
	fset   *token.FileSet
}

// imports returns the import paths of the file.
func (s source) imports() (paths []string) {
	for _, spec := range s.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// at names a place in the file for a message.
func (s source) at(pos token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(pos).Line)
}

// generated files are nobody's to shorten.
func (s source) generated() bool { return ast.IsGenerated(s.syntax) }

var load = sync.OnceValues(func() (files []source, err error) {
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if name != root && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "vendor") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(base) != ".go" {
			return nil
		}
		file, err := parse(name)
		if err != nil {
			return err
		}
		files = append(files, file)
		return nil
	})
	return files, err
})

func parse(name string) (source, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return source{}, err
	}
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	rel, err := filepath.Rel(root, name)
	if err != nil {
		return source{}, err
	}
	rel = filepath.ToSlash(rel)
	return source{
		path:   rel,
		dir:    path.Dir(rel),
		nested: inNestedModule(path.Dir(rel)),
		test:   strings.HasSuffix(rel, "_test.go"),
		lines:  strings.Count(string(text), "\n"),
		syntax: syntax,
		fset:   fset,
	}, nil
}

func inNestedModule(dir string) bool {
	for ; dir != "."; dir = path.Dir(dir) {
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(dir), "go.mod")); err == nil {
			return true
		}
	}
	return false
}

// sources returns all Go files of the repository, nested modules included.
func sources(t *testing.T) []source {
	t.Helper()
	files, err := load()
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// within reports whether dir is top or below it.
func within(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }

func withinAny(dir string, tops []string) bool {
	for _, top := range tops {
		if within(dir, top) {
			return true
		}
	}
	return false
}
