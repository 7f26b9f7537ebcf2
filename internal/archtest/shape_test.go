package archtest_test

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxLines   = 400
	maxMethods = 3
)

func TestFilesStayReadable(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if !f.test && !f.generated() && f.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: give one of its subjects a file of its own", f.path, f.lines, maxLines)
		}
	}
}

func TestPackagesAreNamedAfterWhatTheyDo(t *testing.T) {
	t.Parallel()
	vague := []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "base", "pkg", "manager", "shared"}
	seen := map[string]bool{}
	for _, f := range sources(t) {
		name := strings.TrimSuffix(f.syntax.Name.Name, "_test")
		if seen[f.dir+name] {
			continue
		}
		seen[f.dir+name] = true
		last := f.dir[strings.LastIndex(f.dir, "/")+1:]
		if slices.Contains(vague, name) || slices.Contains(vague, last) {
			t.Errorf("package %s in %s says nothing about its subject", name, f.dir)
		}
	}
}

func TestInterfacesAreSmall(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test || f.generated() {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			iface, ok := spec.Type.(*ast.InterfaceType)
			if !ok || f.dir == "registry" && spec.Name.Name == "Store" {
				return true
			}
			methods := 0
			for _, m := range iface.Methods.List {
				methods += max(len(m.Names), 1)
			}
			if methods > maxMethods {
				t.Errorf("%s: interface %s has %d methods, more than %d", f.at(spec.Pos()), spec.Name.Name, methods, maxMethods)
			}
			return true
		})
	}
}

func TestNolintNamesALinterAndAReason(t *testing.T) {
	t.Parallel()
	complete := regexp.MustCompile(`^//nolint:[a-z0-9,]+ // \S.*\S`)
	for _, f := range sources(t) {
		for _, group := range f.syntax.Comments {
			for _, c := range group.List {
				if text := strings.TrimLeft(c.Text, "/ "); strings.HasPrefix(text, "nolint") && !complete.MatchString(c.Text) {
					t.Errorf("%s: write //nolint:<linter> // <reason>", f.at(c.Pos()))
				}
			}
		}
	}
}
