// Package hosts is for connection strings whose hosts have several addresses, of which one may not answer: several hosts, of which
// one takes writes at a time, or a name that stands for several. pgx tries them in order, each for as long as it likes, for each
// connection anew.
package hosts

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// Patience is for how long one of several hosts is tried, unless the connection string has a connect_timeout.
	Patience = 2 * time.Second
	// Limit is for how long the hosts are tried together by whoever has no limit of its own.
	Limit = 10 * time.Second
	// mostParts: a name may have more addresses than there is time for, and one that answers needs some for TLS and a password.
	mostParts = 5
)

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

// Connect makes a connection that is one of its own, within what is left of ctx and, unless the connection string has a
// connect_timeout, within [Limit].
func Connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg = cfg.Copy()
	new(Memory).Bound(ctx, &cfg.Config, Limit)
	return pgx.ConnectConfig(ctx, cfg)
}

// Bound is [Memory.Share] for connections that nothing else may bound: a single address has limit, too.
func (m *Memory) Bound(ctx context.Context, cc *pgconn.Config, limit time.Duration) {
	m.Share(ctx, cc, limit)
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = limit
	}
}

// Share looks up the hosts of cc, which is for one connection, and bounds the time that is spent on each address, so that one which
// does not answer leaves some of limit, or of ctx, for the next. It begins with the address that took the last connection, and then
// remembers where cc ended up. It returns how many addresses there are, and for how long the last of them may have to wait for its turn.
func (m *Memory) Share(ctx context.Context, cc *pgconn.Config, limit time.Duration) (addresses int, others time.Duration) {
	left := func() time.Duration {
		if deadline, ok := ctx.Deadline(); ok {
			return min(limit, time.Until(deadline))
		}
		return limit
	}
	tries := lookup(ctx, cc, left())
	limit = left()
	chosen := cc.ValidateConnect != nil
	m.sort(tries, chosen)
	addresses = apply(cc, tries)
	if len(tries) > 1 {
		m.remember(cc, tries, chosen)
	}
	if addresses < 2 {
		return addresses, 0
	}
	names := Count(cc)
	each := limit / time.Duration(min(addresses, max(names, mostParts)))
	if names > 1 && cc.ConnectTimeout == 0 {
		each = min(each, Patience)
	}
	if cc.ConnectTimeout == 0 || cc.ConnectTimeout > each {
		cc.ConnectTimeout = each
	}
	return addresses, min(time.Duration(addresses-1)*cc.ConnectTimeout, limit)
}

// ReadOnly reports whether the server of conn has said that it takes no writes: it is a standby, or was told so. PostgreSQL says
// it unasked, from version 14 on, when it changes; behind a pooler nothing may be heard of it.
func ReadOnly(conn *pgconn.PgConn) bool {
	return conn.ParameterStatus("in_hot_standby") == "on" || conn.ParameterStatus("default_transaction_read_only") == "on"
}
