package httptenant_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/httptenant"
)

// serve runs one request through the middleware and returns the answer and the tenant that the handler saw.
func serve(t *testing.T, tenant func(*http.Request) (string, error), r *http.Request) (answer *http.Response, saw string, ran bool) {
	t.Helper()
	handler := httptenant.Middleware(tenant)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ran = true
		saw, _ = shardedpg.TenantFrom(r.Context())
	}))
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, r)
	return recorder.Result(), saw, ran
}

func request(t *testing.T, host string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/orders", nil)
	r.Host = host
	return r
}

func TestHandlerSeesTheTenantOfTheRequest(t *testing.T) {
	t.Parallel()
	answer, saw, ran := serve(t, func(*http.Request) (string, error) { return "acme", nil }, request(t, "example.com"))
	require.True(t, ran)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Equal(t, "acme", saw)
}

func TestHandlerDoesNotRunWithoutAValidTenant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id   string
		err  error
		text string
	}{
		"none":          {id: "", text: "the request names no tenant"},
		"invalid":       {id: "a\x00b", text: "the request names an invalid tenant"},
		"too long":      {id: strings.Repeat("a", 5000), text: "the request names an invalid tenant"},
		"no tenant":     {err: shardedpg.ErrNoTenant, text: "the request names no tenant"},
		"other failure": {err: errors.New("token store at 10.0.0.7 is down"), text: "the tenant of the request could not be determined"},
		"id and error":  {id: "acme", err: errors.New("expired"), text: "the tenant of the request could not be determined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := httptenant.Middleware(func(*http.Request) (string, error) { return c.id, c.err })
			recorder := httptest.NewRecorder()
			handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") })).
				ServeHTTP(recorder, request(t, "example.com"))
			require.Equal(t, http.StatusBadRequest, recorder.Code)
			require.Equal(t, "text/plain; charset=utf-8", recorder.Header().Get("Content-Type"))
			require.Equal(t, c.text+"\n", recorder.Body.String())
		})
	}
}

func TestSecondTenantIsNotReplaced(t *testing.T) {
	t.Parallel()
	r := request(t, "example.com")
	r = r.WithContext(shardedpg.WithTenant(r.Context(), "globex"))
	_, saw, ran := serve(t, func(*http.Request) (string, error) { return "acme", nil }, r)
	require.True(t, ran)
	require.Empty(t, saw, "a context with two tenants names none")
}

func TestSubdomainNamesTheTenant(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"acme.example.com":      "acme",
		"acme.example.com:8080": "acme",
		"ACME.Example.COM":      "acme",
		"acme.example.com.":     "acme",
	} {
		got, err := httptenant.FromSubdomain("example.com")(request(t, host))
		require.NoError(t, err, host)
		require.Equal(t, want, got, host)
	}
}

func TestOtherHostsNameNoTenant(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]error{
		"":                      shardedpg.ErrNoTenant,
		"example.com":           shardedpg.ErrNoTenant,
		"example.com:8080":      shardedpg.ErrNoTenant,
		"acme.evilexample.com":  shardedpg.ErrNoTenant,
		"acme.example.com.evil": shardedpg.ErrNoTenant,
		"127.0.0.1:8080":        shardedpg.ErrNoTenant,
		"[::1]:8080":            shardedpg.ErrNoTenant,
		".example.com":          shardedpg.ErrInvalidTenant,
		"a.b.example.com":       shardedpg.ErrInvalidTenant,
	} {
		_, err := httptenant.FromSubdomain(".Example.com")(request(t, host))
		require.ErrorIs(t, err, want, host)
	}
}

func TestForwardedHostIsNotRead(t *testing.T) {
	t.Parallel()
	r := request(t, "acme.example.com")
	r.Header.Set("X-Forwarded-Host", "globex.example.com")
	r.Header.Set("X-Tenant", "globex")
	_, saw, _ := serve(t, httptenant.FromSubdomain("example.com"), r)
	require.Equal(t, "acme", saw)
}

func TestTrustedHeaderNamesTheTenant(t *testing.T) {
	t.Parallel()
	fromHeader := httptenant.FromTrustedHeader("X-Tenant")
	r := request(t, "example.com")
	_, err := fromHeader(r)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)

	r.Header.Set("x-tenant", "acme")
	got, err := fromHeader(r)
	require.NoError(t, err)
	require.Equal(t, "acme", got)

	r.Header.Add("X-Tenant", "globex")
	_, err = fromHeader(r)
	require.ErrorIs(t, err, shardedpg.ErrInvalidTenant)
}

func TestMistakesOfTheProgramPanicAtTheStart(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { httptenant.Middleware(nil) })
	require.Panics(t, func() { httptenant.FromTrustedHeader("") })
	for _, base := range []string{"", ".", "*.example.com", "http://example.com", "example.com:80"} {
		require.Panics(t, func() { httptenant.FromSubdomain(base) }, base)
	}
}
