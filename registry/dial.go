package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sharded-pg/sharded-pg/internal/hosts"
)

var (
	_ driver.Connector = (*connector)(nil)
	_ io.Closer        = (*connector)(nil)
)

const connectTimeout = 5 * time.Second

// connector lets a connection attempt outlive the caller that started it and gives its result to the next one. A lookup
// may take 150 ms; connecting across a continent with TLS and a password takes longer, and if each lookup threw its
// attempt away, the registry would never be reached. Nor would it if a connection that came just before the deadline
// were given to the caller: pgx closes a connection whose statement runs out of time. So the next one gets that, too.
type connector struct {
	server   driver.Connector
	attempts chan struct{}  // holds a token for each attempt under way
	spare    chan connected // results that nobody has taken yet

	mu     sync.Mutex
	cancel map[*context.CancelFunc]struct{} // of the attempts under way; nil once closed
	wg     sync.WaitGroup
}

type connected struct {
	conn  driver.Conn
	err   error
	began time.Time
	took  time.Duration // at least one round trip, so a statement needs no more on a line without trouble
}

// Driver returns the driver underneath, as [driver.Connector] asks.
func (c *connector) Driver() driver.Driver { return c.server.Driver() }

func newConnector(cfg *pgx.ConnConfig, most int, before func(context.Context, *pgx.ConnConfig) error) *connector {
	// No ping in front of a lookup after each idle second: broken connections are noticed by what runs on them.
	never := stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false })
	host := new(hosts.Memory)
	return detached(stdlib.GetConnector(*cfg, never,
		stdlib.OptionBeforeConnect(func(ctx context.Context, cfg *pgx.ConnConfig) error {
			if before != nil {
				if err := before(ctx, cfg); err != nil {
					return err
				}
			}
			host.Share(ctx, &cfg.Config, connectTimeout)
			return nil
		}),
		stdlib.OptionAfterConnect(func(_ context.Context, conn *pgx.Conn) error {
			conn.PgConn().CustomData()[bornReadOnly] = hosts.ReadOnly(conn.PgConn())
			return nil
		}),
		stdlib.OptionResetSession(func(_ context.Context, conn *pgx.Conn) error {
			if demoted(conn) {
				return driver.ErrBadConn
			}
			return nil
		}),
	), most)
}

const bornReadOnly = "sharded-pg: read only"

// demoted reports whether the server of conn takes no writes any more, as it said with its last answer: the registry goes on
// elsewhere, and neither its rows nor its notifications are to be had here. It is no question for who wanted a standby.
func demoted(conn *pgx.Conn) bool {
	born, known := conn.PgConn().CustomData()[bornReadOnly].(bool)
	return known && !born && hosts.ReadOnly(conn.PgConn())
}

func detached(c driver.Connector, most int) *connector {
	return &connector{
		server:   c,
		attempts: make(chan struct{}, most),
		spare:    make(chan connected, most),
		cancel:   make(map[*context.CancelFunc]struct{}),
	}
}

// Connect returns a connection, from an attempt that an earlier caller gave up on if there is one. A failure is returned only
// of an attempt that began after the call: an older one says nothing about now.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	entered := time.Now()
	for {
		select {
		case got := <-c.spare:
			if got.err != nil && got.began.Before(entered) {
				continue
			}
			return got.conn, got.err // no time was spent on it, so there is all of it for the statement
		default:
		}
		select {
		case c.attempts <- struct{}{}:
			if err := c.start(ctx); err != nil {
				<-c.attempts
				return nil, err
			}
		default: // as many attempts as there can be connections are under way: wait for one of those
		}
		select {
		case got := <-c.spare:
			if got.err != nil && got.began.Before(entered) {
				continue
			}
			if deadline, ok := ctx.Deadline(); ok && got.err == nil && time.Until(deadline) < got.took {
				c.keep(got)
				return nil, fmt.Errorf("connecting took %v, too long to run anything: try again on the connection that is there now: %w",
					got.took.Round(time.Millisecond), context.DeadlineExceeded)
			}
			return got.conn, got.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *connector) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel == nil {
		cancel()
		return ErrClosed
	}
	c.cancel[&cancel] = struct{}{}
	c.wg.Go(func() {
		defer cancel()
		got := connected{began: time.Now()}
		got.conn, got.err = c.server.Connect(ctx)
		got.took = time.Since(got.began)
		<-c.attempts
		c.mu.Lock()
		delete(c.cancel, &cancel)
		c.mu.Unlock()
		c.keep(got)
	})
	return nil
}

// keep leaves a connection for the next caller, unless there are enough or the connector is closed.
func (c *connector) keep(got connected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		select {
		case c.spare <- got:
			return
		default:
		}
	}
	if got.conn != nil {
		_ = got.conn.Close()
	}
}

// Close ends the attempts under way and closes what nobody took. sql.DB.Close calls it.
func (c *connector) Close() error {
	c.mu.Lock()
	for cancel := range c.cancel {
		(*cancel)()
	}
	c.cancel = nil
	c.mu.Unlock()
	c.wg.Wait()
	for {
		select {
		case got := <-c.spare:
			if got.conn != nil {
				_ = got.conn.Close()
			}
		default:
			return nil
		}
	}
}

// lost reports whether err means that an established connection has ended.
func lost(err error) bool {
	var network net.Error // context.DeadlineExceeded is one, too
	if errors.As(err, &network) {
		return !network.Timeout()
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed)
}
