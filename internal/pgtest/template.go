package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// initdbOptions make a small cluster fast: no sync, and 1 MB WAL segments, which halve what has to be copied per start.
var initdbOptions = []string{"-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"}

// template returns the folder of a pristine cluster, made once per user, installation and options. It is filled under
// another name and renamed, so that a test package running beside this one sees all of it or nothing.
func template(ctx context.Context, b binaries, a account) (string, error) {
	base, err := baseFolder()
	if err != nil {
		return "", err
	}
	cache := filepath.Join(base, "template")
	if err := makeOpenFolder(cache); err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(strings.Join(append([]string{b.dir, b.version}, initdbOptions...), "\x00")))
	path := filepath.Join(cache, fmt.Sprintf("%d-%x", b.major, key[:6]))
	if exists(path) {
		return path, nil
	}
	// The lock only saves the work of a second initdb; the rename is what makes it correct.
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := waitLock(lock); err != nil {
		return "", err
	}
	if exists(path) {
		return path, nil
	}
	draft, err := os.MkdirTemp(cache, "draft-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(draft)
	if err := errors.Join(os.Chmod(draft, 0o755), a.own(draft)); err != nil {
		return "", err
	}
	data := filepath.Join(draft, "data")
	command := exec.CommandContext(ctx, b.path("initdb"), append([]string{"-D", data}, initdbOptions...)...)
	command.Dir = "/"
	command.Env = serverEnv()
	command.SysProcAttr = processAttributes(a, false)
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("pgtest: initdb: %w\n%s", err, lastLines(out, 10))
	}
	if err := os.Rename(data, path); err != nil && !exists(path) {
		return "", err
	}
	return path, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serverEnv is all that a server sees of our environment: the PG variables of a developer's shell must not reach it.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
