package pgtest

import "time"

// sleepPlain waits with an ordinary timer; it returns false as soon as stop is closed.
func sleepPlain(wait time.Duration, stop <-chan struct{}) bool {
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}
