package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/rls"
)

// keyFile is the file whose keys a command is about.
type keyFile struct {
	KeyFile string `placeholder:"FILE" help:"The key file of programs. Default: sharded_key_file of the registry's DSN."`
}

func (k *keyFile) path(a *app) (string, error) {
	if k.KeyFile != "" {
		return k.KeyFile, nil
	}
	if a.dsn != "" {
		cfg, err := shardedpg.ParseDSN(a.dsn)
		if err != nil {
			return "", usage("the registry's DSN: %w", err)
		}
		if cfg.KeyFile != "" {
			return cfg.KeyFile, nil
		}
	}
	return "", usage("which key file? Name it with --key-file, or in the registry's DSN with sharded_key_file")
}

func (k *keyFile) read(a *app) (path string, keys rls.Keys, err error) {
	if path, err = k.path(a); err != nil {
		return "", nil, err
	}
	keys, _, err = rls.ReadKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = usage("%w; make one with shardedpg rls keys generate", err)
	}
	return path, keys, err
}

type keysGenerate struct {
	keyFile
	ID string `placeholder:"ID" help:"Name of the key in tokens: letters, digits, - and _. Default: the next number."`
}

func (c *keysGenerate) Run(a *app) error {
	path, keys, err := c.read(a)
	var text []byte
	var old fs.FileInfo
	switch {
	case err == nil:
		if old, err = os.Stat(path); err == nil {
			text, err = os.ReadFile(path) //nolint:gosec // the operator says which file
		}
	case errors.Is(err, fs.ErrNotExist):
		text, err = []byte("# Keys that sign tenants, oldest first. Whoever has them is every tenant.\n"), nil
	}
	if err != nil {
		return err
	}
	id := c.ID
	if id == "" {
		id = nextID(keys)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "%s %s\n", id, base64.StdEncoding.EncodeToString(secret))
	if keys, err = rls.ParseKeys(string(text)); err != nil {
		return usage("%w", err)
	}
	if err := replaceFile(path, old, text); err != nil {
		return err
	}
	return a.keysOfFile(path, "added", id, keys)
}

// nextID is one more than the largest number.
func nextID(keys rls.Keys) string {
	largest := 0
	for _, id := range keys.IDs() {
		if n, err := strconv.Atoi(id); err == nil {
			largest = max(largest, n)
		}
	}
	return strconv.Itoa(largest + 1)
}

type keysForget struct {
	ID string `arg:"" help:"The key."`
	keyFile
}

func (c *keysForget) Run(a *app) error {
	path, keys, err := c.read(a)
	if err != nil {
		return err
	}
	if !slices.Contains(keys.IDs(), c.ID) {
		return usage("key file %s has no key %q, but %s", path, c.ID, strings.Join(keys.IDs(), ", "))
	}
	if len(keys) == 1 {
		return usage("%q is the only key of %s: generate and install another one first", c.ID, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator says which file
	if err != nil {
		return err
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(line string) bool {
		fields := strings.Fields(line)
		return len(fields) == 2 && fields[0] == c.ID
	})
	if keys, err = rls.ParseKeys(strings.Join(lines, "")); err != nil {
		return err
	}
	if err := replaceFile(path, info, []byte(strings.Join(lines, ""))); err != nil {
		return err
	}
	return a.keysOfFile(path, "removed", c.ID, keys)
}

func (a *app) keysOfFile(path, what, id string, keys rls.Keys) error {
	return a.show(map[string]any{"key_file": path, what: id, "keys": keys.IDs()}, func() {
		a.say("%s: key %q %s; it holds %s", path, id, what, strings.Join(keys.IDs(), ", "))
	})
}

// replaceFile writes a file that readers see as it was before, or whole. What is there already (old, or nil) stays what it is for
// them: behind its links, with its rights, and of the same user and group.
func replaceFile(path string, old fs.FileInfo, text []byte) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err == nil && old != nil {
		err = errors.Join(giveTo(f, old), f.Chmod(old.Mode().Perm()))
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
