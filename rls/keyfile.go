package rls

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// lookAgain is how long a key file is not looked at after it was.
const lookAgain = time.Second

// KeyFile is a key file that is read again when it changes, so that keys change without a restart. It is safe for
// concurrent use.
type KeyFile struct {
	path   string
	failed func(error)

	mu     sync.Mutex
	keys   *Keys
	info   fs.FileInfo
	looked time.Time
	broken string // what was reported last
}

// OpenKeyFile reads a key file. failed is told when it cannot be read later on: the keys of before stay in use.
func OpenKeyFile(path string, failed func(error)) (*KeyFile, error) {
	f := &KeyFile{path: path, failed: failed}
	keys, info, err := ReadKeyFile(path)
	if err != nil {
		return nil, err
	}
	f.keys, f.info, f.looked = &keys, info, time.Now()
	return f, nil
}

// Keys returns the keys. What it points to does not change: another pointer means that the file has.
func (f *KeyFile) Keys() *Keys {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < lookAgain {
		return f.keys
	}
	f.looked = time.Now()
	info, err := os.Stat(f.path)
	if err == nil && os.SameFile(info, f.info) && info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()) {
		return f.keys
	}
	keys, info, err := ReadKeyFile(f.path)
	if err != nil {
		if err.Error() != f.broken {
			f.broken = err.Error()
			f.failed(err)
		}
		return f.keys
	}
	f.keys, f.info, f.broken = &keys, info, ""
	return f.keys
}

// ReadKeyFile reads a key file that others cannot read.
func ReadKeyFile(path string) (Keys, fs.FileInfo, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // to open a pipe is to wait for who writes into it
		return nil, nil, fmt.Errorf("key file %s is no regular file", path)
	}
	file, err := os.Open(path) //nolint:gosec // the operator says which file
	if err != nil {
		return nil, nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	const others, enough = 0o007, 1 << 20
	if info.Mode()&others != 0 {
		return nil, nil, fmt.Errorf("key file %s is open to everybody on this machine: chmod o= it (in Kubernetes: defaultMode 0440)", path)
	}
	if info.Size() > enough {
		return nil, nil, fmt.Errorf("key file %s is no file of keys", path)
	}
	text := make([]byte, info.Size())
	if n, err := file.ReadAt(text, 0); n < len(text) {
		return nil, nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	keys, err := ParseKeys(string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return keys, info, nil
}
