package conformance

import (
	"context"
	"database/sql"
)

// What the policies hold without any help of the driver: statements of the login, past the driver.
var policies = []scenario{
	{name: "without a tenant there is nothing to see", run: withoutTenant},
	{name: "a partition cannot be reached past its parent", run: partitions},
	{name: "a foreign key tells nothing of another tenant", run: foreignKeys},
	{name: "a unique key does not meet another tenant's", run: uniqueKeys, conns: 2},
}

// asLogin gives a plain connection of the application's login, without the driver.
func (s *scene) asLogin() *sql.Conn {
	s.Helper()
	conn, err := s.h.Home.Conn(s.Context())
	s.ok(err)
	s.exec(s.Context(), conn, "set session authorization "+ident(s.h.Login))
	s.Cleanup(func() {
		_, err := conn.ExecContext(context.Background(), "reset session authorization; reset all")
		s.ok(err)
		s.ok(conn.Close())
	})
	return conn
}

func withoutTenant(s *scene) {
	conn := s.asLogin()
	ctx := s.Context()
	for _, state := range []string{"never had a tenant", "had one before", "had one in a transaction"} {
		equal(s, 0, value[int](s, ctx, conn, "select count(*) from orders"), "a session that %s", state)
		for _, query := range []string{"update orders set note = 'x'", "delete from orders"} {
			n, err := s.exec(ctx, conn, query).RowsAffected()
			s.ok(err)
			equal(s, 0, n, "%s in a session that %s", query, state)
		}
		// Neither 42704 (unknown setting) nor anything else that depends on what the session has seen.
		s.code(execErr(ctx, conn, "insert into orders (tenant_id, note) values ($1, 'x')", s.h.A), "42501", "a session that %s", state)
		switch state {
		case "never had a tenant":
			s.exec(ctx, conn, "select set_config($1, $2, false)", s.h.GUC, s.h.A)
			equal(s, 2, value[int](s, ctx, conn, "select count(*) from orders"))
			s.exec(ctx, conn, "select set_config($1, '', false)", s.h.GUC)
		case "had one before":
			s.exec(ctx, conn, "reset all")
			s.exec(ctx, conn, "select set_config($1, $2, true)", s.h.GUC, s.h.A)
		}
	}
	s.ownRows()
}

func partitions(s *scene) {
	const events = "select coalesce(string_agg(note, ','), '') from events"
	for range 2 {
		equal(s, "A-event", value[string](s, s.a, s.db, events))
		equal(s, "B-event", value[string](s, s.b, s.db, events))
		for _, query := range []string{
			"select * from events_b", "insert into events_b (tenant_id, note) values ('{b}', 'planted')", "delete from events_b",
			"update events_b set note = 'planted'", "select * from only events_b", "table events_a",
		} {
			s.code(execErr(s.a, s.db, s.fix.names.Replace(query)), "42501", "%s", query)
		}
		s.code(execErr(s.a, s.db, s.fix.names.Replace("insert into events (tenant_id, note) values ('{b}', 'planted')")), "42501")
		s.code(execErr(s.a, s.db, s.fix.names.Replace("update events set tenant_id = '{b}'")), "42501")
	}
	equal(s, "A-event,B-event", outside[string](s, "select string_agg(note, ',' order by note) from events"))
}

func foreignKeys(s *scene) {
	const order = "insert into orders (customer_id, note) values ($1, 'x')"
	const ownOfA, ownOfB, nobodys = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b",
		"00000000-0000-0000-0000-00000000000c"
	s.code(execErr(s.a, s.db, order, ownOfB), "23503", "another tenant's customer")
	s.code(execErr(s.a, s.db, order, nobodys), "23503", "nobody's customer: the same error")
	s.exec(s.a, s.db, order, ownOfA)
	s.exec(s.b, s.db, order, ownOfB)
	s.code(execErr(s.a, s.db, "delete from customers"), "23503")
	s.exec(s.a, s.db, "delete from orders where customer_id is not null")
	s.exec(s.a, s.db, "delete from customers")
	equal(s, 1, outside[int](s, "select count(*) from orders where customer_id is not null and tenant_id = $1", s.h.B))
	equal(s, 1, outside[int](s, "select count(*) from customers"))
}

func uniqueKeys(s *scene) {
	tx := s.begin(s.a)
	s.exec(s.a, tx, "insert into customers (email) values ('b@example.com')") // another tenant's
	s.exec(s.a, tx, "insert into customers (email) values ('new@example.com')")
	other := s.begin(s.b)
	s.exec(s.b, other, "set local lock_timeout = '300ms'")
	s.exec(s.b, other, "insert into customers (email) values ('new@example.com')") // does not wait for A
	s.ok(other.Commit())
	s.ok(tx.Commit())
	s.code(execErr(s.b, s.db, "insert into customers (email) values ('new@example.com')"), "23505", "its own")
}
