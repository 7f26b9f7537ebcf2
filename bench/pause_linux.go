package main

import (
	"syscall"
	"time"
)

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
