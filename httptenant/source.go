package httptenant

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// FromSubdomain reads the tenant from the host name: with base domain "example.com" a request to acme.example.com is
// acme's. Exactly one label may stand in front of the base domain, and the base domain itself names no tenant. Host names
// do not keep case, so the tenant is in lower case: keep IDs in lower case, or set the driver's sharded_tenant_case.
//
// Only the Host of the request is read, never X-Forwarded-Host: a proxy in front has to keep the host. The client chooses
// it, so check that the user may act for that tenant.
//
// FromSubdomain panics when baseDomain is empty or no host name.
func FromSubdomain(baseDomain string) func(*http.Request) (string, error) {
	base := strings.ToLower(strings.Trim(baseDomain, "."))
	if base == "" || strings.ContainsAny(base, ":/ *") {
		panic(fmt.Sprintf("httptenant: base domain %q is no host name such as example.com", baseDomain))
	}
	return func(r *http.Request) (string, error) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if host == base {
			return "", fmt.Errorf("%w: the host is the base domain", shardedpg.ErrNoTenant)
		}
		label, ok := strings.CutSuffix(host, "."+base)
		if !ok {
			return "", fmt.Errorf("%w: the host is not under %s", shardedpg.ErrNoTenant, base)
		}
		if label == "" || strings.Contains(label, ".") {
			return "", fmt.Errorf("%w: one label is expected in front of %s", shardedpg.ErrInvalidTenant, base)
		}
		return label, nil
	}
}

// FromTrustedHeader reads the tenant from a request header. Use it only where every request comes through a proxy that
// sets this header itself and drops what the client sent under that name: otherwise any client is any tenant. A header
// that is there twice is refused, because it shows that the proxy adds instead of replacing.
//
// FromTrustedHeader panics when name is empty.
func FromTrustedHeader(name string) func(*http.Request) (string, error) {
	if name == "" {
		panic("httptenant: FromTrustedHeader needs the name of a header")
	}
	return func(r *http.Request) (string, error) {
		switch values := r.Header.Values(name); len(values) {
		case 0:
			return "", fmt.Errorf("%w: header %s is missing", shardedpg.ErrNoTenant, name)
		case 1:
			return values[0], nil
		default:
			return "", fmt.Errorf("%w: header %s is there %d times", shardedpg.ErrInvalidTenant, name, len(values))
		}
	}
}
