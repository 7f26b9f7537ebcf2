package conformance

import (
	"context"
	"fmt"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// A plan's statement_timeout and work_mem: tight for Limited, roomy for A.
var limits = []scenario{
	{name: "each tenant has its own", run: ownLimits},
	{name: "a statement over its time is ended, others are not", run: overTime},
	{name: "a tenant cannot lift its own by SQL that can be read", run: lifting},
	{name: "a hidden lift does not reach the next tenant", run: hiddenLift},
	{name: "a tighter limit of the caller's survives", run: tighter},
	{name: "the first statement's deadline is not the transaction's", run: deadlineOfFirst},
	{name: "a deadline of one tenant is not the limit of the next", run: deadlineOfOther, skip: direct(
		"what a bare connection behind a pooler has are the pooler's own defaults")},
	{name: "SET TRANSACTION first does not bring another tenant's limits", run: limitsAfterSetTransaction},
}

const longSleep = "select pg_sleep(5)"

func (s *scene) limited() context.Context { return s.tenant(s.h.Limited.Tenant) }

func (s *scene) tight() (timeout, workMem string) {
	return fmt.Sprintf("%dms", s.h.Limited.StatementTimeout.Milliseconds()), fmt.Sprintf("%dkB", s.h.Limited.WorkMemKB)
}

// timedOut checks an error for being the end that the plan sets.
func (s *scene) timedOut(err error, what string) {
	s.Helper()
	s.code(err, "57014", "%s", what)
	equal(s, true, shardedpg.TimedOutByPlan(err), "%s: TimedOutByPlan", what)
}

func ownLimits(s *scene) {
	timeout, workMem := s.tight()
	const same = "select current_setting('statement_timeout')::interval = $1::interval and " +
		"pg_size_bytes(current_setting('work_mem')) = pg_size_bytes($2)"
	for range 3 {
		equal(s, true, value[bool](s, s.limited(), s.db, same, timeout, workMem))
		equal(s, false, value[bool](s, s.a, s.db, same, timeout, workMem))
		tx := s.begin(s.limited())
		equal(s, true, value[bool](s, s.limited(), tx, same, timeout, workMem))
		s.ok(tx.Commit())
		tx = s.begin(s.a)
		equal(s, false, value[bool](s, s.a, tx, same, timeout, workMem))
		s.ok(tx.Commit())
	}
}

func overTime(s *scene) {
	start := time.Now()
	s.timedOut(execErr(s.limited(), s.db, longSleep), "a statement")
	s.timedOut(execErr(s.limited(), s.db, "select pg_sleep($1)", 5), "a statement with an argument")
	tx := s.begin(s.limited())
	s.timedOut(execErr(s.limited(), tx, longSleep), "the first of a transaction")
	s.ok(tx.Rollback())
	tx = s.begin(s.limited())
	s.exec(s.limited(), tx, "select 1")
	s.timedOut(execErr(s.limited(), tx, longSleep), "the second of a transaction")
	s.ok(tx.Rollback())
	if took := time.Since(start); took > 4*s.h.Limited.StatementTimeout+4*time.Second {
		s.Errorf("four statements over their time took %v", took)
	}
	s.exec(s.a, s.db, fmt.Sprintf("select pg_sleep(%f)", 1.5*s.h.Limited.StatementTimeout.Seconds()))
}

func lifting(s *scene) {
	s.exec(s.limited(), s.db, "set statement_timeout = 0")
	s.timedOut(execErr(s.limited(), s.db, longSleep), "after SET")
	for _, lift := range []string{
		"select set_config('statement_timeout', '0', true)", "set local statement_timeout = 0", "set statement_timeout = '1h'",
		"update pg_settings set setting = '0' where name = 'statement_timeout'", "reset statement_timeout", "reset all",
		"do $$begin perform set_config('statement_timeout', '0', true); end$$",
	} {
		tx := s.begin(s.limited())
		s.exec(s.limited(), tx, lift)
		s.timedOut(execErr(s.limited(), tx, longSleep), "after "+lift)
		s.ok(tx.Rollback())
		s.exec(s.limited(), s.db, lift)
		s.timedOut(execErr(s.limited(), s.db, longSleep), "after "+lift)
	}
	// The timer of a running statement was set when it began.
	s.timedOut(execErr(s.limited(), s.db, "select set_config('statement_timeout', '0', true), pg_sleep(5)"), "in the statement itself")
}

func hiddenLift(s *scene) {
	s.exec(s.a, s.db, "select hidden_exec('set statement_timeout = 0')")
	s.exec(s.a, s.db, "select hidden_exec('set work_mem = ''1GB''')")
	timeout, workMem := s.tight()
	equal(s, timeout, value[string](s, s.limited(), s.db, "show statement_timeout"))
	equal(s, true, value[bool](s, s.limited(), s.db, "select pg_size_bytes(current_setting('work_mem')) = pg_size_bytes($1)", workMem))
	s.timedOut(execErr(s.limited(), s.db, longSleep), "after a hidden lift of another tenant")
}

func tighter(s *scene) {
	roomy := value[string](s, s.a, s.db, "show work_mem")
	tx := s.begin(s.a)
	s.exec(s.a, tx, "set local statement_timeout = '400ms'")
	s.exec(s.a, tx, "set local work_mem = '64kB'")
	equal(s, "400ms", value[string](s, s.a, tx, "show statement_timeout"))
	equal(s, "64kB", value[string](s, s.a, tx, "show work_mem"))
	s.code(execErr(s.a, tx, longSleep), "57014")
	s.ok(tx.Rollback())
	equal(s, roomy, value[string](s, s.a, s.db, "show work_mem"))
	s.exec(s.a, s.db, "select pg_sleep(0.5)")
	tx = s.begin(s.a)
	s.exec(s.a, tx, "set local work_mem = '1GB'")
	equal(s, roomy, value[string](s, s.a, tx, "show work_mem"), "work_mem over the plan")
	s.ok(tx.Commit())
}

func deadlineOfFirst(s *scene) {
	plan := value[string](s, s.a, s.db, "show statement_timeout")
	tx := s.begin(s.a)
	equal(s, true, value[bool](s, s.soon(s.a, 300*time.Millisecond), tx,
		"select current_setting('statement_timeout')::interval < interval '2 s'"), "bounded by its deadline")
	equal(s, plan, value[string](s, s.a, tx, "show statement_timeout"))
	s.exec(s.a, tx, "select pg_sleep(1)")
	s.exec(s.a, tx, "set local datestyle = 'SQL'") // from here on a tighter limit could be the caller's
	for range 2 {
		value[string](s, s.soon(s.a, 5*time.Second), tx, "show statement_timeout")
		equal(s, plan, value[string](s, s.a, tx, "show statement_timeout"))
	}
	s.ok(tx.Commit())
	equal(s, plan, value[string](s, s.b, s.db, "show statement_timeout"))
}

func deadlineOfOther(s *scene) {
	plan := value[string](s, s.b, s.open(Options{Conns: 1, ExecMode: s.h.ExecMode}), "show statement_timeout")
	s.notes(s.soon(s.a, 15*time.Second), s.db, notesOfA) // connects
	s.exec(s.b, s.db, "select 1; commit; insert into probe select current_setting('statement_timeout'), 0")
	equal(s, plan, outside[string](s, "select tenant from probe"))
}

func limitsAfterSetTransaction(s *scene) {
	plan := value[string](s, s.a, s.db, "show statement_timeout")
	value[string](s, s.limited(), s.db, "show statement_timeout")
	tx := s.begin(s.a)
	s.exec(s.a, tx, "set transaction isolation level serializable")
	equal(s, plan, value[string](s, s.a, tx, "show statement_timeout"))
	s.ok(tx.Commit())
	timeout, _ := s.tight()
	tx = s.begin(s.limited())
	s.exec(s.limited(), tx, "set transaction isolation level serializable")
	equal(s, timeout, value[string](s, s.limited(), tx, "show statement_timeout"))
	s.ok(tx.Commit())
}
