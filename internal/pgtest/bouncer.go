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
)

// BouncerOptions say how a PgBouncer pools. The zero value is a transaction pool of PgBouncer's own default size.
type BouncerOptions struct {
	Mode     string            // "session" or "transaction"; "" = transaction
	PoolSize int               // server connections per user and database; 0 = PgBouncer's default, 20
	Prepared bool              // follow prepared statements, 100 of each client: PgBouncer 1.21 or later
	Settings map[string]string // entries of the section [pgbouncer] on top of, or instead of, ours
}

// Bouncer is a running PgBouncer in front of one server. Any user and any database of the server can be used through it,
// without a password. All methods are safe for concurrent use.
type Bouncer struct {
	dir     *folder
	version string
	port    int
	process *process
	stop    sync.Once
}

// StartBouncer starts a PgBouncer in front of the server, or of a proxy before it, and returns when it accepts connections. When the program is
// not on this machine the error matches ErrNotInstalled and says what to install; another error ends with the last lines
// of its log.
func StartBouncer(ctx context.Context, s Upstream, o BouncerOptions) (*Bouncer, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if o.Mode == "" {
		o.Mode = "transaction"
	}
	if o.Mode != "session" && o.Mode != "transaction" {
		return nil, fmt.Errorf("pgtest: pool mode %q: use session or transaction", o.Mode)
	}
	program, err := findBouncer(ctx, o.Prepared)
	if err != nil {
		return nil, err
	}
	as, dir, err := place()
	if err != nil {
		return nil, err
	}
	b := &Bouncer{dir: dir, version: program.version, port: 6432}
	if err := errors.Join(b.write("users", "\"postgres\" \"\"\n"), b.write("ini", b.configuration(s, o, program.prepares))); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	if err := b.launch(ctx, program.path, as); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	track(b)
	return b, nil
}

func (b *Bouncer) write(name, text string) error {
	return os.WriteFile(filepath.Join(b.dir.path, name), []byte(text), 0o644)
}

// configuration trusts every client, but PgBouncer wants to know each user: those missing in the users file are looked
// up in the server by the superuser, so that roles created later work, too.
func (b *Bouncer) configuration(s Upstream, o BouncerOptions, prepares bool) string {
	all := map[string]string{
		"pool_mode":          o.Mode,
		"auth_type":          "trust",
		"auth_file":          filepath.Join(b.dir.path, "users"),
		"auth_user":          "postgres",
		"admin_users":        "postgres",
		"listen_addr":        "",
		"unix_socket_mode":   "0777",
		"max_client_conn":    "500",
		"server_tls_sslmode": "disable",
	}
	if o.PoolSize > 0 {
		all["default_pool_size"] = strconv.Itoa(o.PoolSize)
	}
	if o.Prepared {
		all["max_prepared_statements"] = "100"
	} else if prepares {
		all["max_prepared_statements"] = "0" // not so since 1.24, and what a test sees must not depend on that
	}
	maps.Copy(all, o.Settings)
	all["unix_socket_dir"] = b.dir.path
	all["listen_port"] = strconv.Itoa(b.port)
	dir, port := s.Socket()
	var text strings.Builder
	fmt.Fprintf(&text, "[databases]\n* = host=%s port=%d\n[pgbouncer]\n", dir, port)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = %s\n", name, all[name])
	}
	return text.String()
}

func (b *Bouncer) launch(ctx context.Context, program string, as account) error {
	log, err := os.Create(b.LogFile())
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(program, filepath.Join(b.dir.path, "ini"))
	command.Dir = "/"
	command.Env = serverEnv()
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = processAttributes(as, false)
	if b.process, err = startProcess(command); err != nil {
		return fmt.Errorf("pgtest: start PgBouncer: %w", err)
	}
	if err := b.awaitReady(ctx); err != nil {
		b.process.end(os.Kill)
		text, _ := os.ReadFile(b.LogFile())
		return fmt.Errorf("pgtest: start PgBouncer: %w\n%s", err, lastLines(text, 20))
	}
	return nil
}

func (b *Bouncer) awaitReady(ctx context.Context) error {
	return poll(ctx, b.process, func() bool {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socketPath(b.dir.path, b.port))
		return err == nil && conn.Close() == nil
	})
}

// DSN returns a keyword/value connection string over the bouncer's Unix socket. No password is needed. The database
// pgbouncer with the user postgres is the admin console; it speaks the simple protocol only.
func (b *Bouncer) DSN(user, database string) string { return dsn(b.dir.path, b.port, user, database) }

// Socket returns the folder of the Unix socket and the port in its name.
func (b *Bouncer) Socket() (dir string, port int) { return b.dir.path, b.port }

// Version returns the version of the program, such as 1.24.1.
func (b *Bouncer) Version() string { return b.version }

// LogFile returns the path of the bouncer's log.
func (b *Bouncer) LogFile() string { return filepath.Join(b.dir.path, "log") }

// Stop ends the bouncer at once, with all its connections. A second call does nothing.
func (b *Bouncer) Stop() error {
	var err error
	b.stop.Do(func() {
		// Which of its other signals ends PgBouncer at once depends on its version.
		b.process.end(os.Kill)
		untrack(b)
		err = b.dir.remove()
	})
	return err
}

func socketPath(dir string, port int) string {
	return filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(port))
}
