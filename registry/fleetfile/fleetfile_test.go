package fleetfile_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/fleetfile"
	"github.com/sharded-pg/sharded-pg/resolver"
)

const text = `shards:
  eu1:
    dsn: host=eu1 user=app dbname=app password=${EU1_PASSWORD}
    admin_dsn: host=eu1 user=admin dbname=app
    region: eu
    labels:
      disk: ssd
    max_tenants: unlimited
    max_bytes: 1000000000
    state: full
  us1:
    dsn: host=us1
    max_tenants: 20
    state: open
plans:
  endless:
    statement_timeout: unlimited
    work_mem: 1GB
    max_conns: 3
    weight: 2
    rate: 1.5
    burst: 20
  trial:
    statement_timeout: 2s
    work_mem: 100kB
    max_conns: 1
    weight: 1
tenants:
  acme:
    shard: eu1
    model: shared
    plan: endless
    state: active
    slug: acme-inc
    labels:
      ring: canary
  beta:
    shard: eu1
    database: together
    model: shared
    plan: free
    state: readonly
  delta:
    shard: us1
    model: schema
    plan: trial
    state: active
    schema: own
    role: own_role
  gamma:
    shard: us1
    database: together
    model: shared
    plan: free
    state: active
`

func read(t *testing.T, text string) registry.Fleet {
	t.Helper()
	fleet, err := fleetfile.Read(strings.NewReader(text))
	require.NoError(t, err)
	return fleet
}

func write(t *testing.T, fleet registry.Fleet) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, fleetfile.Write(&out, fleet))
	return out.String()
}

func TestWriteIsWhatReadTakes(t *testing.T) {
	t.Parallel()
	fleet := read(t, text)
	require.Equal(t, registry.Plan{Name: "endless", StatementTimeout: resolver.Unlimited, WorkMemKB: 1 << 20, MaxConns: 3, Weight: 2, Rate: 1.5, Burst: 20}, fleet.Plans[0])
	require.Equal(t, 2*time.Second, fleet.Plans[1].StatementTimeout)
	require.Equal(t, registry.UnlimitedTenants, fleet.Shards[0].MaxTenants)
	require.Equal(t, text, write(t, fleet))
}

func TestAnAppliedFileIsExportedAsItWas(t *testing.T) {
	t.Parallel()
	store, err := registry.NewMemory(nil)
	require.NoError(t, err)
	fleet := read(t, text)
	_, err = store.Apply(t.Context(), fleet, nil)
	require.NoError(t, err)
	exported, err := store.Export(t.Context())
	require.NoError(t, err)
	exported.Plans = exported.Plans[:0]
	plans, err := store.ListPlans(t.Context())
	require.NoError(t, err)
	for _, plan := range plans { // but for the plans that each registry has
		if plan.Name == "endless" || plan.Name == "trial" {
			exported.Plans = append(exported.Plans, plan)
		}
	}
	require.Equal(t, text, write(t, exported))
}

func TestAFileIsARegistry(t *testing.T) {
	t.Setenv("EU1_PASSWORD", "hunter2")
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	fleet, err := fleetfile.Load(path)
	require.NoError(t, err)
	store, err := registry.NewStatic(fleet)
	require.NoError(t, err)
	beta, err := store.Lookup(t.Context(), "beta")
	require.NoError(t, err)
	require.Equal(t, "together", beta.Database)
	require.Contains(t, beta.Shard.DSN, "hunter2")
	gamma, err := store.Lookup(t.Context(), "gamma")
	require.NoError(t, err)
	require.Equal(t, "us1", gamma.Shard.Name)
	_, err = fleetfile.Load(path + ".not")
	require.ErrorContains(t, err, "fleet.yaml.not")
}

func TestMistakesAreNamedAndDSNsAreNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"unknown field":   {"shards: {a: {dns: host=opensesame}}", "dns not found"},
		"listed twice":    {"tenants:\n  a: {shard: s}\n  a: {shard: s}", "already defined"},
		"not a map":       {"shards: opensesame", "line 1"},
		"two documents":   {"plans: {}\n---\nplans: {}", "second document"},
		"bad timeout":     {"plans: {a: {statement_timeout: soon, work_mem: 4MB, max_conns: 1}}", `plan "a": invalid statement timeout "soon"`},
		"bad memory":      {"plans: {a: {statement_timeout: 1s, work_mem: much, max_conns: 1}}", `work_mem is "much"`},
		"too much memory": {"plans: {a: {statement_timeout: 1s, work_mem: 9999999999GB, max_conns: 1}}", "work_mem is"},
		"bad count":       {"shards: {a: {dsn: x, max_tenants: many}}", "use a number, or unlimited"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := fleetfile.Read(strings.NewReader(c.text))
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "opensesame")
		})
	}
	require.Equal(t, registry.Fleet{}, read(t, ""), "an empty file is an empty fleet")
}

func FuzzReadNeverPanicsAndWriteIsRead(f *testing.F) {
	f.Add(text)
	f.Add("tenants: {a: {shard: s1, labels: {x: y}}}")
	f.Add("plans: {a: {statement_timeout: 1s, work_mem: 65kB, max_conns: 1}}")
	f.Fuzz(func(t *testing.T, text string) {
		fleet, err := fleetfile.Read(strings.NewReader(text))
		if err != nil {
			return
		}
		again := write(t, fleet)
		require.Equal(t, again, write(t, read(t, again)))
	})
}

func TestTenantsAreReadAsStrictlyAsTheRest(t *testing.T) {
	t.Parallel()
	for text, says := range map[string][]string{
		"tenants:\n  a: {shard: x}\n  b: {shard: x}\n  a: {shard: y}\n": {`line 4: mapping key "a" already defined at line 2`},
		"tenants:\n  a: {shrad: x}\n  b: {shard: x, palm: y}\n":         {"line 2: field shrad not found", "line 3: field palm not found"},
		"tenants:\n  a: {shard: x, shard: y}\n":                         {"already defined"},
		"tenants:\n  a: &a {shard: x}\n  b: {<<: *a, plna: y}\n":        {"line 3: field plna not found"},
		"tenants:\n  a: {<<: [{shard: x}, {pl: y}]}\n":                  {"field pl not found"},
		"tenants:\n  a: &a\n    <<: *a\n":                               {"contains itself"},
		"tenants:\n  a: [x]\n":                                          {"cannot unmarshal"},
		"tenants:\n  - a\n":                                             {"cannot unmarshal"},
		"tenants:\n  a: {labels: {x: y, x: z}}\n":                       {"already defined"},
		"tenants:\n  [a]: {shard: x}\n":                                 {"cannot unmarshal"},
		"tenants: {<<: {a: {shrad: x}}}\n":                              {"field shrad not found"},
	} {
		_, err := fleetfile.Read(strings.NewReader(text))
		require.Error(t, err, text)
		for _, part := range says {
			require.ErrorContains(t, err, part, text)
		}
	}
	fleet := read(t, "tenants:\n  a: &a {shard: x, plan: p}\n  b: {<<: *a, plan: q}\n  c: *a\n  7: {shard: x}\n  d:\n")
	require.Equal(t, []registry.Tenant{
		{ID: "7", Shard: "x"}, {ID: "a", Shard: "x", Plan: "p"}, {ID: "b", Shard: "x", Plan: "q"}, {ID: "c", Shard: "x", Plan: "p"}, {ID: "d"},
	}, fleet.Tenants)
	require.Len(t, read(t, "tenants:\n  <<: {a: {shard: x}}\n  b: {shard: x}\n").Tenants, 2)
	require.Empty(t, read(t, "tenants:\n").Tenants)
	require.Empty(t, read(t, "tenants: {}\n").Tenants)
}

// The parser compares each key of a mapping with each other one: under the race detector that takes many minutes.
func TestAHundredThousandTenantsAreRead(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("tenants:\n")
	for i := range 100_000 {
		fmt.Fprintf(&text, "  tenant-%06d: {shard: eu1}\n", i)
	}
	done := make(chan int, 1)
	go func() {
		fleet, err := fleetfile.Read(strings.NewReader(text.String()))
		if err != nil {
			t.Error(err)
		}
		done <- len(fleet.Tenants)
	}()
	select {
	case n := <-done:
		require.Equal(t, 100_000, n)
	case <-time.After(2 * time.Minute):
		require.FailNow(t, "not within two minutes")
	}
}
