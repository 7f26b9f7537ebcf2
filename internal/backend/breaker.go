package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sony/gobreaker/v2"
)

const (
	tripAfter = 3 // attempts to connect that fail in a row
	// Then one attempt at a time, until one succeeds. Shorter, and a fleet of programs would have a server that recovers make
	// hundreds of processes a second only to refuse them.
	probeAfter = 250 * time.Millisecond
	// An attempt that its caller does not wait for has failed when the server is silent for so long. Longer where there are several addresses.
	patience = time.Second
)

// DownError says that a shard could not be connected to several times in a row, so that nobody waits for it now.
type DownError struct {
	RetryAfter time.Duration // until one statement may try again
	cause      error
}

// Error says when the shard is tried again, and what the last attempt met with.
func (d *DownError) Error() string {
	again := "another statement tries it now"
	if d.RetryAfter > 0 {
		again = fmt.Sprintf("it is tried again in %v", d.RetryAfter.Round(time.Millisecond))
	}
	return fmt.Sprintf("the last %d attempts to connect failed and %s: %v", tripAfter, again, d.cause)
}

// Unwrap returns what the last attempt met with.
func (d *DownError) Unwrap() error { return d.cause }

// breaker keeps the tenants of a dead shard from waiting for it, each for as long as connecting may take. Only attempts to
// connect count: a statement that fails or takes long is its tenant's, and would stop the others. A shard whose statements
// no longer come back is noticed as well, since their connections are closed and new ones are needed.
type breaker struct {
	b       *gobreaker.TwoStepCircuitBreaker[struct{}]
	last    atomic.Pointer[error]
	down    atomic.Pointer[time.Time] // when it was last found dead; nil while it is not
	probing atomic.Int64              // attempts under way that are to tell
	outages atomic.Int64
	pulse   pulse
}

// pulse is when the server last said something on any connection to it.
type pulse struct {
	begun time.Time
	last  atomic.Int64 // nanoseconds since
}

func (p *pulse) beat() { p.last.Store(int64(time.Since(p.begun))) }

// felt reports whether that was so lately that the server is alive: a database of which a maintenance command keeps all who connect is one
// tenant's trouble. A dead server is silent everywhere.
func (p *pulse) felt() bool {
	last := p.last.Load()
	return last > 0 && time.Since(p.begun)-time.Duration(last) < patience
}

// newBreaker calls changed with what the last attempt met with when the shard is found dead, and with nil when it is back.
// It must return at once.
func newBreaker(changed func(error)) *breaker {
	b := &breaker{pulse: pulse{begun: time.Now()}}
	b.b = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     probeAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNothingLearned) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen:
				now := time.Now()
				b.down.Store(&now)
				if from == gobreaker.StateClosed {
					b.outages.Add(1)
					changed(*b.last.Load())
				}
			case to == gobreaker.StateClosed:
				b.down.Store(nil)
				changed(nil)
			}
		},
	})
	return b
}

var errNothingLearned = errors.New("the attempt says nothing about the server")

// refuses returns an error while nobody is to try the shard, or another statement does. It returns nil to whoever may.
func (b *breaker) refuses() error {
	since := b.down.Load()
	switch {
	case since == nil:
		return nil
	case b.b.State() == gobreaker.StateOpen:
		return &DownError{RetryAfter: max(time.Until(since.Add(probeAfter)), time.Millisecond), cause: *b.last.Load()}
	case b.probing.Load() > 0:
		return &DownError{cause: *b.last.Load()}
	}
	return nil
}

// attempt is what came of one.
type attempt struct {
	made *Backend
	err  error
}

// heard is in the context of an attempt, which notes there when the server has said something: one that is far away is not dead, and
// would never be connected to if all its callers had little time.
type heard struct {
	last   atomic.Pointer[time.Time]
	others atomic.Int64 // for how long the last of several addresses may have to wait for its turn
}

func (h *heard) now() {
	now := time.Now()
	h.last.Store(&now)
}

type heardKey struct{}

// heardOf returns that of an attempt, or one that nobody looks at.
func heardOf(ctx context.Context) *heard {
	if h, ok := ctx.Value(heardKey{}).(*heard); ok {
		return h
	}
	return new(heard)
}

// try runs an attempt to connect, unless the shard is dead or another attempt is to tell. When ctx ends the attempt goes on
// without its caller (pending) until the server has said nothing for as long as a caller need have patience, and late gets what
// comes of it. So it does to its end when the caller is given another backend instead.
func (b *breaker) try(ctx context.Context, instead <-chan *Backend, connect func(context.Context) (*Backend, error),
	late func(a attempt, instead bool),
) (_ attempt, pending bool) {
	done, err := b.b.Allow()
	if err != nil {
		if err = b.refuses(); err == nil {
			err = &DownError{cause: *b.last.Load()}
		}
		return attempt{err: err}, false
	}
	probe := b.down.Load() != nil
	if probe {
		b.probing.Add(1)
	}
	learn := func(err error) {
		if probe {
			b.probing.Add(-1)
		}
		switch {
		case err == nil || answered(err):
			done(nil)
		case foreign(err), silent(err) && b.pulse.felt():
			done(errNothingLearned)
		default:
			b.last.Store(&err)
			done(err)
		}
	}
	result := make(chan attempt, 1)
	server := new(heard)
	server.now()
	own, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), heardKey{}, server))
	go func() { result <- guarded(own, connect) }()
	select {
	case a := <-result:
		cancel()
		learn(a.err)
		return a, false
	case other := <-instead:
		go func() {
			defer cancel()
			a := <-result
			learn(a.err)
			late(a, true)
		}()
		return attempt{made: other}, true
	case <-ctx.Done():
	}
	go func() {
		defer cancel()
		a := patiently(server, result, cancel)
		learn(a.err)
		late(a, false)
	}()
	return attempt{err: cause(ctx.Err())}, true
}

// patiently returns what comes of an attempt, which it ends when the server is silent for too long.
func patiently(server *heard, result <-chan attempt, end func()) attempt {
	for {
		left := patience + time.Duration(server.others.Load()) - time.Since(*server.last.Load())
		select {
		case a := <-result:
			return a
		case <-time.After(left):
			if left > 0 {
				continue
			}
			end()
			a := <-result
			if errors.Is(a.err, context.Canceled) && !foreign(a.err) { // the shard's failure, and no caller's wish
				a.err = gaveUp(a.err)
			}
			return a
		}
	}
}

// gaveUp is what an attempt failed with that was ended because nothing was heard.
func gaveUp(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && errors.Is(dns, context.Canceled) {
		return &net.DNSError{UnwrapErr: context.DeadlineExceeded, Err: "i/o timeout", Name: dns.Name, Server: dns.Server, IsTimeout: true}
	}
	return cause(context.DeadlineExceeded)
}

// guarded makes an error of a panic in one of the program's hooks: on this goroutine, it would end the program.
func guarded(ctx context.Context, connect func(context.Context) (*Backend, error)) (a attempt) {
	defer func() {
		if p := recover(); p != nil {
			a = attempt{err: &hookError{fmt.Errorf("panic: %v", p)}}
		}
	}()
	a.made, a.err = connect(ctx)
	return a
}

// answered reports whether a failed attempt has reached a server that works: one that refuses this login, database or
// number of connections is not dead. It is one that starts or stops when it says so to a new session (57P02, 57P03); 57P01 is
// for a single session, and any tenant can have that done to those of its role.
func answered(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code != "57P02" && server.Code != "57P03" && !pooler(server)
	}
	var unusable *unusableError
	return errors.As(err, &unusable) || errors.Is(err, ErrUnsafeRole) || errors.Is(err, ErrIdentity)
}

// foreign reports whether an attempt failed for a reason that is not the server's: the program's own hook, or a pooler, whose
// one code stands for a server that is gone as for a database that is none. It says so at once, so that nobody waits for it.
func foreign(err error) bool {
	var hook *hookError
	var server *pgconn.PgError
	return errors.As(err, &hook) || errors.As(err, &server) && pooler(server)
}

// silent reports whether an attempt failed because the server said nothing.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
