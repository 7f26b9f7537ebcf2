//go:build !linux || !(amd64 || arm64)

package pgtest

import "time"

// sleeper waits for points in time as precisely as the system's timers allow. The zero value is ready.
type sleeper struct{}

// until returns at the time, or false as soon as stop is closed.
func (*sleeper) until(due time.Time, stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return sleepPlain(time.Until(due), stop)
	}
}

func (*sleeper) close() {}
