package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

// whose says who the sessions of a shard's server belong to. It is used by one goroutine.
type whose struct {
	reg             *registry.Postgres
	shard           string
	login, database string            // of tenants' statements
	owners          map[string]owner  // by database
	names           map[string]string // of tenants, by tag with a hash
	searched        map[string]search // by how IDs begin
	fresh           time.Time         // since when searches are remembered
}

// search is how far the tenants whose IDs begin alike have been looked through.
type search struct {
	after string
	ended bool
}

// owner is who lives in a database: nobody of the shard, several tenants, or one.
type owner struct {
	ours  bool
	sole  string
	asked time.Time // the registry
}

// Kinds of those that sessions belong to.
const (
	ofTenant  = "tenant"
	ofProgram = "untagged" // whose tenant the server does not know, or not at this moment
	ofOthers  = "others"   // other logins, other databases of the server, and the server itself
)

// server is how to ask the server of a shard: its admin DSN if it has one.
type server struct {
	shard string
	cfg   *pgx.ConnConfig // secret
	whose *whose
}

func newServer(ctx context.Context, reg *registry.Postgres, shard string) (*server, error) {
	s, err := reg.ShardDSNs(ctx, shard)
	if err != nil {
		return nil, err
	}
	app, err := connstring.Parse(s.DSN)
	if err != nil {
		return nil, fmt.Errorf("its DSN is no connection string: %w: set it with shardedpg shard set-dsn", err)
	}
	dsn := s.AdminDSN
	if dsn == "" {
		dsn = s.DSN // sees the sessions of its own login, and may end them
	}
	cfg, err := connstring.Parse(dsn)
	if err != nil {
		return nil, fmt.Errorf("its admin DSN is no connection string: %w: set it with shardedpg shard set-dsn", err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // behind each pooler
	return &server{shard, cfg, &whose{
		reg: reg, shard: shard, login: app.User, database: databaseOf(app), owners: map[string]owner{}, names: map[string]string{},
		searched: map[string]search{},
	}}, nil
}

// connect's errors hold no part of the DSN.
func (s *server) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := hosts.Connect(ctx, s.cfg) // a first host that does not answer must not hide the one that took its place
	if err != nil {
		return nil, connerr.Failed(err)
	}
	return conn, nil
}

// closeSoon does not wait for a server that is gone.
func closeSoon(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// rights explains a refusal by what an administrator's login lacks.
func rights(err error) error {
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Code == "42501" {
		return fmt.Errorf("%w: grant pg_signal_backend to the login of its admin DSN", err)
	}
	return err
}

// remember is how long the registry's answers are good for.
const remember = time.Minute

// of finds who a session belongs to. Of a tag with a hash it returns that; see named.
func (w *whose) of(ctx context.Context, database, login, name string) (kind, tenant string, err error) {
	if database == "" {
		return ofOthers, "", nil
	}
	o, err := w.owner(ctx, database)
	switch {
	case err != nil:
		return "", "", err
	case !o.ours:
		return ofOthers, "", nil
	case strings.HasPrefix(name, rls.TagPrefix):
		return ofTenant, strings.TrimPrefix(name, rls.TagPrefix), nil
	case login != w.login:
		return ofOthers, "", nil
	case o.sole != "":
		return ofTenant, o.sole, nil
	}
	return ofProgram, "", nil
}

// owner finds who lives in a database. While the registry is down that is who did before.
func (w *whose) owner(ctx context.Context, database string) (owner, error) {
	if database == w.database {
		return owner{ours: true}, nil // and of tenants who name no database
	}
	o, known := w.owners[database]
	if known && time.Since(o.asked) < remember {
		return o, nil
	}
	if known {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
	}
	found, err := w.reg.ListTenants(ctx, registry.TenantFilter{Shard: w.shard, Database: database, Removed: registry.AnyTenants, Limit: 2})
	switch {
	case err == nil:
		o = owner{ours: len(found) > 0}
		if len(found) == 1 && found[0].Model == resolver.ModelDatabase {
			o.sole = found[0].ID
		}
	case !known:
		return owner{}, err
	}
	o.asked = time.Now()
	w.owners[database] = o
	return o, nil
}

const (
	idPage = 1000
	idMost = 200 // pages
)

// named finds the tenant of a tag without its prefix. Where that has a hash, all tenants are looked through whose IDs begin like it, once
// for all tags: each has its own hash, and IDs that begin with other letters than ASCII have nothing else. What is not found in time,
// or among so many, stays the tag.
func (w *whose) named(ctx context.Context, tag string) string {
	begin, _, hashed := strings.Cut(tag, " ")
	if !hashed {
		return tag
	}
	begin, _, _ = strings.Cut(begin, "?") // from there on it may stand for another character
	if time.Since(w.fresh) > remember {
		clear(w.searched)
		w.fresh = time.Now()
	}
	at := w.searched[begin]
	for pages := 0; w.names[tag] == "" && !at.ended && pages < idMost; pages++ {
		page, err := w.reg.ListTenants(ctx, registry.TenantFilter{Shard: w.shard, After: max(at.after, begin), Limit: idPage})
		if err != nil {
			w.searched[begin] = search{at.after, pages == 0} // for as long as that is remembered nobody waits for a registry that is down
			break
		}
		at.ended = len(page) < idPage
		for _, t := range page {
			if at.after = t.ID; !strings.HasPrefix(t.ID, begin) {
				at.ended = true
				break
			}
			if other := strings.TrimPrefix(rls.ApplicationName(t.ID), rls.TagPrefix); other != t.ID {
				w.names[other] = t.ID
			}
		}
		w.searched[begin] = at
	}
	if name := w.names[tag]; name != "" {
		return name
	}
	return tag
}
