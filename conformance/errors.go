package conformance

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// What no error of the driver may repeat.
const (
	secretSQL      = "sql_marker"
	secretArgument = "argument-marker"
)

// refusal is a way to provoke one of the driver's own errors from outside.
type refusal struct {
	name     string
	sentinel error
	provoke  func(s *scene) error
	tenant   func(h *Harness) string // must be named; nil: nobody knows it
	sent     bool                    // something of the caller's may have run
}

// refusals has at least one entry for each sentinel of the root package; a test holds it to that.
var refusals = []refusal{
	{name: "ErrNoTenant", sentinel: shardedpg.ErrNoTenant, provoke: func(s *scene) error { return try(s, s.db, "") }},
	{name: "ErrInvalidTenant", sentinel: shardedpg.ErrInvalidTenant, provoke: func(s *scene) error { return try(s, s.db, "a b") }},
	{name: "ErrTenantMismatch", sentinel: shardedpg.ErrTenantMismatch, tenant: b, provoke: func(s *scene) error {
		tx := s.begin(s.a)
		return errors.Join(execErr(s.b, tx, "select $1 as "+secretSQL, secretArgument), tx.Rollback())
	}},
	{
		name: "ErrTenantNotFound", sentinel: shardedpg.ErrTenantNotFound, provoke: func(s *scene) error { return try(s, s.db, NoSuchTenant) },
		tenant: func(*Harness) string { return NoSuchTenant },
	},
	{
		name: "ErrTenantDisabled", sentinel: shardedpg.ErrTenantDisabled, provoke: func(s *scene) error { return try(s, s.db, s.h.Disabled) },
		tenant: func(h *Harness) string { return h.Disabled },
	},
	{
		name: "ErrTenantReadOnly", sentinel: shardedpg.ErrTenantReadOnly, tenant: func(h *Harness) string { return h.ReadOnly },
		provoke: func(s *scene) error {
			return execErr(s.tenant(s.h.ReadOnly), s.db, "insert into orders (note) values ($1) -- "+secretSQL, secretArgument)
		},
	},
	{name: "ErrShardBusy", sentinel: shardedpg.ErrShardBusy, tenant: b, provoke: func(s *scene) error {
		db := s.open(Options{Conns: 1, ExecMode: s.h.ExecMode, AcquireTimeout: time.Millisecond})
		tx, err := db.BeginTx(s.a, nil)
		s.ok(err)
		return errors.Join(try(s, db, s.h.B), tx.Rollback())
	}},
	{name: "ErrTenantBusy", sentinel: shardedpg.ErrTenantBusy, tenant: a, provoke: func(s *scene) error {
		db := s.open(Options{Conns: 1, ExecMode: s.h.ExecMode, AcquireTimeout: time.Millisecond})
		tx, err := db.BeginTx(s.a, nil)
		s.ok(err)
		return errors.Join(try(s, db, s.h.A), tx.Rollback())
	}},
	{name: "ErrRateLimited", sentinel: shardedpg.ErrRateLimited, tenant: a, provoke: func(s *scene) error {
		db := s.open(Options{Conns: 1, ExecMode: s.h.ExecMode, Rate: 0.01})
		s.ok(db.PingContext(s.a))
		return try(s, db, s.h.A)
	}},
	{name: "ErrShardUnavailable", sentinel: shardedpg.ErrShardUnavailable, tenant: a, sent: true, provoke: func(s *scene) error {
		tx := s.begin(s.a)
		s.kill(s.pid(s.a, tx))
		_ = execErr(s.a, tx, "select 1") // meets the loss
		return errors.Join(execErr(s.a, tx, "select $1 as "+secretSQL, secretArgument), tx.Rollback())
	}},
	{name: "ErrRegistryUnavailable", sentinel: shardedpg.ErrRegistryUnavailable, tenant: a, provoke: func(s *scene) error {
		return try(s, s.open(Options{Conns: 1, RegistryDown: true}), s.h.A)
	}},
	{name: "ErrUnsafeRole", sentinel: shardedpg.ErrUnsafeRole, tenant: a, provoke: func(s *scene) error {
		s.made("alter role {login} bypassrls", "alter role {login} nobypassrls")
		return try(s, s.db, s.h.A)
	}},
	{name: "ErrStatementRefused", sentinel: shardedpg.ErrStatementRefused, tenant: a, provoke: func(s *scene) error {
		return execErr(s.a, s.db, "alter role app password '"+secretArgument+"' /* "+secretSQL+" */")
	}},
	{
		name: "ErrPrologue", sentinel: shardedpg.ErrPrologue, tenant: func(h *Harness) string { return h.Missing.Tenant },
		provoke: func(s *scene) error { return try(s, s.db, s.h.Missing.Tenant) },
	}, // its role does not exist
}

func a(h *Harness) string { return h.A }
func b(h *Harness) string { return h.B }

// try sends one statement full of things that no error may repeat.
func try(s *scene, db querier, tenant string) error {
	ctx := s.Context()
	if tenant != "" {
		ctx = s.tenant(tenant)
	}
	return execErr(ctx, db, "select $1::text as "+secretSQL, secretArgument)
}

func errorScenarios() []scenario {
	list := []scenario{
		{name: "PostgreSQL's errors pass untouched", run: serverErrors},
		{name: "read-only tenants read", run: readOnlyTenants},
		{name: "a killed backend is replaced and writes run once", run: killedBackend, skip: direct(
			"the pooler drops its client with an error of its own when a server connection dies")},
	}
	for _, r := range refusals {
		sc := scenario{name: r.name, run: r.run}
		if r.sent {
			sc.skip = direct("the pooler tells its client about a lost server connection with an error of its own")
		}
		list = append(list, sc)
	}
	return list
}

func (r refusal) run(s *scene) {
	err := r.provoke(s)
	s.is(err, r.sentinel)
	var own *shardedpg.Error
	if !errors.As(err, &own) {
		s.Fatalf("%T is not a *shardedpg.Error: %v", err, err)
	}
	equal(s, !r.sent, own.SafeToRetry(), "SafeToRetry")
	if !strings.HasPrefix(err.Error(), "shardedpg: "+string(own.Stage)+": ") {
		s.Errorf("the text does not begin with its stage: %v", err)
	}
	if r.tenant != nil {
		equal(s, r.tenant(s.h), own.Tenant, "Tenant")
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", own.Tenant)) {
			s.Errorf("the text does not name the tenant %q: %v", own.Tenant, err)
		}
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err)} {
		for _, secret := range []string{secretSQL, secretArgument, "password", "user=", "host="} {
			if strings.Contains(text, secret) {
				s.Errorf("the text repeats %q: %v", secret, err)
			}
		}
	}
	equal(s, 0, s.count(secretArgument))
}

// The concrete type counts: GORM and ent assert it.
func serverErrors(s *scene) {
	for query, code := range map[string]string{
		"select 1/0": "22012", "select * from nowhere": "42P01", "selec": "42601",
		"insert into customers (id, email) select id, email from customers": "23505",
		"do $$begin raise 'x' using errcode = 'ZZ999'; end$$":               "ZZ999",
		"do $$begin raise 'x' using errcode = '40001'; end$$":               "40001",
		"do $$begin raise 'x' using errcode = '57P01'; end$$":               "57P01",
		"do $$begin raise 'x' using errcode = '25001'; end$$":               "25001",
		"do $$begin raise 'x' using errcode = '0A000'; end$$":               "0A000",
		"do $$begin raise 'x' using errcode = '26000'; end$$":               "26000",
		"do $$begin raise 'x' using errcode = '57014'; end$$":               "57014",
	} {
		err := execErr(s.a, s.db, query)
		s.code(err, code, "%s", query)
		if _, untouched := err.(*pgconn.PgError); !untouched { //nolint:errorlint // that nothing wraps it is the point
			s.Errorf("%s: %T is not a *pgconn.PgError: error translation of ORMs fails", query, err)
		}
		equal(s, false, shardedpg.TimedOutByPlan(err))
		s.ownRows()
		tx := s.begin(s.a)
		s.code(execErr(s.a, tx, query), code)
		s.ok(tx.Rollback())
	}
}

func readOnlyTenants(s *scene) {
	ctx := s.tenant(s.h.ReadOnly)
	for range 2 {
		s.notes(ctx, s.db, "")
		for _, query := range []string{"insert into orders (note) values ($1)", "update orders set note = $1", "delete from orders where note = $1"} {
			s.is(execErr(ctx, s.db, query, "x"), shardedpg.ErrTenantReadOnly, "%s", query)
		}
		s.code(execErr(ctx, s.db, "select hidden_insert('x')"), "25006")
		tx := s.begin(ctx)
		s.fails(errors.Join(execErr(ctx, tx, "set transaction read write"), execErr(ctx, tx, "select hidden_insert('x')")), "a write")
		s.ok(tx.Rollback())
		s.exec(s.b, s.db, "select hidden_insert('x')") // the mode does not stay
		s.exec(s.b, s.db, "delete from orders where note = 'x'")
	}
}

func killedBackend(s *scene) {
	for i := range 5 {
		s.kill(s.pid(s.a, s.db))
		s.exec(s.a, s.db, "insert into orders (note) values ($1)", fmt.Sprint("once", i))
		equal(s, 1, s.count(fmt.Sprint("once", i)))
	}
	s.notes(s.b, s.db, notesOfB)
}
