package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

type tenantKill struct {
	oneTenant
	OlderThan time.Duration `default:"1s" placeholder:"1s" help:"Only statements that run for at least so long, and with --terminate transactions in which nothing has run for so long."`
	Terminate bool          `help:"End the sessions as well: also those that are idle in a transaction. Programs connect again, and lose their idle connections to the shard."`
	Reason    line          `help:"Why, for the audit log."`
	DryRun    bool          `help:"Show what would be ended, and end nothing."`
}

// Validate is called by kong.
func (c *tenantKill) Validate() error {
	if c.OlderThan < 0 {
		return fmt.Errorf("--older-than is %v: use a duration such as 1s, or 0s for all", c.OlderThan)
	}
	return nil
}

// killed is the result.
type killed struct {
	Tenant     string `json:"tenant"`
	Shard      string `json:"shard"`
	DryRun     bool   `json:"dry_run,omitempty"`
	Cancelled  []int  `json:"cancelled"`  // PIDs
	Terminated []int  `json:"terminated"` // PIDs
	Ended      int    `json:"ended"`      // by themselves, before they were
	Younger    int    `json:"younger"`    // left alone
	IdleInTx   int    `json:"idle_in_transaction"`
}

func (c *tenantKill) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		t, err := reg.Tenant(ctx, string(c.ID))
		if err != nil {
			return err
		}
		result, err := c.kill(ctx, reg, t)
		if err != nil {
			err = fmt.Errorf("shard %q: %w", t.Shard, err)
			if len(result.Cancelled)+len(result.Terminated) == 0 {
				return err
			}
		}
		return errors.Join(a.show(result, func() { a.killed(result) }), err, result.record(ctx, reg, string(c.Reason)))
	})
}

// record tells the audit log what was ended, also when the command was interrupted before it had ended the rest.
func (k *killed) record(ctx context.Context, reg *registry.Postgres, reason string) error {
	details := map[string]string{"shard": k.Shard}
	for what, some := range map[string][]int{"cancelled": k.Cancelled, "terminated": k.Terminated} {
		if len(some) > 0 {
			details[what] = pids(some)
		}
	}
	if k.DryRun || len(details) == 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := reg.RecordAction(ctx, k.Tenant, "kill", details, reason); err != nil {
		return fmt.Errorf("what was ended is missing in the audit log: %w", err)
	}
	return nil
}

// pids writes them on one line.
func pids(all []int) string {
	texts := make([]string, len(all))
	for i, pid := range all {
		texts[i] = strconv.Itoa(pid)
	}
	return strings.Join(texts, ", ")
}

func (c *tenantKill) kill(ctx context.Context, reg *registry.Postgres, t registry.TenantInfo) (killed, error) {
	result := killed{Tenant: t.ID, Shard: t.Shard, DryRun: c.DryRun, Cancelled: []int{}, Terminated: []int{}}
	s, err := newServer(ctx, reg, t.Shard)
	if err != nil {
		return result, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return result, err
	}
	defer closeSoon(ctx, conn)
	mine, err := s.whose.belongs(ctx, t)
	if err != nil {
		return result, err
	}
	victims, err := mine.find(ctx, conn)
	if err != nil {
		return result, err
	}
	for _, v := range victims {
		switch {
		case v.IdleInTx && !c.Terminate:
			result.IdleInTx++
			continue
		case v.Seconds < c.OlderThan.Seconds():
			result.Younger++
			continue
		}
		to, signal := &result.Cancelled, "pg_cancel_backend"
		if c.Terminate {
			to, signal = &result.Terminated, "pg_terminate_backend"
		}
		ended := true
		if !c.DryRun {
			if ended, err = mine.end(ctx, conn, signal, v); err != nil {
				return result, rights(err)
			}
		}
		if ended {
			*to = append(*to, v.PID)
		} else {
			result.Ended++
		}
	}
	return result, nil
}

func (a *app) killed(k killed) {
	done, ended := "cancelled", slices.Concat(k.Cancelled, k.Terminated)
	what := count(len(k.Cancelled), "statement")
	if len(k.Terminated) > 0 {
		done, what = "terminated", count(len(k.Terminated), "session")
	}
	if k.DryRun {
		done = "would be " + done
	}
	where := fmt.Sprintf("of tenant %q %s on shard %q", k.Tenant, done, k.Shard)
	if len(ended) > 0 {
		where += ": pid " + pids(ended)
	}
	a.say("%s %s", what, where)
	if k.Ended > 0 {
		a.note("%s had ended by then", count(k.Ended, "statement"))
	}
	if k.Younger > 0 {
		a.note("%s left alone, not as old as --older-than", count(k.Younger, "younger one"))
	}
	if k.IdleInTx > 0 {
		a.note("%s idle in a transaction: --terminate ends them", count(k.IdleInTx, "session"))
	}
	if len(ended) > 0 && !k.DryRun {
		a.note("next: shardedpg tenant throttle %s keeps it from taking as much again", word(k.Tenant))
	}
}

// belonging says which sessions certainly are a tenant's: by the tag of its transaction, or because it is the only one who lives
// in its database.
type belonging struct {
	database, tag string
	login         string // of tenants' statements
	alone         bool   // whatever that login does in the database is the tenant's
}

// belongs looks up what a tenant's sessions have.
func (w *whose) belongs(ctx context.Context, t registry.TenantInfo) (belonging, error) {
	b := belonging{database: t.Database, tag: rls.ApplicationName(t.ID), login: w.login}
	if b.database == "" {
		b.database = w.database
	}
	if t.Model == resolver.ModelDatabase {
		o, err := w.owner(ctx, b.database)
		if err != nil {
			return b, err
		}
		b.alone = o.sole == t.ID
	}
	return b, nil
}

// victim is one session of the tenant, in the middle of a transaction. Times are the server's, as text: they come back as they
// went.
type victim struct {
	PID                         int
	Backend, Transaction, Query string
	IdleInTx                    bool
	Seconds                     float64
}

func (b belonging) find(ctx context.Context, conn *pgx.Conn) ([]victim, error) {
	rows, err := conn.Query(ctx, `select pid, backend_start::text, xact_start::text, query_start::text, state like 'idle%',
       extract(epoch from clock_timestamp() - case when state like 'idle%' then state_change else query_start end)::float8
  from pg_stat_activity
 where backend_type = 'client backend' and pid <> pg_backend_pid() and datname = $1
   and (application_name = $2 or $4 and usename = $3 and application_name not like '`+rls.TagPrefix+`%')
   and state not in ('idle', 'disabled') and xact_start is not null order by query_start`, b.database, b.tag, b.login, b.alone)
	if err != nil {
		return nil, err
	}
	victims, err := pgx.CollectRows(rows, pgx.RowToStructByPos[victim])
	if err == nil && len(victims) == 0 {
		err = b.known(ctx, conn)
	}
	return victims, err
}

// known fails when nothing was found because nothing can be.
func (b belonging) known(ctx context.Context, conn *pgx.Conn) error {
	var hidden, unmarked int
	err := conn.QueryRow(ctx, `select count(*) filter (where query = '<insufficient privilege>'),
       count(*) filter (where state not in ('idle', 'disabled') and usename = $2 and application_name not like '`+rls.TagPrefix+`%'
         and clock_timestamp() - query_start > $3 * interval '1 second')
  from pg_stat_activity where datname = $1`, b.database, b.login, handover.Seconds()).Scan(&hidden, &unmarked)
	switch {
	case err != nil:
		return err
	case hidden > 0:
		return errors.New("its login may not see what sessions do: grant pg_read_all_stats and pg_signal_backend to the login of its admin DSN")
	case unmarked > 0 && !b.alone:
		return fmt.Errorf("%s of programs may be anybody's, and nothing was ended: let programs open the registry with sharded_tag=on, "+
			"and the server knows which tenant a session works for", count(unmarked, "session"))
	}
	return nil
}

// end signals a session if, in the same statement, it still is in the statement and the transaction that it was found in, with the
// tenant's tag, and reports whether it was. A session keeps its database and its login, so these are not asked again. What remains is
// the time between the server's look at the session and its signal: some microseconds in which the transaction would have to
// end, the answer reach the program, and another tenant's statement come back. The view pg_stat_activity would make them more.
func (b belonging) end(ctx context.Context, conn *pgx.Conn, signal string, v victim) (ended bool, err error) {
	err = conn.QueryRow(ctx, `select coalesce(bool_or(`+signal+`(pid)), false) from pg_stat_get_activity($1::int)
 where backend_start = $2::timestamptz and xact_start = $3::timestamptz and query_start = $4::timestamptz and state <> 'idle'
   and (application_name = $5 or $6 and application_name not like '`+rls.TagPrefix+`%')`,
		v.PID, v.Backend, v.Transaction, v.Query, b.tag, b.alone).Scan(&ended)
	return ended, err
}
