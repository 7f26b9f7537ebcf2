package mutants

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root returns the root of the module that holds the working directory.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Sources returns the files of the packages that the mutant changes by their paths, as they read after all edits.
func (m Mutant) Sources(root string) (map[string]string, error) {
	sources := make(map[string]string)
	for _, e := range m.Breaks {
		files, err := filepath.Glob(filepath.Join(root, e.Folder, "*.go"))
		if err != nil {
			return nil, err
		}
		total, at := 0, ""
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			if _, read := sources[path]; !read {
				text, err := os.ReadFile(path)
				if err != nil {
					return nil, err
				}
				sources[path] = string(text)
			}
			if n := strings.Count(sources[path], e.Old); n > 0 {
				total, at = total+n, path
			}
		}
		if total != 1 {
			return nil, fmt.Errorf("mutant %q: its text occurs %d times in %s instead of once; the code has changed, so write "+
				"the mutant again in internal/mutants/table.go:\n%s", m.Name, total, e.Folder, e.Old)
		}
		sources[at] = strings.Replace(sources[at], e.Old, e.New, 1)
	}
	return sources, nil
}

// Build compiles the tests of packages with the broken driver and puts their programs, such as hammer.test, into dir. A
// mutant without edits is the driver as it is.
func (m Mutant) Build(ctx context.Context, root, dir string, packages ...string) error {
	sources, err := m.Sources(root)
	if err != nil {
		return err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range sources {
		path := filepath.Join(dir, strings.ReplaceAll(name, string(filepath.Separator), "_"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		overlay.Replace[name] = path
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return err
	}
	args := []string{"test", "-c", "-vet=off", "-overlay", file, "-o", dir + string(filepath.Separator)}
	command := exec.CommandContext(ctx, "go", append(args, packages...)...)
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("mutant %q does not compile: %w\n%s", m.Name, err, out)
	}
	return nil
}
