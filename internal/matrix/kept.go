package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kept is a folder with what passed on one build of the suite, and so of the driver. A run of everything takes so long that the
// next one goes on from there when it was interrupted, or one combination failed. The compiler gives the same file for the same
// source in the same place, so a change of either begins anew.
type kept string

// keep returns the folder that belongs to a program, below base.
func keep(base, program string) (kept, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	folder := filepath.Join(base, hex.EncodeToString(sum.Sum(nil))[:16])
	return kept(folder), os.MkdirAll(folder, 0o700)
}

// entry is a result as it is kept; one with a problem is not.
type entry struct {
	Passed, Excluded int
	Reasons          map[string]string
	Versions         string
}

func (k kept) path(c cell) string {
	return filepath.Join(string(k), strings.ReplaceAll(c.String(), " ", "-")+".json")
}

// load returns nil when there is nothing of this cell.
func (k kept) load(c cell) (*result, error) {
	text, err := os.ReadFile(k.path(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var e entry
	if err = errors.Join(err, json.Unmarshal(text, &e)); err != nil {
		return nil, err
	}
	return &result{counts: counts{passed: e.Passed, excluded: e.Excluded}, excluded: e.Reasons, versions: e.Versions}, nil
}

func (k kept) save(c cell, r *result) error {
	if r.problem != nil {
		return nil
	}
	text, err := json.Marshal(entry{r.passed, r.counts.excluded, r.excluded, r.versions})
	if err != nil {
		return err
	}
	half := k.path(c) + ".half" // a run that is ended while it writes leaves no broken entry
	return errors.Join(os.WriteFile(half, text, 0o600), os.Rename(half, k.path(c)))
}

// forget makes the next run begin anew.
func (k kept) forget() error { return os.RemoveAll(string(k)) }
