package hosts_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

// names is what a resolver knows.
type names map[string][]string

func (n names) lookup(_ context.Context, name string) ([]string, error) {
	if found, ok := n[name]; ok {
		return found, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func TestEachAddressOfANameHasItsPartOfTheTime(t *testing.T) {
	t.Parallel()
	known := names{
		"one": {"::1"}, "two": {"::1", "127.0.0.1"}, "also": {"127.0.0.1"}, "ports": {"127.0.0.1:1", "127.0.0.1:2"},
		"many": slices.Collect(func(yield func(string) bool) {
			for i := byte(1); i <= 50 && yield(net.IPv4(127, 0, 0, i).String()); i++ {
			}
		}),
	}
	const all = 10 * time.Second
	for dsn, want := range map[string]struct {
		addresses    int
		each, others time.Duration
	}{
		"host=one":                                {1, 0, 0},
		"host=two":                                {2, all / 2, all / 2},
		"host=two sslmode=prefer":                 {2, all / 2, all / 2},
		"host=ports":                              {2, all / 2, all / 2},
		"host=two connect_timeout=3":              {2, 3 * time.Second, 3 * time.Second},
		"host=two connect_timeout=60":             {2, all / 2, all / 2},
		"host=many":                               {50, all / 5, all}, // there is no time for all, and one that answers needs some
		"host=two,one port=1,2":                   {3, hosts.Patience, 2 * hosts.Patience},
		"host=two,two,two port=1,2,3":             {6, hosts.Patience, all},
		"host=also,two":                           {2, hosts.Patience, hosts.Patience}, // they have an address in common
		"host=one,nowhere":                        {1, 0, 0},
		"host=nowhere":                            {0, 0, 0},
		"host=/tmp,two":                           {3, hosts.Patience, 2 * hosts.Patience},
		"host=one,/tmp,nowhere connect_timeout=1": {2, time.Second, time.Second},
	} {
		cc := parse(t, dsn)
		cc.LookupFunc = known.lookup
		addresses, others := new(hosts.Memory).Share(t.Context(), cc, all)
		require.Equal(t, want.addresses, addresses, dsn)
		require.Equal(t, want.each, cc.ConnectTimeout, dsn)
		require.Equal(t, want.others, others, dsn)
	}
}

// What a lookup has taken is not there for connecting.
func TestTheTimeThatIsLeftIsDivided(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		cc := parse(t, "host=two")
		cc.LookupFunc = func(ctx context.Context, name string) ([]string, error) {
			time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble
			return []string{"::1", "127.0.0.1"}, nil
		}
		new(hosts.Memory).Share(ctx, cc, hosts.Limit)
		require.Equal(t, time.Second, cc.ConnectTimeout)
	})
}

// order is what pgx will try.
func order(t *testing.T, cc *pgconn.Config) (tried []string) {
	t.Helper()
	for _, h := range append([]*pgconn.FallbackConfig{{Host: cc.Host, Port: cc.Port}}, cc.Fallbacks...) {
		found, err := cc.LookupFunc(t.Context(), h.Host)
		require.NoError(t, err)
		require.Len(t, found, 1)
		tried = append(tried, h.Host+" "+found[0])
	}
	return tried
}

// at is a connection to an address.
type at struct {
	net.Conn
	address string
}

func (a at) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.address), Port: 5432} }

// took is told when the connection is there.
func took(t *testing.T, cc *pgconn.Config, address string) {
	t.Helper()
	conn, err := pgconn.Construct(&pgconn.HijackedConn{Conn: at{address: address}, Config: cc})
	require.NoError(t, err)
	require.NoError(t, cc.AfterConnect(t.Context(), conn))
}

func TestWhichAddressIsTriedFirst(t *testing.T) {
	t.Parallel()
	const (
		a1, a2, a3 = "10.0.0.1", "10.0.0.2", "10.0.0.3"
		b1, b2     = "10.0.1.1", "10.0.1.2"
	)
	for name, c := range map[string]struct {
		dsn    string
		before names // when the last connection was made
		took   string
		later  time.Duration
		after  names
		want   []string
	}{
		"what is tried twice is tried at one address first": {
			dsn: "host=a sslmode=allow", after: names{"a": {a1, a2}}, want: []string{"a " + a1, "a " + a1, "a " + a2, "a " + a2},
		},
		"the one that came behind another": {
			dsn: "host=a", before: names{"a": {a1, a2, a3}}, took: a2, after: names{"a": {a1, a2, a3}},
			want: []string{"a " + a2, "a " + a1, "a " + a3},
		},
		"for a minute": {
			dsn: "host=a", before: names{"a": {a1, a2}}, took: a2, later: 61 * time.Second, after: names{"a": {a1, a2}},
			want: []string{"a " + a1, "a " + a2},
		},
		"not what nothing speaks against the others of": {
			dsn: "host=a", before: names{"a": {a1, a2}}, took: a1, after: names{"a": {a2, a1}}, want: []string{"a " + a2, "a " + a1},
		},
		"but the one that takes writes, for as long as it does": {
			dsn: "host=a target_session_attrs=read-write", before: names{"a": {a1, a2}}, took: a1, later: time.Hour,
			after: names{"a": {a2, a1}}, want: []string{"a " + a1, "a " + a2},
		},
		"an address that the name no longer has is not tried": {
			dsn: "host=a", before: names{"a": {a1, a2}}, took: a2, after: names{"a": {a3, a1}}, want: []string{"a " + a3, "a " + a1},
		},
		"among the hosts the order stays": {
			dsn: "host=a,b", before: names{"a": {a1}, "b": {b1, b2}}, took: b2, after: names{"a": {a1}, "b": {b1, b2}},
			want: []string{"a " + a1, "b " + b2, "b " + b1},
		},
		"but for the one that takes writes": {
			dsn: "host=a,b target_session_attrs=primary", before: names{"a": {a1}, "b": {b1, b2}}, took: b2, after: names{"a": {a1}, "b": {b1, b2}},
			want: []string{"b " + b2, "b " + b1, "a " + a1},
		},
		"also when it has moved": {
			dsn: "host=a,b target_session_attrs=primary", before: names{"a": {a1}, "b": {b1}}, took: b1, after: names{"a": {a1}, "b": {b2}},
			want: []string{"b " + b2, "a " + a1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := new(hosts.Memory)
				if c.took != "" {
					cc := parse(t, "sslmode=disable "+c.dsn)
					cc.LookupFunc = c.before.lookup
					m.Share(t.Context(), cc, hosts.Limit)
					took(t, cc, c.took)
				}
				time.Sleep(c.later) //nolint:forbidigo // in a synctest bubble
				cc := parse(t, "sslmode=disable "+c.dsn)
				cc.LookupFunc = c.after.lookup
				m.Share(t.Context(), cc, hosts.Limit)
				require.Equal(t, c.want, order(t, cc))
			})
		})
	}
}

// silent is an address that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

func start(t *testing.T, o pgtest.Options) *pgtest.Server {
	t.Helper()
	o.TCP = true
	server, err := pgtest.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	return server
}

// dialer makes connections to what one name stands for, and keeps where it went.
type dialer struct {
	*testing.T
	hosts.Memory
	dsn   string
	known names
	limit time.Duration
	roots *x509.CertPool
	at    []string
}

func (d *dialer) connect() (*pgconn.PgConn, error) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), d.limit)
	defer cancel()
	cc := parse(d.T, "user=postgres dbname=postgres "+d.dsn)
	if cc.TLSConfig != nil {
		cc.TLSConfig.RootCAs = d.roots
	}
	cc.LookupFunc = d.known.lookup
	dial := cc.DialFunc
	d.at = nil
	cc.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		d.at = append(d.at, address)
		return dial(ctx, network, address)
	}
	d.Share(ctx, cc, d.limit)
	conn, err := pgconn.ConnectConfig(ctx, cc)
	if err == nil {
		d.Cleanup(func() { _ = conn.Close(context.WithoutCancel(d.Context())) })
	}
	return conn, err
}

func TestASilentAddressLeavesTimeForTheNext(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{Name: "second address"})
	for _, sslmode := range []string{"disable", "allow", "prefer"} {
		t.Run(sslmode, func(t *testing.T) {
			t.Parallel()
			first := silent(t)
			d := &dialer{T: t, dsn: "host=db sslmode=" + sslmode, known: names{"db": {first, server.Addr()}}, limit: 2 * time.Second}
			_, err := d.connect()
			require.NoError(t, err)
			require.Equal(t, first, d.at[0])
			_, err = d.connect()
			require.NoError(t, err)
			require.NotContains(t, d.at, first, "the next connection begins with the one that answered")

			d.known["db"] = []string{server.Addr()}
			_, err = d.connect()
			require.NoError(t, err)
			d.known["db"] = []string{first, silent(t)}
			_, err = d.connect()
			require.Error(t, err)
			for _, address := range d.known["db"] {
				require.Regexp(t, regexp.QuoteMeta(address)+` \(db\): [a-z ]+: timeout`, err.Error(), "what each said is there")
			}
		})
	}
}

func TestAConnectionOfItsOwnIsMadePastASilentAddress(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{Name: "one connection"})
	cfg, err := pgx.ParseConfig("user=postgres dbname=postgres sslmode=disable host=db")
	require.NoError(t, err)
	cfg.LookupFunc = names{"db": {silent(t), server.Addr()}}.lookup
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	conn, err := hosts.Connect(ctx, cfg)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.Empty(t, cfg.Fallbacks, "it is the caller's")
}

func TestAnAddressThatTakesNoWritesIsPassedOver(t *testing.T) {
	t.Parallel()
	standby := start(t, pgtest.Options{Name: "standby", Settings: map[string]string{"default_transaction_read_only": "on"}})
	primary := start(t, pgtest.Options{Name: "primary"})
	d := &dialer{
		T: t, dsn: "host=db sslmode=disable target_session_attrs=read-write", limit: 10 * time.Second,
		known: names{"db": {standby.Addr(), primary.Addr()}},
	}
	for _, want := range [][]string{{standby.Addr(), primary.Addr()}, {primary.Addr()}} {
		_, err := d.connect()
		require.NoError(t, err)
		require.Equal(t, want, d.at)
	}
	d.known["db"] = []string{standby.Addr()}
	_, err := d.connect()
	require.ErrorContains(t, err, standby.Addr()+" (db): ValidateConnect failed: read only connection")
}

// The certificate that pgtest makes is for 127.0.0.1, which is a name here: its address is another one.
func TestTheNameIsVerifiedAndNotTheAddress(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{Name: "tls", TLS: true, Settings: map[string]string{"listen_addresses": "127.0.0.1"}})
	d := &dialer{T: t, dsn: "sslmode=require host=db", known: names{"db": {server.Addr()}}, limit: 2 * time.Second, roots: x509.NewCertPool()}
	conn, err := d.connect()
	require.NoError(t, err)
	encrypted, ok := conn.Conn().(*tls.Conn)
	require.True(t, ok)
	d.roots.AddCert(encrypted.ConnectionState().PeerCertificates[0])

	both := []string{silent(t), server.Addr()}
	d.known = names{"127.0.0.1": both, "db": both}
	d.dsn = "sslmode=verify-full host=127.0.0.1"
	_, err = d.connect()
	require.NoError(t, err)
	d.dsn = "sslmode=verify-full host=db"
	_, err = d.connect()
	var wrong x509.HostnameError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, "db", wrong.Host)
}

// The hosts are looked up before pgx asks: what was wrong with one is still said by pgx, and the others are tried.
func TestANameThatDoesNotResolveLeavesTheOthers(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{Name: "resolved"})
	d := &dialer{T: t, dsn: "host=nowhere,db sslmode=prefer", known: names{"db": {server.Addr()}}, limit: 5 * time.Second}
	_, err := d.connect()
	require.NoError(t, err)
	d.known = names{}
	_, err = d.connect()
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	require.ErrorContains(t, err, "lookup nowhere: no such host")
	require.ErrorContains(t, err, "lookup db: no such host")
}

func TestANameWhoseLookupHangsLeavesTimeForTheOthers(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Options{Name: "looked up"})
	cc := parse(t, "user=postgres dbname=postgres sslmode=disable host=stuck,db")
	cc.LookupFunc = func(ctx context.Context, name string) ([]string, error) {
		if name == "stuck" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return []string{server.Addr()}, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	new(hosts.Memory).Share(ctx, cc, hosts.Limit)
	conn, err := pgconn.ConnectConfig(ctx, cc)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestAServerThatIsSilentIsNotWaitedForForever(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]time.Duration{
		"host=db sslmode=disable": hosts.Limit, "host=db": hosts.Limit, "host=db sslmode=disable connect_timeout=3": 3 * time.Second,
		"host=stuck": hosts.Limit,
	} {
		t.Run(dsn, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cfg, err := pgx.ParseConfig(dsn)
				require.NoError(t, err)
				cfg.LookupFunc = func(ctx context.Context, name string) ([]string, error) {
					if name == "stuck" {
						<-ctx.Done()
					}
					return []string{"127.0.0.1"}, ctx.Err()
				}
				cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					t.Cleanup(func() { _ = far.Close() })
					return near, nil
				}
				begun := time.Now()
				_, err = hosts.Connect(t.Context(), cfg)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, want, time.Since(begun))
			})
		})
	}
}
