package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const idleClassWorks = true

// idleClass lets a process run when no other wants to. Each server process has a session of its own, and the kernel may share the
// processors between sessions first, so that has to be told as well.
func idleClass(pid int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte("19"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	const schedIdle = 5
	var param int32 // its priority is 0
	if _, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(pid), schedIdle, uintptr(unsafe.Pointer(&param))); errno != 0 {
		return errno
	}
	return nil
}

// pause waits for d. Go's own timers are up to a millisecond late in a program that has nothing else to do, which is longer than
// the statements take that are begun on time with this.
func pause(d time.Duration) {
	for d > 0 {
		begin := time.Now()
		t := syscall.NsecToTimespec(d.Nanoseconds())
		_ = syscall.Nanosleep(&t, nil) // a signal ends it early
		d -= time.Since(begin)
	}
}
