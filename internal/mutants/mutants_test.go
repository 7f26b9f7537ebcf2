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
	for _, m := range mutants.Table() {
		sources, err := m.Sources(root)
		require.NoError(t, err)
		require.NotEmpty(t, sources)
	}
}

// A run ends at the first finding, so these are the times of mutants that nobody finds.
const (
	longest  = "90s"
	patience = 5 * time.Minute // with the compiler's time
)

// TestHammerFindsEveryMutant is not parallel: a busy machine makes the hammer slow.
func TestHammerFindsEveryMutant(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers and a compiler; run without -short")
	}
	root, err := mutants.Root()
	require.NoError(t, err)
	for _, m := range mutants.Table() {
		t.Run(m.Name, func(t *testing.T) {
			if m.Test != "" {
				out, err := hammer(t, m, root, m.Test)
				require.Error(t, err, "nothing notices that this rule is gone:\n%s", out)
				require.Contains(t, out, "--- FAIL: "+m.Test)
				return
			}
			span := longest
			if m.AtEnd {
				span = "8s"
			}
			out, err := hammer(t, m, root, "TestHammer", "-hammer.time="+span, "-hammer.phases="+m.Phase)
			require.Error(t, err, "nothing notices that this rule is gone:\n%s", out)
			require.Contains(t, out, "ISOLATION:", "the mutant fails, but not for mixing tenants up")
			for line := range strings.Lines(out) {
				if strings.Contains(line, "ISOLATION:") {
					t.Log(strings.TrimSpace(line))
				}
			}
		})
	}
	t.Run("the driver as it is", func(t *testing.T) {
		out, err := hammer(t, mutants.Mutant{Name: "none"}, root, "", "-hammer.time=6s")
		require.NoError(t, err, out)
	})
}

// hammer runs the tests whose names start with test against the mutant.
func hammer(t *testing.T, m mutants.Mutant, root, test string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	program, err := m.Build(ctx, root, t.TempDir())
	require.NoError(t, err)
	args = append(args, "-hammer.calm", "-hammer.seed=1", "-test.v", "-test.run=^"+test, "-test.timeout=4m")
	command := exec.CommandContext(ctx, program, args...)
	command.Dir = filepath.Join(root, "internal", "hammer")
	out, err := command.CombinedOutput()
	return string(out), err
}
