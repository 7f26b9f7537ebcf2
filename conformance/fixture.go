package conformance

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// tablesSQL makes the tables under the policies that shared tenants need (docs/operations.md), and helpers without any:
// probe records what is seen where no tenant is in force, and the functions hide from the text of a call what it does.
const tablesSQL = `
create table customers (
	tenant_id text not null default nullif(current_setting('{guc}', true), ''),
	id uuid not null default gen_random_uuid(),
	email text not null,
	name text,
	primary key (tenant_id, id),
	unique (tenant_id, email)
);
create table orders (
	tenant_id text not null default nullif(current_setting('{guc}', true), ''),
	id bigint generated always as identity,
	customer_id uuid,
	total int not null default 0,
	note text,
	primary key (tenant_id, id),
	foreign key (tenant_id, customer_id) references customers
);
create table events (
	tenant_id text not null default nullif(current_setting('{guc}', true), ''),
	note text
) partition by list (tenant_id);
create table events_a partition of events for values in ('{a}');
create table events_b partition of events for values in ('{b}');
create table probe (tenant text, orders bigint);
do $$
declare t text;
begin
	foreach t in array array['customers', 'orders', 'events'] loop
		execute format('alter table %I enable row level security', t);
		execute format('alter table %I force row level security', t);
		execute format($p$create policy tenant_rows on %I as permissive
			using (tenant_id = (select nullif(current_setting('{guc}', true), '')))
			with check (tenant_id = (select nullif(current_setting('{guc}', true), '')))$p$, t);
		execute format($p$create policy tenant_only on %I as restrictive
			using (tenant_id = (select nullif(current_setting('{guc}', true), '')))
			with check (tenant_id = (select nullif(current_setting('{guc}', true), '')))$p$, t);
		execute format('alter table %I owner to {owner}', t);
		execute format('grant select, insert, update, delete on %I to {login}', t);
	end loop;
end $$;
grant select, insert, delete on probe to {login};
grant usage on sequence orders_id_seq to {login};
create function hidden_exec(query text) returns void language plpgsql as 'begin execute query; end';
create function hidden_insert(note text) returns bigint language sql volatile as
	'insert into orders (note) values (note) returning id';
grant execute on function hidden_exec, hidden_insert to {login};
`

const dropSQL = `
drop table if exists customers, orders, events, probe cascade;
drop function if exists hidden_exec, hidden_insert cascade;
`

// fillSQL puts back the rows that each scenario starts with.
const fillSQL = `
delete from orders; delete from customers; delete from events; delete from probe;
select setval('orders_id_seq', 1, false);
insert into customers (tenant_id, id, email, name) values
	('{a}', '00000000-0000-0000-0000-00000000000a', 'a@example.com', 'Ann'),
	('{b}', '00000000-0000-0000-0000-00000000000b', 'b@example.com', 'Bob');
insert into orders (tenant_id, total, note) values ('{a}', 10, 'A-secret'), ('{a}', 11, 'A-secret2'), ('{b}', 20, 'B-secret');
insert into events (tenant_id, note) values ('{a}', 'A-event'), ('{b}', 'B-event');
`

// What notesSQL gives each tenant of a filled fixture.
const (
	notesSQL = "select coalesce(string_agg(note, ',' order by id), '') from orders"
	notesOfA = "A-secret,A-secret2"
	notesOfB = "B-secret"
)

// ownerRole owns the tables and cannot log in. It stays: other databases of the server may use it, too.
const ownerRole = "conformance_owner"

// fixture is what a run makes on the servers.
type fixture struct {
	h     *Harness
	major int
	names *strings.Replacer
}

func newFixture(t *testing.T, h *Harness) *fixture {
	t.Helper()
	f := &fixture{h: h, names: strings.NewReplacer(
		"{guc}", h.GUC, "{a}", h.A, "{b}", h.B, "{login}", ident(h.Login), "{owner}", ownerRole,
	)}
	ctx := t.Context()
	if err := h.Home.QueryRowContext(ctx, "select current_setting('server_version_num')::int / 10000").Scan(&f.major); err != nil {
		t.Fatalf("conformance: Harness.Home: %v", err)
	}
	for name, db := range map[string]*sql.DB{"Home": h.Home, "Away": h.Away} {
		var safe bool
		if err := db.QueryRowContext(ctx, "select rolsuper from pg_roles where rolname = current_user").Scan(&safe); err != nil || !safe {
			t.Fatalf("conformance: Harness.%s has to connect as a superuser: it makes tables and looks past policies (%v)", name, err)
		}
		f.must(t, db, "do $$begin create role {owner} nologin; exception when duplicate_object or unique_violation then null; end$$")
		f.must(t, db, dropSQL)
		f.must(t, db, tablesSQL)
		t.Cleanup(func() {
			if _, err := db.ExecContext(context.Background(), dropSQL); err != nil {
				t.Errorf("conformance: the tables could not be dropped: %v", err)
			}
		})
	}
	return f
}

// must runs a text of several statements as the superuser.
func (f *fixture) must(t testing.TB, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), f.names.Replace(text)); err != nil {
		t.Fatalf("conformance: the fixture could not be made: %v", err)
	}
}

// scene is a scenario under way: the driver, freshly opened, and the contexts of the tenants.
type scene struct {
	*testing.T
	h       *Harness
	fix     *fixture
	db      *sql.DB
	a, b, c context.Context
	lost    int // virtual connections that database/sql itself never gives back
}

// scene fills the tables and opens the driver with this many connections.
func (f *fixture) scene(t *testing.T, conns int) *scene {
	t.Helper()
	// A lock that an earlier scenario left must not hang the run.
	for _, db := range []*sql.DB{f.h.Home, f.h.Away} {
		f.must(t, db, "begin; set local lock_timeout = '20s'; "+fillSQL+"commit")
	}
	s := &scene{T: t, h: f.h, fix: f}
	s.Cleanup(s.gone) // after all that is opened has been closed
	s.a, s.b, s.c = s.tenant(f.h.A), s.tenant(f.h.B), s.tenant(f.h.C)
	s.db = s.open(Options{Conns: conns, ExecMode: f.h.ExecMode})
	return s
}

func (s *scene) tenant(id string) context.Context { return shardedpg.WithTenant(s.Context(), id) }

// open opens one more driver. When the scenario ends nothing of it may be in use.
func (s *scene) open(o Options) *sql.DB {
	s.Helper()
	db := s.h.Open(s, o)
	s.Cleanup(func() {
		s.eventually(func() bool { return db.Stats().InUse == s.lost }, "a connection is still in use")
		if err := db.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	return db
}

// gone waits until the server has no connection of the login any more.
func (s *scene) gone() {
	s.Helper()
	if s.h.Pooler != Direct {
		return // the pooler keeps its own
	}
	s.eventually(func() bool {
		var n int
		err := s.h.Home.QueryRow("select count(*) from pg_stat_activity where usename = $1", s.h.Login).Scan(&n)
		return err == nil && n == 0
	}, "a connection of a closed driver is left on the server")
}

// ident quotes an identifier.
func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

const patience = 20 * time.Second
