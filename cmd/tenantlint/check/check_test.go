package check_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/sharded-pg/sharded-pg/cmd/tenantlint/check"
)

// readsSources skips a test that reads the sources of all that the examples import, the standard library's included.
func readsSources(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes a while")
	}
}

func TestFindingsAreThoseOfTheExamples(t *testing.T) {
	readsSources(t)
	t.Parallel()
	for name, c := range map[string]struct {
		cfg   check.Config
		flags map[string]string
		pkgs  []string
	}{
		"by default":   {check.Config{Allow: []string{"other", "adm", "admin/x/..."}}, nil, []string{"handlers", "handles", "plain", "libraries", "admin"}},
		"with unknown": {check.Config{Unknown: true}, nil, []string{"everything"}},
		"with flags": {
			check.Config{},
			map[string]string{"packages": "some/thing,every*", "allow": "admin,allowed/...", "with-tests": "true"},
			[]string{"everything", "allowed/below", "tests"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := check.New(&c.cfg)
			for flag, value := range c.flags {
				if err := a.Flags.Set(flag, value); err != nil {
					t.Fatal(err)
				}
			}
			analysistest.Run(t, analysistest.TestData(), a, c.pkgs...)
		})
	}
}

// silent collects what analysistest would call unexpected.
type silent struct{ errors []string }

func (s *silent) Errorf(format string, _ ...any) { s.errors = append(s.errors, format) }

func TestTestsAreLeftAloneUnlessAskedFor(t *testing.T) {
	readsSources(t)
	t.Parallel()
	var s silent
	for _, result := range analysistest.Run(&s, analysistest.TestData(), check.New(&check.Config{}), "tests") {
		if len(result.Diagnostics) > 0 {
			t.Errorf("%v", result.Diagnostics)
		}
	}
}

// The examples have a driver of their own, with the names that the linter asks for.
func TestTheDriverHasTheNamesThatAreAskedFor(t *testing.T) {
	t.Parallel()
	api, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "api.txt"))
	if err != nil {
		t.Fatal(err)
	}
	stub, err := os.ReadFile(filepath.Join("testdata", "src", "github.com", "sharded-pg", "sharded-pg", "shardedpg.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`func (?:\(.*\) )?([A-Z]\w+)`).FindAllStringSubmatch(string(stub), -1)
	if len(names) < 7 {
		t.Fatal(names)
	}
	for _, m := range names {
		if !strings.Contains(string(api), m[1]+"(") {
			t.Errorf("the driver has no %s", m[1])
		}
	}
}
