package pgtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// flightLimit bounds the memory of a log: beyond it the oldest flights are forgotten.
const flightLimit = 1 << 16

// Flight is what a client sent before it waited for the server: the frontend messages up to the moment the server sent
// its next byte. Only flights that ask for an answer count (Query, Sync, Flush, FunctionCall, the end of a COPY): not
// Terminate, and nothing of the start-up.
type Flight struct {
	Conn     int // number of the connection, from 1, in the order of acceptance
	Messages []Message
	Bytes    int
}

// Types returns the type bytes of the messages as a string, for example "PBDES".
func (f Flight) Types() string {
	var types strings.Builder
	for _, m := range f.Messages {
		types.WriteByte(m.Type)
	}
	return types.String()
}

// SQL returns the texts of the flight's Query and Parse messages.
func (f Flight) SQL() []string {
	var texts []string
	for _, m := range f.Messages {
		if m.Type == 'Q' || m.Type == 'P' {
			texts = append(texts, m.SQL)
		}
	}
	return texts
}

// String shows the flight on one line.
func (f Flight) String() string {
	parts := make([]string, len(f.Messages))
	for i, m := range f.Messages {
		parts[i] = m.String()
	}
	return fmt.Sprintf("conn %d: %s (%d bytes)", f.Conn, strings.Join(parts, " "), f.Bytes)
}

// Message is one frontend message.
type Message struct {
	Type   byte     // as on the wire: 'Q' Query, 'P' Parse, 'B' Bind, 'E' Execute, 'S' Sync …
	SQL    string   // Query and Parse: the text
	Name   string   // Parse, Bind, Execute, Describe and Close: the statement; a portal's statement where it is known
	Params []string // Bind: text as it is, binary as \x and hexadecimal, null as NULL
}

var messageNames = map[byte]string{
	'Q': "Query", 'P': "Parse", 'B': "Bind", 'E': "Execute", 'D': "Describe", 'C': "Close", 'S': "Sync", 'H': "Flush", 'X': "Terminate",
	'F': "FunctionCall", 'd': "CopyData", 'c': "CopyDone", 'f': "CopyFail", 'p': "Password",
}

// String shows the message as its name and what it carries.
func (m Message) String() string {
	name, ok := messageNames[m.Type]
	if !ok {
		name = fmt.Sprintf("%q", m.Type)
	}
	switch m.Type {
	case 'Q':
		return fmt.Sprintf("%s(%q)", name, m.SQL)
	case 'P':
		return fmt.Sprintf("%s(%q %q)", name, m.Name, m.SQL)
	case 'B':
		return fmt.Sprintf("%s(%q %q)", name, m.Name, m.Params)
	case 'E', 'D', 'C':
		return fmt.Sprintf("%s(%q)", name, m.Name)
	}
	return name
}

// WireLog records what the clients of a proxy send, as an observer that knows nothing of any driver. Connections with TLS
// are not recorded. All methods are safe for concurrent use. A message is recorded before the server can see it, so who
// has its answer finds it in the log.
type WireLog struct {
	mu      sync.Mutex
	off     bool
	flights []*Flight
	cancels int
	errors  []string
	epoch   int // grows with Reset: a flight begun before does not come back
}

func newWireLog() *WireLog { return &WireLog{} }

// Reset forgets everything recorded so far.
func (l *WireLog) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights, l.cancels, l.errors = nil, 0, nil
	l.epoch++
}

// Record switches recording on (as it is at first) or off, for long runs whose log nobody reads.
func (l *WireLog) Record(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off = !on
}

// Flights returns the flights since Reset in the order in which they began, also those the server has not answered yet.
// Only the newest 65,536 are remembered.
func (l *WireLog) Flights() []Flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Flight
	for _, f := range l.flights {
		if slices.ContainsFunc(f.Messages, asksForAnswer) {
			c := *f
			c.Messages = slices.Clone(f.Messages)
			all = append(all, c)
		}
	}
	return all
}

// Cancels returns the number of cancel requests since Reset.
func (l *WireLog) Cancels() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cancels
}

// Err returns what the log could not read as the PostgreSQL protocol since Reset: a client that sends it is broken.
func (l *WireLog) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) == 0 {
		return nil
	}
	return fmt.Errorf("pgtest: wire log: %s", strings.Join(l.errors, "; "))
}

// begin is called with mu held.
func (l *WireLog) begin(conn int) *Flight {
	f := &Flight{Conn: conn}
	if len(l.flights) >= flightLimit {
		l.flights = slices.Delete(l.flights, 0, flightLimit/4)
	}
	l.flights = append(l.flights, f)
	return f
}

func asksForAnswer(m Message) bool { return strings.IndexByte("QSHFcf", m.Type) >= 0 }
