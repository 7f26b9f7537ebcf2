//go:build unix

package backend

import (
	"net"
	"syscall"
)

// peeker looks at a socket without waiting and without a flight.
type peeker struct {
	raw   syscall.RawConn
	check func(fd uintptr)
	idle  bool
}

func (p *peeker) attach(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	p.raw = raw
	var one [1]byte
	p.check = func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Nothing to read is what an idle server looks like. A byte is a farewell, also under TLS: session tickets come in front of
		// the first answer, and have been read with it.
		p.idle = err == syscall.EAGAIN || err == syscall.EINTR
	}
}

// quiet reports whether the server has neither closed the connection nor said anything since the last answer.
func (p *peeker) quiet() bool {
	if p.raw == nil {
		return true
	}
	// Not Read: it would wait for a Read that is under way, and after a slow write pgx's background reader stays in one
	// until the server speaks, which on an idle connection is never.
	if err := p.raw.Control(p.check); err != nil {
		return false
	}
	return p.idle
}
