//go:build !linux

package main

import "time"

// alarm lets one goroutine wait.
type alarm struct{ timer *time.Timer }

func newAlarm() (*alarm, error) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &alarm{timer}, nil
}

func (a *alarm) wait(d time.Duration) error {
	a.timer.Reset(d)
	<-a.timer.C
	return nil
}

func (a *alarm) Close() error { return nil }
