package archtest_test

import (
	"bytes"
	"go/ast"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const maxExports = 40

// The exported surface is a file, so that each addition is a line in a review.
func TestExportedSurfaceIsTheReviewedOne(t *testing.T) {
	t.Parallel()
	lines, names := surface(t)
	if len(names) == 0 {
		t.Skip("the root package exports nothing")
	}
	require.LessOrEqual(t, len(names), maxExports, "the root package exports %v", names)

	file := filepath.Join(root, "docs", "api.txt")
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got,
		"the exported surface changed; if that is meant, run: go test ./internal/archtest -update")
}

// surface returns the exported declarations of the root package, one a line, and
// the names that it exports.
func surface(t *testing.T) (lines, names []string) {
	t.Helper()
	for _, f := range sources(t) {
		if f.test || f.dir != "." {
			continue
		}
		for _, decl := range f.syntax.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if line, name := function(f, d); line != "" {
					lines = append(lines, line)
					if name != "" {
						names = append(names, name)
					}
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					l, n := declared(f, d.Tok, spec)
					lines, names = append(lines, l...), append(names, n...)
				}
			}
		}
	}
	slices.Sort(lines)
	slices.Sort(names)
	return slices.Compact(lines), slices.Compact(names) // a name may have one file per platform
}

// function describes an exported function, or an exported method of an exported
// type, which has no name of its own.
func function(f source, d *ast.FuncDecl) (line, name string) {
	if !d.Name.IsExported() {
		return "", ""
	}
	signature := strings.TrimPrefix(text(f, d.Type), "func")
	if d.Recv == nil {
		return "func " + d.Name.Name + signature, d.Name.Name
	}
	recv := text(f, d.Recv.List[0].Type)
	if !ast.IsExported(strings.TrimLeft(recv, "*")) {
		return "", ""
	}
	return "method (" + recv + ") " + d.Name.Name + signature, ""
}

func declared(f source, tok token.Token, spec ast.Spec) (lines, names []string) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if n.IsExported() {
				lines, names = append(lines, tok.String()+" "+n.Name), append(names, n.Name)
			}
		}
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return nil, nil
		}
		names = []string{s.Name.Name}
		name := s.Name.Name
		if s.Assign.IsValid() {
			name += " ="
		}
		switch typ := s.Type.(type) {
		case *ast.StructType:
			lines = append(lines, "type "+name+" struct")
			lines = append(lines, members(f, "field "+s.Name.Name+".", typ.Fields)...)
		case *ast.InterfaceType:
			lines = append(lines, "type "+name+" interface")
			lines = append(lines, members(f, "field "+s.Name.Name+".", typ.Methods)...)
		default:
			lines = append(lines, "type "+name+" "+text(f, typ))
		}
	}
	return lines, names
}

func members(f source, prefix string, list *ast.FieldList) (lines []string) {
	for _, m := range list.List {
		typ := text(f, m.Type)
		if len(m.Names) == 0 {
			lines = append(lines, prefix+"(embedded) "+typ)
		}
		for _, n := range m.Names {
			if n.IsExported() {
				lines = append(lines, prefix+n.Name+" "+typ)
			}
		}
	}
	return lines
}

// text prints a piece of syntax on one line.
func text(f source, node ast.Node) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, f.fset, node); err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
