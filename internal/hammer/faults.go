package hammer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// breakThings breaks connections until the run ends, and restarts the shard once.
func (r *run) breakThings(seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	restart := r.phase.restarts
	for n := 1; ; n++ {
		// The first moments are undisturbed: what goes wrong there has no excuse.
		if !pause(r.ctx, time.Duration(150+rnd.IntN(150))*time.Millisecond) {
			return
		}
		r.faults.Store(true)
		var err error
		line := r.fleet.lines[rnd.IntN(len(r.fleet.lines))]
		switch what := rnd.IntN(4); {
		case restart && n >= 3:
			restart = false
			err = r.restart(rnd.IntN(2) == 0)
		case what == 0:
			line.Cut()
		case what == 1:
			line.Stall(true)
			pause(r.ctx, time.Duration(rnd.IntN(150))*time.Millisecond)
			line.Stall(false)
		default:
			err = r.fleet.server.Exec(context.Background(), "postgres", fmt.Sprintf("select pg_terminate_backend(pid) from "+
				"(select pid from pg_stat_activity where datname = '%s' and usename = 'app' order by random() limit %d) x",
				r.fleet.database, 1+rnd.IntN(3)))
		}
		if err != nil {
			r.finding("SETUP", "%v", err)
			return
		}
	}
}

func (r *run) restart(crash bool) error {
	if crash {
		if err := r.fleet.server.Kill(); err != nil {
			return err
		}
	}
	return r.fleet.server.Restart(context.Background())
}

// pause reports whether the time passed before the context ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// overLimit is how long the server may show more connections than the limit: a closed one needs a moment to go.
const overLimit = 3 * time.Second

// count compares the server's connections with the limit until ctx ends.
func (r *run) count(ctx context.Context) {
	limit := r.phase.conns
	if r.phase.pooler {
		limit = 2 // its pool's size
	}
	query := fmt.Sprintf("select count(*) > %d from pg_stat_activity where datname = '%s' and usename = 'app'", limit, r.fleet.database)
	var over time.Time
	var conn *pgconn.PgConn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	for pause(ctx, 100*time.Millisecond) {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgconn.Connect(ctx, r.fleet.server.DSN("postgres", "postgres")); err != nil {
				conn = nil // restarting
				continue
			}
		}
		res, err := conn.Exec(ctx, query).ReadAll()
		if err != nil || len(res) != 1 || len(res[0].Rows) != 1 {
			continue
		}
		switch now := time.Now(); {
		case string(res[0].Rows[0][0]) != "t":
			over = time.Time{}
		case over.IsZero():
			over = now
		case now.Sub(over) > overLimit:
			r.finding("LIMIT", "more than %d connections to the shard for %v", limit, overLimit)
			return
		}
	}
}
