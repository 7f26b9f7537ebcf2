package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const program = `package main

import (
	"context"
	"database/sql"
)

func main() {
	db, err := sql.Open("sharded-pg", "")
	if err != nil {
		return
	}
	_, _ = db.ExecContext(context.Background(), "")
	use(db)
}

func Use(db *sql.DB) { _, _ = db.Exec("") }

func use(*sql.DB) {}
`

func TestItRunsAloneAndUnderGoVet(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program")
	}
	t.Parallel()
	tool := filepath.Join(t.TempDir(), "tenantlint")
	if out, err := exec.Command("go", "build", "-o", tool, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.org/shop\n\ngo 1.26\n", "main.go": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const lost, none = "main.go:13:23: the context of ExecContext has no tenant", "main.go:17:38: Exec has no context"
	for name, c := range map[string]struct {
		args []string
		want []string
		not  string
	}{
		"alone":                {[]string{tool, "./..."}, []string{lost}, none},
		"alone, with a flag":   {[]string{tool, "-unknown", "./..."}, []string{lost, none}, ""},
		"go vet":               {[]string{"go", "vet", "-vettool=" + tool, "./..."}, []string{lost}, none},
		"go vet, with a flag":  {[]string{"go", "vet", "-vettool=" + tool, "-packages=example.org/...", "./..."}, []string{lost, none}, ""},
		"the help names flags": {[]string{tool, "-h"}, []string{"tenantlint: find statements that lose their tenant", "-with-tests", "-allow"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(c.args[0], c.args[1:]...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
			out, err := cmd.CombinedOutput()
			if (err == nil) != (name == "the help names flags") {
				t.Errorf("it ended with %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if c.not != "" && strings.Contains(string(out), c.not) {
				t.Errorf("%q in\n%s", c.not, out)
			}
		})
	}
}
