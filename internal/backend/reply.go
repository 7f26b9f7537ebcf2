package backend

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	inputSize    = 16 << 10
	maxHeldReply = 8 << 20 // of a message that has to be seen whole; PostgreSQL's errors stay far below
)

// Read hands pgx what the server sent, without the answers to what pgx did not ask for.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.synth) > 0 && len(w.segments) == 0 && w.lo == w.hi {
		n := copy(p, w.synth)
		w.synth = w.synth[n:]
		return n, nil
	}
	for w.lo == w.hi {
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.buf[w.lo:w.hi])
	w.lo += n
	return n, nil
}

// fill reads once from the server and sorts what came.
func (w *wire) fill() error {
	if w.fault != nil {
		return w.fault
	}
	if w.buf == nil {
		w.buf = make([]byte, inputSize)
	}
	if w.raw > 0 { // kept are what has not been handed out, and an unfinished message
		ready := copy(w.buf, w.buf[w.lo:w.hi])
		w.end = ready + copy(w.buf[ready:], w.buf[w.raw:w.end])
		w.lo, w.hi, w.raw = 0, ready, ready
	}
	if w.end == len(w.buf) {
		w.buf = append(w.buf, make([]byte, len(w.buf))...)
	}
	if w.slot != nil {
		w.slot.Begin()
	}
	n, err := w.r.Read(w.buf[w.end:])
	if w.slot != nil {
		w.slot.End()
	}
	w.end += n
	switch {
	case n > 0 && w.server != nil:
		w.server.now()
	case n > 0 && w.pulse != nil:
		w.pulse.beat()
	}
	w.sort()
	if w.lo == w.hi && w.fault != nil {
		return w.fault
	}
	if n == 0 { // else the error comes again
		return err
	}
	return nil
}

// sort walks the messages in buf[raw:end], moving those for pgx to buf[lo:hi]. It stops for good at a message that no
// server sends.
func (w *wire) sort() {
	r, o := w.raw, w.hi
	defer func() { w.hi, w.raw = o, r }()
	keep := func(n int) {
		if o != r {
			copy(w.buf[o:], w.buf[r:r+n])
		}
		o, r = o+n, r+n
	}
	for r < w.end {
		if n := min(w.pass, w.end-r); n > 0 {
			keep(n)
			w.pass -= n
			continue
		}
		if n := min(w.skip, w.end-r); n > 0 {
			r += n
			w.skip -= n
			continue
		}
		if w.end-r < 5 {
			break
		}
		n := 1 + int(binary.BigEndian.Uint32(w.buf[r+1:]))
		if n < 5 || w.buf[r] == 'Z' && n != 6 {
			w.fault = fmt.Errorf("shardedpg: the server sent a message of type %q with the impossible length %d", w.buf[r], n)
			return
		}
		switch w.buf[r] {
		case 'E', 'C', 'Z', 'S': // decided by their content
			if n > maxHeldReply {
				w.fault = fmt.Errorf("shardedpg: the server sent a message of type %c with %d bytes", w.buf[r], n)
				return
			}
			if w.end-r < n {
				return
			}
		}
		if w.forward(w.buf[r:min(r+n, w.end)]) {
			w.pass = n
		} else {
			w.skip = n
		}
	}
}

// forward keeps the books for one message and reports whether pgx gets it. Of the types that sort holds back m is whole;
// of others only the header is sure to be there.
func (w *wire) forward(m []byte) bool {
	if !w.on {
		if m[0] == 'Z' {
			w.status = m[5]
		}
		return true
	}
	if len(w.segments) == 0 {
		w.unasked(m)
		return true
	}
	seg := &w.segments[0]
	ours := seg.drop > 0 || seg.pass+seg.more == 0 && seg.drop2 > 0
	if !ours && seg.pass+seg.closes == 0 && seg.more > 0 && strings.IndexByte("123nT", m[0]) >= 0 {
		seg.more--
	}
	switch m[0] {
	case 'S':
		w.parameter(m)
		return true
	case 'A':
		if seg.reset > 0 { // before the end of a reset it is for whoever listened before
			return false
		}
		w.used.discard = true // pgx keeps it for the next WaitForNotification, which may be another tenant's
		return true
	case 'N':
		return !ours
	case 'E':
		w.failure(m, seg, ours && !seg.tailed) // an error at the end of the flight is about what the caller's command did
		return !seg.whole
	case 'C', 'I', 's':
		return w.completed(m, seg, ours)
	case 'G', 'W':
		seg.twice = false // the server drops a Sync that arrives during COPY FROM STDIN
		return true
	case 'Z':
		return w.ready(m[5], seg)
	case '1', '2', '3':
		if m[0] == '3' && seg.closes > 0 {
			seg.closes--
			return true
		}
		return !ours && !seg.query
	case 'n':
		return !ours && !seg.query // a Query that was sent in other messages
	}
	return !ours
}

// completed counts an answered command.
func (w *wire) completed(m []byte, seg *segment, ours bool) bool {
	if !ours {
		if seg.tail {
			seg.tail, seg.tailed, seg.drop2 = false, true, 1
		} else if seg.pass > 0 {
			seg.pass--
		} else if w.inTx && endsTransaction(m) {
			w.brokeTx = true
		}
		return true
	}
	if seg.reset > 0 {
		if seg.reset--; seg.reset == 0 && !seg.attests {
			w.clean, w.owner = true, ""
		}
	}
	left := &seg.drop
	if *left == 0 {
		left = &seg.drop2
	}
	*left--
	if seg.drop == 0 && seg.begun {
		w.began = true
	}
	if seg.drop+seg.drop2 == 0 {
		w.kept |= seg.keeps
		if seg.armed {
			w.accept()
		}
	}
	return false
}

// accept notes that the prologue is in force: from here on the backend holds traces of this tenant.
func (w *wire) accept() {
	w.owner, w.clean = w.set.Tenant, false
	w.armed = true
}

// endsTransaction tells the tags that end or replace a transaction block from all others. ROLLBACK TO SAVEPOINT has the
// tag ROLLBACK as well; the caller's text has told those apart by then (see note).
func endsTransaction(m []byte) bool {
	switch string(cstring(m[5:])) {
	case "COMMIT", "BEGIN", "START TRANSACTION", "PREPARE TRANSACTION":
		return true
	}
	return false
}

// ready ends the oldest segment.
func (w *wire) ready(status byte, seg *segment) bool {
	if seg.twice && !(seg.failed && seg.drop+seg.drop2 > 0) { // a failure in front made the server skip the Query
		seg.twice = false // the answer to the Query; the one to our Sync follows
		return false
	}
	whole := seg.whole
	w.status = status
	if w.pooled && status != 'I' && seg.failed && seg.reset > 0 {
		w.fault = errResetBlock // which nothing is put in front of
	}
	if w.began {
		w.begin = noBegin
	}
	if status == 'I' {
		w.brokeTx = w.brokeTx || w.inTx && w.began
		w.armed, w.dirty, w.rearm = false, false, false
	}
	w.segments = slices.Delete(w.segments, 0, 1)
	w.pending = len(w.segments) > 0
	return !whole
}

const undefinedStatement = "26000"

// failure notes an error of the server.
func (w *wire) failure(m []byte, seg *segment, ours bool) {
	code := errorField(m, 'C')
	if ours && w.alone { // the caller's part did not run, so it has used nothing
		w.used = w.before
	}
	switch code {
	case "53200":
		// Out of memory can leave session locks behind that even a reset may not be able to clear.
		w.used.discard = true
	case "28000":
		w.signer.refused = w.signer.refused || strings.HasPrefix(errorField(m, 'M'), unverified)
	case "57P01", "57P02", "57P03": // else nothing stands in the way of another backend: FATAL is the end of this one, and no trace of the lease
		w.used.discard = w.used.discard || !w.alone || !ours && errorField(m, 'V') != "FATAL"
	}
	first := !seg.failed // a pooler has the last word about a connection that the server has ended
	seg.failed = true
	if first && seg.owes && !seg.tailed && seg.drop+seg.drop2 > 0 {
		_, _ = w.w.Write([]byte(syncMessage)) // if it does not get there, no answer does either
	}
	if first && (ours || seg.whole) {
		w.ours, w.spoiled = code, seg.spoiled(code, errorField(m, 'R'))
		if code == undefinedStatement { // nobody could read that it was taken away
			w.dropped = true
		}
	}
}

// spoiled reports whether an error of ours is about what was left on the connection, or may be. In the prologue behind a reset there is also
// what is wrong with its tenant, and that must not cost others their connections.
func (s *segment) spoiled(code, routine string) bool {
	if s.reset > 0 || !s.attests {
		return s.reset > 0
	}
	switch code {
	case notAttested, undefinedStatement, "57014": // cancelled before it was done
		return true
	case "42501": // a role that may not even look; the tenant's own would be refused by another routine
		return routine == "aclcheck_error"
	}
	return false
}

// parameter watches the settings that decide how a statement's text is read: a reset inside a simple-protocol string
// cannot change how the rest of that string was lexed.
func (w *wire) parameter(m []byte) {
	name, rest := cutString(m[5:])
	value := cstring(rest)
	if string(value) == "on" && (string(name) == "default_transaction_read_only" || string(name) == "in_hot_standby") {
		w.demoted = !w.readOnly
	}
	for i := 0; i+1 < len(w.tracked); i += 2 {
		if w.tracked[i] == string(name) && w.tracked[i+1] != string(value) {
			w.used.discard, w.misread = true, true
		}
	}
}

// unasked notes what the server says without having been asked.
func (w *wire) unasked(m []byte) {
	switch m[0] {
	case 'S':
		w.parameter(m)
	case 'E', 'A':
		w.used.discard = true
	}
}

// errorField returns one field of an ErrorResponse (PostgreSQL manual, section 54.8).
func errorField(m []byte, field byte) string {
	for rest := m[5:]; len(rest) > 1 && rest[0] != 0; {
		value, next := cutString(rest[1:])
		if rest[0] == field {
			return string(value)
		}
		rest = next
	}
	return ""
}

// drain reads until the answers to everything that was sent have come. Of what is pgx's there may be settings only, which a reset
// changes; they wait for pgx's next read.
func (w *wire) drain() error {
	for len(w.segments) > 0 {
		if err := w.fill(); err != nil {
			return err
		}
		for rest := w.buf[w.lo:w.hi]; len(rest) > 0; rest = rest[1+binary.BigEndian.Uint32(rest[1:]):] {
			if rest[0] != 'S' || len(rest) < 5 || int64(binary.BigEndian.Uint32(rest[1:])) >= int64(len(rest)) {
				return io.ErrUnexpectedEOF // somebody else's answer among ours, or the end of one
			}
		}
	}
	return nil
}
