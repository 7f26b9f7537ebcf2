package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// Options say what kind of server to start. The zero value is a good one.
type Options struct {
	Name     string            // in errors only
	Settings map[string]string // postgresql.conf settings on top of, or instead of, the defaults
	Major    int               // major version; 0 = the newest found
	TCP      bool              // listen on a free port of 127.0.0.1, too; see Server.Addr
	TLS      bool              // offer TLS there, with a certificate that nobody else has signed

	// SmallDisk is a folder of the data folder, base or pg_wal, that can be made full: see Server.FillDisk. Linux only.
	SmallDisk string
}

// Server is a running PostgreSQL cluster with the superuser postgres and trust authentication. All methods are safe for
// concurrent use.
type Server struct {
	name   string
	bin    binaries
	as     account
	dir    *folder
	args   []string
	port   int
	tcp    bool
	closed bool // guarded by mu

	disk    string // folder that can be made full
	limited bool   // by limiting files, because nothing can be mounted

	mu      sync.Mutex
	process *process // guarded by mu; nil when stopped
}

// Start starts a cluster of its own and returns when it accepts connections. The server is the newest one found in
// SHARDEDPG_PGBIN (a path list; if set, nothing else is tried), in the folders packages use, in PATH, or with pg_config;
// with none, the error matches ErrNotInstalled and says in one line what to install. Another error ends with the last
// lines of the server's log. Stop it when done.
func Start(ctx context.Context, o Options) (*Server, error) {
	return start(ctx, o, func(ctx context.Context, s *Server) error {
		pristine, err := template(ctx, s.bin, s.as)
		if err != nil {
			return err
		}
		return copyTree(pristine, s.data(), s.as)
	})
}

// start starts a cluster whose data folder fill has made.
func start(ctx context.Context, o Options, fill func(context.Context, *Server) error) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	bin, err := findServer(ctx, o.Major)
	if err != nil {
		return nil, err
	}
	as, dir, err := place()
	if err != nil {
		return nil, err
	}
	s := &Server{name: o.Name, bin: bin, as: as, dir: dir, port: 5432, tcp: o.TCP}
	if err := fill(ctx, s); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	if o.SmallDisk != "" {
		if err := s.makeDisk(o.SmallDisk); err != nil {
			return nil, errors.Join(err, dir.remove())
		}
	}
	if o.TCP {
		if s.port, err = freePort(ctx); err != nil {
			return nil, errors.Join(err, dir.remove())
		}
	}
	settings := o.Settings
	if o.TLS {
		if err := s.makeCertificate(); err != nil {
			return nil, errors.Join(err, dir.remove())
		}
		settings = map[string]string{"ssl": "on", "ssl_cert_file": s.certificate(), "ssl_key_file": s.key()}
		maps.Copy(settings, o.Settings)
	}
	s.args = s.arguments(settings)
	if err := s.launch(ctx); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	track(s)
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.dir.path, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir.path, "log") }

// arguments are the command line of postgres. Durability is off; everything that tests of a sharded fleet need from the
// start (logical decoding, prepared transactions, many connections) is on, because it could not be changed later.
func (s *Server) arguments(settings map[string]string) []string {
	all := map[string]string{
		"fsync":                     "off",
		"full_page_writes":          "off",
		"synchronous_commit":        "off",
		"wal_level":                 "logical",
		"max_connections":           "200",
		"shared_buffers":            "32MB",
		"max_wal_size":              "512MB", // initdb derives a tiny one from the 1 MB segments
		"max_wal_senders":           "10",
		"max_replication_slots":     "10",
		"max_prepared_transactions": "10",
		"log_line_prefix":           "%m [%p] %q%u@%d ",
		"listen_addresses":          "",
		"unix_socket_permissions":   "0777", // clients and PgBouncer may run as other users
	}
	if s.tcp {
		all["listen_addresses"] = "127.0.0.1"
	}
	maps.Copy(all, settings)
	all["unix_socket_directories"] = s.dir.path
	all["port"] = strconv.Itoa(s.port)
	args := []string{"-D", s.data()}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-c", name+"="+all[name])
	}
	return args
}

// launch starts postgres itself: pg_ctl would look at it only every 100 ms.
func (s *Server) launch(ctx context.Context) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(s.bin.path("postgres"), s.args...)
	command.Dir = "/"
	command.Env = serverEnv()
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = processAttributes(s.as, true)
	p, err := startProcess(command)
	if err != nil {
		return fmt.Errorf("pgtest: start server %q: %w", s.name, err)
	}
	if err := s.awaitReady(ctx, p); err != nil {
		p.end(os.Kill)
		text, _ := os.ReadFile(s.log())
		return fmt.Errorf("pgtest: start server %q: %w\n%s", s.name, err, lastLines(text, 20))
	}
	s.process = p
	return nil
}

// awaitReady waits until the eighth line of postmaster.pid says ready. The first line must name our process: after a
// crash the file of the previous one is still there.
func (s *Server) awaitReady(ctx context.Context, p *process) error {
	pid := strconv.Itoa(p.pid())
	return poll(ctx, p, func() bool {
		text, _ := os.ReadFile(filepath.Join(s.data(), "postmaster.pid")) // not there yet: no lines
		lines := strings.Split(string(text), "\n")
		return len(lines) > 7 && lines[0] == pid && strings.TrimSpace(lines[7]) == "ready"
	})
}

// DSN returns a keyword/value connection string over the Unix socket. No password is needed.
func (s *Server) DSN(user, database string) string { return dsn(s.dir.path, s.port, user, database) }

// Socket returns the folder of the Unix socket and the port in its name.
func (s *Server) Socket() (dir string, port int) { return s.dir.path, s.port }

// Addr returns the TCP address of a server started with Options.TCP, otherwise "".
func (s *Server) Addr() string {
	if !s.tcp {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
}

// Major returns the major version of the server.
func (s *Server) Major() int { return s.bin.major }

// LogFile returns the path of the server's log.
func (s *Server) LogFile() string { return s.log() }

// Stop shuts the server down at once and removes its data. A second call does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.halt(quitSignal)
	untrack(s)
	return s.dir.remove()
}

// StopKeep shuts the server down in order and keeps its data for Restart.
func (s *Server) StopKeep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halt(interruptSignal)
	return nil
}

// Kill ends the server and its backends as a power failure would (kill -9) and keeps the data for Restart.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	backends := killTree(s.process.pid())
	<-s.process.done
	s.process = nil
	// A backend that still holds the shared memory would keep the server from starting again.
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := poll(ctx, nil, func() bool { return !slices.ContainsFunc(backends, alive) }); err != nil {
		return fmt.Errorf("pgtest: backends of server %q survive being killed: %w", s.name, err)
	}
	return nil
}

// Restart starts the server again on the same data, socket and port; a running one is stopped in order first.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("pgtest: restart server %q: it was stopped and its data removed", s.name)
	}
	s.halt(interruptSignal)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.launch(ctx)
}

func (s *Server) halt(signal os.Signal) {
	if s.process == nil {
		return
	}
	process := s.process
	// A postmaster that is told to stop in the middle of recovering from a crash may not hear it.
	unheard := time.AfterFunc(stopTimeout, func() { killTree(process.pid()) })
	defer unheard.Stop()
	process.end(signal)
	s.process = nil
}

// Exec runs each text as the superuser postgres in the database, over the simple protocol: a text may hold several
// statements. It stops at the first error.
func (s *Server) Exec(ctx context.Context, database string, sql ...string) (err error) {
	conn, err := pgconn.Connect(ctx, s.DSN("postgres", database))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	for _, text := range sql {
		if err := conn.Exec(ctx, text).Close(); err != nil {
			return fmt.Errorf("pgtest: exec in database %q: %w", database, err)
		}
	}
	return nil
}

func dsn(dir string, port int, user, database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", quote(dir), port, quote(user), quote(database))
}

// quote writes a value of a keyword/value connection string.
func quote(value string) string {
	if value != "" && !strings.ContainsAny(value, ` '\`) {
		return value
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// freePort returns a port that was free a moment ago; the server's start fails if another process takes it meanwhile.
func freePort(ctx context.Context) (int, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
