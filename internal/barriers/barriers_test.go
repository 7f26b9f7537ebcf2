package barriers_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/mutants"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// gone names the barrier that the driver of this program was compiled without.
var gone = flag.String("barriers.gone", "", "run the cells of this barrier only, in this program")

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// cell is what one probe shows while one barrier is away. Its name is a sentence that docs/threat-model.md repeats.
type cell struct {
	name    string
	probe   func(f *fleet) (exposed bool)
	exposed bool
}

const (
	nothing  = "nothing"
	policies = "the policies"
)

// cells are the rows of the table, in the order of its columns.
var cells = map[string][]cell{
	nothing: {
		{"a forgotten tenant is refused", forgotten, false},
		{"a second tenant in a transaction is refused", secondTenant, false},
		{"a query shows own rows only", reading, false},
		{"no row is planted in another tenant", planting, false},
		{"a setting left behind is gone past a COMMIT", leftSetting, false},
		{"a temporary table left behind catches no write", leftTable, false},
		{"a lock left behind is gone", leftLock, false},
	},
	policies: {
		{"without policies a forgotten tenant is still refused", forgotten, false},
		{"without policies a second tenant in a transaction is still refused", secondTenant, false},
		{"without policies a query shows the rows of all tenants", reading, true},
		{"without policies a row is planted in another tenant", planting, true},
		{"without policies a setting left behind is still gone past a COMMIT", leftSetting, false},
		{"without policies a temporary table left behind still catches no write", leftTable, false},
		{"without policies a lock left behind is still gone", leftLock, false},
	},
	mutants.Admission: {
		{"without admission a forgotten tenant meets policies that show it no row", forgotten, false},
		{"without admission a second tenant in a transaction reads the rows of the first", secondTenant, true},
		{"without admission a query still shows own rows only", reading, false},
		{"without admission no row is planted in another tenant", planting, false},
		{"without admission a setting left behind is still gone past a COMMIT", leftSetting, false},
		{"without admission a temporary table left behind still catches no write", leftTable, false},
		{"without admission a lock left behind is still gone", leftLock, false},
	},
	mutants.Prologue: {
		{"without the prologue a forgotten tenant is still refused", forgotten, false},
		{"without the prologue a second tenant in a transaction is still refused", secondTenant, false},
		{"without the prologue a query shows no row, not even its own", reading, false},
		{"without the prologue no row is planted in another tenant", planting, false},
		{"without the prologue a setting left behind is still gone past a COMMIT", leftSetting, false},
		{"without the prologue a temporary table left behind still catches no write", leftTable, false},
		{"without the prologue a lock left behind is still gone", leftLock, false},
	},
	mutants.Reset: {
		{"without the reset a forgotten tenant is still refused", forgotten, false},
		{"without the reset a second tenant in a transaction is still refused", secondTenant, false},
		{"without the reset a query still shows own rows only", reading, false},
		{"without the reset no row is planted in another tenant", planting, false},
		{"without the reset a setting left behind is in force past a COMMIT", leftSetting, true},
		{"without the reset a temporary table left behind catches the next tenant's write", leftTable, true},
		{"without the reset a lock left behind stays", leftLock, true},
	},
}

// TestEachBarrierHoldsWhatTheOthersDoNot runs the driver's mutants as programs of their own.
func TestEachBarrierHoldsWhatTheOthersDoNot(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers and a compiler; run without -short")
	}
	if *gone != "" {
		runCells(t, *gone)
		return
	}
	runCells(t, nothing)
	runCells(t, policies)
	root, err := mutants.Root()
	require.NoError(t, err)
	for _, m := range mutants.Barriers() {
		t.Run("without "+m.Name, func(t *testing.T) { runMutant(t, m, root) })
	}
}

func runCells(t *testing.T, barrier string) {
	t.Helper()
	require.NotEmpty(t, cells[barrier], "no barrier is called %q", barrier)
	for _, c := range cells[barrier] {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t)
			if barrier == policies {
				f.admin("alter table orders disable row level security")
			}
			require.Equal(t, c.exposed, c.probe(f), "whether one tenant's rows or session reach another")
		})
	}
}

// runMutant compiles this test with the driver that lacks a barrier, and requires that each of its cells ran and passed.
func runMutant(t *testing.T, m mutants.Mutant, root string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	require.NoError(t, m.Build(ctx, root, dir, "./internal/barriers"))
	command := exec.CommandContext(ctx, filepath.Join(dir, "barriers.test"), "-test.v", "-test.run=^"+t.Name()[:strings.Index(t.Name(), "/")]+"$",
		"-barriers.gone="+m.Name)
	command.Dir = filepath.Join(root, "internal", "barriers")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, c := range cells[m.Name] {
		require.Contains(t, string(out), "/"+strings.ReplaceAll(c.name, " ", "_")+" (", "this cell did not run")
	}
}

// The table is read as a reader sees it: one row for each barrier, one cell for each subtest.
func TestTheThreatModelShowsWhatTheSubtestsShow(t *testing.T) {
	t.Parallel()
	root, err := mutants.Root()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "docs", "threat-model.md"))
	require.NoError(t, err)
	for barrier, row := range cells {
		var want strings.Builder
		want.WriteString("| " + barrier + " |")
		for _, c := range row {
			word := "held"
			if c.exposed {
				word = "**exposed**"
			}
			want.WriteString(" [" + word + "](../internal/barriers/barriers_test.go \"" + c.name + "\") |")
		}
		require.Contains(t, string(text), want.String()+"\n")
	}
}
