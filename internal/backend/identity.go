package backend

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/rls"
)

// ErrIdentity: program and database do not agree on how the tenant is told, or on the key.
var ErrIdentity = errors.New("the database and this program do not agree on signed tenants")

// keysSQL: all is named with its schema, because the login's search_path may be anything. The clock is the one that tokens are
// measured by.
const keysSQL = `select pg_catalog.array_to_string(shardedpg.identity_keys(), ','), pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::text`

const (
	// tokenLife is how long a token may begin transactions. It bounds what one is good for that has left its connection, and
	// must be longer than a pooler may keep a client waiting.
	tokenLife = 5 * time.Minute
	// sessionLife is that of one in force for a whole session, in which no prologue renews it. The session is its tenant's alone.
	sessionLife = 24 * time.Hour
)

// signer makes the tokens of a backend. Without a key it makes none.
type signer struct {
	key   *rls.ShardKey
	pid   uint32        // 0 behind a pooler
	ahead time.Duration // of this machine's clock, the server's

	token, tenant string // the one made last, and whose it is
	renew         time.Time
	refused       bool // the database has refused one: its key may be gone
}

// sign puts the tenant's token into the settings.
func (w *wire) sign() {
	s := &w.signer
	if s.key == nil {
		return
	}
	now := time.Now()
	if s.tenant != w.set.Tenant || now.After(s.renew) {
		s.token, s.tenant, s.renew = s.make(now, tokenLife, w.set.Tenant), w.set.Tenant, now.Add(tokenLife/2)
	}
	w.set.Token = s.token
}

func (s *signer) make(now time.Time, life time.Duration, tenant string) string {
	return string(s.key.AppendToken(nil, s.pid, now.Add(s.ahead+life).Unix(), tenant))
}

// signs reports whether tenants of backends of that key are signed.
func (p *Pool) signs(key Key) bool { return p.cfg.Keys != nil && key.Rows }

// current reports whether b signs with the keys of now.
func (p *Pool) current(b *Backend) bool { return !p.signs(b.key) || b.keys == p.cfg.Keys() }

// chooseKey finds the newest key that both the program and the database have.
func (p *Pool) chooseKey(ctx context.Context, b *Backend) error {
	b.keys = p.cfg.Keys()
	answer, err := b.ask(ctx, keysSQL)
	var server *pgconn.PgError
	if errors.As(err, &server) && b.key.Own && (server.Code == "3F000" || server.Code == "42883") {
		return nil
	}
	if errors.As(err, &server) && (server.Code == "3F000" || server.Code == "42883" || server.Code == "42501") {
		return fmt.Errorf("%w: it cannot verify any (%s); run shardedpg rls keys install", ErrIdentity, server.Message)
	}
	if err != nil {
		return cause(err)
	}
	if len(answer) != 2 {
		return errors.New("the server did not answer which keys it has")
	}
	var installed []string
	if len(answer[0]) > 0 {
		installed = strings.Split(string(answer[0]), ",")
	}
	seconds, err := strconv.ParseFloat(string(answer[1]), 64)
	if err != nil {
		return errors.New("the server did not answer what time it is")
	}
	s := &b.wire.signer
	if s.key, err = b.keys.Choose(p.cfg.Shard, installed); err != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	s.ahead = time.Duration(seconds*float64(time.Second)) - time.Duration(time.Now().UnixNano())
	if s.pid = b.pg.PID(); b.wire.pooled {
		s.pid = 0
	}
	return nil
}

// unverified are the messages of shardedpg.current_tenant.
const unverified = "shardedpg: "

// Unverified reports whether an error is the database's word that it does not believe who the tenant is.
func Unverified(server *pgconn.PgError) bool {
	return server.Code == "28000" && strings.HasPrefix(server.Message, unverified)
}
