package conformance

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// querier is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// ok fails the test for an error.
func (s *scene) ok(err error, what ...any) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", says(what, "it failed"), err)
	}
}

// says formats the optional explanation of a check.
func says(what []any, otherwise string) string {
	if len(what) == 0 {
		return otherwise
	}
	return fmt.Sprintf(fmt.Sprint(what[0]), what[1:]...)
}

// is fails the test unless err matches the sentinel, and never the one that makes database/sql try again.
func (s *scene) is(err, sentinel error, what ...any) {
	s.Helper()
	if !errors.Is(err, sentinel) {
		s.Fatalf("%s: got %v, want %v", says(what, "wrong error"), err, sentinel)
	}
	s.notBad(err)
}

func (s *scene) notBad(err error) {
	s.Helper()
	if errors.Is(err, driver.ErrBadConn) {
		s.Fatalf("the error matches driver.ErrBadConn, so database/sql would run the statement again: %v", err)
	}
}

// code fails the test unless err is PostgreSQL's, with this SQLSTATE.
func (s *scene) code(err error, sqlstate string, what ...any) {
	s.Helper()
	if got := codeOf(err); got != sqlstate {
		s.Fatalf("%s: got %q (%v), want SQLSTATE %s", says(what, "wrong error"), got, err, sqlstate)
	}
	s.notBad(err)
}

func codeOf(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// positionOf is where in the statement PostgreSQL saw the error, in characters from 1.
func positionOf(err error) int32 {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Position
	}
	return 0
}

// fails fails the test when there is no error.
func (s *scene) fails(err error, what string) {
	s.Helper()
	if err == nil {
		s.Fatalf("%s: no error", what)
	}
	s.notBad(err)
}

func equal[T comparable](s *scene, want, got T, what ...any) {
	s.Helper()
	if got != want {
		s.Fatalf("%s: got %v, want %v", says(what, "wrong value"), got, want)
	}
}

// value returns the one value that a query gives.
func value[T any](s *scene, ctx context.Context, q querier, query string, args ...any) T {
	s.Helper()
	var v T
	s.ok(q.QueryRowContext(ctx, query, args...).Scan(&v), "%s", query)
	return v
}

// outside returns what the superuser sees in the database of A and B, past all policies.
func outside[T any](s *scene, query string, args ...any) T {
	s.Helper()
	return value[T](s, s.Context(), s.h.Home, query, args...)
}

// admin runs a text as the superuser in the database of A and B.
func (s *scene) admin(text string) {
	s.Helper()
	s.fix.must(s, s.h.Home, text)
}

// made runs a text as the superuser, and another one that takes it back when the scenario ends.
func (s *scene) made(text, undo string) {
	s.Helper()
	s.admin(text)
	s.Cleanup(func() {
		_, err := s.h.Home.ExecContext(context.Background(), s.fix.names.Replace(undo))
		s.ok(err, "%s", undo)
	})
}

func (s *scene) exec(ctx context.Context, q querier, query string, args ...any) sql.Result {
	s.Helper()
	res, err := q.ExecContext(ctx, query, args...)
	s.ok(err, "%s", query)
	return res
}

// execErr is for statements that have to fail.
func execErr(ctx context.Context, q querier, query string, args ...any) error {
	_, err := q.ExecContext(ctx, query, args...)
	return err
}

// notes checks which rows a tenant sees through q.
func (s *scene) notes(ctx context.Context, q querier, want string) {
	s.Helper()
	equal(s, want, value[string](s, ctx, q, notesSQL), "rows of %v", tenantName(ctx))
}

// ownRows has both tenants look, so that the connection changes hands twice.
func (s *scene) ownRows() {
	s.Helper()
	s.notes(s.b, s.db, notesOfB)
	s.notes(s.a, s.db, notesOfA)
}

// count is the number of rows with this note that the superuser counts.
func (s *scene) count(note string) int {
	s.Helper()
	return outside[int](s, "select count(*) from orders where note = $1", note)
}

func (s *scene) begin(ctx context.Context, opts ...*sql.TxOptions) *sql.Tx {
	s.Helper()
	var o *sql.TxOptions
	if len(opts) > 0 {
		o = opts[0]
	}
	tx, err := s.db.BeginTx(ctx, o)
	s.ok(err, "BeginTx")
	s.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func (s *scene) conn(ctx context.Context) *sql.Conn {
	s.Helper()
	conn, err := s.db.Conn(ctx)
	s.ok(err, "Conn")
	s.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *scene) pid(ctx context.Context, q querier) int {
	s.Helper()
	return value[int](s, ctx, q, "select pg_backend_pid()")
}

// kill ends a server process and waits until it is gone.
func (s *scene) kill(pid int) {
	s.Helper()
	outside[bool](s, "select pg_terminate_backend($1)", pid)
	s.eventually(func() bool {
		return outside[int](s, "select count(*) from pg_stat_activity where pid = $1", pid) == 0
	}, "the killed backend is still there")
}

// eventually polls until the condition holds.
func (s *scene) eventually(holds func() bool, what string) {
	s.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			s.Fatalf("after %v still: %s", patience, what)
		}
	}
}

// soon is a context with a deadline that a hang runs into.
func (s *scene) soon(ctx context.Context, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, limit)
	s.Cleanup(cancel)
	return ctx
}

// tenantName names the tenant of a context in a message.
func tenantName(ctx context.Context) string {
	id, _ := shardedpg.TenantFrom(ctx)
	return fmt.Sprintf("%q", id)
}
