package conformance

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// Connections that break at the worst moment.
var network = []scenario{
	{name: "a lost idle connection is replaced unseen", run: lostIdle},
	{name: "a statement whose answer is lost is not run again", run: lostAnswer},
	{name: "a lost transaction is not continued", run: lostTransaction},
	{name: "a transaction made by hand is not continued outside one", run: lostRawTransaction, skip: direct(notOneSession)},
	{name: "a shard that is down fails fast, and comes back by itself", run: downAndUp},
}

func (s *scene) breakable() {
	s.Helper()
	s.db = s.open(Options{Conns: 1, ExecMode: s.h.ExecMode, Breakable: true})
	s.ownRows()
}

func lostIdle(s *scene) {
	s.breakable()
	for i := range 5 {
		s.h.Cut(s, false)
		s.exec(s.a, s.db, "insert into orders (note) values ($1)", fmt.Sprint("once", i))
		equal(s, 1, s.count(fmt.Sprint("once", i)))
		s.h.Cut(s, false)
		tx := s.begin(s.b) // nothing ran in it yet
		s.notes(s.b, tx, notesOfB)
		s.ok(tx.Commit())
	}
}

// The server finishes what it has begun, whether the client is still there or not.
func lostAnswer(s *scene) {
	s.breakable()
	failed := make(chan error, 1)
	go func() {
		failed <- execErr(s.a, s.db, "insert into orders (note) select 'answer lost' from pg_sleep(0.31)")
	}()
	s.eventually(func() bool { return s.sleeping("0.31") == 1 }, "the statement does not run")
	s.h.Cut(s, true) // pgx's request to cancel what it has lost must not arrive either
	err := <-failed
	s.fails(err, "a statement whose connection broke")
	if pgconn.SafeToRetry(err) {
		s.Errorf("a caller who believes that this is safe to retry writes twice: %v", err)
	}
	s.eventually(func() bool { return s.sleeping("0.31") == 0 }, "the statement does not end")
	s.h.Cut(s, false)
	if n := s.count("answer lost"); n > 1 || n == 0 && s.h.Pooler == Direct {
		s.Errorf("the row was written %d times", n)
	}
	s.notes(s.b, s.db, notesOfB)
}

func lostTransaction(s *scene) {
	s.breakable()
	tx := s.begin(s.a)
	s.exec(s.a, tx, "insert into orders (note) values ('gone')")
	s.h.Cut(s, false)
	for range 3 {
		s.fails(execErr(s.a, tx, "insert into orders (note) values ('gone')"), "a statement in a lost transaction")
	}
	s.fails(tx.Commit(), "COMMIT of a lost transaction")
	equal(s, 0, s.count("gone"))
	s.ownRows()
}

func lostRawTransaction(s *scene) {
	s.breakable()
	conn := s.conn(s.a)
	s.exec(s.a, conn, "begin")
	s.h.Cut(s, false)
	var err error
	for range 2 { // the first may meet the loss in the middle, the second cannot
		if err = execErr(s.a, conn, "insert into orders (note) values ('outside')"); err != nil {
			break
		}
	}
	s.is(err, shardedpg.ErrShardUnavailable)
	equal(s, 0, s.count("outside"), "rows written outside the transaction")
}

func downAndUp(s *scene) {
	s.breakable()
	s.h.Cut(s, true)
	start := time.Now()
	for range 3 {
		err := execErr(s.a, s.db, "insert into orders (note) values ('while down')")
		s.is(err, shardedpg.ErrShardUnavailable)
		var own *shardedpg.Error
		if !errors.As(err, &own) || own.RetryAfter <= 0 {
			s.Errorf("nothing says when to try again: %v", err)
		}
	}
	if took := time.Since(start); took > patience/2 {
		s.Errorf("three statements on a shard that is down took %v", took)
	}
	s.h.Cut(s, false)
	s.eventually(func() bool { return execErr(s.a, s.db, "select 1") == nil }, "the shard is refused, though it is up again")
	s.ownRows()
	equal(s, 0, s.count("while down"))
}
