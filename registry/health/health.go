// Package health looks at the server of a shard and says what an operator should know before and while tenants live there.
//
// [Check] needs the shard's DSN, and uses its admin DSN for what only an administrator sees. Free disk space cannot be
// asked from PostgreSQL without a superuser's functions or an extension: give [Options].FreeDisk a function that asks your
// provider, or take the size of the databases against the shard's MaxBytes instead.
package health

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/registry"
)

// Options adjust [Check]. nil and the zero value mean the defaults.
type Options struct {
	Timeout    time.Duration // for all of it; default 5s
	MaxLag     time.Duration // replication lag that is a problem; default 30s
	MaxClock   time.Duration // clock difference that is a problem; default 2s
	MinFree    int           // free connections below which it is a problem; default 5
	MinVersion int           // major version; default 14
	// FreeDisk returns the free bytes where the shard's data are, and MinFreeDisk how many there have to be. Default: not
	// checked.
	FreeDisk    func(ctx context.Context, shard string) (int64, error)
	MinFreeDisk int64
}

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	for _, d := range []struct {
		to    *time.Duration
		value time.Duration
	}{{&out.Timeout, 5 * time.Second}, {&out.MaxLag, 30 * time.Second}, {&out.MaxClock, 2 * time.Second}} {
		if *d.to == 0 {
			*d.to = d.value
		}
	}
	if out.MinFree == 0 {
		out.MinFree = 5
	}
	if out.MinVersion == 0 {
		out.MinVersion = 14
	}
	return out
}

// Report is what a shard's server said. Problems are sentences for an operator; none means that all is well. Warnings are
// what may well be right and should be known.
type Report struct {
	Shard     string        `json:"shard"`
	Reachable bool          `json:"reachable"`
	Problems  []string      `json:"problems,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"`
	Pooled    bool          `json:"pooled,omitempty"`  // a pooler is in front, whose pool is what tenants can have
	Version   int           `json:"version,omitempty"` // server_version_num
	WALLevel  string        `json:"wal_level,omitempty"`
	Replica   bool          `json:"replica,omitempty"` // of another server
	Bytes     int64         `json:"bytes,omitempty"`   // of all databases
	MaxConns  int           `json:"max_connections,omitempty"`
	Slots     int           `json:"slots,omitempty"` // of those, what is not reserved: what tenants can have
	FreeConns int           `json:"free_connections"`
	Lag       time.Duration `json:"lag,omitempty"`   // of the slowest replica, as far as the admin DSN may see
	Clock     time.Duration `json:"clock,omitempty"` // how far the server's clock is ahead of ours
	FreeDisk  int64         `json:"free_disk,omitempty"`
}

// appSQL asks what only the login of the tenants' statements can tell: whether it could step around row-level security, who answers, and
// what the driver refuses besides: rights of schema tenants at all times (their roles have provisioning's comment, or the default name),
// and a stored setting that makes it another role.
const appSQL = `select r.rolsuper, r.rolbypassrls,
       exists (select from pg_roles o where (o.rolsuper or o.rolbypassrls) and o.rolname <> session_user and pg_has_role(session_user, o.oid, 'member')),
       exists (select from pg_class c where c.relrowsecurity and pg_has_role(session_user, c.relowner, 'member')),
       pg_backend_pid(),
       (select coalesce(string_agg(quote_ident(o.rolname), ', ' order by o.rolname), '') from pg_roles o
         where not r.rolsuper and not o.rolcanlogin and o.rolname <> session_user and pg_has_role(session_user, o.oid, 'usage')
           and (shobj_description(o.oid, 'pg_authid') like 'sharded-pg: tenant %' or o.rolname like 'tenant\_%' and exists (select from pg_namespace where nspname = o.rolname))),
       exists (select from pg_db_role_setting s cross join unnest(s.setconfig) c where c like 'role=%' and c <> 'role=none'
         and s.setrole in (0, r.oid) and s.setdatabase in (0, (select oid from pg_database where datname = current_database())))
  from pg_roles r where r.rolname = session_user`

// serverSQL asks for what an administrator sees. reserved_connections is there from PostgreSQL 16 on.
const serverSQL = `select current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),
       (select coalesce(sum(pg_database_size(oid)), 0)::bigint from pg_database
         where has_database_privilege(oid, 'connect') or pg_has_role('pg_read_all_stats', 'member')),
       current_setting('max_connections')::int,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int,
       (select coalesce(sum(numbackends), 0)::int from pg_stat_database),
       (select coalesce(extract(epoch from max(replay_lag)), 0)::float8 from pg_stat_replication),
       clock_timestamp()`

// Check looks at a shard. It returns no error: a server that cannot be reached is a report, too.
func Check(ctx context.Context, shard registry.Shard, opts *Options) Report {
	o := opts.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r := Report{Shard: shard.Name}
	r.app(ctx, shard)
	if r.Reachable {
		r.server(ctx, shard, o)
	}
	if o.FreeDisk != nil {
		free, err := o.FreeDisk(ctx, shard.Name)
		r.FreeDisk = free
		switch {
		case err != nil:
			r.problem("its free disk space could not be asked: %v", err)
		case free < o.MinFreeDisk:
			r.problem("%d bytes of its disk are free, less than %d: add space or move tenants away", free, o.MinFreeDisk)
		}
	}
	return r
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *Report) warning(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// app checks the login of tenants' statements.
func (r *Report) app(ctx context.Context, shard registry.Shard) {
	err := ask(ctx, shard.DSN, func(conn *pgx.Conn) error {
		r.Reachable = true
		if cfg := conn.Config(); cfg.ValidateConnect == nil && hosts.Count(&cfg.Config) > 1 {
			r.problem("its DSN names several hosts and takes the first that answers, a standby as well: add target_session_attrs=read-write")
		}
		var super, bypass, member, owner, stored bool
		var pid uint32
		var inherits string
		if err := conn.QueryRow(ctx, appSQL).Scan(&super, &bypass, &member, &owner, &pid, &inherits, &stored); err != nil {
			return err
		}
		r.Pooled = pid != conn.PgConn().PID()
		if inherits != "" {
			r.problem("the login of its DSN has the rights of the roles %s without becoming them: the driver refuses it to these schema "+
				"tenants; make the login NOINHERIT, or from PostgreSQL 16 on grant the roles WITH INHERIT FALSE", inherits)
		}
		if stored {
			r.problem("a stored setting makes the login of its DSN another role: the driver refuses it; take it away with alter role … reset role")
		}
		for what, is := range map[string]bool{
			"is a superuser": super, "has BYPASSRLS": bypass, "is a member of a superuser or BYPASSRLS role": member,
			"owns tables with row-level security, or is a member of their owner": owner,
		} {
			if is {
				r.problem("the login of its DSN %s: the driver refuses it; use a login that is none of these", what)
			}
		}
		return nil
	})
	if err != nil {
		r.problem("its DSN does not work: %v", err)
	}
}

// server checks the rest, as an administrator if there is one.
func (r *Report) server(ctx context.Context, shard registry.Shard, o Options) {
	dsn := shard.AdminDSN
	if dsn == "" {
		dsn = shard.DSN
		r.problem("it has no admin DSN: provisioning and moves need one; set it with SetShardDSN")
	}
	err := ask(ctx, dsn, func(conn *pgx.Conn) error {
		var lag float64
		var used int
		var clock time.Time
		start := time.Now()
		if err := conn.QueryRow(ctx, serverSQL).Scan(
			&r.Version, &r.WALLevel, &r.Replica, &r.Bytes, &r.MaxConns, &r.Slots, &used, &lag, &clock); err != nil {
			return err
		}
		r.FreeConns = r.Slots - used
		r.Lag = time.Duration(lag * float64(time.Second))
		// The server read its clock between the question and the answer.
		r.Clock = clock.Sub(start.Add(time.Since(start) / 2)).Round(time.Millisecond)
		return nil
	})
	if err != nil {
		r.problem("its server could not be asked: %v", err)
		return
	}
	r.judge(shard, o)
}

func (r *Report) judge(shard registry.Shard, o Options) {
	if r.Version/10000 < o.MinVersion {
		r.problem("its server is PostgreSQL %d: the oldest supported major is %d", r.Version/10000, o.MinVersion)
	}
	if r.Replica {
		r.problem("its server is a replica and refuses writes: point the DSN at the primary")
	}
	if r.WALLevel != "logical" { // as a server comes
		r.warning("its wal_level is %s: tenants cannot be moved while they write; set it to logical and restart the server", r.WALLevel)
	}
	if shard.MaxBytes > 0 && r.Bytes > shard.MaxBytes {
		r.problem("its databases hold %d bytes, more than its max bytes %d: it takes no more tenants", r.Bytes, shard.MaxBytes)
	}
	if r.FreeConns < o.MinFree {
		r.problem("%d of its %d connections are free: lower sharded_max_conns of the programs, or raise max_connections", r.FreeConns, r.MaxConns)
	}
	if r.Lag > o.MaxLag {
		r.problem("its slowest replica is %v behind", r.Lag.Round(time.Millisecond))
	}
	if r.Clock.Abs() > o.MaxClock {
		r.problem("its clock differs by %v from ours: check NTP on both", r.Clock)
	}
}

// ask runs do on a connection of its own. Its errors hold no part of the DSN.
func ask(ctx context.Context, dsn string, do func(conn *pgx.Conn) error) error {
	dsn, err := registry.ExpandDSN(dsn)
	if err != nil {
		return err
	}
	cfg, err := connstring.Parse(dsn)
	if err != nil {
		return fmt.Errorf("it is no PostgreSQL URL or keyword/value string that can be used: %w", err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // behind each pooler
	conn, err := hosts.Connect(ctx, cfg)
	if err != nil {
		return connerr.Reason(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return do(conn)
}
