package middleware_test

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
	"github.com/sharded-pg/sharded-pg/examples/middleware"
	"github.com/sharded-pg/sharded-pg/httptenant"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

// newShop returns a database in which each tenant has one customer, whose name says whose.
func newShop(t *testing.T) (*fleettest.Fleet, *sql.DB) {
	t.Helper()
	f := fleettest.New(t)
	db, err := sql.Open("sharded-pg", f.DSN)
	require.NoError(t, err)
	f.Close(db)
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		_, err := db.ExecContext(f.As(tenant), "insert into customers (name) values ($1)", "of "+tenant)
		require.NoError(t, err)
	}
	return f, db
}

func names(ctx context.Context, db *sql.DB) (all string, err error) {
	err = db.QueryRowContext(ctx, "select string_agg(name, ',') from customers").Scan(&all)
	return all, err
}

func get(h http.Handler, host string, header ...string) (status int, body string) {
	r := httptest.NewRequest(http.MethodGet, "http://"+host+"/customers", nil)
	for n := 0; n < len(header); n += 2 {
		r.Header.Set(header[n], header[n+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestFrameworksGiveEachRequestItsTenant(t *testing.T) {
	t.Parallel()
	_, db := newShop(t)
	bySubdomain := httptenant.FromSubdomain("example.com")

	plain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, err := names(r.Context(), db)
		fmt.Fprint(w, all, err)
	})
	chiRouter := middleware.Chi(bySubdomain)
	chiRouter.Get("/customers", plain)

	echoServer := echo.New()
	echoServer.Use(middleware.Echo(bySubdomain))
	echoServer.GET("/customers", func(c echo.Context) error {
		all, err := names(c.Request().Context(), db)
		return c.String(http.StatusOK, fmt.Sprint(all, err))
	})

	gin.SetMode(gin.TestMode)
	ginEngine := gin.New()
	ginEngine.Use(middleware.Gin(bySubdomain))
	ginEngine.GET("/customers", func(c *gin.Context) {
		all, err := names(c.Request.Context(), db)
		c.String(http.StatusOK, fmt.Sprint(all, err))
	})

	for name, h := range map[string]http.Handler{
		"net/http": httptenant.Middleware(bySubdomain)(plain), "chi": chiRouter, "echo": echoServer, "gin": ginEngine,
	} {
		t.Run(name, func(t *testing.T) {
			for _, tenant := range []string{"acme", "globex", "hooli"} {
				status, body := get(h, tenant+".example.com")
				require.Equal(t, http.StatusOK, status)
				require.Equal(t, "of "+tenant+"<nil>", body)
			}
			status, body := get(h, "example.com")
			require.Equal(t, http.StatusBadRequest, status)
			require.Equal(t, "the request names no tenant\n", body, "and nothing of the handler")
		})
	}
}

func TestTheGinContextItselfHasNoTenant(t *testing.T) {
	t.Parallel()
	_, db := newShop(t)
	engine := gin.New()
	engine.Use(middleware.Gin(httptenant.FromSubdomain("example.com")))
	engine.GET("/customers", func(c *gin.Context) {
		_, err := names(c, db)
		c.String(http.StatusOK, "%v", errors.Is(err, shardedpg.ErrNoTenant))
	})
	_, body := get(engine, "acme.example.com")
	require.Equal(t, "true", body)
	engine.ContextWithFallback = true
	_, body = get(engine, "acme.example.com")
	require.Equal(t, "false", body)
}

func TestAHeaderNamesTheTenantOnlyWhereItIsTrusted(t *testing.T) {
	t.Parallel()
	_, db := newShop(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, err := names(r.Context(), db)
		fmt.Fprint(w, all, err)
	})
	trusting := httptenant.Middleware(httptenant.FromTrustedHeader("X-Tenant"))(handler)
	_, body := get(trusting, "example.com", "X-Tenant", "globex")
	require.Equal(t, "of globex<nil>", body)
	other := httptenant.Middleware(httptenant.FromSubdomain("example.com"))(handler)
	_, body = get(other, "acme.example.com", "X-Tenant", "globex")
	require.Equal(t, "of acme<nil>", body, "nobody asked for the header")
}

func TestATokenNamesTheTenantOnlyWhenItIsSigned(t *testing.T) {
	t.Parallel()
	_, db := newShop(t)
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, stranger, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	h := httptenant.Middleware(middleware.FromJWT(public, "https://login.example.com"))(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			all, err := names(r.Context(), db)
			fmt.Fprint(w, all, err)
		}))
	token := func(key ed25519.PrivateKey, claims jwt.MapClaims) string {
		signed, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(key)
		require.NoError(t, err)
		return "Bearer " + signed
	}
	soon, before := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	good := jwt.MapClaims{"tenant": "globex", "iss": "https://login.example.com", "exp": soon}
	status, body := get(h, "example.com", "Authorization", token(private, good))
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "of globex<nil>", body)

	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, good).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	for name, header := range map[string]string{
		"no token":         "",
		"another scheme":   "Basic Z2xvYmV4Og==",
		"another key":      token(stranger, good),
		"not signed":       "Bearer " + unsigned,
		"expired":          token(private, jwt.MapClaims{"tenant": "globex", "iss": "https://login.example.com", "exp": before}),
		"without an end":   token(private, jwt.MapClaims{"tenant": "globex", "iss": "https://login.example.com"}),
		"another issuer":   token(private, jwt.MapClaims{"tenant": "globex", "iss": "https://evil.example.com", "exp": soon}),
		"without a tenant": token(private, jwt.MapClaims{"iss": "https://login.example.com", "exp": soon}),
	} {
		status, _ := get(h, "example.com", "Authorization", header)
		require.Equal(t, http.StatusBadRequest, status, name)
	}
}

// directory is a gRPC service with a unary and a streaming call, that answers with what the caller's tenant has.
type directory struct {
	healthpb.UnimplementedHealthServer
	db *sql.DB
}

func (d *directory) answer(ctx context.Context) (*healthpb.HealthCheckResponse, error) {
	all, err := names(ctx, d.db)
	if err != nil {
		return nil, err
	}
	want, _ := shardedpg.TenantFrom(ctx)
	if all != "of "+want {
		return nil, status.Errorf(codes.DataLoss, "tenant %s sees %s", want, all)
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (d *directory) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return d.answer(ctx)
}

func (d *directory) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	for range 3 {
		answer, err := d.answer(stream.Context())
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

func TestGRPCCallsAndStreamsHaveTheirTenant(t *testing.T) {
	t.Parallel()
	_, db := newShop(t)
	// What an authenticating interceptor would have left in the context stands in metadata here.
	who := func(ctx context.Context) (string, error) {
		if said := metadata.ValueFromIncomingContext(ctx, "authenticated-as"); len(said) == 1 {
			return said[0], nil
		}
		return "", shardedpg.ErrNoTenant
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(middleware.UnaryServerInterceptor(who)),
		grpc.StreamInterceptor(middleware.StreamServerInterceptor(who)),
	)
	healthpb.RegisterHealthServer(server, &directory{db: db})
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:shop", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	client := healthpb.NewHealthClient(conn)

	for _, tenant := range []string{"acme", "globex", "hooli"} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authenticated-as", tenant)
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		for range 3 {
			_, err := stream.Recv()
			require.NoError(t, err)
		}
	}
	for name, ctx := range map[string]context.Context{
		"none": t.Context(), "invalid": metadata.AppendToOutgoingContext(t.Context(), "authenticated-as", ""),
	} {
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		require.Equal(t, codes.InvalidArgument, status.Code(err), name)
		stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		_, err = stream.Recv()
		require.Equal(t, codes.InvalidArgument, status.Code(err), name)
	}
}

func TestErrgroupKeepsTheTenant(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	for _, tenant := range []string{"acme", "globex"} {
		summary, err := middleware.Summarize(f.As(tenant), db)
		require.NoError(t, err)
		require.Equal(t, middleware.Summary{Customers: 1}, summary)
	}
	_, err := middleware.Summarize(t.Context(), db)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
}

func TestWorkAfterTheResponseKeepsTheTenant(t *testing.T) {
	t.Parallel()
	f, db := newShop(t)
	request, end := context.WithCancel(f.As("globex"))
	type result struct {
		names string
		err   error
	}
	results := make(chan result, 1)
	began := make(chan struct{})
	middleware.AfterResponse(request, func(ctx context.Context) {
		<-began
		all, err := names(ctx, db)
		results <- result{all, err}
	})
	end()
	close(began)
	require.Equal(t, result{names: "of globex"}, <-results)
}
