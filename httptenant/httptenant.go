// Package httptenant puts the tenant of an HTTP request into the request's context, so that the handlers' queries run as
// that tenant:
//
//	db, err := sql.Open("sharded-pg", dsn)
//	...
//	tenants := httptenant.Middleware(httptenant.FromSubdomain("example.com"))
//	http.ListenAndServe(addr, tenants(handlers(db)))
//
// A handler then passes r.Context() to database/sql and nothing else:
//
//	rows, err := db.QueryContext(r.Context(), "select id, note from orders")
//
// # What it does not do
//
// It finds out which tenant a request names, not whether its sender may act for that tenant. A host name and a header
// are chosen by the client. Authenticate first, and either compare the user's tenants with the one that was named, or
// take the tenant from what was authenticated:
//
//	httptenant.Middleware(func(r *http.Request) (string, error) {
//		user, ok := auth.UserFrom(r.Context())
//		if !ok {
//			return "", shardedpg.ErrNoTenant
//		}
//		return user.Tenant, nil
//	})
//
// Nothing is read from a request unless the caller chose the function that reads it: there is no default.
package httptenant

import (
	"errors"
	"net/http"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Middleware returns a wrapper of handlers that puts the tenant of each request into its context. The function tenant is
// called once for each request, by any number of goroutines.
//
// When tenant fails, or returns something that cannot be a tenant ID, the handler does not run and the answer is 400 with
// a line of plain text. It is not 401: that status tells the client to authenticate in a way that the answer names, which
// is for the authentication in front of this to say. The text never repeats the error or anything of the request. The ID is
// checked as tenant returned it, before the driver applies its sharded_tenant_case.
//
// Whether the tenant exists is found out by the handler's first query, which costs nothing when its route is known:
// handlers see shardedpg.ErrTenantNotFound there.
//
// A different tenant that is in the context already is not replaced: each query then fails with
// shardedpg.ErrTenantMismatch. Middleware panics when tenant is nil.
func Middleware(tenant func(*http.Request) (string, error)) func(http.Handler) http.Handler {
	if tenant == nil {
		panic("httptenant: Middleware needs a function that says whose request it is")
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, err := tenant(r)
			if err == nil {
				err = check(id)
			}
			if err != nil {
				http.Error(w, refusal(err), http.StatusBadRequest)
				return
			}
			next.ServeHTTP(w, r.WithContext(shardedpg.WithTenant(r.Context(), id)))
		})
	}
}

func check(id string) error {
	if id == "" {
		return shardedpg.ErrNoTenant
	}
	return resolver.ValidTenantID(id)
}

func refusal(err error) string {
	switch {
	case errors.Is(err, shardedpg.ErrNoTenant):
		return "the request names no tenant"
	case errors.Is(err, shardedpg.ErrInvalidTenant):
		return "the request names an invalid tenant"
	}
	return "the tenant of the request could not be determined"
}
