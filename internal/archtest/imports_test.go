package archtest_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// leaves import nothing of this module outside their own folder, so that each of
// them can be read, tested and used alone.
var leaves = []string{"resolver", "limits", "rls", "internal/sqllex"}

// exceptions to the rule for leaves, importer to imported.
var exceptions = map[string][]string{
	"rls": {"resolver"}, // the settings of a flight are read off a resolver.Route
}

// serverPools may use pgx's pools and its database/sql layer.
var serverPools = []string{
	"internal/backend",
	"bench", "registry", "internal/pgtest", "internal/demo",
}

// controlPlane is never part of a program that only queries.
var controlPlane = []string{
	"registry/provision", "registry/health", "registry/fleetfile", "registry/singleserver",
	"rls/policy", "rls/audit", "verify", // what operators do with policies; the driver needs the texts of rls only
	"migrate", "move", "backup", "cmd", "bench", "conformance", "internal/pgtest", "internal/demo", "internal/hammer",
	"internal/suites", "internal/matrix",
}

// yamlOnly are the packages that parse YAML, for files that people keep under version control: a program that only queries,
// or audits without a file of waivers, links no parser.
var yamlOnly = []string{"registry/fleetfile", "rls/audit/waiverfile"}

// testOnly libraries must not reach the programs of our users.
var testOnly = []string{
	"github.com/stretchr/testify", "github.com/DATA-DOG/go-sqlmock", "pgregory.net/rapid", "go.uber.org/goleak",
	module + "/internal/pgtest",
}

// testCode reports whether a folder exists for tests.
func testCode(dir string) bool {
	return strings.HasSuffix(path.Base(dir), "test") || withinAny(dir, []string{"conformance", "bench", "internal/demo", "internal/hammer", "internal/suites", "internal/matrix"})
}

func TestLeavesImportNothingOfTheModule(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		for _, leaf := range leaves {
			if f.test || testCode(f.dir) || !within(f.dir, leaf) {
				continue
			}
			for _, imp := range f.imports() {
				dir, ours := ourDir(imp)
				if !ours || within(dir, leaf) || slices.Contains(exceptions[leaf], dir) {
					continue
				}
				t.Errorf("%s imports %s: packages below %s stand alone and take what they need as arguments", f.path, imp, leaf)
			}
		}
	}
}

func TestOnlyTheBackendPoolsConnections(t *testing.T) {
	t.Parallel()
	pools := []string{"github.com/jackc/pgx/v5/stdlib", "github.com/jackc/pgx/v5/pgxpool"}
	for _, f := range sources(t) {
		if f.test || f.nested || testCode(f.dir) || withinAny(f.dir, serverPools) {
			continue
		}
		for _, imp := range f.imports() {
			if slices.Contains(pools, imp) {
				t.Errorf("%s imports %s: connections to shards come from internal/backend only", f.path, imp)
			}
		}
	}
}

func TestTheDriverDoesNotImportControlPlaneWork(t *testing.T) {
	t.Parallel()
	driver := append([]string{"internal/backend", "httptenant"}, leaves...)
	for _, f := range sources(t) {
		// registry is linked by the driver, the packages below it are not.
		if f.test || testCode(f.dir) || withinAny(f.dir, controlPlane) || f.dir != "." && f.dir != "registry" && !withinAny(f.dir, driver) {
			continue
		}
		for _, imp := range f.imports() {
			if dir, ours := ourDir(imp); ours && withinAny(dir, controlPlane) {
				t.Errorf("%s imports %s: a program that only queries must not carry it", f.path, imp)
			}
		}
	}
}

func TestRootIsImportedByNoneOfItsParts(t *testing.T) {
	t.Parallel()
	parts := append([]string{"internal/backend", "registry"}, leaves...)
	for _, f := range sources(t) {
		if f.test || !withinAny(f.dir, parts) {
			continue
		}
		require.NotContains(t, f.imports(), module, "%s: only the root package turns a context into a tenant", f.path)
	}
}

func TestFewFoldersParseYAML(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test || f.nested || withinAny(f.dir, yamlOnly) {
			continue
		}
		for _, imp := range f.imports() {
			if strings.Contains(imp, "yaml") {
				t.Errorf("%s imports %s: YAML is read and written by %v", f.path, imp, yamlOnly)
			}
		}
	}
}

func TestTestLibrariesStayInTests(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test || testCode(f.dir) {
			continue
		}
		for _, imp := range f.imports() {
			for _, lib := range testOnly {
				if within(imp, lib) {
					t.Errorf("%s imports %s: it is for tests only", f.path, imp)
				}
			}
		}
	}
}

// ourDir returns the folder of a package of this module.
func ourDir(imp string) (dir string, ours bool) {
	if imp == module {
		return ".", true
	}
	return strings.CutPrefix(imp, module+"/")
}
