package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// wrapped is a connection whose every write goes through the wire. pgx writes to its frontend, which is the wire, with one
// exception: pgconn.ExecBatch, which pgx's SendBatch uses in the mode exec, writes to the connection itself.
type wrapped struct {
	net.Conn
	wire *wire
}

func (c *wrapped) Write(p []byte) (int, error) { return c.wire.Write(p) }

// wrapWrites returns an AfterNetConnect that wraps what next leaves. A TLS connection stays as it is, because pgx needs the
// concrete type for channel binding: such a backend is not whole, and Raw takes care of that. Poolers know no channel
// binding, so behind one nothing is lost.
func wrapWrites(w *wire, next netHook, pooled bool) netHook {
	return func(ctx context.Context, cfg *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if next != nil {
			var err error
			if conn, err = next(ctx, cfg, conn); err != nil {
				return conn, err
			}
		}
		_, secure := conn.(*tls.Conn)
		if w.whole = pooled || !secure; !w.whole {
			return conn, nil
		}
		return &wrapped{conn, w}, nil
	}
}

type netHook = func(ctx context.Context, cfg *pgconn.Config, conn net.Conn) (net.Conn, error)

func unwrap(conn net.Conn) net.Conn {
	if c, ok := conn.(*wrapped); ok {
		return c.Conn
	}
	return conn
}

// ErrReset: the reset in front of Raw failed. Nothing of the caller's was sent, and the backend cannot be used.
var ErrReset = errors.New("the reset of a connection failed")

var errUnguarded = errors.New("batches on a TLS connection pass the strict guard by")

// Raw is the pgx connection under the backend, for the caller's own use. The backend is closed afterwards. A reset that is
// due runs here and now, until the deadline: nobody could tell its error from one of the caller's later. For the same reason
// the prologue brings its text from now on: pgx's DeallocateAll, or a function that hides one, would take the prepared one
// away. Where a batch could be written past the wire, the settings are put in force for the session first; the strict guard,
// which would not see it, gives no such connection away.
func (b *Backend) Raw(ctx context.Context, deadline time.Time) (*pgx.Conn, error) {
	// Behind a pooler the next flight may meet another server connection, and brings its own reset.
	if w := b.wire; !w.pooled && w.resetDue() && w.status == 'I' && !b.pg.IsBusy() {
		if err := b.sendReset(); err != nil || !b.settle(ctx, deadline) {
			return nil, ErrReset
		}
	}
	if !b.wire.whole && b.wire.guard.strict {
		return nil, errUnguarded
	}
	b.raw, b.wire.anew = true, true
	if !b.wire.whole && b.wire.status != 'E' {
		if err := b.setForSession(ctx); err != nil {
			return nil, err
		}
	}
	return b.conn.Conn(), nil
}
