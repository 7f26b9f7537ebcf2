package backend

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/rls"
)

// wire sits between pgx's protocol layer and its connection. On the way out it puts the reset, a deferred BEGIN and the
// prologue in front of what pgx flushes, in the same write; on the way in it takes out exactly the answers to those.
// Everything it decides comes from the bytes: pgx's exec mode is an argument of each call and cannot be asked.
//
// One goroutine at a time uses a wire, the one that uses the pgx connection; the exceptions are noted in Write.
type wire struct {
	r io.Reader
	w io.Writer

	server    *heard    // told of each answer; nil once connected and verified
	pulse     *pulse    // told of each answer from then on; may be nil
	on, whole bool      // connected and verified (before, bytes pass as they are); and whatever pgx writes comes here
	proto     *protocol // nil until on
	verdicts  *sqllex.Cache

	// What the lease wants.
	slot    Slot // told when something runs; may be nil
	set     rls.Settings
	bare    bool      // nothing is put in front: the settings are in force for the session, which will not be reused
	begin   beginText // waits for the first statement
	inTx    bool      // between a deferred BEGIN and its end: transaction control by the caller breaks the transaction
	guard   guard
	trusted bool // what is sent is the driver's, and no business of the guard's
	pooled  bool
	// joins: a Query becomes part of the transaction of the messages in front of it, and with a single statement in it nobody
	// ends that: not the Query, which finds a transaction of several messages, and not the Sync, which finds nothing begun
	// (PostgreSQL 18; until 17 the Query ended it). What was reported as done would be lost. Several statements end it.
	joins   bool
	defs    rls.Defaults
	signer  signer
	refused error // the guard's word on the last write, until taken

	// What is known of the backend.
	status  byte   // of the last ReadyForQuery
	owner   string // the tenant that used it last
	clean   bool   // a reset was acknowledged and nothing ran since
	armed   bool   // the settings are in force in the open transaction
	armedMS int64  // with this statement_timeout
	dirty   bool   // something not plain ran in the open transaction
	rearm   bool   // the settings may have been changed since they were armed
	stmts   map[string]sqllex.Verdict
	lanes   *laneCounters
	began   bool   // the deferred BEGIN was acknowledged
	brokeTx bool   // the caller ended or replaced the driver's transaction with SQL of its own
	dropped bool   // the driver's prepared statements are gone
	kept    kept   // those besides the reset's that have been prepared
	anew    bool   // they may be gone, unseen until it is too late, so each is prepared again where it is used
	multi   bool   // the text sent last held several statements
	opens   bool   // the texts sent last may have left a transaction open
	misread bool   // it may have done so unseen: how literals end has been changed
	used    usage  // what this lease has done to the backend
	before  usage  // the same without the request under way
	was     byte   // the status in which it was sent
	pending bool   // it, or a part of it, was sent and not answered to the end
	alone   bool   // and that is one segment, so a failure in front of it leaves before as the truth
	ours    string // SQLSTATE of an error in a part that is ours, until taken
	spoiled bool   // and that part was the reset
	// demoted: the server takes no writes any more, as it seems; readOnly: it took none when the backend was made.
	demoted, readOnly bool
	tracked           []string // parameters that decide how literals are read, as reported at connect

	// Requests sent, oldest first; the answers arrive in this order.
	segments []segment
	open     bool // the last segment has not been closed by Sync or Query yet

	out   []byte // reused by Write
	synth []byte // answers made here, for a refused write

	// Input: buf[lo:hi] is ready for pgx, buf[raw:end] has not been looked at.
	buf              []byte
	lo, hi, raw, end int
	fault            error // the server broke the protocol
	pass, skip       int   // bytes of the current message to hand on, or to drop, unseen
}

// usage is what a lease did that decides about the backend's future.
type usage struct {
	notPlain bool // reset before anybody else
	discard  bool // close
}

// segment is what the server answers with one ReadyForQuery.
type segment struct {
	reset   int  // commands of the reset still to be acknowledged
	attests bool // the prologue says whether they were enough
	closes  int  // Close messages of the caller's in front of it all, still to be answered
	drop    int  // commands of ours still to be answered
	pass    int  // then commands of the caller's
	more    int  // then other messages of the caller's
	drop2   int  // then commands of ours again
	query   bool // simple protocol
	twice   bool // a Sync follows the Query, so ReadyForQuery comes twice
	owes    bool // a Sync has to follow if the Query is skipped
	tail    bool // a command of ours ends the Query, behind the caller's
	tailed  bool // and only its answer is still to come
	whole   bool // nothing of it is the caller's
	armed   bool // it carries a prologue
	begun   bool // it carries the deferred BEGIN
	failed  bool
	keeps   kept // what it prepares
	moves   bool // it may begin or end a transaction
	ended   bool // it has ended one
	// fronted: what belongs in front of it has been decided. late: that was a BEGIN or SET TRANSACTION of the caller's,
	// and the prologue waits for the next statement.
	fronted, late bool
}

var (
	errUnnamedBind = errors.New("this exec mode needs a server connection of its own; behind a pooler use " +
		"default_query_exec_mode=exec or simple_protocol")
	errResetBlock = errors.New("shardedpg: the reset failed and has left its transaction open; the connection is closed")
	errMidFlight  = errors.New("shardedpg: a refused statement was part of a longer pipeline; the connection is closed")
)

// Write sends what pgx flushed, with what is ours in front, as one write.
func (w *wire) Write(p []byte) (int, error) {
	// pgx writes COPY data while a goroutine of its own reads the answer, and Terminate from a goroutine of its own: no
	// state may be touched for these.
	if !w.on || passes(p) {
		return w.w.Write(p)
	}
	if w.fault != nil {
		return 0, w.fault
	}
	if len(w.segments) == 0 {
		w.before, w.was, w.opens = w.used, w.status, false
	}
	out, answers, err := w.splice(w.out[:0], p)
	w.alone = len(w.segments) == 1
	w.out = out[:0]
	if cap(w.out) > 64<<10 {
		w.out = nil
	}
	if err != nil {
		return w.refuse(p, answers, err)
	}
	if w.slot != nil { // a large argument on a slow line takes its time
		w.slot.Begin()
		defer w.slot.End()
	}
	n, err := w.w.Write(out)
	w.pending = w.pending || n > 0
	if err != nil {
		// pgx calls a write safe to retry when nothing was written. A cut prologue is the server's to drop, so a partial
		// write must never read as zero.
		return min(n, len(p)), err
	}
	return len(p), nil
}

// splice copies p to out with our part in front of each segment that needs it. answers counts the segments of p.
func (w *wire) splice(out, p []byte) (_ []byte, answers int, err error) {
	mark, rearm, armedMS := len(w.segments), w.rearm, w.armedMS
	defer func() {
		if err != nil { // nothing is sent: a prologue that was made already is not in force
			w.segments = w.segments[:mark]
			w.rearm, w.armedMS = w.rearm || rearm, armedMS
		}
	}()
	for rest := p; len(rest) > 0; {
		if len(rest) < 5 {
			return out, answers, errors.New("shardedpg: a protocol message was cut before its header")
		}
		n := 1 + int(binary.BigEndian.Uint32(rest[1:]))
		if n < 5 || n > len(rest) {
			return out, answers, errors.New("shardedpg: a protocol message was cut")
		}
		m := rest[:n]
		rest = rest[n:]
		switch m[0] {
		case 'd', 'c', 'f', 'H': // COPY data and Flush belong to whatever is open
			out = append(out, m...)
			continue
		}
		if !w.open {
			w.segments = append(w.segments, segment{})
			w.open = true
		}
		seg := &w.segments[len(w.segments)-1]
		switch m[0] {
		case 'P', 'B', 'D', 'E', 'F', 'Q':
			verdict, text := w.classify(m)
			flags := verdict.Flags
			seg.moves = seg.moves || flags&sqllex.TxControl != 0 || w.begin != noBegin || m[0] == 'B' && !w.knows(m)
			if err := w.refusal(m, verdict); err != nil {
				w.open = false
				return out, answers + closers(p[len(p)-len(rest)-n:]), err
			}
			if m[0] == 'Q' {
				first := !seg.fronted
				seg.query = true
				if first {
					out, m = w.front(out, seg, m, rest, flags, text)
				}
				switch {
				case seg.drop+seg.drop2 == 0 && seg.pass == 0:
					out = append(out, m...)
				case (w.pooled || w.joins && flags&sqllex.Multi == 0) && flags&sqllex.CopyIn == 0:
					out = append(appendExtended(out, cstring(m[5:])), syncMessage...)
				default:
					if w.joins && flags&sqllex.Multi == 0 {
						m, seg.tail = withTail(m), true
					}
					// An error in front makes the server skip to the next Sync, over the Query: it needs one. A pooler would
					// give the second answer to the next client, so behind one it is sent when there is such an error.
					out = append(out, m...)
					if seg.owes = w.pooled; !seg.owes {
						seg.twice = true
						out = append(out, syncMessage...)
					}
				}
				w.note(flags)
				w.open = false
				answers++
				continue
			}
			switch {
			case m[0] == 'E':
				if seg.late {
					seg.pass, seg.more = seg.pass+1, 0
				}
			case !seg.fronted:
				out, m = w.front(out, seg, m, rest, flags, text)
			case seg.late && m[0] != 'D' && flags&opensTx == 0:
				seg.late, seg.armed = false, true
				seg.drop2 = w.steps()
				out = w.appendPrologue(out, seg)
			}
			if m[0] == 'P' || m[0] == 'B' {
				w.note(flags)
			}
			if seg.late && m[0] != 'E' {
				seg.more++
			}
		case 'S':
			w.open = false
			answers++
		case 'C':
			if !seg.fronted {
				seg.closes++
			} else if seg.late {
				seg.more++
			}
			if len(m) > 6 && m[5] == 'S' {
				delete(w.stmts, string(cstring(m[6:])))
			}
		}
		out = append(out, m...)
	}
	return out, answers, nil
}

// note records what a statement that is about to be sent may leave behind.
func (w *wire) note(flags sqllex.Flags) {
	w.multi = flags&sqllex.Multi != 0 || w.misread
	w.opens = w.opens || flags&sqllex.TxControl != 0 && flags&(sqllex.Begin|sqllex.Multi) != 0
	if flags&(sqllex.Plain|sqllex.Empty) == 0 {
		w.used.notPlain = true
		w.dirty = true
		w.rearm = true
	}
	if flags&(sqllex.RollbackTo|sqllex.TxControl) != 0 { // COMMIT and BEGIN in one flight leave the status as it was
		w.rearm = true
	}
	if flags&(sqllex.Discard|sqllex.Lasting|sqllex.Unterminated) != 0 {
		w.used.discard = true
	}
	if flags&sqllex.DropsPrepared != 0 {
		w.dropped = true
	}
	if w.inTx && flags&sqllex.TxControl != 0 {
		w.brokeTx = true
	}
}
