package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Upstream is where a proxy forwards to: a Server, a Bouncer, or another Proxy.
type Upstream interface {
	Socket() (dir string, port int)
}

// Proxy forwards connections to an upstream and can delay, stall, cut or refuse them. Its WireLog records what clients
// send. All methods are safe for concurrent use.
type Proxy struct {
	dir      *folder
	port     int
	network  string
	address  string
	log      *WireLog
	oneWay   atomic.Int64 // nanoseconds
	gate     gate
	accepts  sync.WaitGroup
	sessions sync.WaitGroup

	mu       sync.Mutex
	listener *net.UnixListener     // guarded by mu; nil while refusing and after Stop
	live     map[*session]struct{} // guarded by mu
	accepted int                   // guarded by mu
	stopped  bool                  // guarded by mu
}

// StartProxy starts a proxy in front of the upstream. Stop it when done.
func StartProxy(ctx context.Context, upstream Upstream) (*Proxy, error) {
	dir, port := upstream.Socket()
	return StartProxyTo(ctx, "unix", socketPath(dir, port))
}

// StartProxyTo is StartProxy for any address a net.Dialer can reach, for example a server over TCP.
func StartProxyTo(_ context.Context, network, address string) (*Proxy, error) {
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dir, err := newFolder(as)
	if err != nil {
		return nil, err
	}
	p := &Proxy{dir: dir, port: 5432, network: network, address: address, log: newWireLog(), live: map[*session]struct{}{}}
	if err := p.listen(); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	track(p)
	return p, nil
}

// listen is called before the proxy is shared, or with mu held.
func (p *Proxy) listen() error {
	path := socketPath(p.dir.path, p.port)
	_ = os.Remove(path) // left over from refusing
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	// A socket without a listener answers "connection refused"; a missing file would be another error.
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o777); err != nil {
		return errors.Join(err, listener.Close())
	}
	p.listener = listener
	p.accepts.Go(func() { p.accept(listener) })
	return nil
}

func (p *Proxy) accept(listener *net.UnixListener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // closed by Refuse or Stop
		}
		p.mu.Lock()
		if p.stopped || p.listener != listener {
			p.mu.Unlock()
			_ = client.Close()
			return
		}
		p.accepted++
		s := newSession(p, client, p.accepted)
		p.live[s] = struct{}{}
		p.sessions.Go(func() {
			s.run()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.live, s)
		})
		p.mu.Unlock()
	}
}

// DSN returns a keyword/value connection string through the proxy. No password is needed.
func (p *Proxy) DSN(user, database string) string { return dsn(p.dir.path, p.port, user, database) }

// Socket returns the folder of the Unix socket and the port in its name.
func (p *Proxy) Socket() (dir string, port int) { return p.dir.path, p.port }

// SetDelay makes every byte arrive that much later, in each direction, from now on: a round trip takes twice as long.
// Bytes travel at the same time, as on a long line, so a delay costs latency and not throughput.
func (p *Proxy) SetDelay(oneWay time.Duration) { p.oneWay.Store(int64(oneWay)) }

// Cut closes all live connections now, without a word to either side, as a broken line does. It returns when they are
// gone; new connections work.
func (p *Proxy) Cut() {
	p.mu.Lock()
	sessions := make([]*session, 0, len(p.live))
	for s := range p.live {
		sessions = append(sessions, s)
	}
	p.mu.Unlock()
	for _, s := range sessions {
		s.close()
	}
	for _, s := range sessions {
		<-s.done
	}
}

// Stall makes the proxy a black hole: it accepts connections and bytes and forwards nothing in either direction. What it
// swallowed is delivered when stalling ends.
func (p *Proxy) Stall(on bool) { p.gate.set(on) }

// Refuse makes the proxy refuse new connections; live ones go on. It panics when the socket cannot be made again, which
// means that its folder is gone.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped:
	case on && p.listener != nil:
		_ = p.listener.Close()
		p.listener = nil
	case !on && p.listener == nil:
		if err := p.listen(); err != nil {
			panic(fmt.Sprintf("pgtest: proxy cannot listen again: %v", err))
		}
	}
}

// Conns returns the number of live connections.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.live)
}

// Accepted returns the number of connections up to now.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Log returns the record of what clients sent. It is always the same one.
func (p *Proxy) Log() *WireLog { return p.log }

// Stop closes everything. A second call does nothing.
func (p *Proxy) Stop() error {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return nil
	}
	p.stopped = true
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.accepts.Wait()
	p.Cut()
	p.sessions.Wait()
	untrack(p)
	return p.dir.remove()
}

// gate is open or shut; who waits at it is let through when it opens.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // guarded by mu; nil = open, else closed when it opens
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case shut && g.open == nil:
		g.open = make(chan struct{})
	case !shut && g.open != nil:
		close(g.open)
		g.open = nil
	}
}

// wait returns false when stop was closed first.
func (g *gate) wait(stop <-chan struct{}) bool {
	for {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open == nil {
			return true
		}
		select {
		case <-open:
		case <-stop:
			return false
		}
	}
}
