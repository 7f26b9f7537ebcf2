package backend

import (
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sharded-pg/sharded-pg/rls"
)

// beginText is how a deferred BEGIN reads, by isolation level and access mode.
type beginText int

// The isolation levels that database/sql and PostgreSQL share, each once read-write and once read-only. noBegin is the
// zero value: no transaction waits for its first statement.
const (
	noBegin beginText = iota
	beginDefault
	beginReadUncommitted
	beginReadCommitted
	beginRepeatableRead
	beginSerializable
	readOnlyBegin // added to one of the above
)

var isolationText = [...]string{
	beginDefault: "begin", beginReadUncommitted: "begin isolation level read uncommitted",
	beginReadCommitted: "begin isolation level read committed", beginRepeatableRead: "begin isolation level repeatable read",
	beginSerializable: "begin isolation level serializable",
}

func (b beginText) sql() string {
	switch {
	case b > readOnlyBegin:
		return isolationText[b-readOnlyBegin] + " read only"
	case b == readOnlyBegin:
		return ""
	}
	return isolationText[b]
}

// ResetSQL are the commands that return a backend to what it was at connect, sealed in a transaction of its own: an error later in the same
// flight cannot undo it, and an error in it keeps the caller's statement from running. SET SESSION AUTHORIZATION is there
// because RESET ALL leaves the role alone, and SET ROLE NONE because that one goes back to a role that the login has stored for
// itself; the statement cache of pgx is kept, so a statement forged with SQL PREPARE must stop the flight instead (division by zero).
//
// Between two tenants of plain statements it is all named statements. After something not plain, and behind a pooler, the
// attest is parsed anew, because that something may have forged the named one, and takes a new seed for random() along:
// no RESET touches the seed, and who has set it knows the numbers that follow.
var ResetSQL = []string{
	"begin", "set session authorization default", "set role none", "reset all", "close all", "unlisten *", attestSQL,
	"discard sequences", "discard temp", "commit",
}

const (
	// The function, because going through the view of it takes half as long again. All is named with its schema: what a
	// search_path finds may be a tenant's.
	attestSQL = "select pg_catalog.pg_advisory_unlock_all(), 1 operator(pg_catalog./) (case when exists " +
		"(select from pg_catalog.pg_prepared_statement() where from_sql) then 0 else 1 end)"
	sealedAttestSQL = attestSQL + reseed
	// Behind a pooler other clients may prepare by SQL on the same server connection, and none of our statements is
	// named there, so there is nothing to forge and nothing to attest.
	pooledAttestSQL = "select pg_catalog.pg_advisory_unlock_all()" + reseed
	// reseed makes a number between -1 and 1 of 32 random bits.
	reseed = ", pg_catalog.setseed(('x' operator(pg_catalog.||) pg_catalog.left(pg_catalog.gen_random_uuid()::text, 8))" +
		"::bit(32)::int operator(pg_catalog./) 2147483648.0)"
)

// protocol holds everything of the flight that does not depend on the tenant, encoded once per pool.
type protocol struct {
	anew   *protocol // the same for a backend on which the prepared statements may be gone
	guc    string
	tagged bool
	signed bool // the tenant is set with its token
	reset  []byte
	sealed []byte // the reset after something not plain: it may have forged the attest, so that is parsed anew
	begin  [beginSerializable + readOnlyBegin + 1][]byte
	steps  [rls.StepCount]encodedStep
	resetN int
}

// form is how the driver's own statements reach the server.
type form int

const (
	named   form = iota // prepared when the backend is made
	unnamed             // with their texts, each time
	anew                // by name and prepared again, each time: pgx's unnamed statement stays as it is
)

// encodedStep is a step of the prologue up to the first value of its Bind message.
type encodedStep struct {
	parse  []byte // unless prepared when the backend is made
	name   string
	params int
}

// protocols are both forms that backends begin with.
type protocols struct{ named, unnamed *protocol }

// newProtocol returns the named or the unnamed form.
func newProtocol(guc string, tagged, signed bool, f form) *protocol {
	p := encodeProtocol(guc, tagged, signed, f)
	p.anew = p
	if f == named {
		p.anew = encodeProtocol(guc, tagged, signed, anew)
	}
	return p
}

func encodeProtocol(guc string, tagged, signed bool, f form) *protocol {
	p := &protocol{guc: guc, tagged: tagged, signed: signed, resetN: len(ResetSQL)}
	for i, text := range ResetSQL {
		switch {
		case text != attestSQL:
			p.sealed = appendCommand(p.sealed, statementName("r", i, f), text, f)
		case f != unnamed:
			p.sealed = appendCommand(p.sealed, "", sealedAttestSQL, unnamed)
		default:
			text = pooledAttestSQL
			p.sealed = appendCommand(p.sealed, "", text, unnamed)
		}
		p.reset = appendCommand(p.reset, statementName("r", i, f), text, f)
	}
	for b := range p.begin {
		if text := beginText(b).sql(); text != "" {
			p.begin[b] = appendCommand(nil, statementName("b", b, f), text, f)
		}
	}
	for s := range p.steps {
		step := encodedStep{name: statementName("p", s, f), params: rls.Params(rls.Step(s), tagged, signed)}
		if f != named {
			step.parse = appendText(nil, step.name, rls.SQL(rls.Step(s), guc, tagged, signed), step.params)
		}
		p.steps[s] = step
	}
	return p
}

// namedStatements lists what has to be prepared on a backend that keeps its statements, in the order of preparing.
func (p *protocol) namedStatements() (names, texts []string, params []int) {
	add := func(kind string, i, n int, text string) {
		names, texts, params = append(names, statementName(kind, i, named)), append(texts, text), append(params, n)
	}
	for i, text := range ResetSQL {
		add("r", i, 0, text)
	}
	for b := range p.begin {
		if text := beginText(b).sql(); text != "" {
			add("b", b, 0, text)
		}
	}
	for s := range p.steps {
		add("p", s, rls.Params(rls.Step(s), p.tagged, p.signed), rls.SQL(rls.Step(s), p.guc, p.tagged, p.signed))
	}
	return names, texts, params
}

// appendStep appends one step of a prologue with its values.
func (p *protocol) appendStep(dst []byte, step rls.Step, s *rls.Settings) []byte {
	e := &p.steps[step]
	dst = append(dst, e.parse...)
	at := len(dst)
	dst = append(dst, 'B', 0, 0, 0, 0, 0) // length, then the unnamed portal
	dst = append(append(dst, e.name...), 0)
	dst = binary.BigEndian.AppendUint16(dst, 0) // all parameters in text format
	dst = binary.BigEndian.AppendUint16(dst, uint16(e.params))
	for i := range e.params {
		length := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		dst = s.AppendValue(dst, step, i)
		binary.BigEndian.PutUint32(dst[length:], uint32(len(dst)-length-4))
	}
	dst = binary.BigEndian.AppendUint16(dst, 0) // results in text format
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-1))
	return append(dst, executeUnnamed...)
}

// executeUnnamed runs the unnamed portal to its end.
const executeUnnamed = "E\x00\x00\x00\x09\x00\x00\x00\x00\x00"

const syncMessage = "S\x00\x00\x00\x04"

func statementName(kind string, i int, f form) string {
	if f == unnamed {
		return ""
	}
	return fmt.Sprintf("sharded_pg_%s%d", kind, i)
}

// appendCommand appends a statement without parameters, with its text unless that is prepared.
func appendCommand(dst []byte, name, text string, f form) []byte {
	if f != named {
		dst = appendText(dst, name, text, 0)
	}
	dst = must((&pgproto3.Bind{PreparedStatement: name}).Encode(dst))
	return append(dst, executeUnnamed...)
}

// appendText prepares a statement. A name is closed first, because it may be taken; one that is not may be closed, too.
func appendText(dst []byte, name, text string, params int) []byte {
	if name != "" {
		dst = must((&pgproto3.Close{ObjectType: 'S', Name: name}).Encode(dst))
	}
	return appendParse(dst, name, text, params)
}

const textOID = 25

func appendParse(dst []byte, name, text string, params int) []byte {
	oids := make([]uint32, params)
	for i := range oids {
		oids[i] = textOID
	}
	return must((&pgproto3.Parse{Name: name, Query: text, ParameterOIDs: oids}).Encode(dst))
}

// must is for messages made of constants, which cannot be too long to encode.
func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
