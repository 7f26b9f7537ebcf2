package resolver

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// health remembers whether the source is down.
//
//	up --failed--> down until a time --refuse after that time--> one caller probes --answered--> up
//	                     ^------------------------------------------failed--'
//
// The one caller that refuse lets through moves that time on, so there is one probe per backoff even if it never ends.
type health struct {
	backoff time.Duration
	down    atomic.Bool // read for each miss, without the lock
	known   atomic.Bool // it has answered once

	mu           sync.Mutex
	retryAt      time.Duration
	cause        error
	lastAnswered time.Duration
}

// refuse returns why not to ask the source now, or nil when the caller may ask.
func (h *health) refuse(now time.Duration) error {
	if !h.down.Load() {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		return nil
	}
	if now < h.retryAt {
		return h.cause
	}
	h.retryAt = now + h.pause()
	return nil
}

// failed records a lookup that got no answer. It is no sign of a source that is down if another lookup was answered
// meanwhile: that one is slow, or busy with many.
func (h *health) failed(started, now time.Duration, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lastAnswered > started {
		return
	}
	if h.cause == nil || now >= h.retryAt {
		h.retryAt = now + h.pause()
	}
	h.cause = cause
	h.down.Store(true)
}

func (h *health) answered(now time.Duration) {
	h.known.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastAnswered = now
	h.cause = nil
	h.down.Store(false)
}

// pause is the backoff and up to half of it more, so that many processes do not probe in step.
func (h *health) pause() time.Duration { return h.backoff + rand.N(h.backoff/2+1) }
