package main

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// line is a network line of a given length: what the server says is heard that much later. It costs no processor time. A
// proxy in between would take as much of the machine for each round trip as the statement does, and a case with many
// goroutines would measure the proxy.
//
// The whole round trip is put behind the answer, since nobody can tell which way the time went. An answer that needs several
// reads would be held up by each; those of the cases need one.
type line struct{ roundTrip atomic.Int64 }

func (l *line) set(roundTrip time.Duration) { l.roundTrip.Store(int64(roundTrip)) }

// dial is a pgconn.DialFunc.
func (l *line) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	a, err := newAlarm()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &lineConn{Conn: conn, line: l, alarm: a}, nil
}

// lineConn is read by one goroutine at a time.
type lineConn struct {
	net.Conn
	line  *line
	alarm *alarm
}

var _ syscall.Conn = (*lineConn)(nil)

func (c *lineConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if d := c.line.roundTrip.Load(); d > 0 && err == nil {
		err = c.alarm.wait(time.Duration(d))
	}
	return n, err
}

func (c *lineConn) Close() error { return errors.Join(c.Conn.Close(), c.alarm.Close()) }

// SyscallConn lets drivers look at the socket, as they do without a line.
func (c *lineConn) SyscallConn() (syscall.RawConn, error) { return c.Conn.(syscall.Conn).SyscallConn() }
