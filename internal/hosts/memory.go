package hosts

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// detour is for how long an address of a name is preferred because another one failed, where any of them will do. Names with
// several addresses spread connections over servers, and an address that is back must get its part again.
const detour = time.Minute

// Memory knows which of several addresses took the last connection. It is safe for concurrent use.
type Memory struct{ last atomic.Pointer[taken] }

type taken struct {
	host    host
	address string
	at      time.Time
}

// sort puts what is tried at one address together, and the address first that took the last connection: the others have been found
// wanting, and one that does not answer costs each connection its part of the time. The order is otherwise as it was. Without
// target_session_attrs (chosen) the order of the hosts is all that tells the primary, and stays.
func (m *Memory) sort(tries []try, chosen bool) {
	last := m.last.Load()
	if last != nil && !chosen && time.Since(last.at) > detour {
		last = nil
	}
	hosts, addresses := make(map[host]int), make(map[string]int)
	for i, t := range tries {
		if _, known := hosts[t.of()]; !known {
			hosts[t.of()] = i
		}
		if _, known := addresses[t.address]; !known {
			addresses[t.address] = i
		}
	}
	rank := func(t try) (r [3]int) {
		if !chosen {
			r[0] = hosts[t.of()]
		} else if last != nil && t.of() == last.host {
			r[0] = -1
		}
		if last != nil && t.address == last.address {
			r[1] = -1
		}
		r[2] = addresses[t.address]
		return r
	}
	slices.SortStableFunc(tries, func(a, b try) int {
		x, y := rank(a), rank(b)
		return slices.Compare(x[:], y[:])
	})
}

// remember learns from the address that the connection ends up with, which is all that pgx says about it.
func (m *Memory) remember(cc *pgconn.Config, tries []try, chosen bool) {
	known := make(map[string]host, len(tries))
	for _, t := range tries {
		if _, there := known[t.address]; !there {
			known[t.address] = t.of()
		}
	}
	connected := cc.AfterConnect
	cc.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if connected != nil {
			if err := connected(ctx, conn); err != nil {
				return err
			}
		}
		address := conn.Conn().RemoteAddr().String()
		if h, ok := known[address]; ok && (chosen || address != tries[0].address) {
			m.last.Store(&taken{h, address, time.Now()})
		}
		return nil
	}
}
