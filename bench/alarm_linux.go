package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// alarm lets one goroutine wait, and wakes it as an answer from the network would: by a file that can be read then. For its own timers a
// Go program that has nothing else to do waits in whole milliseconds, so that one which ends in between is late by up to one.
type alarm struct {
	file *os.File
	fd   uintptr
}

func newAlarm() (*alarm, error) {
	const monotonic, nonblockCloexec = 1, syscall.O_NONBLOCK | syscall.O_CLOEXEC
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, nonblockCloexec, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("timerfd_create", errno)
	}
	return &alarm{os.NewFile(fd, "timerfd"), fd}, nil
}

// wait returns d, which is above 0, later.
func (a *alarm) wait(d time.Duration) error {
	spec := [2]syscall.Timespec{1: syscall.NsecToTimespec(d.Nanoseconds())} // once
	if _, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, a.fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("timerfd_settime", errno)
	}
	var times [8]byte
	_, err := a.file.Read(times[:])
	return err
}

func (a *alarm) Close() error { return a.file.Close() }
