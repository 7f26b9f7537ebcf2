package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed adapter/adapter.go adapter/conn.go
var adapterSource embed.FS

// adapterPath is the import path of the adapter's copy: the original is internal to this module.
const adapterPath = "sharded-pg.test/adapter"

// workspace is a folder with a suite, the adapter and a go.work that joins them with this checkout. The suite's go.mod stays
// as it is: the workspace finds the newest version that any of the three asks for.
type workspace struct{ dir string }

// prepare makes the workspace of a suite in dir.
func prepare(ctx context.Context, s suite, dir string) (workspace, error) {
	w := workspace{dir}
	checkout, err := goCommand(ctx, ".", "list", "-m", "-f", "{{.Dir}}", "github.com/sharded-pg/sharded-pg")
	if err != nil {
		return w, err
	}
	source, err := download(ctx, s.Module+"@"+s.Version)
	if err != nil {
		return w, err
	}
	if err := copyTree(os.DirFS(source), w.suite()); err != nil {
		return w, err
	}
	for _, p := range s.Patches {
		if err := w.patch(p); err != nil {
			return w, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	embedded, err := fs.Sub(adapterSource, "adapter")
	if err != nil {
		return w, err
	}
	if err := copyTree(embedded, filepath.Join(dir, "adapter")); err != nil {
		return w, err
	}
	mod := "module " + adapterPath + "\n\ngo 1.26.0\n"
	for _, newer := range s.Require {
		mod += "\nrequire " + strings.Replace(newer, "@", " ", 1) + "\n"
	}
	return w, errors.Join(
		os.WriteFile(filepath.Join(dir, "adapter", "go.mod"), []byte(mod), 0o600),
		os.WriteFile(w.file(), fmt.Appendf(nil, "go 1.26.0\n\nuse (\n\t./adapter\n\t./suite\n\t%s\n)\n", strings.TrimSpace(checkout)), 0o600),
	)
}

func (w workspace) suite() string { return filepath.Join(w.dir, "suite") }
func (w workspace) file() string  { return filepath.Join(w.dir, "go.work") }

func (w workspace) patch(p patch) error {
	path := filepath.Join(w.suite(), filepath.FromSlash(p.File))
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	patched, err := p.apply(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(patched), 0o600)
}

// download returns the folder of a module in the module cache.
func download(ctx context.Context, module string) (string, error) {
	out, err := goCommand(ctx, os.TempDir(), "mod", "download", "-json", module)
	var answer struct{ Dir, Error string }
	if jsonErr := json.Unmarshal([]byte(out), &answer); jsonErr != nil {
		return "", errors.Join(err, jsonErr)
	}
	if answer.Error != "" {
		return "", errors.New(answer.Error)
	}
	return answer.Dir, err
}

func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "GOWORK=off")
	var problem bytes.Buffer
	command.Stderr = &problem
	out, err := command.Output()
	if err != nil {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, problem.String())
	}
	return string(out), err
}

// copyTree copies files and makes them writable, which those of the module cache are not.
func copyTree(from fs.FS, to string) error {
	return fs.WalkDir(from, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, filepath.FromSlash(path))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o750)
		}
		text, err := fs.ReadFile(from, path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o600)
	})
}
