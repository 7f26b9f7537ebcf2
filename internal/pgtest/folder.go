package pgtest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// kept is how many folders of failed runs stay for a look; the oldest are removed first.
const kept = 8

// baseFolder returns this user's folder for templates and running servers. It is under /var/tmp and not under the home
// or a test's TempDir, because those are closed (0700) to the user a server runs as when root starts it, and because a
// Unix socket's path must stay below about 100 bytes.
func baseFolder() (string, error) {
	name := "sharded-pg-" + strconv.Itoa(os.Getuid())
	var problems []error
	for _, parent := range []string{"/var/tmp", os.TempDir()} {
		base := filepath.Join(parent, name)
		err := os.Mkdir(base, 0o755)
		if err == nil {
			err = os.Chmod(base, 0o755) // a strict umask would close the folder to the server's user
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			err = ownFolder(base)
		}
		if err == nil {
			return base, nil
		}
		problems = append(problems, err)
	}
	return "", fmt.Errorf("pgtest: no folder for servers: %w", errors.Join(problems...))
}

// place is whom a server runs as, and a new folder of that account's.
func place() (account, *folder, error) {
	as, err := serverAccount()
	if err != nil {
		return account{}, nil, err
	}
	dir, err := newFolder(as)
	return as, dir, err
}

// ownFolder refuses a folder that somebody else put there first: /var/tmp is open to everyone.
func ownFolder(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() || !ownedByUs(info) {
		return fmt.Errorf("%s is not a folder of this user; remove it", path)
	}
	return nil
}

// folder is the place of one running server, bouncer or proxy. A lock held for the life of this process tells later
// processes that the folder is in use; the kernel drops it however the process ends.
type folder struct {
	path string
	lock *os.File
}

func newFolder(a account) (*folder, error) {
	base, err := baseFolder()
	if err != nil {
		return nil, err
	}
	run := filepath.Join(base, "run")
	if err := makeOpenFolder(run); err != nil {
		return nil, err
	}
	sweep(run)
	path := filepath.Join(run, strings.ToLower(rand.Text()[:10]))
	// The lock comes before the folder: a folder without a held lock is garbage to anyone who sweeps.
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	f := &folder{path: path, lock: lock}
	if ok, err := tryLock(lock); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("pgtest: lock %s.lock", path), err, f.remove())
	}
	if err := errors.Join(makeOpenFolder(path), a.own(path)); err != nil {
		return nil, errors.Join(err, f.remove())
	}
	return f, nil
}

func (f *folder) remove() error {
	return errors.Join(unmountBelow(f.path), os.RemoveAll(f.path), os.Remove(f.lock.Name()), f.lock.Close())
}

// keep leaves the folder on disk for a look after this process has ended.
func (f *folder) keep() error {
	return errors.Join(os.WriteFile(filepath.Join(f.path, "keep"), nil, 0o600), os.Remove(f.lock.Name()), f.lock.Close())
}

// sweep removes the folders of processes that ended without doing so, except the newest kept ones. It is best effort:
// what it cannot remove now, a later start will.
func sweep(run string) {
	entries, _ := os.ReadDir(run)
	var saved []fs.FileInfo
	for _, entry := range entries {
		path := filepath.Join(run, entry.Name())
		if !entry.IsDir() {
			continue
		}
		if info, err := os.Stat(filepath.Join(path, "keep")); err == nil {
			saved = append(saved, named{info, path})
			continue
		}
		lock, err := os.OpenFile(path+".lock", os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			_ = unmountBelow(path)
			_ = os.RemoveAll(path)
		}
		if err != nil {
			continue
		}
		if ok, err := tryLock(lock); ok && err == nil {
			_ = unmountBelow(path)
			_ = os.RemoveAll(path)
			_ = os.Remove(lock.Name())
		}
		_ = lock.Close()
	}
	slices.SortFunc(saved, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range saved[min(kept, len(saved)):] {
		_ = unmountBelow(info.Name())
		_ = os.RemoveAll(info.Name())
	}
}

type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }

// makeOpenFolder makes a folder that every user may cross, whatever the umask.
func makeOpenFolder(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

// copyTree copies a cluster's files and gives them to the account.
func copyTree(from, to string, a account) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if entry.IsDir() {
			// PostgreSQL refuses a data folder that others may read.
			return errors.Join(os.Mkdir(target, 0o700), a.own(target))
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("pgtest: %s is not a regular file", path)
		}
		return copyFile(path, target, a)
	})
}

func copyFile(from, to string, a account) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	if a.foreign {
		return target.Chown(a.uid, a.gid)
	}
	return nil
}
