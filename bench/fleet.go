package main

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

const (
	benchDatabase = "bench"
	benchRole     = "app"
	tenantCount   = 10_000

	// serverConnections is room for all peers at once. perTenantShare of it is for the peer that would take one for each
	// tenant.
	serverConnections = 300
	perTenantShare    = 100
)

// fleet is one server with the table of all tenants, and the ways to reach it.
type fleet struct {
	server  *pgtest.Server
	admin   *sql.DB
	tenants []string
	wide    string // a tenant that is none of those and has as many rows as they have together
	rows    int    // per tenant, except the hot one and the wide one
}

// policyExpr is the form that the policy generator writes for uuid columns: the sub-select runs once per statement, and
// nullif turns the empty string, which a finished transaction leaves, into "no tenant".
const policyExpr = "tenant_id = (select nullif(current_setting('" + tenantSetting + "', true), '')::uuid)"

// startFleet starts a server and loads about the given number of rows.
func startFleet(ctx context.Context, rows, tenants int) (*fleet, error) {
	f, load := newFleet(rows, tenants)
	return f, f.start(ctx, load...)
}

// newFleet is the fleet, and what it has to load.
func newFleet(rows, tenants int) (_ *fleet, load []string) {
	f := &fleet{rows: max(rows/tenants, 1), wide: tenantID(tenants)}
	for n := range tenants {
		f.tenants = append(f.tenants, tenantID(n))
	}
	const each = "from generate_series(%d, %d) t, generate_series(1, %d) i"
	return f, []string{
		fmt.Sprintf(each, 0, 0, max(f.rows, hotRows)),
		fmt.Sprintf(each, 1, tenants-1, f.rows),
		fmt.Sprintf(each, tenants, tenants, f.rows*tenants),
	}
}

// start starts the server, creates table, role and policies, and loads the rows that the from clauses give: row i of tenant t.
func (f *fleet) start(ctx context.Context, rows ...string) error {
	return f.startOn(ctx, pgtest.Options{Name: "bench", TCP: true, Settings: map[string]string{
		"max_connections":    strconv.Itoa(serverConnections),
		"shared_buffers":     "512MB", // the whole table: the benchmark is about round trips and CPU, not about disks
		"max_wal_size":       "2GB",   // no checkpoint while a round runs
		"checkpoint_timeout": "1h",
	}}, rows...)
}

func (f *fleet) startOn(ctx context.Context, o pgtest.Options, rows ...string) (err error) {
	if f.server, err = pgtest.Start(ctx, o); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.close()
		}
	}()
	if err := f.server.Exec(ctx, "postgres",
		"create role "+benchRole+" login nosuperuser nobypassrls",
		"create database "+benchDatabase,
	); err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(f.server.DSN("postgres", benchDatabase))
	if err != nil {
		return err
	}
	f.admin = stdlib.OpenDB(*cfg)
	if err := f.server.Exec(ctx, benchDatabase, schema(rows)...); err != nil {
		return err
	}
	return f.check(ctx)
}

// tenantID and the tenant_id column of the load below agree.
func tenantID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

func schema(rows []string) []string {
	// Room in the pages keeps updates of the few hot rows short (HOT); a vacuum in the middle of a round would be noise.
	all := []string{`create table orders (tenant_id uuid not null, id bigint not null, total numeric not null, note text not null)
		with (fillfactor = 70, autovacuum_enabled = false)`}
	for _, from := range rows {
		all = append(all, "insert into orders select ('00000000-0000-4000-8000-' || lpad(to_hex(t), 12, '0'))::uuid, i, 0, "+
			"'order ' || i || ' of ' || t "+from)
	}
	return append(all,
		"alter table orders add primary key (tenant_id, id)",
		"alter table orders enable row level security",
		"alter table orders force row level security",
		"create policy tenant on orders as permissive for all to "+benchRole+
			" using ("+policyExpr+") with check ("+policyExpr+")",
		"create policy guard on orders as restrictive for all to public"+
			" using ("+policyExpr+") with check ("+policyExpr+")",
		"grant select, insert, update, delete on orders to "+benchRole,
		"vacuum (analyze) orders",
		"checkpoint",
	)
}

// check proves that the measurement can fail: without a tenant no row is visible, with one exactly its row, found by
// the index.
func (f *fleet) check(ctx context.Context) error {
	cfg, err := pgx.ParseConfig(f.server.DSN(benchRole, benchDatabase))
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	return inTx(ctx, db, func(ctx context.Context, q querier) error {
		var visible int
		if err := q.QueryRowContext(ctx, "select count(*) from orders where id = 1").Scan(&visible); err != nil {
			return err
		}
		if visible != 0 {
			return fmt.Errorf("%d rows are visible without a tenant: row-level security is not in force", visible)
		}
		if _, err := q.ExecContext(ctx, setLocal, f.tenants[0]); err != nil {
			return err
		}
		var plan string
		if err := q.QueryRowContext(ctx, "explain (format json) "+readSQL, pgx.QueryExecModeSimpleProtocol, 1).
			Scan(&plan); err != nil {
			return err
		}
		if !usesPrimaryKey(plan) {
			return fmt.Errorf("the point read does not use the primary key: %s", plan)
		}
		return nil
	})
}

// version of the server, for the head of the report.
func (f *fleet) version(ctx context.Context) (version string, err error) {
	err = f.admin.QueryRowContext(ctx, "show server_version").Scan(&version)
	return version, err
}

// tcpDSN is the DSN of the unix socket with the address replaced.
func (f *fleet) tcpDSN() (string, error) {
	host, port, err := net.SplitHostPort(f.server.Addr())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", host, port, benchRole, benchDatabase), nil
}

// verifyWrites compares what the peers say they changed with what the table holds: all of it in the hot tenant's rows.
func (f *fleet) verifyWrites(ctx context.Context, want int64) error {
	var hot, others int64
	err := f.admin.QueryRowContext(ctx, `select coalesce(sum(total) filter (where tenant_id = $1), 0)::bigint,
		coalesce(sum(total) filter (where tenant_id <> $1), 0)::bigint from orders`, f.tenants[0]).Scan(&hot, &others)
	if err != nil {
		return err
	}
	if hot != want || others != 0 {
		return fmt.Errorf("the peers made %d updates to the hot tenant; the table shows %d there and %d in other tenants",
			want, hot, others)
	}
	return nil
}

func (f *fleet) close() error {
	if f.admin != nil {
		_ = f.admin.Close()
	}
	return f.server.Stop()
}

func usesPrimaryKey(plan string) bool {
	return strings.Contains(plan, "orders_pkey") && !strings.Contains(plan, "Seq Scan")
}
