//go:build unix

package backend

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// In package backend: the peek has no exported form, and a server cannot be made slow enough on demand.
func TestPeekDoesNotWaitForAReadUnderWay(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	server, err := listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })

	var p peeker
	p.attach(client)
	reading := make(chan struct{})
	go func() {
		one := make([]byte, 1)
		_, _ = client.Read(one)
		close(reading)
		_, _ = client.Read(one) // until the test closes the connection
	}()
	_, err = server.Write([]byte("x"))
	require.NoError(t, err)
	<-reading

	answer := make(chan bool, 1)
	go func() {
		quiet := true
		for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
			quiet = p.quiet() && quiet
		}
		answer <- quiet
	}()
	select {
	case quiet := <-answer:
		require.True(t, quiet)
	case <-time.After(10 * time.Second):
		t.Error("the peek waits for the read")
	}
	require.NoError(t, client.Close())
	require.False(t, p.quiet(), "a closed connection is no quiet one")
}
