package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// diskSize is that of Options.SmallDisk.
const diskSize = 64 << 20

// makeDisk gives one folder of the data folder a filesystem of its own, in memory. Where this process may not mount one, files
// are limited instead while the disk is full: PostgreSQL ignores SIGXFSZ so that a limit works like a full disk.
func (s *Server) makeDisk(name string) error {
	at, aside := filepath.Join(s.data(), name), filepath.Join(s.dir.path, "aside")
	s.disk = at
	options := fmt.Sprintf("size=%d,mode=0700", diskSize)
	if s.as.foreign {
		options += fmt.Sprintf(",uid=%d,gid=%d", s.as.uid, s.as.gid)
	}
	if err := os.Rename(at, aside); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(at, 0o700), s.as.own(at)); err != nil {
		return err
	}
	err := syscall.Mount("tmpfs", at, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) {
		s.limited = true
		return errors.Join(os.Remove(at), os.Rename(aside, at))
	}
	if err != nil {
		return fmt.Errorf("pgtest: mount a small disk: %w", err)
	}
	entries, err := os.ReadDir(aside)
	for _, e := range entries {
		from, to := filepath.Join(aside, e.Name()), filepath.Join(at, e.Name())
		if e.IsDir() {
			err = errors.Join(err, copyTree(from, to, s.as))
		} else {
			err = errors.Join(err, copyFile(from, to, s.as))
		}
	}
	return errors.Join(err, os.RemoveAll(aside))
}

// FillDisk leaves no room on the server's small disk, and says by what means.
func (s *Server) FillDisk() (how string, err error) {
	if s.limited {
		limit := 1<<20 + 4<<10 // the page that reaches over it is cut in two, which is what PostgreSQL calls a full disk
		if filepath.Base(s.disk) == "pg_wal" {
			limit = 256 << 10
		}
		return fmt.Sprintf("a limit of %d bytes for each file", limit), s.limitFiles(strconv.Itoa(limit))
	}
	file, err := os.Create(filepath.Join(s.disk, "filler"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err = io.Copy(file, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		return "", fmt.Errorf("pgtest: the small disk cannot be filled: %w", err)
	}
	return "a filesystem of its own", nil
}

// FreeDisk makes room again.
func (s *Server) FreeDisk() error {
	if s.limited {
		return s.limitFiles("unlimited")
	}
	return os.Remove(filepath.Join(s.disk, "filler"))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// limitFiles limits how long files may get that the server's processes write, those to come included. Only their own account
// may do that, or root with a capability that containers take away.
func (s *Server) limitFiles(limit string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil || !alive(s.process.pid()) {
		return nil
	}
	for _, pid := range append([]int{s.process.pid()}, children(s.process.pid())...) {
		command := exec.Command("prlimit", "--pid", strconv.Itoa(pid), "--fsize="+limit+":")
		command.Dir = "/"
		command.SysProcAttr = &syscall.SysProcAttr{Credential: credential(s.as)}
		if out, err := command.CombinedOutput(); err != nil && alive(pid) {
			return fmt.Errorf("pgtest: limit the server's files: %w\n%s", err, lastLines(out, 2))
		}
	}
	return nil
}

// unmountBelow takes away the disks in a folder, also those that a process has left which was killed.
func unmountBelow(folder string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], folder+"/") {
			errs = append(errs, syscall.Unmount(fields[1], syscall.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}
