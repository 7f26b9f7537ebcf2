package backend

import (
	"context"
	"io"
	"time"
)

// Discard closes b, and leaves the slot to the lease that will take another one: when gone is closed, since the server may be busy
// with b until then.
func (p *Pool) Discard(b *Backend, slot Slot) (gone <-chan struct{}) {
	done := make(chan struct{})
	slot.Begin()
	p.drop(b, func() {
		slot.End()
		close(done)
	})
	return done
}

// ReleaseAfter is Release when gone is closed.
func (p *Pool) ReleaseAfter(gone <-chan struct{}, slot Slot) {
	select {
	case <-gone:
		p.Release(slot)
	default:
		go func() {
			<-gone
			p.Release(slot)
		}()
	}
}

// drop closes b and calls then when that is done.
func (p *Pool) drop(b *Backend, then func()) {
	p.drops.Add(1)
	if !b.pg.IsClosed() && !b.pg.IsBusy() {
		p.close(b)
		then()
		return
	}
	go func() {
		p.close(b)
		then()
	}()
}

// cleanupWait is longer than the fifteen seconds after which pgx ends a cleanup whatever the server does. Only one that
// never began lasts longer: that of a connection which the caller took out of pgx's hands, through Raw and Hijack.
const cleanupWait = 16 * time.Second

// close closes b and gives up its place.
func (p *Pool) close(b *Backend) {
	p.hangUp(b)
	p.forgo()
}

// hangUpServer closes b and waits until no cancel request for it is on its way: a late one would hit the next user of the same
// server process.
func (p *Pool) hangUpServer(b *Backend) {
	if b.pg.IsBusy() {
		p.interrupt(b)
	}
	_ = b.conn.Close() // waits five seconds at most
	select {
	case <-b.pg.CleanupDone():
	case <-time.After(grace):
		if !b.raw && !b.wire.pooled {
			go p.ask(b.key, b.wire.set)
		}
		select {
		case <-b.pg.CleanupDone():
		case <-time.After(cleanupWait):
		}
	}
}

// interrupt stops what runs on a connection that is closed in the middle of a statement, as a caller of Raw may leave it, and waits for
// the server as pgx does where a context has ended. A server that computes would not notice that nobody is there any more.
func (p *Pool) interrupt(b *Backend) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.cfg.Life), interruptTime)
	defer cancel()
	_ = b.pg.CancelRequest(ctx)
	deadline, _ := ctx.Deadline()
	if conn := unwrap(b.pg.Conn()); conn.SetDeadline(deadline) == nil {
		_, _ = conn.Write([]byte{'X', 0, 0, 0, 4})
		_, _ = io.Copy(io.Discard, conn)
	}
}

const interruptTime = 15 * time.Second
