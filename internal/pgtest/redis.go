//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Redis is a running Redis or Valkey that keeps nothing on disk. All methods are safe for concurrent use.
type Redis struct {
	dir     *folder
	program string
	mu      sync.Mutex
	process *process // nil while it does not run
	stop    sync.Once
}

// StartRedis starts a Redis and returns when it accepts connections. When the program is not on this machine the error
// matches ErrNotInstalled and says what to install.
func StartRedis(ctx context.Context) (*Redis, error) {
	program, err := findRedis()
	if err != nil {
		return nil, err
	}
	_, dir, err := place()
	if err != nil {
		return nil, err
	}
	r := &Redis{dir: dir, program: program}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	track(r)
	return r, nil
}

func findRedis() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("pgtest: Redis: %w; run script/setup, or install it (apt-get install redis-server | dnf install valkey | "+
		"brew install redis)", ErrNotInstalled)
}

// Start starts a Redis that was killed, empty.
func (r *Redis) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	as, err := serverAccount()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(r.dir.path, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(r.program, "--port", "0", "--unixsocket", r.Socket(), "--unixsocketperm", "777", "--save", "",
		"--appendonly", "no", "--dir", r.dir.path)
	command.Dir = "/"
	command.Env = serverEnv()
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = processAttributes(as, false)
	if r.process, err = startProcess(command); err != nil {
		return fmt.Errorf("pgtest: start Redis: %w", err)
	}
	err = poll(ctx, r.process, func() bool {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", r.Socket())
		return err == nil && conn.Close() == nil
	})
	if err != nil {
		r.process.end(os.Kill)
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("pgtest: start Redis: %w\n%s", err, lastLines(text, 20))
	}
	return nil
}

// Socket returns the path of the Unix socket.
func (r *Redis) Socket() string { return filepath.Join(r.dir.path, "redis") }

// Pause makes Redis answer nothing until Resume: connections stay, and the kernel accepts new ones.
func (r *Redis) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (r *Redis) Resume() error { return r.signal(syscall.SIGCONT) }

func (r *Redis) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return syscall.Kill(r.process.pid(), s)
}

// Kill ends Redis at once, with all that it knows. Start starts it again.
func (r *Redis) Kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process.end(os.Kill)
}

// Stop ends Redis and removes its folder. A second call does nothing.
func (r *Redis) Stop() error {
	var err error
	r.stop.Do(func() {
		r.Kill()
		untrack(r)
		err = r.dir.remove()
	})
	return err
}
