package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Payloads of notifications: one tenant, or anything.
const (
	tenantNotification = "t:"
	flushNotification  = "f:"
)

const (
	watchBackoffMin = 100 * time.Millisecond
	watchBackoffMax = 10 * time.Second
	watchPing       = 5 * time.Second // how long a connection may take to prove that it lives
)

// Watch calls h for each change until ctx ends or the store is closed; see [Store]. It holds one connection and makes
// sure every Options.Keepalive that it still lives, so that one that a firewall has forgotten is noticed.
//
// Behind a pooler LISTEN does not work. Watch finds out, says so in the log, and flushes every Options.Keepalive instead.
func (p *Postgres) Watch(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.closed:
			cancel(ErrClosed)
		case <-ctx.Done():
		}
	}()

	backoff := watchBackoffMin
	for {
		started := time.Now()
		err := p.watchOnce(ctx, h)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errNotPgx) {
			return err
		}
		if time.Since(started) > watchBackoffMax {
			backoff = watchBackoffMin // it had worked; quick failures in a row slow down even if each had connected
		}
		wait := backoff/2 + rand.N(backoff/2)
		p.opts.Logger.WarnContext(ctx, "registry notifications lost; connecting again", "wait", wait, "error", err)
		if !pause(ctx, wait) {
			return context.Cause(ctx)
		}
		backoff = min(2*backoff, watchBackoffMax)
	}
}

var errNotPgx = errors.New("watching needs a database opened with pgx's database/sql driver")

// watchOnce listens on one connection until it fails.
func (p *Postgres) watchOnce(ctx context.Context, h Handler) error {
	connectCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := p.db.Conn(connectCtx)
	if err != nil {
		return p.explain(ctx, "connecting", err)
	}
	defer conn.Close()
	var reason error
	_ = conn.Raw(func(raw any) error {
		own, ok := raw.(*stdlib.Conn)
		if !ok {
			reason = errNotPgx
			return nil
		}
		reason = p.listen(ctx, own.Conn(), h)
		return driver.ErrBadConn // it listens: no other user of the pool may get it
	})
	return reason
}

func (p *Postgres) listen(ctx context.Context, conn *pgx.Conn, h Handler) error {
	pooled, err := p.subscribe(ctx, conn)
	if err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	if pooled {
		p.opts.Logger.WarnContext(ctx, "the registry is behind a pooler, which loses notifications; flushing instead",
			"every", p.opts.Keepalive)
	} else {
		p.opts.Logger.InfoContext(ctx, "listening for registry changes", "channel", p.channel)
	}
	// After the subscription, so that no change falls between the two.
	h.flush()
	for {
		if err := p.next(ctx, conn, h, pooled); err != nil {
			return err
		}
	}
}

// subscribe listens, unless a pooler stands in between: it would leave the LISTEN on a connection of somebody else.
// Then the process that answers is not the one whose key the server gave us.
func (p *Postgres) subscribe(ctx context.Context, conn *pgx.Conn) (pooled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchPing)
	defer cancel()
	var pid uint32
	if err := conn.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid); err != nil {
		return false, err
	}
	if pid != conn.PgConn().PID() {
		return true, nil
	}
	if demoted(conn) {
		return false, errDemoted
	}
	_, err = conn.Exec(ctx, "listen "+pgx.Identifier{p.channel}.Sanitize())
	return false, err
}

var errDemoted = errors.New("the server takes no writes any more, so the registry no longer changes there")

// next delivers one notification, or makes sure that the connection lives when none has come for a while.
func (p *Postgres) next(ctx context.Context, conn *pgx.Conn, h Handler, pooled bool) error {
	waitCtx, cancel := context.WithTimeout(ctx, p.opts.Keepalive)
	defer cancel()
	notification, err := conn.WaitForNotification(waitCtx)
	switch {
	case err == nil:
		h.notify(notification.Payload)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case waitCtx.Err() == nil || conn.IsClosed():
		return err
	}
	// Who asks for short pauses has a server that is near.
	pingCtx, cancelPing := context.WithTimeout(ctx, min(watchPing, max(p.opts.Keepalive, 500*time.Millisecond)))
	defer cancelPing()
	if err := conn.Ping(pingCtx); err != nil {
		return fmt.Errorf("the connection no longer answers: %w", err)
	}
	if demoted(conn) {
		return errDemoted
	}
	if pooled {
		h.flush()
	}
	return nil
}
