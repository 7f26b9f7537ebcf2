package hammer

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// settleTime is how long what was under way at the end may take to be given back.
const settleTime = 10 * time.Second

// finish looks at what is left when all workers are done.
func (r *run) finish(before []goleak.Option) {
	r.t.Helper()
	for _, line := range r.fleet.lines {
		line.Stall(false)
	}
	for _, s := range r.shared {
		_ = s.Close()
	}
	if !settles(func() bool {
		for _, s := range r.conn.Stats().Shards {
			if s.Slots.Used > 0 || s.Slots.Waiting > 0 {
				return false
			}
		}
		return true
	}) {
		r.finding("SLOT", "nobody works any more and slots are in use: %+v", r.conn.Stats().Shards)
	}
	for _, s := range r.conn.Stats().Shards {
		b := s.Backends
		r.laneText = fmt.Sprintf("%d flights direct, %d with a reset, %d resets at release, %d connects, %d drops", b.Lane1, b.Lane3,
			b.Resets, b.Connects, b.Drops)
		if b.Open > r.phase.conns {
			r.finding("LIMIT", "%d connections are open; the limit is %d", b.Open, r.phase.conns)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime+20*time.Second)
	defer cancel()
	admin, err := pgconn.Connect(ctx, r.fleet.server.DSN("postgres", r.fleet.database))
	require.NoError(r.t, err)
	defer admin.Close(ctx)

	// Locks taken in plain sight go with their checkout, while the connection lives on.
	if !settles(func() bool {
		return len(r.rows(ctx, admin, "select pid from pg_locks where locktype = 'advisory' and objid = 1 and "+
			"database = (select oid from pg_database where datname = current_database())")) == 0
	}) {
		r.finding("LEAK", "advisory locks are held and nobody works any more")
	}
	require.NoError(r.t, r.db.Close())
	if !settles(func() bool {
		return len(r.rows(ctx, admin, "select pid from pg_stat_activity where usename = 'app' and datname = current_database()")) == 0 ||
			r.phase.pooler
	}) {
		r.finding("LEAK", "server connections outlive the driver")
	}
	r.settleLedger(ctx, admin)
	for _, line := range r.fleet.lines {
		if err := line.Stop(); err != nil {
			r.finding("SETUP", "%v", err)
		}
	}
	admin.Close(ctx)
	if err := goleak.Find(before...); err != nil {
		r.finding("LEAK", "%v", err)
	}
}

// settleLedger compares the tables with what was promised.
func (r *run) settleLedger(ctx context.Context, admin *pgconn.PgConn) {
	for _, row := range r.rows(ctx, admin, "select caller, seen from past group by 1, 2") {
		if row[1] != "ghost-"+row[0] {
			r.finding("ISOLATION", "past its COMMIT, tenant %s saw rows of %q", row[0], row[1])
		}
	}
	type found struct {
		owner string
		times string
	}
	there := make(map[string]found)
	tables := map[string]bool{}
	for _, tn := range r.fleet.tenants {
		if tables[tn.table] {
			continue
		}
		tables[tn.table] = true
		for _, row := range r.rows(ctx, admin, "select token, min(tenant_id), count(*) from "+tn.table+
			" where token is not null group by 1") {
			if f, twice := there[row[0]]; twice {
				r.finding("ISOLATION", "write %s is with %s and with %s", row[0], f.owner, row[1])
			}
			there[row[0]] = found{row[1], row[2]}
		}
	}
	l := &r.ledger
	for token, f := range there {
		var writer entry
		for _, part := range []map[string]entry{l.acked, l.unsure, l.denied, l.past} {
			if tn, ok := part[token]; ok {
				writer = tn
			}
		}
		_, past := l.past[token]
		_, denied := l.denied[token]
		switch {
		case f.owner != writer.id && !(past && f.owner == writer.ghost):
			r.finding("ISOLATION", "write %s of tenant %s is with %q", token, writer.id, f.owner)
		case past && f.owner == writer.id:
			r.finding("ISOLATION", "write %s past a COMMIT ran as a tenant", token)
		case denied:
			r.finding("LEDGER", "write %s was rolled back, or never sent, and is there; its %s", token, writer.how)
		case f.times != "1":
			r.finding("LEDGER", "write %s is there %s times; its %s", token, f.times, writer.how)
		}
	}
	for token, e := range l.acked {
		if _, ok := there[token]; !ok {
			r.finding("LEDGER", "write %s was acknowledged and is not there; its %s", token, e.how)
		}
	}
}

func (r *run) rows(ctx context.Context, admin *pgconn.PgConn, query string) [][]string {
	r.t.Helper()
	res, err := admin.Exec(ctx, query).ReadAll()
	require.NoError(r.t, err)
	var all [][]string
	for _, row := range res[0].Rows {
		texts := make([]string, len(row))
		for i, value := range row {
			texts[i] = string(value)
		}
		all = append(all, texts)
	}
	return all
}

// settles waits until the condition holds, for a bounded time.
func settles(condition func() bool) bool {
	deadline, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	for !condition() {
		if !pause(deadline, 5*time.Millisecond) {
			return false
		}
	}
	return true
}
