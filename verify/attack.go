package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// verdict is the outcome of an attack; the zero value means that there was nothing to attack.
type verdict struct {
	outcome Outcome
	detail  string
}

func held(format string, args ...any) verdict   { return verdict{Held, fmt.Sprintf(format, args...)} }
func broken(format string, args ...any) verdict { return verdict{Broken, fmt.Sprintf(format, args...)} }
func known(format string, args ...any) verdict  { return verdict{Known, fmt.Sprintf(format, args...)} }
func notTried(format string, args ...any) verdict {
	return verdict{NotTried, fmt.Sprintf(format, args...)}
}

// failed is the verdict of an attack that ended with an error.
func failed(err error) verdict {
	switch {
	case code(err) == "42501":
		return held("refused by the server")
	case errors.Is(err, shardedpg.ErrStatementRefused):
		return held("refused by the driver")
	}
	return notTried("%v", short(err))
}

// past is the verdict of a write that ended with an error. Policies are looked at before constraints: whoever meets a
// constraint has passed the policy.
func past(err error) verdict {
	if c := code(err); strings.HasPrefix(c, "23") {
		return broken("the policy let it pass, and only a constraint stopped it (SQLSTATE %s)", c)
	}
	return failed(err)
}

// queryer is the pool, a connection or a transaction.
type queryer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// rows says how many rows of the victim a query showed.
func rows(n int64, err error) verdict {
	switch {
	case err != nil:
		return failed(err)
	case n > 0:
		return broken("it shows the other tenant's row")
	}
	return held("")
}

// changed says how many rows of the victim a statement changed.
func changed(n int64, err error) verdict {
	switch {
	case err != nil:
		return past(err)
	case n > 0:
		return broken("it changes the other tenant's row")
	}
	return held("")
}

func (s *scene) count(ctx context.Context, q queryer, query string, args ...any) (n int64, err error) {
	err = q.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}

func affected(ctx context.Context, q queryer, query string, args ...any) (int64, error) {
	result, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// inTx runs an attack in a transaction of the attacker that is rolled back.
func (s *scene) inTx(ctx context.Context, attack func(tx *sql.Tx) verdict) verdict {
	tx, err := s.db.BeginTx(s.as(ctx, 0), nil)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }()
	return attack(tx)
}

// onConn runs an attack on a connection that the attacker keeps.
func (s *scene) onConn(ctx context.Context, attack func(conn *sql.Conn) verdict) verdict {
	conn, err := s.db.Conn(s.as(ctx, 0))
	if err != nil {
		return failed(err)
	}
	defer func() { _ = conn.Close() }()
	return attack(conn)
}

// is is the condition that a row is a tenant's. The reserved IDs need no quoting.
func (s *scene) is(who int) string { return ident(s.TenantColumn) + " = '" + s.ids[who] + "'" }

// at is the condition that a row has the victim's values in columns, with the arguments for it.
func (t *table) at(columns []string, offset int) (condition string, args []any) {
	var all []string
	for _, name := range columns {
		args = append(args, t.rows[1].values[name])
		all = append(all, ident(name)+" = $"+strconv.Itoa(offset+len(args))+"::text::"+t.column(name).Type)
	}
	return strings.Join(all, " and "), args
}

// primary is the key that names the victim's row, the primary one if there is one; false if there is none.
func (t *table) primary() (key, bool) {
	for _, k := range t.keys {
		if k.Plain && t.names(k) {
			return k, true
		}
	}
	return key{}, false
}

// names reports whether the victim's row has a value in each column of a key: null is never equal.
func (t *table) names(k key) bool {
	return !slices.ContainsFunc(k.Columns, func(name string) bool { return t.rows[1].values[name] == nil })
}

func (k key) has(column string) bool { return slices.Contains(k.Columns, column) }

// attackTable runs all attacks on one table.
func (s *scene) attackTable(ctx context.Context, t *table) {
	if t.rows[1].values == nil {
		s.withoutRow(ctx, t)
		return
	}
	// What the victim itself does not see, nobody can fail to see: then nothing is proved.
	n, err := s.count(s.as(ctx, 1), s.db, "select count(*) from "+t.ident()+" where "+s.is(1))
	if err == nil && n == 0 {
		s.add(t.name(), "all", notTried("tenants do not see their own row"))
		return
	}
	if err != nil && code(err) != "42501" {
		s.add(t.name(), "all", notTried("%v", short(err)))
		return
	}
	s.reads(ctx, t)
	s.writes(ctx, t)
	s.switches(ctx, t)
	s.probes(ctx, t)
	s.add(t.name(), "rights", s.rights(ctx, t))
	s.add(t.name(), "statistics", s.statistics(ctx, t))
}

// withoutRow is for tables in which the run has no row.
func (s *scene) withoutRow(ctx context.Context, t *table) {
	if t.Root != 0 {
		_, err := s.count(s.as(ctx, 0), s.db, "select count(*) from (select from "+t.ident()+" limit 0) x")
		switch {
		case err != nil:
			s.add(t.name(), "part by name", failed(err))
		case t.reason != "":
			s.add(t.name(), "part by name", notTried("tenants may read it by name, and %s", t.reason))
		default:
			s.add(t.name(), "part by name", notTried("tenants may read it by name, and no row of the run is in it"))
		}
		return
	}
	s.add(t.name(), "all", notTried("no row could be made: %s", t.reason))
}

// rights are those that no policy limits; using them would be felt by all tenants.
func (s *scene) rights(ctx context.Context, t *table) verdict {
	var has bool
	err := s.db.QueryRowContext(s.as(ctx, 0), "select has_table_privilege($1::text::oid, 'TRUNCATE')", t.id()).Scan(&has)
	switch {
	case err != nil:
		return failed(err)
	case has:
		return broken("tenants may TRUNCATE it, which no policy limits")
	}
	return held("")
}

// statistics of columns show values of all tenants, but not where policies apply.
func (s *scene) statistics(ctx context.Context, t *table) verdict {
	const query = "select count(*) from pg_catalog.pg_stats where schemaname = $1 and tablename = $2"
	var there int64
	if err := s.admin.QueryRow(ctx, query, t.Schema, t.Name).Scan(&there); err != nil {
		return notTried("%v", short(err))
	}
	if there == 0 {
		return verdict{}
	}
	n, err := s.count(s.as(ctx, 0), s.db, query, t.Schema, t.Name)
	if err == nil && n > 0 {
		return broken("pg_stats shows values of all tenants")
	}
	return rows(n, err)
}

// untouched compares the victim's row with what it was: whatever an attack did must not have been committed.
func (s *scene) untouched(ctx context.Context, t *table) verdict {
	if t.Root != 0 || t.rows[1].values == nil {
		return verdict{}
	}
	condition, args := "true", []any(nil)
	if k, ok := t.primary(); ok {
		condition, args = t.at(k.Columns, 0)
	}
	got, err := s.asAdmin(ctx, "select count(*)::text from "+t.ident()+" where "+s.is(1)+" and "+condition, args, 1)
	switch {
	case err != nil:
		return notTried("%v", short(err))
	case *got[0] != "1":
		return broken("the other tenant's row is no longer what it was")
	}
	return held("")
}
