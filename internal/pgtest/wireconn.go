package pgtest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104

	bodyLimit = 1 << 20 // of a message's body, more is not looked at
)

// wireConn reads the two directions of one connection, message by message. Its fields are guarded by the log's mutex.
type wireConn struct {
	log    *WireLog
	number int

	front, back framer
	starting    bool // until the first ReadyForQuery
	offered     bool // the server's next byte answers an SSLRequest or GSSENCRequest, without a header
	opaque      bool // encrypted, or not the protocol: nothing more is read

	current *Flight // nil = the next message begins one
	epoch   int     // of the log, when current began
	portals map[string]string
}

func (l *WireLog) conn(number int) *wireConn {
	c := &wireConn{log: l, number: number, starting: true, portals: map[string]string{}}
	c.front = framer{untyped: true, wanted: "QPBEDC"}
	return c
}

// fromClient observes bytes on their way to the server.
func (c *wireConn) fromClient(bytes []byte) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	for len(bytes) > 0 && !c.opaque {
		var m frame
		var ok bool
		if m, ok, bytes = c.front.next(bytes, !c.log.off); ok {
			c.frontend(m)
		}
		if c.front.broken {
			c.fail("client")
		}
	}
}

// fromServer observes bytes on their way to the client. A byte of an answer ends the client's flight, unless the client
// cannot have waited for it: a notice may arrive in the middle of what it sends.
func (c *wireConn) fromServer(bytes []byte) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	for len(bytes) > 0 && !c.opaque {
		if c.offered {
			c.offered = false
			c.opaque = bytes[0] == 'S' || bytes[0] == 'G'
			bytes = bytes[1:]
			continue
		}
		if c.current != nil && !c.front.inside() && slices.ContainsFunc(c.current.Messages, asksForAnswer) {
			c.current = nil
		}
		var m frame
		var ok bool
		if m, ok, bytes = c.back.next(bytes, false); ok && m.kind == 'Z' {
			c.starting = false
		}
		if c.back.broken {
			c.fail("server")
		}
	}
}

func (c *wireConn) fail(side string) {
	c.opaque = true
	c.log.errors = append(c.log.errors, fmt.Sprintf("connection %d: the %s sent no valid message length", c.number, side))
}

func (c *wireConn) frontend(m frame) {
	if m.kind == 0 { // a start-up packet, which has no type byte
		code := uint32(0)
		if len(m.body) >= 4 {
			code = binary.BigEndian.Uint32(m.body)
		}
		switch code {
		case sslRequest, gssRequest:
			c.offered = true // another start-up packet follows
		case cancelRequest:
			c.log.cancels++
			c.opaque = true // the connection ends here
		default:
			c.front.untyped = false
		}
		return
	}
	if c.starting || c.log.off {
		return
	}
	if c.epoch != c.log.epoch {
		c.current, c.epoch = nil, c.log.epoch
	}
	if c.current == nil {
		c.current = c.log.begin(c.number)
	}
	c.current.Bytes += m.size
	c.current.Messages = append(c.current.Messages, c.message(m))
}

func (c *wireConn) message(m frame) Message {
	out := Message{Type: m.kind}
	body := reader{rest: m.body}
	switch m.kind {
	case 'Q':
		out.SQL = body.text()
	case 'P':
		out.Name, out.SQL = body.text(), body.text()
	case 'B':
		portal := body.text()
		out.Name = body.text()
		out.Params = body.params()
		c.portals[portal] = out.Name
	case 'E':
		out.Name = c.portals[body.text()]
	case 'D', 'C':
		kind, name := body.byte(), body.text()
		if kind == 'P' {
			name = c.portals[name]
		}
		out.Name = name
	}
	return out
}

// frame is one message: its type byte (0 in a start-up packet), its size on the wire, and as much of its body as was
// asked for.
type frame struct {
	kind byte
	size int
	body []byte
}

// framer cuts a stream of bytes into messages.
type framer struct {
	untyped bool   // start-up packets: length and body only
	wanted  string // types whose body is kept; start-up packets' always are
	broken  bool

	header []byte
	now    frame
	left   int // bytes of the body still to come
}

func (f *framer) inside() bool { return len(f.header) > 0 }

// next consumes bytes until one message is complete, or all of them.
func (f *framer) next(bytes []byte, bodies bool) (m frame, ok bool, rest []byte) {
	need := 5
	if f.untyped {
		need = 4
	}
	if len(f.header) < need {
		n := min(need-len(f.header), len(bytes))
		f.header = append(f.header, bytes[:n]...)
		bytes = bytes[n:]
		if len(f.header) < need {
			return frame{}, false, bytes
		}
		length := int(binary.BigEndian.Uint32(f.header[need-4:]))
		if length < 4 || length > 1<<30 {
			f.broken = true
			return frame{}, false, nil
		}
		f.left = length - 4
		f.now = frame{size: need + f.left}
		if !f.untyped {
			f.now.kind = f.header[0]
		}
	}
	n := min(f.left, len(bytes))
	if f.untyped || bodies && strings.IndexByte(f.wanted, f.now.kind) >= 0 {
		keep := min(n, bodyLimit-len(f.now.body))
		f.now.body = append(f.now.body, bytes[:keep]...)
	}
	f.left -= n
	if f.left > 0 {
		return frame{}, false, bytes[n:]
	}
	m = f.now
	f.header, f.now = f.header[:0], frame{}
	return m, true, bytes[n:]
}

// reader reads the fields of a message; what is missing reads as zero.
type reader struct{ rest []byte }

func (r *reader) take(n int) []byte {
	n = max(0, min(n, len(r.rest)))
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) text() string {
	end := slices.Index(r.rest, 0)
	if end < 0 {
		return string(r.take(len(r.rest)))
	}
	text := string(r.take(end))
	r.take(1)
	return text
}

func (r *reader) int16() int {
	if b := r.take(2); len(b) == 2 {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) int32() int32 {
	if b := r.take(4); len(b) == 4 {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// params reads the formats and values of a Bind: no format means text, one is for all values.
func (r *reader) params() []string {
	formats := make([]int, r.int16())
	for i := range formats {
		formats[i] = r.int16()
	}
	values := make([]string, 0, 4)
	for i := range r.int16() {
		length := r.int32()
		if length < 0 {
			values = append(values, "NULL")
			continue
		}
		format := 0
		if len(formats) == 1 {
			format = formats[0]
		} else if i < len(formats) {
			format = formats[i]
		}
		value := r.take(int(length))
		if format == 1 {
			values = append(values, `\x`+hex.EncodeToString(value))
		} else {
			values = append(values, string(value))
		}
	}
	return values
}
