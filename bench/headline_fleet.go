package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/sharded-pg/sharded-pg/registry"
)

const (
	headlineShards  = 4
	headlineTenants = 10_000
)

// sizes of tenants, by twentieths of them. Few tenants have most of the rows, and most of the load.
var sizes = []struct {
	name    string
	tenants int // of twenty
	factor  int // rows, times those of a small one
	load    int // percent
}{{"small", 16, 1, 5}, {"medium", 3, 10, 15}, {"large", 1, 100, 80}}

// headline is a fleet of its own. Tenant n lives on shard n modulo headlineShards.
type headline struct {
	headlineOptions
	shards []*fleet
	rows   int // of all tenants of a shard together, and of its wide one

	writes [headlineTenants + headlineShards]atomic.Int64 // by tenant; the wide ones are behind the others
}

func startHeadline(ctx context.Context, o headlineOptions) (_ *headline, err error) {
	h := &headline{headlineOptions: o}
	defer func() {
		if err != nil {
			_ = h.close()
		}
	}()
	small, large, each := 0, 0, ""
	for _, c := range sizes {
		large = small + c.tenants
		each += fmt.Sprintf(" when k %% 20 between %d and %d then %d", small, large-1, c.factor*o.scale)
		h.rows += headlineTenants / headlineShards / 20 * c.tenants * c.factor * o.scale
		small = large
	}
	for s := range headlineShards {
		f := &fleet{wide: tenantID(headlineTenants + s)}
		for n := s; n < headlineTenants; n += headlineShards {
			f.tenants = append(f.tenants, tenantID(n))
		}
		if err := f.start(ctx,
			fmt.Sprintf("from generate_series(0, %d) k, lateral (select k * %d + %d t) n, generate_series(1, case%s end) i",
				len(f.tenants)-1, headlineShards, s, each),
			fmt.Sprintf("from generate_series(1, %d) i, (select %d t) n", h.rows, headlineTenants+s),
		); err != nil {
			return nil, err
		}
		h.shards = append(h.shards, f)
	}
	return h, nil
}

func (h *headline) close() error {
	var errs []error
	for _, f := range h.shards {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// draw returns a tenant by the distribution of the load, and one of its rows.
func (h *headline) draw(r *rand.Rand) (tenant int, row int64) {
	percent, first := r.IntN(100), 0
	for _, c := range sizes {
		if percent < c.load {
			k := r.IntN(headlineTenants/headlineShards/20)*20 + first + r.IntN(c.tenants)
			return k*headlineShards + r.IntN(headlineShards), int64(1 + r.IntN(c.factor*h.scale))
		}
		percent -= c.load
		first += c.tenants
	}
	panic("the load is not a hundred percent")
}

// headlinePeer is a way to reach the fleet.
type headlinePeer struct {
	name string
	// at returns the peer, the tenant and the row that stand for what was drawn.
	at     func(tenant int, row int64, r *rand.Rand) (peer, int, int64)
	counts func() headlineCounts
	close  func() error
}

// headlineCounts is what a peer says of itself.
type headlineCounts struct {
	lane1, lane3, waited int64
	conns                int // open now
}

func (c headlineCounts) since(before headlineCounts) headlineCounts {
	c.lane1 -= before.lane1
	c.lane3 -= before.lane3
	c.waited -= before.waited
	return c
}

// plain has a pool for each shard and one tenant on it, with as many rows as all others there together.
func (h *headline) plain(o headlineOptions) (*headlinePeer, error) {
	var peers []*plain
	for _, f := range h.shards {
		p, err := openPlain(context.Background(), peerConfig{
			name: limitPeer, dsn: f.server.DSN(benchRole, benchDatabase), concurrency: o.conns, conns: o.conns, tenants: []string{f.wide},
		})
		if err != nil {
			return nil, err
		}
		peers = append(peers, p.(*plain))
	}
	return &headlinePeer{
		name: limitPeer,
		at: func(tenant int, _ int64, r *rand.Rand) (peer, int, int64) {
			s := tenant % headlineShards
			return peers[s], headlineTenants + s, int64(1 + r.IntN(h.rows))
		},
		counts: func() (c headlineCounts) {
			for _, p := range peers {
				st := p.hot.Stats()
				c.conns += st.OpenConnections
				c.waited += st.WaitCount
			}
			return c
		},
		close: func() (err error) {
			for _, p := range peers {
				err = errors.Join(err, p.Close())
			}
			return err
		},
	}, nil
}

// sharded is this module: one *sql.DB for all, with the plan starter as shipped.
func (h *headline) sharded(o headlineOptions) (*headlinePeer, error) {
	var fleet registry.Fleet
	for i, f := range h.shards {
		name := fmt.Sprint("s", i+1)
		fleet.Shards = append(fleet.Shards, registry.Shard{Name: name, DSN: f.server.DSN(benchRole, benchDatabase)})
		for _, id := range f.tenants {
			fleet.Tenants = append(fleet.Tenants, registry.Tenant{ID: id, Shard: name, Plan: "starter"})
		}
	}
	p, err := newSharded(fleet, peerConfig{name: ownPeer, concurrency: o.workers, conns: o.conns})
	if err != nil {
		return nil, err
	}
	return &headlinePeer{
		name: ownPeer,
		at:   func(tenant int, row int64, _ *rand.Rand) (peer, int, int64) { return p, tenant, row },
		counts: func() (c headlineCounts) {
			for _, s := range p.connector.Stats().Shards {
				c.lane1 += s.Backends.Lane1
				c.lane3 += s.Backends.Lane3
				c.conns += s.Backends.Open
				c.waited += s.Slots.Waited
			}
			return c
		},
		close: p.Close,
	}, nil
}

// verifyWrites compares what each tenant was told with what its rows hold.
func (h *headline) verifyWrites(ctx context.Context) error {
	for s, f := range h.shards {
		got, err := sums(ctx, f.admin)
		if err != nil {
			return err
		}
		for n := s; n < len(h.writes); n += headlineShards {
			if want := h.writes[n].Load(); got[tenantID(n)] != want {
				return fmt.Errorf("tenant %s was told of %d updates; its rows show %d", tenantID(n), want, got[tenantID(n)])
			}
		}
	}
	return nil
}

// sums are those of each tenant's rows.
func sums(ctx context.Context, admin *sql.DB) (map[string]int64, error) {
	rows, err := admin.QueryContext(ctx, "select tenant_id, sum(total)::bigint from orders group by 1")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	got := map[string]int64{}
	for rows.Next() {
		var id string
		var sum int64
		if err := rows.Scan(&id, &sum); err != nil {
			return nil, err
		}
		got[id] = sum
	}
	return got, rows.Err()
}
