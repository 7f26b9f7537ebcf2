package pgtest

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	readSize   = 64 << 10
	queueLimit = 4096 // reads on their way in one direction
)

// session is one client's connection through the proxy.
type session struct {
	proxy  *Proxy
	client net.Conn
	wire   *wireConn
	done   chan struct{} // closed when the session is over
	broken chan struct{} // closed by close
	once   sync.Once

	mu     sync.Mutex
	server net.Conn // guarded by mu; nil until dialled
}

// chunk is what one read returned and when it has to be delivered.
type chunk struct {
	bytes []byte
	due   time.Time
}

func newSession(p *Proxy, client net.Conn, number int) *session {
	return &session{proxy: p, client: client, wire: p.log.conn(number), done: make(chan struct{}), broken: make(chan struct{})}
}

func (s *session) run() {
	defer close(s.done)
	defer s.close()
	server, err := s.dial()
	if err != nil {
		return // the client sees a connection closed, as with a server that is down behind a balancer
	}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	select {
	case <-s.broken: // closed while dialling, before close could know the connection
		_ = server.Close()
		return
	default:
	}
	var directions sync.WaitGroup
	directions.Go(func() { s.forward(s.client, server, s.wire.fromClient) })
	directions.Go(func() { s.forward(server, s.client, s.wire.fromServer) })
	directions.Wait()
}

func (s *session) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	go func() {
		select {
		case <-s.broken:
			cancel()
		case <-ctx.Done():
		}
	}()
	return new(net.Dialer).DialContext(ctx, s.proxy.network, s.proxy.address)
}

// forward delivers what it reads, each piece after the delay in force when it was read. Reading never waits for
// delivery, so many pieces are on their way at once. When one side ends, what it said is delivered and then both ends are
// closed: PostgreSQL clients and servers never half-close.
func (s *session) forward(from, to net.Conn, observe func([]byte)) {
	defer s.close()
	queue := make(chan chunk, queueLimit)
	var delivery sync.WaitGroup
	delivery.Go(func() { s.deliver(queue, to) })
	defer delivery.Wait()
	defer close(queue)
	buffer := make([]byte, readSize)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			due := time.Now().Add(time.Duration(s.proxy.oneWay.Load()))
			// Observed before it is forwarded: whoever has seen the answer to a message finds the message recorded.
			observe(buffer[:n])
			select {
			case queue <- chunk{append([]byte(nil), buffer[:n]...), due}:
			case <-s.broken:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *session) deliver(queue <-chan chunk, to net.Conn) {
	var sleeper sleeper
	defer sleeper.close()
	intact := true
	for c := range queue {
		// After a failure the rest is drained, so that the reader never blocks on the queue.
		if !intact {
			continue
		}
		intact = sleeper.until(c.due, s.broken) && s.proxy.gate.wait(s.broken)
		if intact {
			_, err := to.Write(c.bytes)
			intact = err == nil
		}
		if !intact {
			s.close()
		}
	}
}

// close breaks the connection on both sides.
func (s *session) close() {
	s.once.Do(func() {
		close(s.broken)
		_ = s.client.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.server != nil {
			_ = s.server.Close()
		}
	})
}
