package adapter

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// A method that is not forwarded would be an ability of the driver that no suite sees.
func TestConnHasEveryMethodOfTheDrivers(t *testing.T) {
	t.Parallel()
	theirs := reflect.TypeFor[*shardedpg.Conn]()
	ours := reflect.TypeFor[*conn]()
	for m := range theirs.Methods() {
		forward, ok := ours.MethodByName(m.Name)
		require.True(t, ok, "%s is missing", m.Name)
		require.Equal(t, m.Type.NumIn(), forward.Type.NumIn(), m.Name)
	}
	require.Equal(t, theirs.NumMethod(), ours.NumMethod(), "and none that the driver does not have")
}

func TestEachCheckoutInChaosIsAnotherTenants(t *testing.T) {
	t.Setenv(Variable, Chaos)
	c, err := connect("host=nowhere.invalid", nil)
	require.NoError(t, err)
	defer c.Close()
	first, err := c.Connect(t.Context())
	require.NoError(t, err)
	seen := map[string]bool{}
	for range crowd {
		seen[first.(*conn).tenant] = true
		require.NoError(t, first.(*conn).ResetSession(t.Context()))
	}
	require.Len(t, seen, crowd)
}

func TestAdapterSaysWhichVariantsThereAre(t *testing.T) {
	t.Setenv(Variable, "")
	_, err := connect("host=nowhere.invalid", nil)
	require.EqualError(t, err, `adapter: SHARDEDPG_SUITE is ""; set it to plain, through or chaos`)
}
