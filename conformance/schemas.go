package conformance

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// Tenants with a schema and a role of their own, in one database with shared tenants.
var schemas = []scenario{
	{name: "tables of one shape", run: sameShape},
	{name: "tables of different shapes", run: otherShapes},
	{name: "a missing schema never falls through to public", run: missingSchema},
	{name: "another schema cannot be named", run: otherSchema},
	{name: "text past a COMMIT finds no tables", run: pastCommitInSchema, skip: direct(
		"the driver refuses such a string behind a pooler, where the login's own search_path is in force past the COMMIT")},
	{name: "role and path are restored inside a transaction", run: roleAndPath},
	{name: "shared tenants beside them keep the login's role", run: mixedModels},
	{name: "COPY works both ways", run: copyInSchema},
}

// schemaSQL makes one schema tenant.
const schemaSQL = `
create role $role nologin; grant $role to {login};
create schema $schema; grant usage on schema $schema to $role;
create table $schema.inv (id int, note text); insert into $schema.inv values (1, '$id');
create table $schema.shape ($columns); insert into $schema.shape (id, note) values (1, '$id');
grant select, insert, update, delete on all tables in schema $schema to $role;`

// makeSchemas makes the schemas of First and Second for one scenario, and a table that nobody may fall through to.
func (s *scene) makeSchemas() (first, second context.Context) {
	s.Helper()
	one, two := s.h.First, s.h.Second
	s.made("create table public.inv (id int, note text); insert into public.inv values (1, 'public'); grant select on public.inv to public",
		"drop table public.inv")
	for i, t := range []SchemaTenant{one, two} {
		columns := []string{"id int, note text", "note text, extra bool default true, id bigint"}[i]
		fill := strings.NewReplacer("$role", ident(t.Role), "$schema", ident(t.Schema), "$id", t.Tenant, "$columns", columns)
		s.made(fill.Replace(schemaSQL), fill.Replace("drop schema $schema cascade; drop owned by $role; drop role $role"))
	}
	return s.tenant(one.Tenant), s.tenant(two.Tenant)
}

const invSQL = "select note from inv where id = $1"

func sameShape(s *scene) {
	first, second := s.makeSchemas()
	for range 100 {
		equal(s, s.h.First.Tenant, value[string](s, first, s.db, invSQL, 1))
		equal(s, s.h.Second.Tenant, value[string](s, second, s.db, invSQL, 1))
	}
	stmt, err := s.db.PrepareContext(first, invSQL)
	s.ok(err)
	defer stmt.Close()
	for _, t := range []SchemaTenant{s.h.First, s.h.Second, s.h.First} {
		var got string
		ctx := s.tenant(t.Tenant)
		s.ok(stmt.QueryRowContext(ctx, 1).Scan(&got))
		equal(s, t.Tenant, got)
		tx := s.begin(ctx)
		s.exec(ctx, tx, "update inv set note = note || '!'")
		equal(s, t.Tenant+"!", value[string](s, ctx, tx, "select note from inv"))
		s.ok(tx.Rollback())
		equal(s, t.Role, value[string](s, ctx, s.db, "select current_user::text"))
	}
}

func otherShapes(s *scene) {
	first, second := s.makeSchemas()
	row := func(ctx context.Context, query string, args ...any) string {
		rows, err := s.db.QueryContext(ctx, query, args...)
		s.ok(err, "%s", query)
		defer rows.Close()
		names, err := rows.Columns()
		s.ok(err)
		values := make([]any, len(names))
		for i := range values {
			values[i] = &values[i]
		}
		equal(s, true, rows.Next())
		s.ok(rows.Scan(values...))
		equal(s, false, rows.Next())
		s.ok(rows.Err())
		return fmt.Sprint(names, values)
	}
	for range 10 {
		equal(s, "[id note] [1 "+s.h.First.Tenant+"]", row(first, "select * from shape"))
		equal(s, "[note extra id] ["+s.h.Second.Tenant+" true 1]", row(second, "select * from shape"))
		equal(s, "[id note] [1 "+s.h.First.Tenant+"]", row(first, "select * from shape where id = $1", 1))
		equal(s, "[note extra id] ["+s.h.Second.Tenant+" true 1]", row(second, "select * from shape where id = $1", 1))
	}
}

func missingSchema(s *scene) {
	first, _ := s.makeSchemas()
	missing := s.tenant(s.h.Missing.Tenant)
	s.is(execErr(missing, s.db, "select * from inv"), shardedpg.ErrPrologue, "without its role")
	equal(s, s.h.First.Tenant, value[string](s, first, s.db, "select note from inv"))
	role := ident(s.h.Missing.Role)
	s.made("create role "+role+" nologin; grant "+role+" to {login}", "drop role "+role)
	for range 3 {
		s.code(execErr(missing, s.db, "select * from inv"), "42P01")
		s.code(s.db.QueryRowContext(missing, invSQL, 1).Scan(new(string)), "42P01")
		equal(s, s.h.First.Tenant, value[string](s, first, s.db, "select note from inv"))
	}
}

func otherSchema(s *scene) {
	first, second := s.makeSchemas()
	two := ident(s.h.Second.Schema)
	for _, query := range []string{
		"select * from $.inv", "insert into $.inv values (2, 'planted')", "delete from $.inv",
		"set search_path = $; select * from inv", "select set_config('search_path', '$', true); select * from inv",
		"create table $.planted (x int)",
	} {
		for range 2 {
			err := execErr(first, s.db, strings.ReplaceAll(query, "$", two))
			if code := codeOf(err); code != "42501" && code != "42P01" {
				s.Fatalf("%s: %v", query, err)
			}
			equal(s, s.h.Second.Tenant, value[string](s, second, s.db, "select note from inv"))
		}
	}
	s.code(execErr(first, s.db, "select * from public.orders"), "42501")
}

func pastCommitInSchema(s *scene) {
	first, second := s.makeSchemas()
	for _, ctx := range []context.Context{first, second, first} {
		s.code(execErr(ctx, s.db, "commit; select * from inv"), "42P01")
		s.code(execErr(ctx, s.db, "commit; select * from "+ident(s.h.Second.Schema)+".inv; select * from "+ident(s.h.First.Schema)+".inv"), "42501")
		s.ok(s.db.PingContext(second))
	}
	equal(s, s.h.First.Tenant, value[string](s, first, s.db, "select note from inv"))
	equal(s, s.h.Second.Tenant, value[string](s, second, s.db, "select note from inv"))
}

func roleAndPath(s *scene) {
	first, second := s.makeSchemas()
	one, two := s.h.First, s.h.Second
	for _, query := range []string{
		"set role none", "set role $role", "reset role", "set search_path = $schema, public", "set local search_path = $schema",
		"set session authorization default", "reset all", "savepoint s; reset role; rollback to s; reset role",
		"do $x$begin execute 'set role $role'; end$x$", "set local role $role",
	} {
		query = strings.NewReplacer("$role", ident(two.Role), "$schema", ident(two.Schema)).Replace(query)
		tx := s.begin(first)
		s.exec(first, tx, "select 1")
		if err := execErr(first, tx, query); err != nil {
			s.code(err, "42501", "%s", query)
			s.ok(tx.Rollback())
			continue
		}
		equal(s, one.Tenant, value[string](s, first, tx, "select note from inv"), "after %s", query)
		equal(s, one.Role, value[string](s, first, tx, "select current_user::text"), "after %s", query)
		s.ok(tx.Commit())
		equal(s, two.Tenant, value[string](s, second, s.db, "select note from inv"), "after %s", query)
		equal(s, one.Tenant, value[string](s, first, s.db, "select note from inv"), "after %s", query)
	}
}

func mixedModels(s *scene) {
	first, second := s.makeSchemas()
	for range 5 {
		s.ownRows()
		equal(s, s.h.First.Tenant, value[string](s, first, s.db, "select note from inv"))
		equal(s, s.h.Login, value[string](s, s.a, s.db, "select current_user::text"))
		s.code(execErr(second, s.db, "select * from public.orders"), "42501")
		equal(s, s.h.Second.Tenant, value[string](s, second, s.db, "select note from inv"))
	}
}

func copyInSchema(s *scene) {
	first, second := s.makeSchemas()
	s.admin("alter table " + ident(s.h.First.Schema) + ".inv add unique (id) deferrable initially deferred")
	conn := s.conn(first)
	s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		tag, err := c.PgConn().CopyFrom(ctx, strings.NewReader("2\tcopied\n3\tcopied\n"), "copy inv from stdin")
		s.ok(err)
		equal(s, 2, tag.RowsAffected())
		_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("2\tplanted\n"), "copy "+ident(s.h.Second.Schema)+".inv from stdin")
		s.code(err, "42501")
		_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("4\tx\nx\tx\n"), "copy inv from stdin")
		s.code(err, "22P02")
		_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("2\ttwice\n"), "copy inv from stdin")
		s.code(err, "23505", "a constraint that is checked at the end")
		equal(s, 3, outside[int](s, "select count(*) from "+ident(s.h.First.Schema)+".inv"), "rows that others see")
		var out copied
		_, err = c.PgConn().CopyTo(ctx, &out, "copy inv to stdout")
		s.ok(err)
		equal(s, "1\t"+s.h.First.Tenant+"\n2\tcopied\n3\tcopied\n", string(out))
		return nil
	})
	s.ok(conn.Close())
	equal(s, 3, value[int](s, first, s.db, "select count(*) from inv"))
	equal(s, 1, value[int](s, second, s.db, "select count(*) from inv"))
}
