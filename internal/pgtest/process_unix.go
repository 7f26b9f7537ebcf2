//go:build unix

package pgtest

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

var (
	quitSignal      os.Signal = syscall.SIGQUIT // PostgreSQL: immediate shutdown
	interruptSignal os.Signal = syscall.SIGINT  // PostgreSQL: fast shutdown
)

func credential(a account) *syscall.Credential {
	if !a.foreign {
		return nil
	}
	return &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
}

func ownedByUs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

func tryLock(f *os.File) (bool, error) {
	err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func waitLock(f *os.File) error { return flock(f, syscall.LOCK_EX) }

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func kill(pid int, signal syscall.Signal) { _ = syscall.Kill(pid, signal) } // ESRCH is the wanted state

// killTree ends the postmaster and its backends as a power failure would. Backends are sessions of their own, so a signal
// to the process group does not reach them; the postmaster is stopped first so that it starts no more of them.
func killTree(postmaster int) (backends []int) {
	kill(postmaster, syscall.SIGSTOP)
	backends = children(postmaster)
	kill(postmaster, syscall.SIGKILL)
	for _, pid := range backends {
		kill(pid, syscall.SIGKILL)
	}
	return backends
}
