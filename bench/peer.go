package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// tenantSetting is the session variable that the row-level security policies of the fleet read.
const tenantSetting = "app.current_tenant_id"

// querier is what a statement of a case needs; *sql.DB, *sql.Conn and *sql.Tx have it.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// peer is one way of giving statements a tenant. Do runs fn outside a transaction of the caller, Tx inside one; both put
// the tenant in force first and leave nothing of it behind. All methods but Close may be called by many goroutines.
type peer interface {
	Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error
	Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error
	Close() error
}

// peerConfig is what every peer gets.
type peerConfig struct {
	name        string
	dsn         string
	dial        pgconn.DialFunc
	concurrency int
	tenants     []string
	wide        string // for a peer that cannot change tenants: the tenant to read where a case asks for a random one
	backends    int    // how many connections a peer that would open one per tenant may hold
	conns       int    // most connections in use at once, and half as many for a tenant with some of its own; 0: no limit
	noisy       string // a tenant on a larger plan, with more to do than there are connections
	noisyConns  int    // most connections of that tenant, where it has less than its share; 0: no limit of its own
	noisyIdle   bool   // the server processes of its own connections run when no other process wants to
}

// share of conns that is one tenant's, as sharded_tenant_share has it; 0 where they have no limit, as in SetMaxOpenConns.
func (c peerConfig) share() int { return (c.conns + 1) / 2 }

// connConfig parses the DSN and names the peer to the server, which is how its connections are counted.
func (c peerConfig) connConfig() (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(c.dsn)
	if err != nil {
		return nil, fmt.Errorf("parse the server's dsn: %w", err)
	}
	c.adjust(cfg)
	return cfg, nil
}

func (c peerConfig) adjust(cfg *pgx.ConnConfig) {
	cfg.RuntimeParams["application_name"] = c.name
	if c.dial != nil {
		cfg.DialFunc = c.dial
	}
}

// peerKind is a row of the list of peers.
type peerKind struct {
	name string
	note string
	// fixed: a connection of the peer serves one tenant only, so a random one is always the same wide one.
	fixed bool
	// learns: the peer remembers tenants. It meets all of them before it is measured, as a server that has run for a while.
	learns bool
	// floor: no way to give statements their tenant, only what every way costs. It has no transactions, and makes no noise.
	floor bool
	open  func(context.Context, peerConfig) (peer, error)
}

const (
	limitPeer     = "plain"
	perTenantPeer = "db-per-tenant"
	floorPeer     = "floor"
	ownPeer       = "sharded-pg"
)

func allPeers() []peerKind {
	return []peerKind{
		{
			name: limitPeer, fixed: true, open: openPlain,
			note: "pgx stdlib without tenancy, RLS on, the setting fixed at connection start: the limit",
		},
		{
			name: "begin-set-commit", open: openBegin,
			note: "BEGIN; set_config(…, true); query; COMMIT",
		},
		{
			name: "conn-set-reset", open: openConn,
			note: "sql.Conn: set_config(…, false); query; RESET",
		},
		{
			name: perTenantPeer, open: openPerTenant,
			note: "map[tenant]*sql.DB, least recently used closed when the server's connections are used up",
		},
		{
			name: "pool-hooks", open: openHooks,
			note: "stdlib.OpenDBFromPool with PrepareConn SET and AfterRelease RESET",
		},
		{
			name: floorPeer, fixed: true, floor: true, open: openFloor,
			note: "plain, with the driver's prologue and reset in front of each statement and nothing else of it",
		},
		{
			name: ownPeer, learns: true, open: openSharded,
			note: "this module, public API only",
		},
	}
}

// choosePeers keeps the order of the list, so that the limit always comes first.
func choosePeers(names string) ([]peerKind, error) {
	return choose("peer", names, allPeers(), func(p peerKind) string { return p.name })
}

// choose picks the named entries of a list; an empty string picks all.
func choose[T any](what, names string, all []T, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	wanted := map[string]bool{}
	for _, n := range strings.Split(names, ",") {
		wanted[strings.TrimSpace(n)] = true
	}
	var chosen []T
	known := make([]string, 0, len(all))
	for _, x := range all {
		known = append(known, name(x))
		if wanted[name(x)] {
			chosen = append(chosen, x)
			delete(wanted, name(x))
		}
	}
	for n := range wanted {
		return nil, fmt.Errorf("unknown %s %q; choose from %s", what, n, strings.Join(known, ", "))
	}
	return chosen, nil
}
