package pgtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stopper is anything that must not outlive the test binary.
type stopper interface{ Stop() error }

var (
	runningMu sync.Mutex
	running   = map[stopper]struct{}{}

	sharedMu sync.Mutex
	shared   = map[string]func() (*Server, error){}

	databases atomic.Int64
)

func track(s stopper) {
	runningMu.Lock()
	defer runningMu.Unlock()
	running[s] = struct{}{}
}

func untrack(s stopper) {
	runningMu.Lock()
	defer runningMu.Unlock()
	delete(running, s)
}

// Main runs the tests and then stops everything this package started. Use it in TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// When a test failed, the servers' logs and data stay on disk and the command that serves them again is printed; only
// the newest few such folders are kept.
func Main(m *testing.M) int {
	code := m.Run()
	runningMu.Lock()
	left := make([]stopper, 0, len(running))
	for s := range running {
		left = append(left, s)
	}
	runningMu.Unlock()
	var group sync.WaitGroup
	for _, s := range left {
		group.Go(func() {
			stop := s.Stop
			if server, ok := s.(*Server); ok && code != 0 {
				stop = server.keep
			}
			if err := stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
	}
	group.Wait()
	return code
}

// keep ends the server and leaves its folder for a look.
func (s *Server) keep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.halt(interruptSignal)
	untrack(s)
	prefix := ""
	if s.as.foreign {
		prefix = "runuser -u " + s.as.name + " -- "
	}
	fmt.Fprintf(os.Stderr, "pgtest: server %q is kept; its log is %s; to look at its databases:\n  %s%s -D %s -k %s -c listen_addresses= -c port=%d\n",
		s.name, s.log(), prefix, s.bin.path("postgres"), s.data(), s.dir.path, s.port)
	return s.dir.keep()
}

// Shared returns the server of that name, started on first use and shared by all tests of the binary; Main stops it. The
// test fails when there is no server to start: a missing server must not look like a passing test.
func Shared(t testing.TB, name string) *Server {
	t.Helper()
	sharedMu.Lock()
	start, ok := shared[name]
	if !ok {
		start = sync.OnceValues(func() (*Server, error) {
			// Not the context of the test that happens to be first: the server outlives it.
			return Start(context.Background(), Options{Name: name})
		})
		shared[name] = start
	}
	sharedMu.Unlock()
	server, err := start()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// NewDatabase creates a database of its own for the test, runs the schema texts in it as the superuser, and returns its
// name. The database is dropped when the test ends, with the connections left in it; a failed test keeps it and logs how
// to connect.
func (s *Server) NewDatabase(t testing.TB, schema ...string) string {
	t.Helper()
	name := databaseName(t.Name())
	if err := s.Exec(t.Context(), "postgres", "create database "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.dropDatabase(t, name) })
	if len(schema) > 0 {
		if err := s.Exec(t.Context(), name, schema...); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func (s *Server) dropDatabase(t testing.TB, name string) {
	t.Helper()
	if t.Failed() {
		t.Logf("the database is kept: %s (server log: %s)", s.DSN("postgres", name), s.log())
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// Logged only: the test may have stopped the server, or left a replication slot that holds the database.
	if err := s.Exec(ctx, "postgres", "drop database if exists "+name+" with (force)"); err != nil {
		t.Logf("drop database %s: %v", name, err)
	}
}

// databaseName makes a name that tells whose database it is and needs no quoting.
func databaseName(test string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(strings.TrimPrefix(test, "Test")))
	return fmt.Sprintf("t%d_%.40s", databases.Add(1), clean)
}
