package backend

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
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
// flight cannot undo it, and an error in it keeps the caller's statement from running. Two things no command does, and a query attests
// that they need not be done: the statement cache of pgx is kept, so a statement forged with SQL PREPARE must stop the flight, and
// so must another role, which RESET ALL leaves alone. Session locks it lets go. Nothing of that is undone with a transaction, so the query is
// part of the prologue behind: see AttestSQL.
//
// After something not plain, and behind a pooler, the query is a command of the reset, in front of discard sequences, and is parsed anew, because that
// something may have forged the prepared one; it changes the role back, and takes a new seed for random() along: no RESET touches the
// seed, and who has set it knows the numbers that follow.
var ResetSQL = []string{"begin", "reset all", "close all", "unlisten *", "discard sequences", "discard temp", "commit"}

const (
	// AttestSQL is false, and a part of the prologue behind a reset. It divides by zero where a reset is not enough. All is named with its
	// schema: what a search_path finds may be a tenant's. The function, because going through the view of it takes half as long again.
	AttestSQL = "pg_catalog.pg_advisory_unlock_all() is null or 1 operator(pg_catalog./) (case when " +
		"pg_catalog.current_setting('role') operator(pg_catalog.<>) 'none' or " + forged + " then 0 else 1 end) is null"
	forged       = "exists (select from pg_catalog.pg_prepared_statement() where from_sql)"
	notAttested  = "22012"
	seedAndRoles = "pg_catalog.pg_advisory_unlock_all(), " +
		// SET SESSION AUTHORIZATION DEFAULT, and SET ROLE NONE, because that one goes back to a role that the login has stored for itself.
		"pg_catalog.set_config('session_authorization', null, false), pg_catalog.set_config('role', 'none', false), " +
		// A number between -1 and 1, of 32 random bits. A type without its schema may be a temporary domain, which runs a function.
		"pg_catalog.setseed(('x' operator(pg_catalog.||) pg_catalog.left(pg_catalog.gen_random_uuid()::pg_catalog.text, 8))" +
		"::bit(32)::int operator(pg_catalog./) 2147483648.0)"
	sealedSQL = "select 1 operator(pg_catalog./) (case when " + forged + " then 0 else 1 end), " + seedAndRoles
	// Behind a pooler other clients may prepare by SQL on the same server connection, and none of the driver's statements is named there. What
	// pgx has cached is: under pgx's names, or under those that PgBouncer gives when it follows them.
	pooledSQL  = "select " + seedAndRoles
	cachingSQL = "select 1 operator(pg_catalog./) (case when exists (select from pg_catalog.pg_prepared_statement() where from_sql and " +
		"name operator(pg_catalog.~) '^(stmtcache|PGBOUNCER)_') then 0 else 1 end), " + seedAndRoles
	queryAt = 4 // of ResetSQL
)

// protocol holds everything of the flight that does not depend on the tenant, encoded once per pool.
type protocol struct {
	anew   *protocol // the same for a backend on which the prepared statements may be gone
	guc    string
	tagged bool
	signed bool    // the tenant is set with its token
	reset  command // attested by the prologue behind
	sealed command // with its query: complete
	begin  [beginSerializable + readOnlyBegin + 1][]byte
	steps  [rls.StepCount]encodedStep
	attest [rls.StepCount]encodedStep // the same, with AttestSQL
}

// command is some commands in a row.
type command struct {
	text []byte
	n    int
}

// form is how the driver's own statements reach the server.
type form int

const (
	named   form = iota // prepared before
	unnamed             // with their texts, each time
	anew                // by name, and prepared with it: pgx's unnamed statement stays as it is
)

// kept is a set of the driver's statements: the steps of a prologue, the same with AttestSQL, and the texts of BEGIN.
type kept uint32

func keptStep(step rls.Step) kept   { return 1 << step }
func keptAttest(step rls.Step) kept { return 1 << (rls.StepCount + int(step)) }
func keptBegin(text beginText) kept { return 1 << (2*rls.StepCount + int(text)) }

// encodedStep is a step of the prologue up to the first value of its Bind message.
type encodedStep struct {
	step   rls.Step
	parse  []byte // unless prepared before
	name   string
	params int
}

// protocols are both forms that backends begin with.
type protocols struct{ named, unnamed *protocol }

// newProtocol returns the named or the unnamed form, with this query in the complete reset.
func newProtocol(guc string, tagged, signed bool, f form, query string) *protocol {
	p := encodeProtocol(guc, tagged, signed, f, query)
	p.anew = p
	if f == named {
		p.anew = encodeProtocol(guc, tagged, signed, anew, query)
	}
	return p
}

func encodeProtocol(guc string, tagged, signed bool, f form, query string) *protocol {
	p := &protocol{guc: guc, tagged: tagged, signed: signed}
	for i, text := range ResetSQL {
		if i == queryAt {
			p.sealed.append("", query, unnamed)
		}
		p.sealed.append(statementName("r", i, f), text, f)
		p.reset.append(statementName("r", i, f), text, f)
	}
	for b := range p.begin {
		if text := beginText(b).sql(); text != "" {
			p.begin[b] = appendCommand(nil, statementName("b", b, f), text, f)
		}
	}
	for s := range p.steps {
		p.steps[s] = encodeStep(rls.Step(s), "p", rls.SQL(rls.Step(s), guc, tagged, signed), p, f)
		p.attest[s] = encodeStep(rls.Step(s), "a", rls.SQL(rls.Step(s), guc, tagged, signed, AttestSQL), p, f)
	}
	return p
}

// pooledQuery is the query of the reset behind a pooler. It puts what the pooler has set for its client in force again: without a pooler that came
// with the start-up message, and RESET ALL goes back to it; here it goes back to what the pooler's own connection began with.
func pooledQuery(cc *pgx.ConnConfig) string {
	query := pooledSQL
	if cc.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		query = cachingSQL
	}
	for _, name := range slices.Sorted(maps.Keys(cc.RuntimeParams)) {
		switch strings.ToLower(name) {
		case "timezone", "datestyle", "intervalstyle", "client_encoding", "application_name":
			query += ", pg_catalog.set_config('" + name + "', '" + strings.ReplaceAll(cc.RuntimeParams[name], "'", "''") + "', false)"
		}
	}
	return query
}

func encodeStep(s rls.Step, kind, text string, p *protocol, f form) encodedStep {
	e := encodedStep{step: s, name: statementName(kind, int(s), f), params: rls.Params(s, p.tagged, p.signed)}
	if f != named {
		e.parse = appendText(nil, e.name, text, e.params)
	}
	return e
}

func (c *command) append(name, text string, f form) {
	c.text, c.n = appendCommand(c.text, name, text, f), c.n+1
}

// append appends a step with its values.
func (e *encodedStep) append(dst []byte, s *rls.Settings) []byte {
	dst = append(dst, e.parse...)
	at := len(dst)
	dst = append(dst, 'B', 0, 0, 0, 0, 0) // length, then the unnamed portal
	dst = append(append(dst, e.name...), 0)
	dst = binary.BigEndian.AppendUint16(dst, 0) // all parameters in text format
	dst = binary.BigEndian.AppendUint16(dst, uint16(e.params))
	for i := range e.params {
		length := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		dst = s.AppendValue(dst, e.step, i)
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
