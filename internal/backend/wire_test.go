package backend_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/backend"
)

type encoder interface{ Encode([]byte) ([]byte, error) }

func bytesOf(t testing.TB, messages ...encoder) (b []byte) {
	t.Helper()
	for _, m := range messages {
		var err error
		b, err = m.Encode(b)
		require.NoError(t, err)
	}
	return b
}

// answers is what a server says to the reset, to a prologue and to one query of the caller's.
func answers(t testing.TB) (all, callers []byte) {
	t.Helper()
	var ours []encoder
	for range backend.ResetCommands {
		ours = append(ours, &pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("COMMIT")})
	}
	ours = append(ours, &pgproto3.BindComplete{}, &pgproto3.DataRow{Values: [][]byte{[]byte("t")}},
		&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	theirs := []encoder{
		&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}, &pgproto3.BindComplete{},
		&pgproto3.DataRow{Values: [][]byte{bytes.Repeat([]byte("x"), 40_000), nil, []byte("y")}},
		&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
	}
	return append(bytesOf(t, ours...), bytesOf(t, theirs...)...), bytesOf(t, theirs...)
}

func send(t testing.TB, w *backend.TestWire) {
	t.Helper()
	query := bytesOf(t, &pgproto3.Parse{Query: "select 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	n, err := w.Write(query)
	require.NoError(t, err)
	require.Equal(t, len(query), n)
}

func TestReplyIsTheSameHoweverItIsSplit(t *testing.T) {
	t.Parallel()
	all, callers := answers(t)
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(all), "byte by byte": iotest.OneByteReader(bytes.NewReader(all)),
		"halves": iotest.HalfReader(bytes.NewReader(all)), "error with data": iotest.DataErrReader(bytes.NewReader(all)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := backend.NewTestWire(r, io.Discard, "acme")
			send(t, w)
			got, err := io.ReadAll(w)
			require.NoError(t, err)
			require.True(t, bytes.Equal(callers, got), "%d bytes, want %d", len(got), len(callers))
			owner, clean, armed, status := w.State()
			require.Equal(t, []any{"acme", false, false, byte('I')}, []any{owner, clean, armed, status})
		})
	}
}

func TestOwnerStaysUntilTheResetIsAcknowledged(t *testing.T) {
	t.Parallel()
	done := []encoder{&pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("RESET")}}
	for name, c := range map[string]struct {
		done int // commands before the one that fails
		code string
	}{
		"a command":         {1, "22012"},
		"the last command":  {backend.ResetCommands - 1, "57014"},
		"the attest":        {backend.ResetCommands, "22012"},
		"the prologue else": {backend.ResetCommands, "22023"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reply := bytesOf(t, append(slices.Repeat(done, c.done), &pgproto3.ErrorResponse{Severity: "ERROR", Code: c.code, Message: "no"},
				&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
			w := backend.NewTestWire(bytes.NewReader(reply), io.Discard, "acme")
			send(t, w)
			_, err := io.ReadAll(w)
			require.NoError(t, err)
			owner, clean, armed, status := w.State()
			require.Equal(t, []any{"another", false, false, byte('I')}, []any{owner, clean, armed, status})
			require.Equal(t, c.code, w.Failure())
		})
	}
}

// Nobody waits for the answer to a reset at release, until somebody else uses the connection.
func TestAResetThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	setting := bytesOf(t, &pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"})
	done := bytesOf(t, append(slices.Repeat([]encoder{&pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("RESET")}},
		backend.ResetCommands+1), &pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	for name, c := range map[string]struct {
		answer []byte
		err    error
		left   []byte // for pgx
	}{
		"done":                    {done, nil, nil},
		"settings reported":       {slices.Concat(setting, done[:32], setting, done[32:]), nil, slices.Concat(setting, setting)},
		"nothing":                 {nil, io.EOF, nil},
		"cut behind a setting":    {setting, io.EOF, nil},
		"cut":                     {done[:len(done)-6], io.EOF, nil},
		"another's row before":    {slices.Concat(bytesOf(t, &pgproto3.NoticeResponse{Message: "SSSS"}), done)[5:], io.ErrUnexpectedEOF, nil},
		"another's setting's end": {slices.Concat(setting[2:], done), io.ErrUnexpectedEOF, nil},
		"another's ready message": {slices.Concat(setting, bytesOf(t, &pgproto3.ReadyForQuery{TxStatus: 'I'})), nil, setting},
		"half an answer unlooked": {slices.Concat(setting, done[:11]), io.EOF, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []io.Reader{bytes.NewReader(c.answer), iotest.OneByteReader(bytes.NewReader(c.answer)), iotest.DataErrReader(bytes.NewReader(c.answer))} {
				w := backend.NewTestWire(r, io.Discard, "acme")
				require.NoError(t, w.SendReset())
				err := w.Drain()
				if c.err == nil {
					require.NoError(t, err)
					got, err := io.ReadAll(w)
					require.NoError(t, err)
					require.Equal(t, string(c.left), string(got))
				} else {
					require.Error(t, err)
				}
			}
		})
	}
}

// pgx may have read the beginning of what a server says unasked, and not its end.
func TestAResetBehindAMessageThatIsHalfRead(t *testing.T) {
	t.Parallel()
	all, _ := answers(t)
	notice := bytesOf(t, &pgproto3.NoticeResponse{Severity: "WARNING", Code: "01000", Message: "hello"})
	w := backend.NewTestWire(bytes.NewReader(append(all, notice...)), io.Discard, "acme")
	send(t, w)
	_, callers := answers(t)
	_, err := io.ReadFull(w, make([]byte, len(callers)+5))
	require.NoError(t, err)
	require.NoError(t, w.SendReset())
	w.Reconnect(bytes.NewReader(bytesOf(t, &pgproto3.ReadyForQuery{TxStatus: 'I'})))
	require.ErrorIs(t, w.Drain(), io.ErrUnexpectedEOF)
}

// A server sends what was notified when it is about to be idle again, so it may come behind the failure of the reset that would have
// ended the LISTEN of whoever had the connection before. It is not this one's, who may take another connection.
func TestANotificationBehindAFailedResetIsNobodys(t *testing.T) {
	t.Parallel()
	reply := bytesOf(t, &pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("BEGIN")},
		&pgproto3.ErrorResponse{Severity: "ERROR", Code: "22012", Message: "division by zero"},
		&pgproto3.NotificationResponse{PID: 1, Channel: "bell"}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	w := backend.NewTestWire(bytes.NewReader(reply), io.Discard, "acme")
	send(t, w)
	got, err := io.ReadAll(w)
	require.NoError(t, err)
	require.NotContains(t, string(got), "bell")
	require.False(t, w.Used())
}

// PgBouncer hands on that the server has ended the session, and then says that the connection crashed.
func TestTheServersWordCountsAndNotThePoolersAfterIt(t *testing.T) {
	t.Parallel()
	w := backend.NewTestWire(bytes.NewReader(bytesOf(t,
		&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection due to administrator command"},
		&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "server conn crashed?"})), io.Discard, "acme")
	w.BehindPooler()
	send(t, w)
	_, err := io.ReadAll(w)
	require.NoError(t, err)
	require.Equal(t, "57P01", w.Failure())
}

// FuzzReply feeds what no server should say, cut anywhere: no panic, and cuts make no difference.
func FuzzReply(f *testing.F) {
	all, _ := answers(f)
	f.Add(all[:len(all)-40_100], 3)
	f.Add([]byte("Z\x00\x00\x00\x04E\x00\x00\x00\x04S\x00\x00\x00\x05x"), 1)
	f.Add([]byte("E\x00\x00\x00\x0cSERROR\x00C"), 2)
	f.Fuzz(func(t *testing.T, reply []byte, size int) {
		read := func(r io.Reader) []byte {
			w := backend.NewTestWire(r, io.Discard, "acme")
			send(t, w)
			got, _ := io.ReadAll(w)
			return got
		}
		whole := read(bytes.NewReader(reply))
		cut := read(&chunks{bytes.NewReader(reply), max(1, size%64)})
		require.Equal(t, whole, cut)
		require.LessOrEqual(t, len(whole), len(reply))
	})
}

// A pooler gives the server connection away at the first ReadyForQuery that it sees. What answers with two is a Query with a
// Sync behind it, and how often the second one reaches somebody else is up to the scheduler, so no test of the whole can
// be sure to notice.
func TestBehindAPoolerAFlightIsAnsweredByOneReadyForQuery(t *testing.T) {
	t.Parallel()
	for text, statements := range map[string][]string{
		"select 1":                {"select 1"},
		"select 1; select ';' ; ": {"select 1;", "select ';' ;"},
		"-- é\ninsert into t values (1);;\nselect": {"-- é\ninsert into t values (1);", ";\nselect"},
		"begin; select 1; commit":                  {"begin;", "select 1;", "commit"},
		"copy t from stdin":                        nil, // may be refused, and then would swallow no Sync
		"select 1; copy t from stdin":              nil,
		"begin; copy t from stdin":                 {"begin;"},
	} {
		var sent bytes.Buffer
		w := backend.NewTestWire(bytes.NewReader(nil), &sent, "acme")
		w.BehindPooler()
		_, err := w.Write(bytesOf(t, &pgproto3.Query{String: text}))
		require.NoError(t, err)
		var parsed []string
		ends := 0
		for rest := sent.Bytes(); len(rest) > 0; {
			size := 1 + int(binary.BigEndian.Uint32(rest[1:]))
			switch rest[0] {
			case 'S', 'Q':
				ends++
			case 'P':
				var m pgproto3.Parse
				require.NoError(t, m.Decode(rest[5:size]))
				parsed = append(parsed, strings.TrimLeft(m.Query, " "))
			}
			rest = rest[size:]
		}
		require.Equal(t, 1, ends, text)
		for _, statement := range statements {
			require.Contains(t, parsed, statement, text)
		}
	}
}

// On PostgreSQL 18 the transaction of a Query behind other messages is not ended by the Sync that follows.
func TestOnPostgreSQL18AQueryIsSentInAWayThatEndsItsTransaction(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"insert into t values (1)":          "",
		"select 1; ":                        "",
		"copy (select 1) to stdout":         "",
		"copy t from stdin -- all":          "copy t from stdin -- all\n;select",
		"copy t from stdin;":                "copy t from stdin;\n;select",
		"select 1; select 2":                "select 1; select 2", // two statements end it by themselves
		"select 1; copy t from stdin":       "select 1; copy t from stdin",
		"begin; copy t from stdin":          "       copy t from stdin", // the caller's own transaction
		"begin; insert into t values (1);;": "       insert into t values (1);;",
	} {
		var sent bytes.Buffer
		w := backend.NewTestWire(bytes.NewReader(nil), &sent, "acme")
		w.OnPostgres18()
		_, err := w.Write(bytesOf(t, &pgproto3.Query{String: text}))
		require.NoError(t, err)
		query := ""
		for rest := sent.Bytes(); len(rest) > 0; {
			size := 1 + int(binary.BigEndian.Uint32(rest[1:]))
			if rest[0] == 'Q' {
				query = string(rest[5 : size-1])
			}
			rest = rest[size:]
		}
		require.Equal(t, want, query, text)
	}
}

type chunks struct {
	r    io.Reader
	size int
}

func (c *chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.size)]) }

// FuzzWrite feeds what no client should say: no panic, and what is sent ends with what was given unless it was refused.
func FuzzWrite(f *testing.F) {
	f.Add(bytesOf(f, &pgproto3.Query{String: "select 1"}))
	f.Add(bytesOf(f, &pgproto3.Parse{Query: "begin"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Parse{Query: "select 1"}, &pgproto3.Sync{}))
	f.Add([]byte("B\x00\x00\x00\x04"))
	f.Fuzz(func(t *testing.T, request []byte) {
		var sent bytes.Buffer
		w := backend.NewTestWire(bytes.NewReader(nil), &sent, "acme")
		n, err := w.Write(request)
		if err != nil {
			require.Zero(t, n)
			require.Zero(t, sent.Len(), "refused or cut: nothing is sent")
		}
	})
}
