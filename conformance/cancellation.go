package conformance

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// Contexts that end at any moment.
var cancellation = []scenario{
	{name: "a cancelled statement never hits the next tenant", run: neverHitsNext},
	{name: "the context's error wins over the server's", run: contextWins},
	{name: "a cancel from outside is no timeout of the plan", run: cancelFromOutside},
	{name: "a cancelled transaction rolls back", run: cancelledTx},
	{name: "a transaction cancelled with open rows leaves nothing", run: cancelledRows},
	{name: "a context that has ended sends nothing", run: endedBefore},
	{name: "a cancelled wait for a connection takes none", run: cancelledWait},
	{
		name: "cancelled statements hold their connection until the server lets go", run: boundedByConns, conns: 2,
		skip: direct("the pooler, and not the driver, decides how many server connections there are"),
	},
}

func neverHitsNext(s *scene) {
	rounds := 50 // each that is cancelled costs a connection
	if shortRun() {
		rounds = 10
	}
	for range rounds {
		ctx, cancel := context.WithTimeout(s.a, rand.N(3*time.Millisecond))
		var got string
		if err := s.db.QueryRowContext(ctx, notesSQL+" where pg_sleep(0.001) is not null").Scan(&got); err == nil {
			equal(s, notesOfA, got)
		}
		cancel()
		s.notes(s.b, s.db, notesOfB)
	}
}

// sleeping counts statements of the driver that sleep for this many seconds.
func (s *scene) sleeping(seconds string) int {
	s.Helper()
	return outside[int](s, "select count(*) from pg_stat_activity where usename = $1 and state = 'active' and query like $2",
		s.h.Login, "%pg_sleep("+seconds+")%")
}

func contextWins(s *scene) {
	ctx, cancel := context.WithTimeout(s.a, 100*time.Millisecond)
	defer cancel()
	err := execErr(ctx, s.db, "select pg_sleep(21)")
	s.is(err, context.DeadlineExceeded)
	equal(s, false, shardedpg.TimedOutByPlan(err))
	s.eventually(func() bool { return s.sleeping("21") == 0 }, "the server goes on with a statement whose context has ended")
	s.ownRows()
	ctx, cancel = context.WithCancel(s.a)
	done := make(chan error, 1)
	go func() { done <- execErr(ctx, s.db, "select pg_sleep(22)") }()
	s.eventually(func() bool { return s.sleeping("22") == 1 }, "the statement does not run")
	cancel()
	s.is(<-done, context.Canceled)
	s.eventually(func() bool { return s.sleeping("22") == 0 }, "the server goes on with a cancelled statement")
	s.ownRows()
}

func cancelFromOutside(s *scene) {
	done := make(chan error, 1)
	go func() { done <- execErr(s.a, s.db, "select pg_sleep(23)") }()
	s.eventually(func() bool {
		return outside[int](s, "select count(*) filter (where pg_cancel_backend(pid)) from pg_stat_activity "+
			"where usename = $1 and state = 'active' and query like '%pg_sleep(23)%'", s.h.Login) == 1
	}, "the statement does not run")
	err := <-done
	s.code(err, "57014")
	equal(s, false, shardedpg.TimedOutByPlan(err))
	s.ownRows()
}

func cancelledTx(s *scene) {
	for range 5 {
		ctx, cancel := context.WithCancel(s.a)
		tx, err := s.db.BeginTx(ctx, nil)
		s.ok(err)
		s.exec(ctx, tx, "insert into orders (note) values ('gone')")
		cancel()
		s.eventually(func() bool { return s.db.Stats().InUse == 0 }, "database/sql has not rolled back")
		s.is(tx.Commit(), sql.ErrTxDone)
		s.notes(s.b, s.db, notesOfB)
	}
	equal(s, 0, s.count("gone"))
}

func cancelledRows(s *scene) {
	for range 5 {
		ctx, cancel := context.WithCancel(s.a)
		tx, err := s.db.BeginTx(ctx, nil)
		s.ok(err)
		s.exec(ctx, tx, "insert into orders (note) values ('gone')")
		rows, err := tx.QueryContext(ctx, "select repeat('x', 1000) from generate_series(1, 100000)")
		s.ok(err)
		equal(s, true, rows.Next())
		cancel()
		for rows.Next() {
		}
		s.is(rows.Err(), context.Canceled)
		_ = rows.Close()
		s.eventually(func() bool { return s.db.Stats().InUse == 0 }, "database/sql has not rolled back")
		s.ownRows()
	}
	equal(s, 0, s.count("gone"))
}

func endedBefore(s *scene) {
	ctx, cancel := context.WithCancel(s.a)
	conn := s.conn(s.a)
	s.notes(s.a, conn, notesOfA)
	cancel()
	s.is(execErr(ctx, s.db, "insert into orders (note) values ('never')"), context.Canceled)
	s.is(execErr(ctx, conn, "insert into orders (note) values ('never')"), context.Canceled) // database/sql lets it through
	s.ok(conn.Close())
	equal(s, 0, s.count("never"))
	s.ownRows()
}

func cancelledWait(s *scene) {
	s.ownRows() // both routes are known
	tx := s.begin(s.a)
	s.notes(s.a, tx, notesOfA)
	for range 20 {
		ctx, cancel := context.WithTimeout(s.b, rand.N(3*time.Millisecond))
		s.is(execErr(ctx, s.db, "insert into orders (note) values ('never')"), context.DeadlineExceeded)
		cancel()
	}
	s.ok(tx.Commit())
	s.ownRows()
	equal(s, 0, s.count("never"))
}

// The server must never have more connections of a driver than it may open, however fast its statements are cancelled.
func boundedByConns(s *scene) {
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(s.a, 5*time.Millisecond)
				if err := execErr(ctx, s.db, "select pg_sleep(24)"); err == nil || errors.Is(err, shardedpg.ErrShardUnavailable) && ctx.Err() == nil {
					s.Errorf("a statement that sleeps for ever ended with %v", err)
				}
				cancel()
			}
		})
	}
	for range 50 {
		if n := outside[int](s, "select count(*) from pg_stat_activity where usename = $1 and state = 'active'", s.h.Login); n > 2 {
			s.Errorf("%d statements run at once on a driver of 2 connections", n)
			break
		}
	}
	close(stop)
	group.Wait()
	s.eventually(func() bool { return s.sleeping("24") == 0 }, "the server goes on with cancelled statements")
	s.ownRows()
}
