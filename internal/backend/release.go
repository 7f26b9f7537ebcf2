package backend

import (
	"context"
	"time"

	"github.com/sharded-pg/sharded-pg/rls"
)

// reusable reports whether the backend may serve another lease after what this one did.
func (b *Backend) reusable() bool {
	w := b.wire
	return !b.raw && !b.pg.IsClosed() && !b.pg.IsBusy() && w.status == 'I' && !w.used.discard && !w.bare && !w.signer.refused &&
		len(w.segments) == 0 && !w.open
}

// forget ends the lease's hold on the wire.
func (b *Backend) forget() {
	w := b.wire
	w.set = rls.Settings{}
	w.begin, w.began, w.inTx, w.brokeTx = noBegin, false, false, false
	w.ours, w.refused = "", nil
	w.used = usage{}
	w.slot = nil
}

// sendReset sends the sealed reset without waiting: its answer is read at the next checkout. Locks, temporary tables and
// LISTEN of this lease end now, and nobody waits for it.
func (b *Backend) sendReset() error {
	w := b.wire
	out := append(append(w.out[:0], w.proto.sealed.text...), syncMessage...)
	w.out = out[:0]
	_, err := w.w.Write(out)
	w.segments = append(w.segments, segment{reset: w.proto.sealed.n, drop: w.proto.sealed.n, whole: true})
	w.lanes.eager.Add(1)
	return err
}

// settle reads the answer to a reset sent at release. False: the backend cannot be used.
func (b *Backend) settle(ctx context.Context, deadline time.Time) bool {
	w := b.wire
	if len(w.segments) == 0 {
		return true
	}
	conn := b.pg.Conn()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	err := w.drain()
	if !stop() { // the deadline may yet be set
		return false
	}
	failed := w.ours != ""
	w.ours = ""
	return conn.SetReadDeadline(time.Time{}) == nil && err == nil && !failed && w.clean && w.status == 'I' && !w.used.discard
}
