package conformance_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachSentinelIsProvoked(t *testing.T) {
	t.Parallel()
	declared, err := os.ReadFile("../errors.go")
	require.NoError(t, err)
	suite, err := os.ReadFile("errors.go")
	require.NoError(t, err)
	names := regexp.MustCompile(`(?m)^\t(Err\w+) += `).FindAllSubmatch(declared, -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.Contains(t, string(suite), "sentinel: shardedpg."+string(name[1])+",")
	}
}
