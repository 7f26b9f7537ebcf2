package mutants_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/mutants"
)

func TestMutantsFitTheCode(t *testing.T) {
	t.Parallel()
	root, err := mutants.Root()
	require.NoError(t, err)
	for _, m := range append(mutants.Table(), mutants.Barriers()...) {
		sources, err := m.Sources(root)
		require.NoError(t, err)
		require.NotEmpty(t, sources)
	}
}

// A run ends at the first finding, so these are the times of mutants that nobody finds.
const (
	longest  = "90s"
	patience = 5 * time.Minute
)

// TestEveryMutantIsFound is not parallel: a busy machine makes the hammer slow.
func TestEveryMutantIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers and a compiler; run without -short")
	}
	root, err := mutants.Root()
	require.NoError(t, err)
	for _, m := range mutants.Table() {
		t.Run(m.Name, func(t *testing.T) {
			b := build(t, m, root)
			t.Run("by the hammer", func(t *testing.T) { b.foundByHammer(t, m) })
			t.Run("by the conformance suite", func(t *testing.T) { b.foundBySuite(t, m) })
		})
	}
	t.Run("the driver as it is", func(t *testing.T) { // the suite on it is conformance's own test
		b := build(t, mutants.Mutant{Name: "none"}, root)
		out, err := b.hammer(t, "", "-hammer.time=6s")
		require.NoError(t, err, out)
	})
}

// built are the programs of one mutant.
type built struct{ root, dir string }

func build(t *testing.T, m mutants.Mutant, root string) built {
	t.Helper()
	b := built{root, t.TempDir()}
	require.NoError(t, m.Build(t.Context(), root, b.dir, "./internal/hammer", "./conformance"))
	return b
}

func (b built) foundByHammer(t *testing.T, m mutants.Mutant) {
	if m.Test != "" {
		out, err := b.hammer(t, m.Test)
		require.Error(t, err, "nothing notices that this rule is gone:\n%s", out)
		require.Contains(t, out, "--- FAIL: "+m.Test)
		return
	}
	span := longest
	if m.AtEnd {
		span = "8s"
	}
	out, err := b.hammer(t, "TestHammer", "-hammer.time="+span, "-hammer.phases="+m.Phase)
	require.Error(t, err, "nothing notices that this rule is gone:\n%s", out)
	require.Contains(t, out, "ISOLATION:", "the mutant fails, but not for mixing tenants up")
	logLines(t, out, "ISOLATION:")
}

// foundBySuite runs the mutant's category only, and only until something fails in it.
func (b built) foundBySuite(t *testing.T, m mutants.Mutant) {
	args := []string{"-conformance.pooler=direct"}
	if !m.Direct() {
		args = []string{"-conformance.pooler=transaction", "-conformance.mode=exec"}
	}
	out, err := b.run(t, "conformance", append(args, "-test.failfast", "-test.run=^TestConformance$/^"+m.Category+"$")...)
	require.Error(t, err, "the category %s does not notice that this rule is gone:\n%s", m.Category, out)
	scenario := "    --- FAIL: TestConformance/" + strings.ReplaceAll(m.Category, " ", "_") + "/"
	require.Contains(t, out, scenario, "the mutant fails, but in no scenario")
	logLines(t, out, scenario)
}

func logLines(t *testing.T, out, about string) {
	t.Helper()
	for line := range strings.Lines(out) {
		if strings.Contains(line, about) {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// hammer runs the hammer's tests whose names start with test.
func (b built) hammer(t *testing.T, test string, args ...string) (string, error) {
	t.Helper()
	return b.run(t, filepath.Join("internal", "hammer"), append(args, "-hammer.calm", "-hammer.seed=1", "-test.run=^"+test)...)
}

// run runs the tests of the package in a folder.
func (b built) run(t *testing.T, folder string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(b.dir, filepath.Base(folder)+".test"), append(args, "-test.v", "-test.timeout=4m")...)
	command.Dir = filepath.Join(b.root, folder)
	out, err := command.CombinedOutput()
	return string(out), err
}
