package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

const ledgerSQL = `
create role app login;
create table ledger (tenant_id text not null default current_setting('app.current_tenant_id'), token int not null);
alter table ledger enable row level security;
alter table ledger force row level security;
create policy tenant on ledger using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
grant select, insert on ledger to app;`

const failoverTenants = 8

// pair is a shard of two servers: each commit of the primary waits until the standby has it.
type pair struct {
	*testing.T
	primary, standby *pgtest.Server
	connector        *shardedpg.Connector
	db               *sql.DB
}

// newPair starts both. front, if not nil, is what the driver reaches the primary by.
func newPair(t *testing.T, front func(primary *pgtest.Server) pgtest.Upstream) *pair {
	t.Helper()
	ctx := t.Context()
	primary, err := pgtest.Start(ctx, pgtest.Options{Name: "primary", Settings: map[string]string{
		"synchronous_commit": "on", "cluster_name": "first",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = primary.Stop() })
	require.NoError(t, primary.Exec(ctx, "postgres", ledgerSQL))
	standby, err := pgtest.StartStandby(ctx, primary, pgtest.Options{Name: "standby", Settings: map[string]string{"cluster_name": "second"}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = standby.Stop() })
	require.NoError(t, primary.Exec(ctx, "postgres", "alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"))
	p := &pair{T: t, primary: primary, standby: standby}
	p.await(primary, "select exists (select from pg_stat_replication where sync_state = 'sync')")

	at := []pgtest.Upstream{primary, standby}
	if front != nil {
		at[0] = front(primary)
	}
	fleet := registry.Fleet{
		Shards: []registry.Shard{{Name: "s1", DSN: pgtest.HostsDSN("app", "postgres", at...) + " target_session_attrs=read-write"}},
		Plans:  []registry.Plan{{Name: "p", StatementTimeout: 10 * time.Second, WorkMemKB: 4 << 10, MaxConns: 4, Weight: 1}},
	}
	for n := range failoverTenants {
		fleet.Tenants = append(fleet.Tenants, registry.Tenant{ID: fmt.Sprintf("t%d", n), Shard: "s1", Plan: "p"})
	}
	store, err := registry.NewStatic(fleet)
	require.NoError(t, err)
	p.connector, err = shardedpg.NewConnector(shardedpg.Config{Store: store, MaxConns: failoverTenants, TenantShare: 1})
	require.NoError(t, err)
	p.db = sql.OpenDB(p.connector)
	t.Cleanup(func() { _ = p.db.Close() })
	return p
}

// await polls until the superuser's query on a server returns true.
func (p *pair) await(server *pgtest.Server, query string) {
	p.Helper()
	conn, err := pgx.Connect(p.Context(), server.DSN("postgres", "postgres"))
	require.NoError(p, err)
	defer conn.Close(context.Background())
	require.Eventually(p, func() bool {
		var done bool
		require.NoError(p, conn.QueryRow(p.Context(), query).Scan(&done))
		return done
	}, 30*time.Second, 2*time.Millisecond, query)
}

func (p *pair) promote() {
	require.NoError(p, p.standby.Exec(p.Context(), "postgres", "select pg_promote()"))
}

// at returns the server that a tenant's statements run on now.
func (p *pair) at(ctx context.Context, n int) (name string, err error) {
	err = p.db.QueryRowContext(shardedpg.WithTenant(ctx, fmt.Sprintf("t%d", n)), "select current_setting('cluster_name')").Scan(&name)
	return name, err
}

// writers write to the ledger in the name of all tenants, each row once, and note what they were told of it.
type writers struct {
	*pair
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	acked  []map[int]bool // of each tenant, by token
	denied []map[int]bool // the error says that nothing was sent
	unsure []map[int]bool
	kinds  map[string]error // one error of each kind
}

func (p *pair) write() *writers {
	w := &writers{pair: p, stop: make(chan struct{}), kinds: make(map[string]error)}
	for n := range failoverTenants {
		w.acked, w.denied, w.unsure = append(w.acked, map[int]bool{}), append(w.denied, map[int]bool{}), append(w.unsure, map[int]bool{})
		w.wg.Go(func() { w.one(n) })
	}
	p.Cleanup(w.end)
	return w
}

func (w *writers) end() {
	w.mu.Lock()
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.mu.Unlock()
	w.wg.Wait()
}

func (w *writers) one(n int) {
	ctx := shardedpg.WithTenant(w.Context(), fmt.Sprintf("t%d", n))
	for token := 0; ; token++ {
		select {
		case <-w.stop:
			return
		default:
		}
		in, err := "a statement", error(nil)
		if token%3 > 0 {
			_, err = w.db.ExecContext(ctx, "insert into ledger (token) values ($1)", token)
		} else {
			in, err = "a transaction", w.transaction(ctx, token)
		}
		w.mu.Lock()
		switch {
		case err == nil:
			w.acked[n][token] = true
		case pgconn.SafeToRetry(err):
			w.denied[n][token] = true
		default:
			w.unsure[n][token] = true
		}
		if err != nil {
			w.kinds[in+": "+kindOf(err)] = err
		}
		w.mu.Unlock()
	}
}

func (w *writers) transaction(ctx context.Context, token int) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var rows int
	if err := tx.QueryRowContext(ctx, "select count(*) from ledger where token = $1", token).Scan(&rows); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "insert into ledger (token) values ($1)", token); err != nil {
		return err
	}
	return tx.Commit()
}

// kindOf is what a program can tell an error by.
func kindOf(err error) string {
	var own *shardedpg.Error
	switch {
	case errors.As(err, &own) && errors.Is(err, shardedpg.ErrShardUnavailable) && own.SafeToRetry():
		return "ErrShardUnavailable, not sent"
	case errors.As(err, &own) && errors.Is(err, shardedpg.ErrShardUnavailable):
		return "ErrShardUnavailable, unsure"
	case errCode(err) != "":
		return "SQLSTATE " + errCode(err)
	}
	return fmt.Sprintf("%T: %v", err, err)
}

// go on until each tenant has written that many rows more.
func (w *writers) more(rows int) {
	w.Helper()
	want := make([]int, failoverTenants)
	for n := range want {
		want[n] = w.count(n) + rows
	}
	require.Eventually(w, func() bool {
		for n := range want {
			if w.count(n) < want[n] {
				return false
			}
		}
		return true
	}, 60*time.Second, 5*time.Millisecond)
}

func (w *writers) count(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked[n])
}

// settle ends the writing and compares what was told with what the server has.
func (w *writers) settle(server *pgtest.Server) {
	w.Helper()
	w.end()
	conn, err := pgx.Connect(w.Context(), server.DSN("postgres", "postgres"))
	require.NoError(w, err)
	defer conn.Close(context.Background())
	var acked, denied, unsure, applied int
	for n := range failoverTenants {
		rows, err := conn.Query(w.Context(), "select token, count(*) from ledger where tenant_id = $1 group by token", fmt.Sprintf("t%d", n))
		require.NoError(w, err)
		there := make(map[int]int)
		var token, count int
		_, err = pgx.ForEachRow(rows, []any{&token, &count}, func() error { there[token] = count; return nil })
		require.NoError(w, err)
		for token := range w.acked[n] {
			require.Equal(w, 1, there[token], "tenant t%d was told that %d is written", n, token)
		}
		for token := range w.denied[n] {
			require.Zero(w, there[token], "tenant t%d was told that %d was not sent", n, token)
		}
		for token := range w.unsure[n] {
			require.LessOrEqual(w, there[token], 1, "tenant t%d, %d", n, token)
			applied += there[token]
		}
		acked, denied, unsure = acked+len(w.acked[n]), denied+len(w.denied[n]), unsure+len(w.unsure[n])
	}
	w.Logf("%d rows acknowledged, %d known not to have been sent, %d unsure of which %d are there", acked, denied, unsure, applied)
	for kind, err := range w.kinds {
		w.Logf("%s: %v", kind, err)
	}
}

// requireKinds checks that callers saw errors of no other kinds.
func (w *writers) requireKinds(kinds ...string) {
	w.Helper()
	for kind, err := range w.kinds {
		_, what, _ := strings.Cut(kind, ": ")
		require.Contains(w, kinds, what, "%s: %v", kind, err)
	}
}

func TestAStandbyTakesOverFromAPrimaryThatEnds(t *testing.T) {
	t.Parallel()
	for how, end := range map[string]func(*pgtest.Server) error{
		"killed": (*pgtest.Server).Kill, "shut down": (*pgtest.Server).StopKeep,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, nil)
			w := p.write()
			w.more(30)
			require.NoError(t, end(p.primary))
			require.Eventually(t, func() bool { return p.connector.Stats().Shards[0].Backends.Down }, 20*time.Second, time.Millisecond)
			_, err := p.at(t.Context(), 0)
			require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
			require.ErrorContains(t, err, "read only connection", "what the other host said is there as well")
			p.promote()
			w.more(30)
			name, err := p.at(t.Context(), 0)
			require.NoError(t, err)
			require.Equal(t, "second", name)
			w.settle(p.standby)
			// A session that has the time says goodbye, also when its server was killed.
			w.requireKinds("ErrShardUnavailable, not sent", "ErrShardUnavailable, unsure", "SQLSTATE 57P01")
		})
	}
}

// Where nothing ends the sessions on the old primary, they would go on to read rows that change elsewhere.
func TestAPrimaryThatIsMadeReadOnlyIsLeft(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	w := p.write()
	w.more(30)
	require.NoError(t, p.primary.Exec(t.Context(), "postgres", "alter system set default_transaction_read_only = on", "select pg_reload_conf()"))
	require.Eventually(t, func() bool { return p.connector.Stats().Shards[0].Backends.Down }, 20*time.Second, time.Millisecond)
	p.await(p.primary, "select not exists (select from pg_stat_activity where usename = 'app')")
	p.await(p.primary, "select replay_lsn = pg_current_wal_lsn() from pg_stat_replication")
	p.promote()
	w.more(30)
	for n := range failoverTenants {
		name, err := p.at(t.Context(), n)
		require.NoError(t, err)
		require.Equal(t, "second", name)
	}
	w.settle(p.standby)
	w.requireKinds("ErrShardUnavailable, not sent", "SQLSTATE 25006")
	for kind := range w.kinds {
		require.NotEqual(t, "a statement: SQLSTATE 25006", kind, "outside transactions it is run again")
	}
}

func TestOneStatementThatNoticesTakesAllAway(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{
		"a write": "insert into ledger (token) values (1)",
		"a read":  "select count(*) from ledger", // PostgreSQL says it with the answer
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, nil)
			var conns []*sql.Conn
			for n := range failoverTenants {
				ctx := shardedpg.WithTenant(t.Context(), fmt.Sprintf("t%d", n))
				conn, err := p.db.Conn(ctx)
				require.NoError(t, err)
				require.NoError(t, conn.PingContext(ctx))
				conns = append(conns, conn)
			}
			for _, conn := range conns {
				require.NoError(t, conn.Close())
			}
			require.NoError(t, p.primary.Exec(t.Context(), "postgres", "alter system set default_transaction_read_only = on", "select pg_reload_conf()"))
			require.Eventually(t, func() bool { // a reload takes a moment
				_, _ = p.db.ExecContext(shardedpg.WithTenant(t.Context(), "t0"), query)
				return p.connector.Stats().Shards[0].Backends.Drops > 0
			}, 20*time.Second, time.Millisecond)
			p.await(p.primary, "select not exists (select from pg_stat_activity where usename = 'app')")
			p.promote()
			require.Eventually(t, func() bool {
				name, err := p.at(t.Context(), 1)
				return err == nil && name == "second"
			}, 20*time.Second, time.Millisecond)
		})
	}
}

// newProxiedPair puts a proxy in front of the first primary.
func newProxiedPair(t *testing.T) (p *pair, proxy *pgtest.Proxy) {
	t.Helper()
	p = newPair(t, func(primary *pgtest.Server) pgtest.Upstream {
		var err error
		proxy, err = pgtest.StartProxy(t.Context(), primary)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
		return proxy
	})
	return p, proxy
}

func TestAStatementWhoseAnswerIsLostIsNotRunAgain(t *testing.T) {
	t.Parallel()
	p, proxy := newProxiedPair(t)
	_, err := p.at(t.Context(), 0)
	require.NoError(t, err)
	proxy.SetDelay(2 * time.Second) // the answer is still on its way when the row is there
	failed := make(chan error)
	go func() {
		_, err := p.db.ExecContext(shardedpg.WithTenant(t.Context(), "t0"), "insert into ledger (token) values (1)")
		failed <- err
	}()
	p.await(p.standby, "select exists (select from ledger)")
	proxy.Refuse(true)
	proxy.Cut()
	p.promote()
	err = <-failed
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.ErrorContains(t, err, "it may have taken effect")
	require.False(t, pgconn.SafeToRetry(err))
	require.Eventually(t, func() bool { _, err := p.at(t.Context(), 0); return err == nil }, 20*time.Second, time.Millisecond)
	require.Equal(t, 1, value[int](t, shardedpg.WithTenant(t.Context(), "t0"), p.db, "select count(*) from ledger"))
}

// The first host is there and does not answer, as one that has lost its network; callers wait for less than a host may take.
func TestAStandbyTakesOverFromAPrimaryThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	p, proxy := newProxiedPair(t)
	read := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return p.at(ctx, 0)
	}
	require.Eventually(t, func() bool { _, err := read(); return err == nil }, 20*time.Second, time.Millisecond)
	proxy.Stall(true)
	p.promote()
	require.Eventually(t, func() bool {
		name, err := read()
		return err == nil && name == "second"
	}, 30*time.Second, time.Millisecond)

	require.NoError(t, p.standby.Exec(t.Context(), "postgres", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"))
	before := proxy.Accepted()
	for n := range failoverTenants { // new connections begin with the host that took the last one
		_, err := p.at(t.Context(), n)
		require.NoError(t, err)
	}
	require.Equal(t, before, proxy.Accepted())
}

// named is a shard whose name stands for several addresses.
type named struct {
	*testing.T
	db     *sql.DB
	admin  *sql.DB // its DSN leads to silent
	server *pgtest.Server
	silent net.Listener // takes connections and says nothing

	mu       sync.Mutex
	known    []string      // what the name stands for
	resolver *net.Resolver // asked instead, if there is one
	tried    []string      // where connections were begun
}

func newNamed(t *testing.T, host string, limit time.Duration) *named {
	t.Helper()
	n := &named{T: t}
	var err error
	n.server, err = pgtest.Start(t.Context(), pgtest.Options{Name: "named", TCP: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.server.Stop() })
	require.NoError(t, n.server.Exec(t.Context(), "postgres", ledgerSQL))
	_, port, err := net.SplitHostPort(n.server.Addr())
	require.NoError(t, err)
	if n.silent, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.2:"+port); err != nil { // macOS has one such address
		n.silent, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.silent.Close() })
	n.stands(n.silent.Addr().String(), n.server.Addr())
	at, to, err := net.SplitHostPort(n.silent.Addr().String())
	require.NoError(t, err)
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{
			Name: "s1", DSN: "host=" + host + " port=" + port + " user=app dbname=postgres sslmode=disable",
			AdminDSN: "host=" + at + " port=" + to + " user=postgres dbname=postgres sslmode=disable",
		}},
		Plans:   []registry.Plan{{Name: "p", StatementTimeout: 10 * time.Second, WorkMemKB: 4 << 10, MaxConns: 4, Weight: 1}},
		Tenants: []registry.Tenant{{ID: "t0", Shard: "s1", Plan: "p"}},
	})
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{
		Store: store, MaxConns: 4, TenantShare: 1, ConnectTimeout: limit, ConfigureConn: func(_ string, cc *pgx.ConnConfig) error {
			cc.LookupFunc = func(ctx context.Context, name string) ([]string, error) {
				n.mu.Lock()
				known, resolver := n.known, n.resolver
				n.mu.Unlock()
				if resolver != nil {
					return resolver.LookupHost(ctx, name)
				}
				if name == "stuck.internal" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return known, nil
			}
			dial := cc.DialFunc
			cc.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
				n.mu.Lock()
				n.tried = append(n.tried, address)
				n.mu.Unlock()
				return dial(ctx, network, address)
			}
			return nil
		},
	})
	require.NoError(t, err)
	n.db = sql.OpenDB(connector)
	t.Cleanup(func() { _ = n.db.Close() })
	n.admin, err = connector.ShardDB("s1", "test")
	require.NoError(t, err)
	return n
}

// stands says what the name stands for from now on, without the port where it is the shard's.
func (n *named) stands(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known, n.tried = nil, nil
	for _, address := range addresses {
		if host, port, _ := strings.Cut(address, ":"); strings.HasSuffix(n.server.Addr(), ":"+port) {
			address = host
		}
		n.known = append(n.known, address)
	}
}

func (n *named) ping(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(shardedpg.WithTenant(n.Context(), "t0"), limit)
	defer cancel()
	return n.db.PingContext(ctx)
}

// begun returns where connections were begun since it was called last.
func (n *named) begun() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	tried := n.tried
	n.tried = nil
	return tried
}

// again ends the sessions, so that a new one is begun.
func (n *named) again() {
	n.Helper()
	require.NoError(n, n.server.Exec(n.Context(), "postgres", "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = 'app'"))
	n.begun()
	require.NoError(n, n.ping(10*time.Second))
}

func TestASilentAddressOfAShardHasItsPartOfTheTime(t *testing.T) {
	t.Parallel()
	n := newNamed(t, "shard.internal", 3*time.Second)
	silent, server := n.silent.Addr().String(), n.server.Addr()
	require.NoError(t, n.ping(10*time.Second), "by a caller who waits")
	require.Equal(t, []string{silent, server}, n.begun())
	n.again()
	require.Equal(t, []string{server}, n.begun(), "which begins with the address that took the last one")

	n.stands(silent, "127.0.0.1:1")
	require.NoError(t, n.server.Stop())
	var err error
	require.Eventually(t, func() bool {
		err = n.ping(10 * time.Second)
		return errors.Is(err, shardedpg.ErrShardUnavailable)
	}, 20*time.Second, time.Millisecond)
	require.ErrorContains(t, err, silent+" (shard.internal): failed to receive message: timeout")
	require.ErrorContains(t, err, "127.0.0.1:1 (shard.internal): dial error")
	require.ErrorContains(t, err, `shard "s1"`)
}

// None of the callers waits for as long as an address may take.
func TestASilentAddressOfAShardIsPassedByCallersInAHurry(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"shard.internal", "stuck.internal,shard.internal"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			n := newNamed(t, host, 4*time.Second)
			require.Eventually(t, func() bool { return n.ping(300*time.Millisecond) == nil }, 30*time.Second, time.Millisecond)
			n.again()
			require.NotContains(t, n.begun(), n.silent.Addr().String())
		})
	}
}

func TestAResolverThatHangsIsSaidToBeWhatHangs(t *testing.T) {
	t.Parallel()
	n := newNamed(t, "shard.internal", time.Second)
	n.stands(n.server.Addr())
	hole, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hole.Close() })
	ask := func(resolver *net.Resolver) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.resolver = resolver
	}
	ask(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", hole.LocalAddr().String())
	}})
	begun := time.Now()
	err = n.ping(time.Minute)
	require.Less(t, time.Since(begun), 30*time.Second, "the time to connect is for this as well")
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	const says = `shard "s1": shard unavailable: .*lookup shard\.internal.*: i/o timeout; check that .* its DSN has the right host name`
	require.Regexp(t, says, err.Error())
	require.Eventually(t, func() bool { // by callers who do not wait for as long
		err = n.ping(50 * time.Millisecond)
		return err != nil && strings.Contains(err.Error(), "attempts to connect failed")
	}, 20*time.Second, time.Millisecond)
	require.Regexp(t, says, err.Error())
	ask(nil)
	require.Eventually(t, func() bool { return n.ping(time.Second) == nil }, 20*time.Second, time.Millisecond)
}

func TestWorkOfNoTenantDoesNotWaitForASilentShardForever(t *testing.T) {
	t.Parallel()
	n := newNamed(t, "shard.internal", time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.Error(t, n.admin.PingContext(ctx))
	require.NoError(t, ctx.Err(), "the time to connect has ended it")
}

func TestATenantsOwnReadOnlyTransactionsMoveNobody(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]func(f *fleet) error{
		"a transaction": func(f *fleet) error {
			tx, err := f.db.BeginTx(f.a, &sql.TxOptions{ReadOnly: true})
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback()) }()
			_, err = tx.ExecContext(f.a, "insert into orders (note) values ('no')")
			return err
		},
		"a session": func(f *fleet) error {
			conn := f.conn(f.a)
			defer func() { require.NoError(t, conn.Close()) }()
			f.exec(f.a, conn, "set default_transaction_read_only = on")
			_, err := conn.ExecContext(f.a, "insert into orders (note) values ('no')")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 2 }})
			one, two := f.conn(f.a), f.conn(f.b)
			f.pid(f.a, one)
			pid := f.pid(f.b, two)
			require.NoError(t, errors.Join(one.Close(), two.Close()))
			requireCode(t, refused(f), "25006")
			f.requireNoSlotInUse()
			require.Equal(t, pid, f.pid(f.b, f.db), "the idle connection that has served another tenant is still there")
			f.requireOwnRows()
		})
	}
}
