//go:build !linux

package main

import (
	"errors"
	"time"
)

func pause(d time.Duration) { <-time.After(d) }

const idleClassWorks = false

func idleClass(int) error { return errors.ErrUnsupported }
