package rls_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

func TestNoTwoTenantsHaveOneTag(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 56)
	seen := map[string]string{}
	for _, id := range []string{
		"acme", "7c9e6679-7425-40de-944b-e07fc1f90ae7", long, long + "1", long + "2", strings.Repeat("é", 100), "müller", "moller", "m?ller",
		"møller", "日本", "日木", strings.Repeat("x", resolver.MaxTenantID),
	} {
		require.NoError(t, resolver.ValidTenantID(id))
		tag := rls.ApplicationName(id)
		require.LessOrEqual(t, len(tag), 63, id)
		require.Regexp(t, `^tenant:[!-~]*( [0-9a-f]{32})?$`, tag)
		require.Empty(t, seen[tag], "%q and %q", seen[tag], id)
		seen[tag] = id
	}
	require.Equal(t, "tenant:acme", rls.ApplicationName("acme"))
	require.Equal(t, "tenant:"+long, rls.ApplicationName(long))
	require.Equal(t, "tenant:m?ller ", rls.ApplicationName("müller")[:14])
}
