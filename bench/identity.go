package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/policy"
)

const (
	identityTenants = 100
	identityRows    = 1000 // orders of each tenant
)

// identitySchema has as many rows for each tenant as a page of an application reads.
var identitySchema = []string{
	`create table customers (tenant_id uuid not null, id int not null, name text not null, primary key (tenant_id, id))`,
	`create table orders (tenant_id uuid not null, id int not null, customer int not null, note text not null, primary key (tenant_id, id))
		with (autovacuum_enabled = false)`,
	`create table events (tenant_id uuid not null, id bigint generated always as identity, note text, primary key (tenant_id, id)) with (autovacuum_enabled = false)`,
	fmt.Sprintf(`insert into customers select ('00000000-0000-4000-8000-' || lpad(to_hex(t), 12, '0'))::uuid, i, 'customer ' || i
		from generate_series(0, %d) t, generate_series(0, 49) i`, identityTenants-1),
	fmt.Sprintf(`insert into orders select ('00000000-0000-4000-8000-' || lpad(to_hex(t), 12, '0'))::uuid, i, i %% 50, 'order ' || i
		from generate_series(0, %d) t, generate_series(1, %d) i`, identityTenants-1, identityRows),
	`vacuum (analyze) customers`, `vacuum (analyze) orders`,
}

// identityCases are statements of a tenant; each returns one row, which is checked.
var identityCases = []struct {
	name, query string
	want        string
	random      bool // of a random tenant, so that connections change hands
}{
	{"point_read", "select note from orders where id = 7", "order 7", false},
	{"point_read_random", "select note from orders where id = 7", "order 7", true},
	{"insert", "insert into events (note) values ('x') returning note", "x", false},
	{"insert_1000", "insert into events (note) select 'x' from generate_series(1, 1000) returning note", "x", false},
	{"scan_1000", "select count(note)::text from orders", "1000", false},
	{"join_1000", "select count(c.name)::text from orders o join customers c on c.tenant_id = o.tenant_id and c.id = o.customer", "1000", false},
}

// identityPeer is a database with one kind of policies and a program of one kind.
type identityPeer struct {
	name    string
	policy  policy.Identity
	program bool // signs
	db      *sql.DB
}

// measureIdentity prints what signed tenants cost: this driver beside itself, on databases that differ in their policies.
func measureIdentity(ctx context.Context, out io.Writer, o options) (_ results, err error) {
	server, err := pgtest.Start(ctx, pgtest.Options{Name: "identity", Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "2GB"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	peers := []*identityPeer{
		{name: ownPeer, policy: policy.Plain},
		{name: "signed-programs-only", policy: policy.Plain, program: true},
		{name: ownPeer + "-signed", policy: policy.Signed, program: true},
	}
	for i, p := range peers {
		if p.db, err = p.open(ctx, server, fmt.Sprintf("identity%d", i), filepath.Join(dir, "keys")); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		defer p.db.Close()
	}
	var all results
	for _, c := range identityCases {
		samples := make([][]sample, len(peers))
		for round := range o.rounds {
			for _, i := range turn(len(peers), round) {
				s, err := peers[i].round(ctx, c.query, c.want, c.random, o.roundTime)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", c.name, peers[i].name, err)
				}
				samples[i] = append(samples[i], s)
			}
		}
		for i, p := range peers {
			r := result{
				Case: "identity_" + c.name, Peer: p.name, Concurrency: 1,
				P50us: median(samples[i], func(s sample) float64 { return s.p50 }), P99us: median(samples[i], func(s sample) float64 { return s.p99 }),
			}
			if i > 0 {
				r.RatioToLimit = r.P50us / all[len(all)-i].P50us
			}
			all = append(all, r)
		}
	}
	fmt.Fprintf(out, "\nsigned tenants (1 goroutine, median over %d rounds; ratio: p50 to that of %s with plain policies)\n", o.rounds, ownPeer)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tpeer\tp50 µs\tp99 µs\tadded µs\tratio\t")
	for i, r := range all {
		plain := all[i-i%len(peers)]
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%+.1f\t%.2f\t\n", r.Case, r.Peer, r.P50us, r.P99us, r.P50us-plain.P50us, r.P50us/plain.P50us)
	}
	return all, w.Flush()
}

// open makes the peer's database as the generator does, and opens a program on it.
func (p *identityPeer) open(ctx context.Context, server *pgtest.Server, database, keyFile string) (*sql.DB, error) {
	if err := server.Exec(ctx, "postgres", "create database "+database); err != nil {
		return nil, err
	}
	if err := server.Exec(ctx, database, identitySchema...); err != nil {
		return nil, err
	}
	if _, err := os.Stat(keyFile); err != nil {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret)
		if err := os.WriteFile(keyFile, []byte("1 "+hex.EncodeToString(secret)), 0o600); err != nil {
			return nil, err
		}
	}
	keys, _, err := rls.ReadKeyFile(keyFile)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, server.DSN("postgres", database))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	config := policy.Config{App: benchRole, Identity: p.policy}
	if _, err := policy.InstallKeys(ctx, conn, config, []*rls.ShardKey{keys[0].For("s1")}, nil); err != nil {
		return nil, err
	}
	if _, err := policy.Apply(ctx, conn, config, nil); err != nil {
		return nil, err
	}
	fleet := registry.Fleet{
		Shards: []registry.Shard{{Name: "s1", DSN: server.DSN(benchRole, database)}},
		Plans:  []registry.Plan{{Name: "any", StatementTimeout: time.Minute, WorkMemKB: 16 << 10, MaxConns: 4, Weight: 1}},
	}
	for n := range identityTenants {
		fleet.Tenants = append(fleet.Tenants, registry.Tenant{ID: tenantID(n), Shard: "s1", Plan: "any"})
	}
	store, err := registry.NewStatic(fleet)
	if err != nil {
		return nil, err
	}
	cfg := shardedpg.Config{Store: store, GUC: tenantSetting, MaxConns: 1, TenantShare: 1, Signed: p.program}
	if p.program {
		cfg.KeyFile = keyFile
	}
	connector, err := shardedpg.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (p *identityPeer) round(ctx context.Context, query, want string, random bool, d time.Duration) (sample, error) {
	var nanos []int64
	for end := time.Now().Add(d); len(nanos) == 0 || time.Now().Before(end); {
		tenant := tenantID(1)
		if random {
			tenant = tenantID(mathrand.IntN(identityTenants))
		}
		begin := time.Now()
		var got string
		if err := p.db.QueryRowContext(shardedpg.WithTenant(ctx, tenant), query).Scan(&got); err != nil {
			return sample{}, err
		}
		if nanos = append(nanos, time.Since(begin).Nanoseconds()); got != want {
			return sample{}, fmt.Errorf("got %q, want %q", got, want)
		}
	}
	return summarize(nanos), nil
}
