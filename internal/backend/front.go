package backend

import (
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/rls"
)

// front appends what has to fly in front of message m, the first of seg that makes the server look at SQL. rest follows m.
func (w *wire) front(out []byte, seg *segment, m, rest []byte, flags sqllex.Flags, text []byte) ([]byte, []byte) {
	if w.bare || m[0] == 'Q' && flags&sqllex.Empty != 0 || w.set.Tenant == "" {
		return out, m
	}
	seg.fronted = true
	// Behind a pooler each segment may meet another server connection, unless all are in one transaction.
	if w.pipelined() && !(w.pooled && w.status == 'I') {
		switch {
		case flags&opensTx != 0:
			return w.behindFirst(out, seg, m, rest, flags, text)
		case flags&(sqllex.End|sqllex.RollbackTo) == 0:
			out = w.prologue(out, seg)
		}
		return out, m
	}
	switch w.status {
	case 'E': // nothing but ROLLBACK can succeed, and a prologue would stand in its way
		return out, m
	case 'T':
		if flags&sqllex.End != 0 {
			return out, m
		}
		if !w.armed && flags&sqllex.SetTransaction != 0 {
			return w.behindFirst(out, seg, m, rest, flags, text)
		}
		if !w.armed || w.rearm || w.armedMS != w.set.TimeoutMS {
			out = w.prologue(out, seg)
		}
		return out, m
	}
	late := flags&sqllex.Begin != 0 // the caller's comes before any query
	if w.begin != noBegin {
		late = flags&sqllex.SetTransaction != 0
	}
	if w.resetDue() {
		out = w.reset(out, seg, late)
	} else {
		w.lanes.direct.Add(1)
	}
	if w.begin != noBegin {
		out = append(out, w.own(seg, keptBegin(w.begin)).begin[w.begin]...)
		seg.begun = true
		seg.drop++
	}
	if late {
		return w.behindFirst(out, seg, m, rest, flags, text)
	}
	return w.prologue(out, seg), m
}

// reset returns the backend to what it was. Where the prologue is late, perhaps too late, it has to be complete without that.
func (w *wire) reset(out []byte, seg *segment, late bool) []byte {
	w.lanes.reset.Add(1)
	c := &w.proto.reset
	if seg.attests = !late && !w.pooled; !seg.attests {
		c = &w.proto.sealed
	}
	seg.reset, seg.drop = c.n, c.n
	return append(out, c.text...)
}

// resetDue reports whether the next flight has to begin with a reset, when it finds the backend outside any transaction.
func (w *wire) resetDue() bool {
	return w.pooled || !w.clean && w.owner != w.set.Tenant
}

// opensTx are statements that must come before any query of their transaction, and the prologue is one.
const opensTx = sqllex.Begin | sqllex.SetTransaction

// pipelined reports whether the segments before the last have yet to be answered by more than a word, so that nobody
// knows the status that they will leave.
func (w *wire) pipelined() bool {
	for i := range len(w.segments) - 1 {
		if w.segments[i].fronted {
			return true
		}
	}
	return false
}

// moved reports whether one of the segments before the last may begin or end a transaction.
func (w *wire) moved() bool {
	for i := range len(w.segments) - 1 {
		if w.segments[i].moves {
			return true
		}
	}
	return false
}

// behindFirst keeps the prologue out of the way of a BEGIN or SET TRANSACTION of the caller's. Alone, it flies alone and
// the prologue goes with the next flight. In a string with more behind it, it is taken out of the string (blanks keep
// error positions right) and the prologue goes between the two. In a pipeline the prologue goes in front of the next
// statement, except where statements are only parsed.
func (w *wire) behindFirst(out []byte, seg *segment, m, rest []byte, flags sqllex.Flags, text []byte) ([]byte, []byte) {
	if m[0] != 'Q' && parsesNext(rest) {
		return w.prologue(out, seg), m
	}
	if m[0] != 'Q' || flags&sqllex.Multi == 0 {
		seg.late = m[0] != 'Q'
		return out, m
	}
	end := sqllex.ScanBytes(text).FirstEnd
	first := string(text[:end])
	out = appendParse(out, "", first, 0)
	out = must((&pgproto3.Bind{}).Encode(out))
	out = append(out, executeUnnamed...)
	m = slices.Clone(m)
	for i := range end {
		if b := &m[5+i]; *b != '\n' {
			*b = ' '
		}
	}
	seg.pass = 1
	seg.drop2 = w.steps()
	seg.armed = true
	return w.appendPrologue(out, seg), m
}

func (w *wire) prologue(out []byte, seg *segment) []byte {
	seg.armed = true
	seg.drop += w.steps()
	return w.appendPrologue(out, seg)
}

func (w *wire) steps() int {
	if w.set.ReadOnly {
		return 2
	}
	return 1
}

func (w *wire) appendPrologue(out []byte, seg *segment) []byte {
	step := w.set.Step(w.defs)
	switch {
	case !w.armed && w.used.notPlain && w.defs.Known && w.defs.WorkMemKB == w.set.WorkMemKB:
		// The caller may have set others for the session. Where the backend's own are another plan's, all are set anyway.
		step = w.set.RearmStep()
		w.set.ArmedMS = w.defs.TimeoutMS
	case !w.armed: // first in its transaction: what is in force are the backend's own defaults
	case w.dirty:
		step = w.set.RearmStep()
		w.set.ArmedMS = w.armedMS
	case step == rls.Tenant: // an earlier prologue has changed the timeout from its default
		step = rls.Timeout
	}
	w.sign()
	if seg.attests {
		out = w.own(seg, keptAttest(step)).attest[step].append(out, &w.set)
	} else {
		out = w.own(seg, keptStep(step)).steps[step].append(out, &w.set)
	}
	if w.set.ReadOnly {
		out = w.own(seg, keptStep(rls.ReadOnly)).steps[rls.ReadOnly].append(out, &w.set)
	}
	w.armedMS, w.rearm = w.set.TimeoutMS, false
	return out
}

// own is the form that one of the driver's statements has to take in seg. The reset is not in question: a backend that Raw has given
// has one owner until it is closed.
func (w *wire) own(seg *segment, statement kept) *protocol {
	if w.anew || w.kept&statement == 0 {
		seg.keeps |= statement
		return w.proto.anew
	}
	return w.proto
}
