package main

import (
	"bytes"
	"context"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/rls"
)

// openFloor makes plain send what the driver sends in front of a statement: the prologue, and for the wide tenant, which stands
// for random ones, the reset as well. Nothing looks for a tenant, a route, a slot or at the answer, so this is what server and wire take
// for them: what is left between it and sharded-pg is the driver's.
func openFloor(ctx context.Context, cfg peerConfig) (peer, error) {
	return openFixed(ctx, cfg, func(conn *pgx.ConnConfig, tenant string) []stdlib.OptionOpenDB {
		dial := conn.DialFunc
		conn.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			return &prefixed{Conn: c}, err
		}
		return []stdlib.OptionOpenDB{stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
			return conn.PgConn().Conn().(*prefixed).prepare(ctx, conn, tenant, tenant == cfg.wide)
		})}
	})
}

// prefixed is a connection that puts a prefix in front of each flight with a prepared statement, and takes away its answer.
type prefixed struct {
	net.Conn
	prefix []byte
	answer int // bytes that the server says to the prefix, always as many
	out    []byte
	drop   int // bytes to be taken from the answer to the last flight
}

func (c *prefixed) prepare(ctx context.Context, conn *pgx.Conn, tenant string, reset bool) error {
	var flight bytes.Buffer
	m := messages{pgproto3.NewFrontend(nil, &flight)}
	prologue := rls.SQL(rls.Tenant, tenantSetting, false, false)
	if reset {
		for i, text := range backend.ResetSQL {
			if _, err := conn.Prepare(ctx, resetName(i), text); err != nil {
				return err
			}
			m.named(resetName(i))
		}
		prologue = rls.SQL(rls.Tenant, tenantSetting, false, false, backend.AttestSQL)
	}
	if _, err := conn.Prepare(ctx, "tenant", prologue); err != nil {
		return err
	}
	m.named("tenant", []byte(tenant))
	if err := m.Flush(); err != nil {
		return err
	}
	prefix := bytes.Clone(flight.Bytes())
	m.SendSync(&pgproto3.Sync{})
	if err := m.Flush(); err != nil {
		return err
	}
	// It flies alone once: this is what it takes away later.
	if _, err := c.Conn.Write(flight.Bytes()); err != nil {
		return err
	}
	const ready = "Z\x00\x00\x00\x05I"
	var all []byte
	for buf := make([]byte, 1<<10); !bytes.HasSuffix(all, []byte(ready)); {
		n, err := c.Conn.Read(buf)
		if err != nil {
			return err
		}
		all = append(all, buf[:n]...)
	}
	c.prefix, c.answer = prefix, len(all)-len(ready)
	return nil
}

func (c *prefixed) Write(p []byte) (int, error) {
	if c.prefix == nil || p[0] != 'B' {
		return c.Conn.Write(p)
	}
	c.drop = c.answer
	c.out = append(append(c.out[:0], c.prefix...), p...)
	if _, err := c.Conn.Write(c.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *prefixed) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.drop == 0 || err != nil {
		return n, err
	}
	if n <= c.drop { // the server sends it with what follows
		return 0, io.ErrUnexpectedEOF
	}
	n = copy(p, p[c.drop:n])
	c.drop = 0
	return n, nil
}
