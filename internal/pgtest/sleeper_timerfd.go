//go:build linux && (amd64 || arm64)

package pgtest

import (
	"encoding/binary"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// sleeper waits for points in time much closer than Go's timers do: an idle Go program waits for them in whole
// milliseconds, which would double a delay of half of one. A timer that is a file wakes the program as a network packet
// does. The zero value is ready.
type sleeper struct {
	file *os.File
	raw  syscall.RawConn
	poor bool // the system refused the timer: plain timers it is
}

// shortest is the wait not worth the two system calls.
const shortest = 5 * time.Microsecond

// until returns at the time, or false as soon as stop is closed.
func (s *sleeper) until(due time.Time, stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
	}
	wait := time.Until(due)
	if wait < shortest {
		return true
	}
	// A long wait must hear stop; the last stretch of it is for the precise timer.
	const coarse = 20 * time.Millisecond
	if wait > coarse {
		if !sleepPlain(wait-coarse/2, stop) {
			return false
		}
		wait = time.Until(due)
	}
	if !s.sleep(wait) {
		return sleepPlain(wait, stop)
	}
	return true
}

func (s *sleeper) sleep(wait time.Duration) bool {
	if s.file == nil && !s.open() {
		return false
	}
	// struct itimerspec: interval (none), then the first expiry, relative to now. Zero would disarm it.
	var spec [4]int64
	spec[2], spec[3] = int64(wait/time.Second), max(1, int64(wait%time.Second))
	var errno syscall.Errno
	err := s.raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	})
	if err != nil || errno != 0 {
		return false
	}
	var expirations [8]byte
	if _, err := s.file.Read(expirations[:]); err != nil {
		return false
	}
	return binary.NativeEndian.Uint64(expirations[:]) > 0
}

func (s *sleeper) open() bool {
	if s.poor {
		return false
	}
	const monotonic = 1
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		s.poor = true
		return false
	}
	s.file = os.NewFile(fd, "timer") // non-blocking, so reads wait in the runtime's poller
	raw, err := s.file.SyscallConn()
	if err != nil {
		s.close()
		s.file, s.poor = nil, true
		return false
	}
	s.raw = raw
	return true
}

func (s *sleeper) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
