//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// neverStop keeps Ctrl-Z from leaving the shell on another screen, without a cursor.
func neverStop() { signal.Ignore(syscall.SIGTSTP) }
