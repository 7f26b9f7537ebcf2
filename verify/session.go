package verify

import (
	"context"
	"errors"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// sessions tries what the driver has to stop: statements of nobody, of somebody else, and what the attacker leaves on the
// connection that the victim gets next.
func (s *scene) sessions(ctx context.Context) {
	a, b := s.as(ctx, 0), s.as(ctx, 1)
	n, err := s.count(ctx, s.db, "select 1")
	s.add("driver", "no tenant", refusal(n, err, shardedpg.ErrNoTenant))
	s.add("driver", "second tenant in a transaction", func() verdict {
		tx, err := s.db.BeginTx(b, nil)
		if err != nil {
			return failed(err)
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := s.count(b, tx, "select 1"); err != nil {
			return failed(err)
		}
		n, err := s.count(a, tx, "select 1")
		return refusal(n, err, shardedpg.ErrTenantMismatch)
	}())

	const name = "shardedpg_verify"
	const key = "7135500000000001"
	for _, l := range []struct{ what, leave, look string }{
		{"temporary table", "create temp table " + name + " (x int)", "select count(*) from pg_catalog.pg_class where relname = '" + name + "' and relnamespace = pg_my_temp_schema()"},
		{"prepared statement", "prepare " + name + " as select 1", "select count(*) from pg_catalog.pg_prepared_statements where name = '" + name + "'"},
		{"open cursor", "declare " + name + " cursor with hold for select 1", "select count(*) from pg_catalog.pg_cursors where name = '" + name + "'"},
		{"advisory lock", "select pg_advisory_lock(" + key + ")", "select count(*) from pg_catalog.pg_locks where locktype = 'advisory' and pid = pg_backend_pid()" +
			" and (classid::bigint << 32) + objid::bigint = " + key},
		{"listener", "listen " + name, "select count(*) from pg_listening_channels() c where c = '" + name + "'"},
		{"setting", "set lock_timeout = '1234567ms'", "select count(*) where current_setting('lock_timeout') = '1234567ms'"},
	} {
		s.add("connection", l.what+" left behind", func() verdict {
			if _, err := s.db.ExecContext(a, l.leave); err != nil {
				return failed(err)
			}
			n, err := s.count(b, s.db, l.look)
			if err == nil && n > 0 {
				return broken("the next tenant finds it")
			}
			return rows(n, err)
		}())
	}
	s.add("connection", "tenant left behind", s.leftTenant(ctx))
	s.add("connection", "sequence value left behind", s.leftValue(ctx))
}

func (s *scene) leftValue(ctx context.Context) verdict {
	if s.sequence == "" {
		return verdict{}
	}
	if _, err := s.db.ExecContext(s.as(ctx, 0), "select nextval($1::text::regclass)", s.sequence); err != nil {
		return failed(err)
	}
	n, err := s.count(s.as(ctx, 1), s.db, "select lastval()")
	if code(err) == "55000" {
		return held("")
	}
	if err == nil {
		return broken("the next tenant finds %d", n)
	}
	return failed(err)
}

// leftTenant looks past a COMMIT of the victim's own: there only what the session holds is in force. A division tells.
func (s *scene) leftTenant(ctx context.Context) verdict {
	if _, err := s.db.ExecContext(s.as(ctx, 0), "set "+s.GUC+" = '"+s.ids[0]+"'"); err != nil {
		return failed(err)
	}
	_, err := affected(s.as(ctx, 1), s.db, "select 1; commit; select 1 / case when current_setting('"+s.GUC+"', true) = '"+s.ids[0]+"' then 0 else 1 end")
	if code(err) == "22012" {
		return broken("the next tenant finds it past a COMMIT of its own")
	}
	return held("")
}

// refusal is the verdict of a statement that the driver must not send.
func refusal(n int64, err, want error) verdict {
	switch {
	case errors.Is(err, want):
		return held("")
	case err == nil && n > 0:
		return broken("the statement ran")
	}
	return notTried("%v", err)
}
