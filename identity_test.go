package shardedpg_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/policy"
)

// signedFleet is a database with a table of the tenants' notes, its generator, and a key file.
type signedFleet struct {
	testing.TB
	server   *pgtest.Server
	database string
	admin    *pgx.Conn
	policy   policy.Config
	file     string
	a, b     context.Context
}

var signedFleets atomic.Int64

const signedTables = `create schema app;
create table app.notes (tenant_id text, id int, note text, primary key (tenant_id, id));
insert into app.notes values ('acme', 1, 'A'), ('globex', 1, 'B');`

// newSignedFleet installs the keys and leaves the policies plain.
func newSignedFleet(t testing.TB, keys ...string) *signedFleet {
	t.Helper()
	return newSignedFleetOn(t, pgtest.Shared(t, "signed"), keys...)
}

func newSignedFleetOn(t testing.TB, server *pgtest.Server, keys ...string) *signedFleet {
	t.Helper()
	app := fmt.Sprintf("signed_%d", signedFleets.Add(1))
	f := &signedFleet{
		TB: t, server: server, file: filepath.Join(t.TempDir(), "keys"),
		policy: policy.Config{App: app, Owner: app + "_owner", Maintenance: app + "_maintenance", KeyOwner: app + "_keys"},
		a:      shardedpg.WithTenant(t.Context(), tenantA), b: shardedpg.WithTenant(t.Context(), tenantB),
	}
	f.database = f.server.NewDatabase(t, signedTables)
	admin, err := pgx.Connect(t.Context(), f.server.DSN("postgres", f.database))
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	f.admin = admin
	f.apply(policy.Plain)
	f.write(keys...)
	f.install("s1")
	return f
}

func (f *signedFleet) apply(identity policy.Identity) {
	f.Helper()
	f.policy.Identity = identity
	_, err := policy.Apply(context.Background(), f.admin, f.policy, nil)
	require.NoError(f, err)
}

// write replaces the key file by one with these keys.
func (f *signedFleet) write(ids ...string) {
	f.Helper()
	var text strings.Builder
	for _, id := range ids {
		secret := make([]byte, 32)
		copy(secret, "secret "+id)
		fmt.Fprintln(&text, id, base64.StdEncoding.EncodeToString(secret))
	}
	require.NoError(f, os.WriteFile(f.file+".new", []byte(text.String()), 0o600))
	require.NoError(f, os.Rename(f.file+".new", f.file))
}

// install puts the keys of the file on the database, as a shard of that name.
func (f *signedFleet) install(shard string) {
	f.Helper()
	keys, _, err := rls.ReadKeyFile(f.file)
	require.NoError(f, err)
	var own []*rls.ShardKey
	for _, key := range keys {
		own = append(own, key.For(shard))
	}
	_, err = policy.InstallKeys(context.Background(), f.admin, f.policy, own, nil)
	require.NoError(f, err)
}

// remove takes a key from the database.
func (f *signedFleet) remove(id string) {
	f.Helper()
	removed, err := policy.RemoveKey(context.Background(), f.admin, f.policy, id, nil)
	require.NoError(f, err)
	require.True(f, removed)
}

// open opens a program on a DSN of the shard; "" is the server itself.
func (f *signedFleet) open(dsn string, signed bool, config ...func(*shardedpg.Config)) *sql.DB {
	f.Helper()
	if dsn == "" {
		dsn = f.server.DSN(f.policy.App, f.database)
	}
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: dsn}},
		Plans:   []registry.Plan{{Name: "any", StatementTimeout: time.Minute, WorkMemKB: 4096, MaxConns: 8, Weight: 1}},
		Tenants: []registry.Tenant{{ID: tenantA, Shard: "s1", Plan: "any"}, {ID: tenantB, Shard: "s1", Plan: "any"}},
	})
	require.NoError(f, err)
	cfg := shardedpg.Config{Store: store, MaxConns: 2, TenantShare: 1}
	if signed {
		cfg.Signed, cfg.KeyFile = true, f.file
	}
	for _, change := range config {
		change(&cfg)
	}
	connector, err := shardedpg.NewConnector(cfg)
	require.NoError(f, err)
	db := sql.OpenDB(connector)
	f.Cleanup(func() { require.NoError(f, db.Close()) })
	return db
}

const signedNotes = "select string_agg(note, ',' order by id) from app.notes"

// ownRows alternates between the tenants.
func (f *signedFleet) ownRows(db *sql.DB) {
	f.Helper()
	for range 3 {
		for want, ctx := range map[string]context.Context{"A": f.a, "B": f.b} {
			var got string
			require.NoError(f, db.QueryRowContext(ctx, signedNotes).Scan(&got))
			require.Equal(f, want, got)
		}
	}
}

// became runs injected SQL as A and reports whether it saw rows of B.
func (f *signedFleet) became(db *sql.DB) bool {
	f.Helper()
	var got sql.NullString
	err := db.QueryRowContext(f.a, `select string_agg(y.note, ',') from (select set_config('app.current_tenant_id', $1, true) as v offset 0) x
 cross join lateral (select note from app.notes where x.v is not null offset 0) y`, tenantB).Scan(&got)
	require.NoError(f, err)
	return got.String == "B"
}

func TestASignedTenantIsNobodyElseWhateverItsStatementsSet(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1")
	db := f.open("", true)
	f.ownRows(db)
	require.True(t, f.became(db), "programs may sign before policies ask for it, and gain nothing")
	f.apply(policy.Signed)
	f.ownRows(db)
	require.False(t, f.became(db))

	for _, attack := range []string{
		"set app.current_tenant_id = 'globex'", "set session app.current_tenant_id = 'globex'; set shardedpg.ctx = ''", "reset all",
	} {
		_, err := db.ExecContext(f.a, attack)
		require.NoError(t, err)
		f.ownRows(db)
	}
	for _, attack := range []string{
		"select y.note from (select set_config('shardedpg.ctx', 'globex', true) as v offset 0) x cross join lateral (select note from app.notes where x.v is not null offset 0) y",
		"set shardedpg.ctx = 'globex'; select note from app.notes",
	} {
		_, err := db.ExecContext(f.a, attack)
		require.ErrorIs(t, err, shardedpg.ErrPrologue)
		var server *pgconn.PgError
		require.ErrorAs(t, err, &server)
		require.Equal(t, "28000", server.Code)
		require.ErrorContains(t, err, `shardedpg: prologue: tenant "acme" on shard "s1": settings refused by the server: `)
		require.ErrorContains(t, err, "shardedpg rls keys list")
		f.ownRows(db)
	}
	tx, err := db.BeginTx(f.a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(f.a, "savepoint s")
	require.NoError(t, err)
	_, err = tx.ExecContext(f.a, "set local app.current_tenant_id = 'globex'")
	require.NoError(t, err)
	var got string
	require.NoError(t, tx.QueryRowContext(f.a, signedNotes).Scan(&got))
	require.Equal(t, "A", got)
	_, err = tx.ExecContext(f.a, "rollback to s; insert into app.notes (id, note) values (2, 'A2')")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.NoError(t, db.QueryRowContext(f.a, signedNotes).Scan(&got))
	require.Equal(t, "A,A2", got, "a default is the tenant's")
}

// modes are pgx's exec modes, by the name that a DSN has for them.
var modes = []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

func TestSignedTenantsStayApartInEachExecModeAndOutsideTransactions(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1")
	f.apply(policy.Signed)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := f.open(f.server.DSN(f.policy.App, f.database)+" default_query_exec_mode="+mode, true, func(c *shardedpg.Config) { c.Tag = true })
			f.ownRows(db)
			require.False(t, f.became(db))
			conn, err := db.Conn(f.a)
			require.NoError(t, err)
			require.NoError(t, conn.Raw(func(c any) error {
				raw := c.(interface{ Conn() *pgx.Conn }).Conn()
				rows, err := raw.Query(f.a, "select note from app.notes where id = 1")
				require.NoError(t, err)
				notes, err := pgx.CollectRows(rows, pgx.RowTo[string])
				require.Equal(t, []string{"A"}, notes)
				return err
			}))
			require.NoError(t, conn.Close())
			f.ownRows(db)
		})
	}
}

func TestABlockThatCommitsIsTheSignedTenantsOrNobodys(t *testing.T) {
	t.Parallel()
	majors, err := pgtest.Majors(t.Context())
	require.NoError(t, err)
	newest := slices.Max(majors)
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "signed", Major: newest})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	f := newSignedFleetOn(t, server, "1")
	f.apply(policy.Signed)
	db := f.open("", true)
	_, err = db.ExecContext(f.a, `do $$ begin commit; insert into app.notes (id, note) select 3, string_agg(note, '') from app.notes having count(*) > 0; end $$`)
	require.NoError(t, err)
	var got string
	require.NoError(t, db.QueryRowContext(f.a, signedNotes).Scan(&got))
	want := "A,A" // it ran outside a transaction, with a token for the session
	if newest < 18 {
		want = "A" // the settings ended with the first transaction of the block
	}
	require.Equal(t, want, got)
}

func TestSignedTenantsBehindPgBouncer(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1")
	f.apply(policy.Signed)
	for _, mode := range []string{"session", "transaction"} {
		for _, exec := range []string{"exec", "simple_protocol", "cache_describe"} {
			t.Run(mode+" "+exec, func(t *testing.T) {
				t.Parallel()
				bouncer, err := pgtest.StartBouncer(t.Context(), f.server, pgtest.BouncerOptions{Mode: mode, PoolSize: 1})
				require.NoError(t, err)
				t.Cleanup(func() { _ = bouncer.Stop() })
				one := func(c *shardedpg.Config) { c.MaxConns = 1 }
				dsn := bouncer.DSN(f.policy.App, f.database) + " default_query_exec_mode=" + exec
				db := f.open(dsn, true, one)
				f.ownRows(db)
				require.False(t, f.became(db))
				var token string
				require.NoError(t, db.QueryRowContext(f.a, "select current_setting('shardedpg.ctx')").Scan(&token))
				require.Contains(t, token, ":1:0:", "the pid of the server process is not known here")
				if mode == "transaction" {
					f.ownRows(f.open(dsn, true, one))
					f.ownRows(db)
				}
			})
		}
	}
}

func TestProgramsAndDatabasesThatDoNotAgreeOnSignaturesAreTold(t *testing.T) {
	t.Parallel()
	refuses := func(f *signedFleet, db *sql.DB, says ...string) {
		f.Helper()
		for range 4 { // beyond what would trip the breaker of a shard that is down
			_, err := db.ExecContext(f.a, signedNotes)
			require.ErrorIs(f, err, shardedpg.ErrPrologue)
			require.NotErrorIs(f, err, shardedpg.ErrShardUnavailable)
			require.NotContains(f, err.Error(), "attempts to connect failed", "the shard is not down")
			for _, text := range says {
				require.ErrorContains(f, err, text)
			}
		}
	}
	f := newSignedFleet(t, "1")
	old := f.open("", false)
	f.ownRows(old)
	f.apply(policy.Signed)
	_, err := old.ExecContext(f.a, signedNotes)
	require.ErrorIs(t, err, shardedpg.ErrPrologue, "a connection of before")
	require.ErrorContains(t, err, "open the registry with sharded_identity=signed", "the statement has been tried again on a new one")
	refuses(f, f.open("", false), `tenant "acme" on shard "s1"`, "open the registry with sharded_identity=signed")

	f.write("2")
	refuses(f, f.open("", true), "the shard has none of the keys of the key file (2), but 1", "run shardedpg rls keys install")
	f.write("1")
	require.NoError(t, f.server.Exec(t.Context(), f.database, "update shardedpg.ctx_key set ipad = opad"))
	refuses(f, f.open("", true), "the shard has none of the keys of the key file (1), but 1")

	other := newSignedFleet(t, "1")
	other.apply(policy.Plain)
	require.NoError(t, other.server.Exec(t.Context(), other.database, "drop function shardedpg.identity_keys()"))
	refuses(other, other.open("", true), "it cannot verify any", "run shardedpg rls keys install")
	other.ownRows(other.open("", false))
}

func TestKeysChangeUnderLoadAndNoStatementFails(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1")
	f.apply(policy.Signed)
	db := f.open("", true, func(c *shardedpg.Config) { c.MaxConns = 8 })
	var statements, transactions atomic.Int64
	kids := sync.Map{}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 8 {
		ctx, want := f.a, "A"
		if i%2 == 1 {
			ctx, want = f.b, "B"
		}
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var got, kid string
				err := db.QueryRowContext(ctx, "select string_agg(note, ','), split_part(current_setting('shardedpg.ctx'), ':', 2) from app.notes").Scan(&got, &kid)
				if err != nil || got != want {
					t.Errorf("got %q, want %q: %v", got, want, err)
					return
				}
				kids.Store(kid, time.Now())
				statements.Add(1)
				tx, err := db.BeginTx(ctx, nil)
				if err == nil {
					for range 3 {
						if _, err = tx.ExecContext(ctx, "update app.notes set note = note"); err != nil {
							break
						}
					}
					if err == nil {
						err = tx.Commit()
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				transactions.Add(1)
			}
		})
	}
	until := func(what string, condition func() bool) {
		t.Helper()
		require.Eventually(t, condition, 30*time.Second, time.Millisecond, what)
	}
	some := func() {
		t.Helper()
		from := statements.Load()
		until("statements", func() bool { return statements.Load() > from+50 || t.Failed() })
	}
	lastOf := func(kid string) time.Time {
		at, _ := kids.Load(kid)
		last, _ := at.(time.Time)
		return last
	}
	some()
	f.write("1", "2") // generate
	some()
	f.install("s1")
	some()
	f.write("2") // forget
	until("the new key signs alone", func() bool {
		return t.Failed() || lastOf("2").Sub(lastOf("1")) > 500*time.Millisecond
	})
	f.remove("1") // retire
	some()
	close(stop)
	load.Wait()
	t.Logf("%d statements and %d transactions", statements.Load(), transactions.Load())
}

func TestAStatementIsTriedAgainWithAnotherKeyWhenItsOwnIsTaken(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1")
	f.apply(policy.Signed)
	f.write("1", "2")
	db := f.open("", true)
	f.ownRows(db) // on connections that sign with 1, because 2 is not here yet
	f.install("s1")
	f.remove("1")
	f.ownRows(db)
	tx, err := db.BeginTx(f.a, nil)
	require.NoError(t, err)
	var got string
	require.NoError(t, tx.QueryRowContext(f.a, signedNotes).Scan(&got))
	require.NoError(t, tx.Commit())
}

func TestATransactionThatHasBegunFailsWhenItsKeyIsTaken(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1", "2")
	f.apply(policy.Signed)
	db := f.open("", true)
	tx, err := db.BeginTx(f.a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(f.a, "insert into app.notes values ('acme', 5, 'x')")
	require.NoError(t, err)
	f.remove("2")
	_, err = tx.ExecContext(f.a, signedNotes)
	require.ErrorIs(t, err, shardedpg.ErrPrologue)
	require.ErrorContains(t, err, "a key that is not here")
	require.NoError(t, tx.Rollback())
	_, err = db.ExecContext(f.a, "select 1; select note from app.notes") // which would not be tried again
	require.NoError(t, err, "the connection is not used again")
}

func TestASignedConfigurationIsWholeAndItsFileIsReadWhenItChanges(t *testing.T) {
	t.Parallel()
	cfg, err := shardedpg.ParseDSN("postgres://x@h/d?sharded_identity=signed&sharded_key_file=/run/keys")
	require.NoError(t, err)
	require.True(t, cfg.Signed)
	require.Equal(t, "/run/keys", cfg.KeyFile)
	_, err = shardedpg.ParseDSN("postgres://x@h/d?sharded_identity=yes")
	require.ErrorContains(t, err, "is not plain or signed")
	store, err := registry.NewStatic(registry.Fleet{})
	require.NoError(t, err)
	for says, c := range map[string]shardedpg.Config{
		"set both":     {Store: store, Signed: true},
		"or neither":   {Store: store, KeyFile: "x"},
		"no such file": {Store: store, Signed: true, KeyFile: filepath.Join(t.TempDir(), "none")},
	} {
		_, err := shardedpg.NewConnector(c)
		require.ErrorContains(t, err, says)
	}
}

func TestAHardenedSignedDatabaseServesTheDriver(t *testing.T) {
	t.Parallel()
	f := newSignedFleet(t, "1")
	f.apply(policy.Signed)
	hardened, err := policy.Harden(t.Context(), f.admin, f.policy, false, nil)
	require.NoError(t, err)
	require.NotZero(t, hardened.Record)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			db := f.open(f.server.DSN(f.policy.App, f.database)+" default_query_exec_mode="+mode, true, func(c *shardedpg.Config) { c.Tag = true })
			f.ownRows(db)
			require.False(t, f.became(db))
			for _, left := range []string{"set row_security = off", "select set_config('statement_timeout', '1ms', false)", "listen x"} {
				_, err := db.ExecContext(f.a, left)
				require.NoError(t, err)
				f.ownRows(db) // on connections that were reset
			}
			tx, err := db.BeginTx(f.b, &sql.TxOptions{Isolation: sql.LevelSerializable})
			require.NoError(t, err)
			_, err = tx.ExecContext(f.b, "savepoint s; set local work_mem = '1MB'; insert into app.notes (id, note) values (2, 'B2'); rollback to s")
			require.NoError(t, err)
			var got string
			require.NoError(t, tx.QueryRowContext(f.b, signedNotes).Scan(&got))
			require.Equal(t, "B", got)
			require.NoError(t, tx.Commit())
			for _, attack := range []string{"select pg_advisory_lock(1)", "do $$ begin end $$", "select count(*) from pg_stat_activity", "create temporary table notes (id int)"} {
				_, err := db.ExecContext(f.a, attack)
				require.ErrorContains(t, err, "42501", attack)
			}
		})
	}
}
