// Package hosts is for connection strings that name several hosts, of which one takes writes at a time: a primary and those
// that may take its place. pgx tries them in order, each for as long as it likes, for each connection anew.
package hosts

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Patience is for how long one of several hosts is tried, unless the connection string has a connect_timeout.
const Patience = 2 * time.Second

// Limit is for how long the hosts are tried together by whoever has no limit of its own.
const Limit = 10 * time.Second

type host struct {
	name string
	port uint16
}

// of returns cc's hosts in order. A host is there several times where pgx tries it with TLS and without.
func of(cc *pgconn.Config) []*pgconn.FallbackConfig {
	return append([]*pgconn.FallbackConfig{{Host: cc.Host, Port: cc.Port, TLSConfig: cc.TLSConfig}}, cc.Fallbacks...)
}

// Count returns how many hosts cc names.
func Count(cc *pgconn.Config) int {
	names := make(map[host]struct{})
	for _, h := range of(cc) {
		names[host{h.Host, h.Port}] = struct{}{}
	}
	return len(names)
}

// Share bounds the time that is spent on each of several hosts, so that one which does not answer leaves some of limit for the
// next. It returns for how long the last of them may have to wait for its turn.
func Share(cc *pgconn.Config, limit time.Duration) time.Duration {
	n := Count(cc)
	if n == 1 {
		return 0
	}
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = Patience
	}
	cc.ConnectTimeout = min(cc.ConnectTimeout, limit/time.Duration(n))
	return time.Duration(n-1) * cc.ConnectTimeout
}

// Memory knows which of several hosts took the last connection. It is safe for concurrent use.
type Memory struct{ last atomic.Pointer[host] }

// Prefer makes cc, which is for one connection, begin with that host: the others have been found wanting, and one that does not
// answer costs each connection its part of the time. The order is otherwise as it was. It then remembers where cc ended up. Without
// target_session_attrs the order is all that tells the primary, and stays.
func (m *Memory) Prefer(cc *pgconn.Config) {
	if cc.ValidateConnect == nil || Count(cc) == 1 {
		return
	}
	all := of(cc)
	if last := m.last.Load(); last != nil {
		order := make([]*pgconn.FallbackConfig, 0, len(all))
		for _, first := range []bool{true, false} {
			for _, h := range all {
				if (host{h.Host, h.Port} == *last) == first {
					order = append(order, h)
				}
			}
		}
		cc.Host, cc.Port, cc.TLSConfig, cc.Fallbacks = order[0].Host, order[0].Port, order[0].TLSConfig, order[1:]
	}
	m.remember(cc, all)
}

// remember learns the host from the address that the connection ends up with, which is all that pgx says about it.
func (m *Memory) remember(cc *pgconn.Config, all []*pgconn.FallbackConfig) {
	known := make(map[string]host, len(all))
	for _, h := range all {
		_, address := pgconn.NetworkAddress(h.Host, h.Port)
		known[address] = host{h.Host, h.Port}
	}
	lookup, connected := cc.LookupFunc, cc.AfterConnect
	cc.LookupFunc = func(ctx context.Context, name string) ([]string, error) {
		found, err := lookup(ctx, name)
		for _, address := range found {
			for _, h := range all {
				if h.Host == name {
					known[net.JoinHostPort(address, strconv.Itoa(int(h.Port)))] = host{h.Host, h.Port}
				}
			}
		}
		return found, err
	}
	cc.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if connected != nil {
			if err := connected(ctx, conn); err != nil {
				return err
			}
		}
		if h, ok := known[conn.Conn().RemoteAddr().String()]; ok {
			m.last.Store(&h)
		}
		return nil
	}
}

// ReadOnly reports whether the server of conn has said that it takes no writes: it is a standby, or was told so. PostgreSQL says
// it unasked, from version 14 on, when it changes; behind a pooler nothing may be heard of it.
func ReadOnly(conn *pgconn.PgConn) bool {
	return conn.ParameterStatus("in_hot_standby") == "on" || conn.ParameterStatus("default_transaction_read_only") == "on"
}
