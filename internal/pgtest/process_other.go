//go:build !unix

package pgtest

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

var (
	quitSignal      = os.Kill
	interruptSignal = os.Kill
)

var errUnsupported = errors.New("pgtest: servers can be started on Unix systems only; use WSL or a container")

func processAttributes(account, bool) *syscall.SysProcAttr { return nil }
func ownedByUs(fs.FileInfo) bool                           { return true }
func tryLock(*os.File) (bool, error)                       { return false, errUnsupported }
func waitLock(*os.File) error                              { return errUnsupported }
func killTree(int) []int                                   { return nil }
func alive(int) bool                                       { return false }
