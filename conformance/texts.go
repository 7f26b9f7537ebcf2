package conformance

import (
	"context"
	"strings"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// Statements whose text is meant to mislead whoever reads it.

func severalStatements(s *scene) {
	s.exec(s.a, s.db, "select 1; select 2")
	for range 2 {
		for ctx, want := range map[context.Context]string{s.a: s.h.A + " 2", s.b: s.h.B + " 1"} {
			s.exec(ctx, s.db, "delete from probe; insert into probe select min(tenant_id), count(*) from orders; select 1; select 2")
			equal(s, want, outside[string](s, "select tenant || ' ' || orders from probe"))
			s.ownRows()
		}
	}
	err := s.db.QueryRowContext(s.a, "select $1::int; select 2", 1).Scan(new(int))
	if s.h.ExecMode == "simple_protocol" {
		s.ok(err) // the one mode in which a string with arguments may hold several
	} else {
		s.code(err, "42601")
	}
	s.code(execErr(s.a, s.db, "select 1; select 1/0; insert into orders (note) values ('never')"), "22012")
	equal(s, 0, s.count("never"))
	s.ownRows()
}

func leadingBegin(s *scene) {
	for i := range 3 {
		s.notes(s.a, s.db, notesOfA+strings.Repeat(",x", i))
		s.exec(s.b, s.db, s.fix.names.Replace(
			"begin; insert into probe select current_setting('{guc}'), count(*) from orders; commit"))
		equal(s, 0, outside[int](s, "select count(*) from probe where tenant is distinct from $1 or orders <> 1", s.h.B))
		s.exec(s.a, s.db, "begin isolation level serializable; insert into orders (note) values ('x'); end")
	}
	equal(s, 3, outside[int](s, "select count(*) from orders where note = 'x' and tenant_id = $1", s.h.A))
	for _, query := range []string{"begin nonsense; select 1", "begin isolation level x; select 1"} {
		s.code(execErr(s.a, s.db, query), "42601")
		s.notes(s.b, s.db, notesOfB)
	}
}

func rawBegin(s *scene) {
	for _, query := range []string{
		"begin", "begin; select 1", "start transaction isolation level serializable", "select 1; begin", "commit; begin",
		"/* x */ begin", "begin; savepoint s; select 1/0", "-- begin\nbegin work",
	} {
		_, _ = s.db.ExecContext(s.a, query)
		s.exec(s.b, s.db, "insert into orders (note) values ($1)", query)
		equal(s, 1, outside[int](s, "select count(*) from orders where note = $1 and tenant_id = $2", query, s.h.B), "after %q", query)
		s.notes(s.a, s.db, notesOfA)
	}
}

func oddTexts(s *scene) {
	for _, query := range []string{
		"select note /* ; commit; */ from orders where note = 'A-secret'",
		"select note -- ; commit\n from orders where note = 'A-secret'",
		"select note from orders where note = 'A-secret' and ';commit;' <> 'begin'",
		"select note from orders where note = $$A-secret$$ and $x$; rollback; $$ $x$ <> ''",
		"select note from orders where note = E'A-secret' and E'\\'; commit; --' <> ''",
		`select note as "; commit" from orders where note = 'A-secret'`,
		"select note from orders where note = 'A-secret';",
		"select note from orders where note = 'A-secret' ; /* end */ ",
		"/* /* nested */ commit; */ select note from orders where note = 'A-secret'",
		"\ufeffselect note from orders where note = 'A-secret'"[len("\ufeff"):],
		"table orders offset 0; -- " + strings.Repeat("x", 3000),
	} {
		if strings.HasPrefix(query, "table") {
			n, err := s.exec(s.a, s.db, query).RowsAffected()
			s.ok(err)
			equal(s, 2, n)
		} else {
			equal(s, "A-secret", value[string](s, s.a, s.db, query))
		}
		s.ownRows()
	}
	for _, empty := range []string{"", " ", ";", "-- nothing", "/* nothing */", ";;"} {
		s.exec(s.a, s.db, empty)
		s.exec(s.b, s.db, empty)
		s.ownRows()
	}
	s.code(execErr(s.a, s.db, "select 'unterminated"), "42601")
	s.code(execErr(s.a, s.db, "select /* unterminated"), "42601")
	s.ownRows()
}

func guardInLiteral(s *scene) {
	const text = "alter role x; drop database y; create tablespace z"
	equal(s, text, value[string](s, s.a, s.db, "select '"+text+"'"))
	equal(s, text, value[string](s, s.a, s.db, "select $q$"+text+"$q$ -- alter system"))
	equal(s, text, value[string](s, s.a, s.db, "select $1::text", text))
	for _, query := range []string{
		"alter role " + ident(s.h.Login) + " createdb", "/* */ ALTER\nUSER " + ident(s.h.Login) + " valid until 'infinity'",
		"select 1; create role conformance_nobody", "drop database conformance_nothing", "alter system set work_mem = '1GB'",
		"create tablespace conformance_nowhere location '/tmp'",
	} {
		s.is(execErr(s.a, s.db, query), shardedpg.ErrStatementRefused, "%s", query)
		s.ownRows()
	}
}

// The spellings under which PostgreSQL, a log or a cache could take one tenant for another.
func invalidTenants(s *scene) {
	for _, id := range []string{
		"", " ", "x', 'y", "a,b", `a"b`, "nul\x00byte", "new\nline", "tab\t", "a;b", `a\b`, strings.Repeat("a", 300),
		"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11",
		"urn:uuid:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\xff\xfe", "a\u202eb", "a\u00a0b", s.h.A + " ", " " + s.h.A, s.h.A + "\x00",
	} {
		ctx := shardedpg.WithTenant(s.Context(), id)
		s.is(execErr(ctx, s.db, "select 1"), shardedpg.ErrInvalidTenant, "tenant %q", id)
		_, err := s.db.BeginTx(ctx, nil)
		s.is(err, shardedpg.ErrInvalidTenant, "tenant %q", id)
		s.is(s.db.PingContext(ctx), shardedpg.ErrInvalidTenant, "tenant %q", id)
	}
	s.ownRows()
}
