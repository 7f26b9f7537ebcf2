// Package limits decides who may use a shard's connections now. It is the one place in the system where a statement
// waits.
package limits

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrShardBusy: every slot of the shard stayed in use for as long as the caller may wait.
var ErrShardBusy = errors.New("shard busy")

// Request says who wants a slot. The tenant is named already so that fair order across tenants needs no new seam.
type Request struct {
	Tenant string
}

// Slots are the rights to use one connection of a shard each. Waiters are served first in, first out; a waiter whose
// context ends leaves the queue and no slot is lost. Safe for concurrent use. Acquire without waiting does not allocate.
type Slots struct {
	size int
	wait time.Duration // longest wait of one Acquire

	mu      sync.Mutex
	used    int
	queue   list.List // of *waiter, oldest first
	refused int64
	waited  int64
}

type waiter struct {
	granted chan struct{} // closed with a slot handed over
}

// NewSlots returns size slots; an Acquire waits at most wait.
func NewSlots(size int, wait time.Duration) *Slots {
	if size < 1 {
		panic(fmt.Sprintf("limits: %d slots", size))
	}
	return &Slots{size: size, wait: wait}
}

// Acquire takes a slot, waiting for one until the context ends or the longest wait is over. On success the caller owes
// one Release. Its error matches ErrShardBusy, or the context's error, or both (a deadline that passed in the queue).
func (s *Slots) Acquire(ctx context.Context, _ Request) error {
	s.mu.Lock()
	if s.used < s.size {
		s.used++
		s.mu.Unlock()
		return nil
	}
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return err
	}
	w := &waiter{granted: make(chan struct{})}
	e := s.queue.PushBack(w)
	s.waited++
	ahead := s.queue.Len() - 1
	s.mu.Unlock()

	start := time.Now()
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	var err error
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.busy(time.Since(start), ahead, err)
		}
	case <-timer.C:
		err = s.busy(time.Since(start), ahead, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.granted: // handed over in the meantime: pass it on
		s.release()
	default:
		s.queue.Remove(e)
	}
	s.refused++
	return err
}

func (s *Slots) busy(waited time.Duration, ahead int, ctxErr error) error {
	text := fmt.Sprintf("all %d slots in use for %v with %d callers ahead; retry later, shorten transactions, or raise "+
		"sharded_max_conns if the server has connections to spare", s.size, waited.Round(time.Millisecond), ahead)
	if ctxErr != nil {
		return fmt.Errorf("%w: %s: %w", ErrShardBusy, text, ctxErr)
	}
	return fmt.Errorf("%w: %s", ErrShardBusy, text)
}

// Release gives a slot back. It never blocks.
func (s *Slots) Release() {
	s.mu.Lock()
	s.release()
	s.mu.Unlock()
}

func (s *Slots) release() {
	if front := s.queue.Front(); front != nil {
		s.queue.Remove(front)
		close(front.Value.(*waiter).granted)
		return
	}
	if s.used--; s.used < 0 {
		panic("limits: a slot was released twice")
	}
}

// Stats is a snapshot of a shard's slots.
type Stats struct {
	Size, Used, Waiting int
	Waited, Refused     int64 // since the start: Acquires that had to wait, and those that got nothing
}

// Stats returns the counts now.
func (s *Slots) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Size: s.size, Used: s.used, Waiting: s.queue.Len(), Waited: s.waited, Refused: s.refused}
}
