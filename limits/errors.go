package limits

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of this package. The root package re-exports them; branch on them with errors.Is.
var (
	// ErrTenantBusy: the tenant has all the connections that it may have, and its statement waited, or would wait, too long.
	ErrTenantBusy = errors.New("tenant busy")
	// ErrShardBusy: the connections of the shard stayed in use for as long as the caller may wait, or are held by callers that
	// seem to wait for each other.
	ErrShardBusy = errors.New("shard busy")
	// ErrRateLimited: the tenant sends more statements per second than its plan has.
	ErrRateLimited = errors.New("rate limited")
	// ErrClosed: the slots are closed, and nobody waits for them any more.
	ErrClosed = errors.New("slots closed")
)

// RefusedError is why a statement got no slot.
type RefusedError struct {
	RetryAfter time.Duration // when there is reason to hope for one; 0 if waiting does not help
	err        error
}

// Error says what is used up and what to do.
func (r *RefusedError) Error() string { return r.err.Error() }

// Unwrap returns the cause: one of the errors of this package, and the context's if its deadline has passed.
func (r *RefusedError) Unwrap() error { return r.err }

// overfull refuses to let another statement into a queue that is full.
func (s *Slots) overfull(t *tenant) error {
	switch {
	case t.queued >= s.cfg.TenantQueue:
		t.plan.TenantBusy++
		return &RefusedError{RetryAfter: t.pace.until(t.queued), err: fmt.Errorf("%w: %d statements wait for the %d connections that "+
			"it may have, the most that may wait; retry later, or raise %s", ErrTenantBusy, t.queued, t.limit, s.maxConns(t))}
	case s.waiting >= s.cfg.ShardQueue:
		t.plan.ShardBusy++
		return &RefusedError{RetryAfter: s.pace.until(s.waiting), err: fmt.Errorf("%w: %d statements wait for its %d slots, the most that "+
			"may wait; retry later, or move tenants to another shard", ErrShardBusy, s.waiting, s.cfg.Size)}
	}
	return nil
}

// waitedInVain is for a waiter that has waited as long as one may.
func (s *Slots) waitedInVain(t *tenant, w *waiter) error { return s.inVain(t, w, nil) }

// ended is for a waiter whose context has ended.
func (s *Slots) ended(err error, t *tenant, w *waiter) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		t.plan.Cancelled++
		return err
	}
	return s.inVain(t, w, err)
}

func (s *Slots) inVain(t *tenant, w *waiter, ctxErr error) error {
	waited := time.Since(w.from).Round(time.Millisecond)
	r := &RefusedError{}
	if t.used >= t.limit {
		t.plan.TenantBusy++
		r.RetryAfter = t.pace.until(t.queued + 1)
		r.err = fmt.Errorf("%w: all %d connections that it may have were in use for %v, and %d statements still wait; retry later, "+
			"shorten its transactions, or raise %s", ErrTenantBusy, t.limit, waited, t.queued, s.maxConns(t))
	} else {
		t.plan.ShardBusy++
		r.RetryAfter = s.pace.until(s.waiting + 1)
		r.err = fmt.Errorf("%w: all %d slots were in use for %v, and %d statements still wait; retry later, shorten transactions, or "+
			"raise sharded_max_conns if the server has connections to spare", ErrShardBusy, s.cfg.Size, waited, s.waiting)
	}
	if ctxErr != nil {
		r.err = fmt.Errorf("%w: %w", r.err, ctxErr)
	}
	return r
}

// stuck is for a waiter that seems to wait for itself. Waiting does not help, so there is no RetryAfter.
func (s *Slots) stuck(t *tenant) error {
	const held = "have been held for %v with nothing running on them, by transactions, rows or connections left open"
	if t.used < t.limit {
		t.plan.ShardBusy++
		return &RefusedError{err: fmt.Errorf("%w: all %d slots "+held+", of %d tenants; if the caller of this statement holds one, for "+
			"another tenant, it would wait for itself: end the transaction or close the rows first; otherwise do nothing slow inside a "+
			"transaction, or raise sharded_max_conns", ErrShardBusy, s.cfg.Size, stuckAfter, len(s.holders))}
	}
	t.plan.TenantBusy++
	return &RefusedError{err: fmt.Errorf("%w: its %d connections "+held+"; if the caller of this statement holds one, it would wait for "+
		"itself: use the transaction for it, or close the rows first; otherwise do nothing slow inside a transaction, or raise %s",
		ErrTenantBusy, t.limit, stuckAfter, s.maxConns(t))}
}

// maxConns names what keeps the tenant from more connections. Whether the plan says so or what is above it is not known here.
func (s *Slots) maxConns(t *tenant) string {
	what := fmt.Sprintf("max_conns of plan %q", t.plan.name)
	if t.limit < s.share {
		return what + ", or of the tenant's override or throttle"
	}
	return fmt.Sprintf("%s and sharded_tenant_share, of which %d of %d slots is what one tenant may have", what, s.share, s.cfg.Size)
}

func (s *Slots) rateLimited(r *Request, after time.Duration) error {
	s.mu.Lock()
	s.counts(r.Plan).RateLimited++
	s.mu.Unlock()
	return &RefusedError{RetryAfter: after, err: fmt.Errorf("%w: it sends more than the %v statements per second of plan %q; retry in %v, "+
		"send fewer, or raise the rate of the plan, or of the tenant's override or throttle", ErrRateLimited, r.Rate, r.Plan,
		after.Round(time.Millisecond))}
}
