package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// sampleSQL reads what is not idle at one moment. Who blocks whom is asked once for a table: the server stops handing out locks
// while it looks.
const sampleSQL = `select pid, coalesce(leader_pid, pid), coalesce(datname, ''), coalesce(usename, ''), coalesce(application_name, ''),
       coalesce(state, '') like 'idle in transaction%', coalesce(wait_event_type, ''),
       coalesce(extract(epoch from clock_timestamp() - case when state like 'idle%' then state_change else query_start end), 0)::float8,
       case when $1 and wait_event_type = 'Lock' then pg_blocking_pids(pid) end,
       query = '<insufficient privilege>' and datname is not null
  from pg_stat_activity
 where pid <> pg_backend_pid() and (state not in ('idle', 'disabled') or query = '<insufficient privilege>' and datname is not null)`

// handover is longer than a session that has a tenant is without its tag, on a busy machine, too: while the settings fly in front
// of a statement, and while its transaction ends.
const handover = time.Second

// observed is one session at one moment.
type observed struct {
	PID, Leader     int // itself, or the session that a parallel worker works for
	Database, Login string
	Application     string
	IdleInTx        bool
	Wait            string  // wait_event_type
	Seconds         float64 // since the statement began, or the session fell idle
	Blockers        []int
	Hidden          bool // the login may not see more
}

// load is what the sessions of a tenant did on a shard, as programs read it. Averages are sessions at once.
type load struct {
	Shard  string `json:"shard"`
	Tenant string `json:"tenant,omitempty"`
	Kind   string `json:"kind"`

	Load    float64 `json:"load"`    // all that are active
	Running float64 `json:"running"` // of those: on a processor, or in the queue for one
	IO      float64 `json:"io"`      // wait for the disk
	Lock    float64 `json:"lock"`    // wait for another transaction
	Other   float64 `json:"other"`   // wait for something else: short locks inside the server, the program, other processes

	Active    int      `json:"active"` // statements now
	Oldest    float64  `json:"oldest_seconds"`
	OldestPID int      `json:"oldest_pid,omitempty"`
	IdleInTx  int      `json:"idle_in_transaction"` // transactions in which nothing runs, now
	Idle      float64  `json:"idle_seconds"`        // for how long, the oldest
	BlockedBy []string `json:"blocked_by"`          // tenants, or PIDs of others

	unmarked bool // by its program, and not only for the moment in which a session changes hands
}

// shardLoad is one shard's part of a table.
type shardLoad struct {
	Shard   string  `json:"shard"`
	Problem string  `json:"problem,omitempty"` // why there is nothing, or not all
	Samples int     `json:"samples"`
	Load    float64 `json:"load"`
	rows    []*load
}

// sampler looks at one shard, on a connection that it keeps.
type sampler struct {
	*server
	conn *pgx.Conn
}

func (s *sampler) close(ctx context.Context) {
	if s.conn != nil {
		closeSoon(ctx, s.conn)
		s.conn = nil
	}
}

// sample looks for so long, several times a second.
func (s *sampler) sample(ctx context.Context, interval time.Duration) (result shardLoad) {
	result.Shard = s.shard
	end := time.Now().Add(interval)
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, max(interval, 2*time.Second)+500*time.Millisecond)
	defer cancel()
	if err := s.fill(ctx, &result, end, min(max(interval/20, 50*time.Millisecond), 250*time.Millisecond)); err != nil {
		s.close(ctx)
		if ctx.Err() != nil {
			err = errors.New("it did not answer in time")
		}
		result.Problem, result.rows = err.Error(), nil
	}
	s.name(whole, result.rows)
	return result
}

// name puts tenants where their tags are. The registry is asked when the samples have been taken: it may take longer.
func (s *sampler) name(ctx context.Context, rows []*load) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	names := map[string]string{}
	for _, row := range rows {
		if row.Kind == ofTenant {
			names[row.Tenant] = s.whose.named(ctx, row.Tenant)
			row.Tenant = names[row.Tenant]
		}
	}
	for _, row := range rows {
		for i, blocker := range row.BlockedBy {
			if name, is := names[blocker]; is {
				row.BlockedBy[i] = name
			}
		}
	}
}

func (s *sampler) fill(ctx context.Context, result *shardLoad, end time.Time, every time.Duration) (err error) {
	if s.conn == nil {
		if s.conn, err = s.connect(ctx); err != nil {
			return err
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	rows := map[string]*load{}
	for {
		last := !time.Now().Add(every).Before(end)
		sessions, err := s.look(ctx, last)
		if err != nil {
			return err
		}
		result.Samples++
		hidden, err := s.count(ctx, rows, sessions, last)
		if err != nil {
			return err
		}
		if hidden > 0 {
			result.Problem = fmt.Sprintf("its login may not see what %s do: grant pg_read_all_stats to the login of its admin DSN", count(hidden, "session"))
		}
		if last {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for key, row := range rows {
		if row.Load == 0 && row.IdleInTx == 0 {
			delete(rows, key)
		}
		for _, sum := range []*float64{&row.Load, &row.Running, &row.IO, &row.Lock, &row.Other} {
			*sum /= float64(result.Samples)
		}
		result.Load += row.Load
	}
	result.rows = slices.Collect(maps.Values(rows))
	return nil
}

func (s *sampler) look(ctx context.Context, blockers bool) ([]observed, error) {
	rows, err := s.conn.Query(ctx, sampleSQL, blockers)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[observed])
}

// count adds a sample to the sums, and says how the sessions are now if it is the last one.
func (s *sampler) count(ctx context.Context, rows map[string]*load, sessions []observed, last bool) (hidden int, err error) {
	names := map[int]string{}
	mine := map[int]*load{}
	leaders := map[int]observed{}
	for _, o := range sessions {
		leaders[o.PID] = o
	}
	for _, o := range sessions {
		if o.Hidden {
			hidden++
			continue
		}
		leader, there := leaders[o.Leader]
		if !there {
			leader = o
		}
		kind, tenant, err := s.whose.of(ctx, leader.Database, leader.Login, leader.Application)
		if err != nil {
			return 0, err
		}
		row := rows[kind+tenant]
		if row == nil {
			row = &load{Shard: s.shard, Tenant: tenant, Kind: kind, BlockedBy: []string{}}
			rows[kind+tenant] = row
		}
		mine[o.PID], names[o.PID] = row, tenant
		row.add(o, last)
	}
	for _, o := range sessions {
		row := mine[o.PID] // nil for those that are hidden, who block nobody that is known
		for _, pid := range o.Blockers {
			name := names[pid]
			switch {
			case pid == 0:
				name = "a prepared transaction"
			case name == "":
				name = fmt.Sprintf("pid %d", pid)
			}
			if !slices.Contains(row.BlockedBy, name) {
				row.BlockedBy = append(row.BlockedBy, name)
			}
		}
	}
	return hidden, nil
}

// add counts one session of a sample.
func (l *load) add(o observed, last bool) {
	l.unmarked = l.unmarked || l.Kind == ofProgram && o.Seconds > handover.Seconds()
	switch {
	case o.IdleInTx:
		if last {
			l.IdleInTx++
			l.Idle = max(l.Idle, o.Seconds)
		}
		return
	case o.Wait == "Activity": // a process of the server that has nothing to do
		return
	}
	l.Load++
	switch o.Wait {
	case "":
		l.Running++
	case "IO":
		l.IO++
	case "Lock":
		l.Lock++
	default:
		l.Other++
	}
	if last && o.PID == o.Leader {
		l.Active++
		if o.Seconds >= l.Oldest {
			l.Oldest, l.OldestPID = o.Seconds, o.PID
		}
	}
}
